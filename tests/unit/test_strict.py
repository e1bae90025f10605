"""Mistakes in bodies with values of several types: where they are told, and what is said to be allowed there."""

import msgspec
import pytest

from clinvk.dialects import strict
from clinvk.errors import InvalidRequest


class Text(msgspec.Struct, tag="text"):
    text: str


class Picture(msgspec.Struct, tag="picture"):
    url: str | None = None


class Message(msgspec.Struct):
    content: str | list[Text | Picture] | None = None


class Body(msgspec.Struct):
    messages: list[Message]


DECODER = msgspec.json.Decoder(Body)


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
def test_a_mistake_is_told_where_it_is_and_with_all_that_is_allowed_there(
    content: bytes, place: str, message: str
) -> None:
    with pytest.raises(InvalidRequest) as told:
        strict.decode(b'{"messages": [{"content": %s}]}' % content, DECODER)
    assert (told.value.message, told.value.field) == (f"{place} {message}", place)
