"""Mistakes in bodies with unions: the reported location, and the allowed values."""

from typing import TypeVar

import msgspec
import pytest

from clinvk.dialects import json_bodies
from clinvk.types.errors import InvalidRequest


class Text(msgspec.Struct, tag="text"):
    text: str


class Picture(msgspec.Struct, tag="picture"):
    url: str | None = None


class Message(msgspec.Struct):
    content: str | list[Text | Picture] | None = None


class Body(msgspec.Struct):
    messages: list[Message]


class Labelled(msgspec.Struct):
    metadata: dict[str, str]


class Closed(msgspec.Struct, forbid_unknown_fields=True):
    inner: "Closed | None" = None
    prompt: str = ""


Decoded = TypeVar("Decoded")

DECODER = msgspec.json.Decoder(Body)
CLOSED = msgspec.json.Decoder(Closed)


@pytest.mark.parametrize(
    ("content", "place", "message"),
    [
        (b"5", "messages[0].content", "must be a text or a list, each item a JSON object, got 5"),
        (b'["x"]', "messages[0].content[0]", 'must be a JSON object, got "x"'),
        (b'[{"type": "sound"}]', "messages[0].content[0].type", 'must be one of text, picture, got "sound"'),
        (b'[{"type": "text"}]', "messages[0].content[0].text", "is missing"),
        (b'[{"text": "x"}]', "messages[0].content[0].type", "is missing"),
        (b'[{"type": "text", "text": 1}]', "messages[0].content[0].text", "must be a text, got 1"),
        (b'[{"type": "picture", "url": 1}]', "messages[0].content[0].url", "must be a text, got 1"),
    ],
)
def test_error_names_the_field_and_all_allowed_values(content: bytes, place: str, message: str) -> None:
    with pytest.raises(InvalidRequest) as told:
        json_bodies.decode(b'{"messages": [{"content": %s}]}' % content, DECODER)
    assert (told.value.message, told.value.field) == (f"{place} {message}", place)


def refused(body: object, decoder: "msgspec.json.Decoder[Decoded]") -> InvalidRequest:
    with pytest.raises(InvalidRequest) as told:
        json_bodies.decode(msgspec.json.encode(body), decoder)
    return told.value


@pytest.mark.parametrize(
    "said", ["x - at `$.².y", "x - at `$.messages[99].y", "x` - at `$.a`", " - at `$", f"x - at `$.{'9' * 5000}.y"]
)
def test_value_that_looks_like_a_json_path_is_not_taken_for_one(said: str) -> None:
    error = refused({"messages": [{"content": [{"type": said}]}]}, DECODER)
    assert error.field == "messages[0].content[0].type"
    assert error.message.startswith(f"{error.field} must be one of text, picture, got ")


@pytest.mark.parametrize("name", ["a - at `$.²", "a - at `$.inner", " - at `$", "`", f"a - at `$.{'9' * 5000}"])
@pytest.mark.parametrize("place", ["", "inner."])
def test_unknown_field_that_looks_like_a_json_path_is_not_taken_for_one(name: str, place: str) -> None:
    error = refused({"inner": {name: 1}} if place else {name: 1}, CLOSED)
    assert error.field
    assert f"{place}{name}".startswith(error.field.removesuffix("…"))
    assert error.message == f"unknown field {error.field!r}; known are inner, prompt"


def test_long_name_of_an_unknown_field_is_truncated() -> None:
    error = refused({"promptx" * 100_000: 1}, CLOSED)
    assert error.field
    assert len(error.field) < 300
    assert len(error.message) < 400


@pytest.mark.parametrize(
    "query", [b"x%20-%20at%20%60$.%C2%B2=1", b"x" * 60_000 + b"=1", b"x" * 60_000 + b"=1&" + b"x" * 60_000 + b"=1"]
)
def test_error_handles_any_parameter_name(query: bytes) -> None:
    with pytest.raises(InvalidRequest) as told:
        json_bodies.parameters(query, Closed)
    assert told.value.field
    assert told.value.field.startswith("x")
    assert len(told.value.message) < 400


@pytest.mark.parametrize(("value", "got"), [(7, '{"a":7}'), ([], '{"a":[]}')])
def test_error_in_a_mapping_refers_to_its_value(value: object, got: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        json_bodies.decode(msgspec.json.encode({"metadata": {"a": value}}), msgspec.json.Decoder(Labelled))
    assert caught.value.field == "metadata"
    assert caught.value.message == f"each value in metadata must be a text, got {got}"
