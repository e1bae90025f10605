"""Decode JSON bodies and queries into structs, and explain every mistake: the place, the value, and what is allowed.

msgspec finds each mistake but describes Python types, so the messages are rephrased in terms of the body.
"""

import math
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import NoReturn, TypeVar
from urllib.parse import parse_qsl

import msgspec
from msgspec import inspect

from clinvk.types.allowed_values import allowed_values, options
from clinvk.types.errors import InvalidRequest
from clinvk.types.text import nearest

T = TypeVar("T")
S = TypeVar("S", bound=msgspec.Struct)

_SHOWN = 80
_MAX_NAME = 200
_MAX_DIGITS = 9
_MAX_WHOLE = 2**53
"""Beyond, a float is no longer exact."""

_UNKNOWN = "Object contains unknown field `"
_ANY_KEY = "[...]"
"""msgspec's placeholder for a key of a free object; msgspec does not report the actual key."""
_QUOTED = re.compile(r"`(?P<name>[^`]*)`")
_items = msgspec.json.Decoder(list[msgspec.Raw])
_members = msgspec.json.Decoder(dict[str, msgspec.Raw])
_BYTE = re.compile(r"\(byte (?P<at>\d+)\)")


def because(reason: str) -> dict[str, str]:
    """Return the `extra` of a `Meta`: why its type allows no more. Messages about other values end with the reason."""
    return {"reason": reason}


def decoder(type_: type[T]) -> msgspec.json.Decoder[T]:
    """Return a decoder that reads the floats of free objects by `float`: msgspec needs 13 µs for one like `1.1e300`."""
    return msgspec.json.Decoder(type_, float_hook=_float)


def decode(body: bytes | msgspec.Raw, decoder: msgspec.json.Decoder[T], at: str = "") -> T:
    """Decode a body, or the part of a body `at` a place. An integer may be written as `629.0`, as in JSON Schema.

    Raises:
        InvalidRequest: the body is not JSON, or does not fit the decoder's type; names the field.
    """
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        if str(error).partition(" - at ")[0].endswith(", got `float`"):
            whole = _with_whole_numbers(bytes(body))
            if whole != body:
                return decode(whole, decoder, at)
        _explain(str(error), bytes(body), decoder.type, "field", at)
    except msgspec.DecodeError as error:
        raise InvalidRequest(_malformed(str(error), bytes(body))) from None
    except UnicodeDecodeError:
        raise InvalidRequest(f"{at} is not valid UTF-8" if at else _not_utf8(bytes(body)), at or None) from None
    except RecursionError:
        raise InvalidRequest("the body is nested too deeply") from None


def parameters(query: bytes, type_: type[S]) -> S:
    """Parse the query of a URL; a parameter without a value counts as absent. Only a tuple may be given repeatedly.

    Raises:
        InvalidRequest: a parameter is unknown, repeated or invalid; names the parameter.
    """
    try:
        pairs = [(name, value) for name, value in parse_qsl(query.decode(), errors="strict") if value]
    except UnicodeDecodeError:
        raise InvalidRequest("the query is not valid UTF-8") from None
    repeatable = {field.name for field in msgspec.structs.fields(type_) if isinstance(field.default, tuple)}
    values: dict[str, str] = {}
    lists: dict[str, list[str]] = {}
    for name, value in pairs:
        if name in repeatable:
            lists.setdefault(name, []).append(value)
        elif name in values:
            raise InvalidRequest(f"parameter {_short(name)!r} is given twice", _short(name))
        else:
            values[name] = value
    return converted({**values, **lists}, type_, "parameter")


def converted(values: Mapping[str, object], type_: type[S], word: str, strict: bool = False) -> S:
    """Convert parameters, headers or arguments to a struct; `word` is the noun for a member, such as `parameter`.

    Unless `strict`, a number or a boolean may be a text.

    Raises:
        InvalidRequest: a value is invalid, or its name is unknown; names it.
    """
    try:
        made = msgspec.convert(values, type_, strict=strict)
    except msgspec.ValidationError as error:
        _explain(str(error), msgspec.json.encode(values), type_, word)
    # msgspec takes the text "null" for null; the fields, which are slow to look up, are looked up only for that text.
    if nulls := {name for name, value in values.items() if isinstance(value, str) and value.lower() == "null"}:
        for field in msgspec.structs.fields(type_):
            if field.encode_name in nulls and getattr(made, field.name) is None:
                _explain(f" - at `$.{field.encode_name}`", msgspec.json.encode(values), type_, word)
    return made


def _explain(message: str, body: bytes, type_: object, word: str, at: str = "") -> NoReturn:
    """Raise msgspec's error in clinvk's wording; `word` is the noun for a member, such as `field`."""
    problem, inside = _split_message(message)
    is_value = inside.endswith(_ANY_KEY)
    inside = inside.replace(_ANY_KEY, "")
    path = [int(part) if _is_index(part) else part for part in re.findall(r"[^.\[\]]+", inside)]
    place = _short(f"{at}.{inside}" if at and inside else at or inside)
    prefix = f"{place}." if place else ""
    if problem.startswith(_UNKNOWN):
        name = _short(problem.removeprefix(_UNKNOWN).removesuffix("`"))
        known = _fields(_types_at(type_, path))
        raise InvalidRequest(_unknown(word, prefix + name, name, known), prefix + name) from None
    quoted = _QUOTED.search(problem)
    if problem.startswith("Object missing required field") and quoted:
        field = prefix + quoted["name"]
        raise InvalidRequest(f"{field} is missing{_reason(type_, [*path, quoted['name']])}", field) from None
    if problem.startswith("Number out of range"):
        raise InvalidRequest(f"{place or 'the body'} has a number that is out of range", place or None) from None
    what = f"each value in {place}" if is_value else place or "the body"
    allowed = allowed_values(_types_at(type_, [*path, ""] if is_value else path))
    got = _got(body, path)
    raise InvalidRequest(f"{what} must be {allowed}{got}{_reason(type_, path)}", place or None) from None


def _split_message(message: str) -> tuple[str, str]:
    """Split a msgspec message into problem and place. A quoted value may look like a place, but precedes the place."""
    problem, mark, place = message.rpartition(" - at `$")
    if not mark or (problem.startswith(_UNKNOWN) and not problem.removeprefix(_UNKNOWN).endswith("`")):
        return message, ""
    return problem, place.removesuffix("`").removeprefix(".")


def _float(text: str) -> float:
    if math.isinf(value := float(text)):
        raise ValueError("Number out of range")
    return value


def _whole_or_float(text: str) -> int | float:
    value = _float(text)
    return int(value) if value.is_integer() and abs(value) < _MAX_WHOLE else value


_whole_numbers = msgspec.json.Decoder(float_hook=_whole_or_float)


def _with_whole_numbers(body: bytes) -> bytes:
    """Return a body with `629` for each `629.0`, or the body itself if the body has a second mistake."""
    with suppress(msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return msgspec.json.encode(_whole_numbers.decode(body))
    return body


def _is_index(part: str) -> bool:
    return part.isascii() and part.isdigit() and len(part) <= _MAX_DIGITS


def _short(name: str) -> str:
    return name if len(name) <= _MAX_NAME else name[:_MAX_NAME] + "…"


def _unknown(word: str, place: str, name: str, known: list[str]) -> str:
    near = nearest(name, known, likeness=0.7)
    hint = f"did you mean {near!r}?" if near else f"known are {', '.join(known)}"
    return f"unknown {word} {place!r}; {hint}"


def _got(body: bytes, path: list[int | str]) -> str:
    value = body
    try:
        for part in path:
            value = bytes(_items.decode(value)[part] if isinstance(part, int) else _members.decode(value)[part])
        if len(value) <= _MAX_NAME:
            value = msgspec.json.encode(msgspec.json.decode(value))
        shown = value[:_MAX_NAME].decode(errors="ignore")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, LookupError):
        return ""  # the body has a second mistake; reporting the first is enough
    return f", got {shown if len(shown) <= _SHOWN else shown[:_SHOWN] + '…'}"


def _malformed(message: str, body: bytes) -> str:
    if not body.strip():
        return "the body is empty; it must be a JSON object"
    found = _BYTE.search(message)
    if not found:
        return "the body is not valid JSON: it ends too early, or has a lone surrogate escape"
    at = int(found["at"])
    line = body.count(b"\n", 0, at) + 1
    column = at - (body.rfind(b"\n", 0, at) + 1) + 1
    what = message[: found.start()].removeprefix("JSON is malformed: ").strip()
    return f"the body is not valid JSON: {what} at byte {at} (line {line}, column {column})"


def _not_utf8(body: bytes) -> str:
    try:
        body.decode()
    except UnicodeDecodeError as error:
        return f"the body is not valid UTF-8: byte 0x{body[error.start]:02x} at position {error.start}"
    return "the body is not valid UTF-8"


def _types_at(type_: object, path: list[int | str]) -> list[inspect.Type]:
    """Return the types allowed at a place; several if a union is on the way, or at the place."""
    return [option for declared in _declared(type_, path)[-1] for option in options(declared)]


def _declared(type_: object, path: list[int | str]) -> list[list[inspect.Type]]:
    """Return the declared types at each step of a path, from the whole body to the place."""
    steps = [[inspect.type_info(type_)]]
    for part in path:
        steps.append([inside for here in steps[-1] for option in options(here) for inside in _inside(option, part)])
    return steps


def _reason(type_: object, path: list[int | str]) -> str:
    """Return the nearest reason that a `Meta(extra=because(...))` on the path has for its limits, or an empty text."""
    found = [reason for step in _declared(type_, path) for declared in step for reason in _reasons(declared)]
    return f": {found[-1]}" if found else ""


def _reasons(type_: inspect.Type) -> Iterator[str]:
    match type_:
        case inspect.Metadata(extra={"reason": str(reason)}):
            yield reason
        case inspect.Metadata(type=bare):
            yield from _reasons(bare)
        case inspect.UnionType(types=types):
            yield from (reason for each in types for reason in _reasons(each))
        case _:
            pass


def _inside(type_: inspect.Type, part: int | str) -> list[inspect.Type]:
    match type_:
        case inspect.StructType(tag_field=tag_field, tag=str(tag)) if part == tag_field:
            return [inspect.LiteralType((tag,))]
        case inspect.StructType(fields=fields):
            return [field.type for field in fields if field.encode_name == part]
        case inspect.ListType(item_type=item) | inspect.VarTupleType(item_type=item):
            return [item]
        case inspect.DictType(value_type=value):
            return [value]
        case _:
            return []


def _fields(types: list[inspect.Type]) -> list[str]:
    return [field.encode_name for type_ in types if isinstance(type_, inspect.StructType) for field in type_.fields]
