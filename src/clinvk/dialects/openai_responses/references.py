"""Items of an input that are only named: answers of earlier responses, which the vendor has.

Vercel's AI SDK names all that was stored, where it is not told otherwise.
"""

import re
from collections.abc import Mapping

import msgspec

from clinvk.dialects.openai_responses.answer import Item
from clinvk.errors import InvalidRequest

_KIND = "item_reference"
_ANSWER = re.compile(r"msg_(?P<run>[0-9a-f]{32})_\d+")


class _Item(msgspec.Struct, frozen=True):
    type: str | None = None
    id: object = None

    @property
    def answer(self) -> re.Match[str] | None:
        """The id of an answer of clinvk's, where the item names one. Thinking is not told again: it stays."""
        return _ANSWER.fullmatch(self.id) if self.type == _KIND and isinstance(self.id, str) else None


class _Body(msgspec.Struct, frozen=True):
    input: list[_Item]


_bodies = msgspec.json.Decoder(_Body)
_fields = msgspec.json.Decoder(dict[str, msgspec.Raw])
_inputs = msgspec.json.Decoder(list[msgspec.Raw])
_encode = msgspec.json.Encoder().encode


def named(body: bytes) -> tuple[str, ...]:
    """Give the ids of the runs whose answers the input of a body names, in the order in which it does.

    What is wrong with a body is not told here: none are named in one that cannot be read.
    """
    if _KIND.encode() not in body:
        return ()
    try:
        items = _bodies.decode(body).input
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ()
    return tuple(dict.fromkeys(answer["run"] for item in items if (answer := item.answer)))


def spelled_out(body: bytes, found: Mapping[str, Item]) -> bytes:
    """Give a body that names some with the items themselves, which `found` has by their ids.

    Raises:
        InvalidRequest: one is not there; names its place.
    """
    fields = _fields.decode(body)
    items: list[Item | msgspec.Raw] = []
    for index, (raw, item) in enumerate(zip(_inputs.decode(fields["input"]), _bodies.decode(body).input, strict=True)):
        if not (answer := item.answer):
            items.append(raw)
        elif (there := found.get(answer[0])) is not None:
            items.append(there)
        else:
            place = f"input[{index}].id"
            why = "its response is not complete, not stored, or deleted; send it whole"
            raise InvalidRequest(f"{place}: item {answer[0]!r} not found: {why}", place)
    return _encode({**fields, "input": items})
