"""Items of an input that are only named: answers of earlier responses, which the vendor has.

Vercel's AI SDK names all that was stored, where it is not told otherwise.
"""

import re
from collections.abc import Mapping, Set

import msgspec

from clinvk.dialects import strict
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


_bodies = strict.decoder(_Body)
_fields = msgspec.json.Decoder(dict[str, msgspec.Raw])
_inputs = msgspec.json.Decoder(list[msgspec.Raw])
_encode = msgspec.json.Encoder().encode


def named(body: bytes) -> Mapping[str, Set[str]]:
    """Give the ids of the answers that the input of a body names, by the runs that gave these, in their order in it.

    What is wrong with the rest of a body is not told here: none are named in one that cannot be read.

    Raises:
        InvalidRequest: one is named twice; names its place.
    """
    if _KIND.encode() not in body:
        return {}
    try:
        items = _bodies.decode(body).input
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}
    names: dict[str, set[str]] = {}
    for index, item in enumerate(items):
        if answer := item.answer:
            ids = names.setdefault(answer["run"], set())
            if answer[0] in ids:
                raise InvalidRequest(f"{_place(index)}: item {answer[0]!r} is named twice", _place(index))
            ids.add(answer[0])
    return names


def spelled_out(body: bytes, found: Mapping[str, bytes]) -> bytes:
    """Give a body that names some with the items themselves, which `found` has by their ids.

    Raises:
        InvalidRequest: one is not there; names its place.
    """
    fields = strict.decode(body, _fields)
    items: list[msgspec.Raw] = []
    for index, (raw, item) in enumerate(zip(_inputs.decode(fields["input"]), _bodies.decode(body).input, strict=True)):
        if not (answer := item.answer):
            items.append(raw)
        elif (there := found.get(answer[0])) is not None:
            items.append(msgspec.Raw(there))
        else:
            why = "its response is not complete, not stored, or deleted; send it whole"
            raise InvalidRequest(f"{_place(index)}: item {answer[0]!r} not found: {why}", _place(index))
    return _encode({**fields, "input": items})


def _place(index: int) -> str:
    return f"input[{index}].id"
