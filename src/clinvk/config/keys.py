"""The keys of the settings as people write them: dotted, checked against the structs, with the nearest one named."""

from collections.abc import Collection, Iterator
from functools import cache
from typing import get_args, get_origin

import msgspec
from msgspec import inspect

from clinvk.config import BackendSettings, Settings
from clinvk.config.given import Given
from clinvk.errors import ConfigError
from clinvk.nearest import nearest

_LISTED = 12
"""So many names are all told where one is unknown; of more only the one that was probably meant."""


def split(dotted: str) -> tuple[str, ...]:
    """Read a dotted key. The name of an agent's variable may have dots of its own."""
    parts = tuple(dotted.split(".", 3))
    return parts if is_variable(parts) else tuple(dotted.split("."))


def is_variable(keys: tuple[str, ...]) -> bool:
    """Say whether this is a variable of an agent: `backends.<name>.env.<variable>`."""
    return len(keys) == 4 and (keys[0], keys[2]) == ("backends", "env")


def kind_of(given: Given, backends: Collection[str]) -> object:
    """Give the type that the key has in `Settings`.

    Raises:
        ConfigError: there is no such key; names the nearest.
    """
    kind: object = Settings
    for depth, key in enumerate(given.keys):
        dotted = ".".join(given.keys[: depth + 1])
        if struct := _struct(kind):
            fields = fields_of(struct)
            if key not in fields:
                raise unknown(given, f"unknown key {dotted!r}", key, fields)
            kind = fields[key]
        elif get_origin(kind) is dict:
            kind = get_args(kind)[1]
            if kind is BackendSettings and key not in backends:
                raise unknown(given, f"unknown backend {dotted!r}", key, backends)
        else:
            above = ".".join(given.keys[:depth])
            raise ConfigError(f"{given.place}: {above} has no key {key!r}; it must be {allowed(kind)}")
    return kind


@cache
def fields_of(struct: type[msgspec.Struct]) -> dict[str, object]:
    """Give the fields of a section and their types, in their order."""
    return {field.name: field.type for field in msgspec.structs.fields(struct)}


def is_section(kind: object) -> bool:
    """Say whether keys stand below one of this type."""
    return get_origin(kind) is dict or _struct(kind) is not None


def _struct(kind: object) -> type[msgspec.Struct] | None:
    return kind if isinstance(kind, type) and issubclass(kind, msgspec.Struct) else None


def is_list(kind: object) -> bool:
    """Say whether a key of this type takes several texts."""
    return get_origin(kind) is tuple or any(get_origin(part) is tuple for part in get_args(kind))


def all_keys(backends: Collection[str]) -> Iterator[tuple[tuple[str, ...], object]]:
    """Give every key with its type; the agents' variables, whose names are free, as a section."""
    yield from _below((), Settings, backends)


def _below(above: tuple[str, ...], kind: object, backends: Collection[str]) -> Iterator[tuple[tuple[str, ...], object]]:
    if struct := _struct(kind):
        for name, inner in fields_of(struct).items():
            yield from _below((*above, name), inner, backends)
    elif get_origin(kind) is dict and get_args(kind)[1] is BackendSettings:
        for name in backends:
            yield from _below((*above, name), BackendSettings, backends)
    else:
        yield above, kind


def order(above: tuple[str, ...], backends: Collection[str]) -> tuple[str, ...]:
    """Give the keys that may stand in a section, in their order; none where the names are free."""
    if len(above) == 1 and above[0] == "backends":
        return tuple(backends)
    kind = kind_of(Given(above, None, "", ""), backends)
    struct = _struct(kind)
    return tuple(fields_of(struct)) if struct else ()


def unknown(given: Given, what: str, name: str, among: Collection[str]) -> ConfigError:
    """Make the error of a word that is none of those there are."""
    near = nearest(name.lower(), among)
    hints = [f"did you mean {near!r}?"] if near else []
    hints += [] if near and len(among) > _LISTED else [f"allowed: {', '.join(among)}"]
    value = "" if given.value is None or "=" in what else f" (= {given.written!r})"
    place = f"{given.place}: " if given.place else ""
    return ConfigError(f"{place}{what}{value}; {' '.join(hints)}")


def words_of(kind: object) -> tuple[str, ...]:
    """Give the words that a key of this type takes; empty where there are too many to say."""
    return _words(inspect.type_info(kind))


def _words(info: inspect.Type) -> tuple[str, ...]:
    match info:
        case inspect.BoolType():
            return "true", "false"
        case inspect.LiteralType(values=values):
            return tuple(map(str, values))
        case inspect.UnionType(types=types):
            return tuple(word for part in types for word in _words(part))
        case _:
            return ()


def allowed(kind: object) -> str:
    """Say in words what a key of this type takes."""
    return _allowed(inspect.type_info(kind))


def _allowed(info: inspect.Type) -> str:
    match info:
        case inspect.IntType(ge=low, le=high):
            return f"a whole number, {low} or more" if high is None else f"a whole number from {low} to {high}"
        case inspect.BoolType():
            return "true or false"
        case inspect.LiteralType(values=values):
            return f"one of {', '.join(map(str, values))}"
        case inspect.VarTupleType():
            return "a list of texts"
        case inspect.UnionType(types=types):
            return " or ".join("empty" if isinstance(part, inspect.NoneType) else _allowed(part) for part in types)
        case _:
            return "a text (a number or a yes/no word needs quotes)"
