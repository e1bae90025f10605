"""Where in a text something stands: by its offset, or by its path in the JSON that the text is. Pure."""

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import msgspec

_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{},:]|[^\s\[\]{},:"]+')


class Place(NamedTuple):
    """A line and a column of it, in characters; both from 1."""

    line: int
    column: int


def in_text(text: str, at: int) -> Place:
    """Give the place of an offset."""
    return Place(text.count("\n", 0, at) + 1, at - text.rfind("\n", 0, at))


def in_json(text: str, path: Sequence[str]) -> Place:
    """Give the place of a key or an item, or of the innermost that holds it, in a text that is valid JSON."""
    wanted = tuple(path)
    best = len(text) - len(text.lstrip())
    for inside, at in _entries(text, len(wanted)):
        if inside == wanted[: len(inside)]:
            best = at
    return in_text(text, best)


def twice_in_json(text: str) -> tuple[str, int]:
    """Give the first key that its object had before, and its offset, in a text that is valid JSON and has one."""
    seen: set[tuple[str, ...]] = set()
    for path, at in _entries(text, len(text)):
        if path in seen:
            return path[-1], at
        seen.add(path)
    raise AssertionError("each key stands once")


def _entries(text: str, most: int) -> Iterator[tuple[tuple[str, ...], int]]:
    """Give the paths of all keys and items at most so deep, outer before inner, each with its offset."""
    path: list[str | int | None] = []  # None is an object whose next key is still to come
    for token in _TOKEN.finditer(text):
        word = token[0]
        here = path[-1] if path else ""
        if word in ("]", "}"):
            path.pop()
        elif word == ",":
            path[-1] = here + 1 if isinstance(here, int) else None
        elif here is None:
            path[-1] = msgspec.json.decode(word, type=str)
            if len(path) <= most:
                yield tuple(map(str, path)), token.start()
        elif word != ":":
            if isinstance(here, int) and len(path) <= most:
                yield tuple(map(str, path)), token.start()
            if word in ("[", "{"):
                path.append(0 if word == "[" else None)
