"""Queries of addresses, read as strictly as bodies."""

from typing import Annotated, Literal

import msgspec
import pytest
from msgspec import Meta

from clinvk.dialects import json_bodies
from clinvk.types.errors import InvalidRequest


class Asked(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A query."""

    text: str | None = None
    word: Literal["one", "two"] | None = None
    number: Annotated[int, Meta(ge=1, le=9)] = 5
    each: tuple[Annotated[str, Meta(max_length=2)], ...] = ()


@pytest.mark.parametrize(
    ("query", "asked"),
    [
        (b"", Asked()),
        (b"number=7&word=two", Asked(number=7, word="two")),
        (b"text=a+b%20%26&number=", Asked(text="a b &")),
        (b"text=%C3%BC", Asked(text="ü")),
        ("text=ü".encode(), Asked(text="ü")),
        (b"text=null", Asked(text="null")),
        (b"text=5", Asked(text="5")),
        (b"each=a", Asked(each=("a",))),
        (b"each=a&text=t&each=a&each=", Asked(text="t", each=("a", "a"))),
        (b"&&", Asked()),
    ],
)
def test_query_is_parsed(query: bytes, asked: Asked) -> None:
    assert json_bodies.parameters(query, Asked) == asked


@pytest.mark.parametrize(
    ("query", "message", "field"),
    [
        (b"number=0", 'number must be a whole number from 1 to 9, got "0"', "number"),
        (b"number=x", 'number must be a whole number from 1 to 9, got "x"', "number"),
        (b"word=three", 'word must be one of one, two, got "three"', "word"),
        (b"numbre=1", "unknown parameter 'numbre'; did you mean 'number'?", "numbre"),
        (b"word=null", 'word must be one of one, two, got "null"', "word"),
        (b"word=NULL", 'word must be one of one, two, got "NULL"', "word"),
        (b"zzz=1", "unknown parameter 'zzz'; known are text, word, number, each", "zzz"),
        (b"text=a&text=b", "parameter 'text' is given twice", "text"),
        (b"number=5&number=5", "parameter 'number' is given twice", "number"),
        (b"each=a&each=abc", 'each[1] must be a text of at most 2 characters, got "abc"', "each[1]"),
        (b"text=%ff", "the query is not valid UTF-8", None),
        (b"text=\xff", "the query is not valid UTF-8", None),
    ],
)
def test_invalid_query_is_reported_with_its_parameter(query: bytes, message: str, field: str | None) -> None:
    with pytest.raises(InvalidRequest) as told:
        json_bodies.parameters(query, Asked)
    assert (told.value.message, told.value.field) == (message, field)
