"""Parts of a prompt that are marked off as elements, so that no text in it can end one or begin another.

What holds them apart is their name: the first of `turn`, `turn-2`, `turn-3`, … that begins or ends an element in none
of the texts. It is the same for the same texts.
"""

import re
from collections.abc import Iterable
from functools import cache

_QUOTED = {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "\n": "&#10;", "\r": "&#13;"}


def unused(name: str, texts: Iterable[str]) -> str:
    """Give a name for elements, made of `name`, that none of the texts has.

    Letters of the other case and spaces in the tag count as the same: a model may read them so.
    """
    tag = _tag(name)
    used = {int(found[1] or 1) for text in texts for found in tag.finditer(text)}
    free = next(number for number in range(1, len(used) + 2) if number not in used)
    return name if free == 1 else f"{name}-{free}"


def element(name: str, text: str, /, **attributes: str) -> str:
    """Give a text as an element, on lines of its own; an underscore in an attribute's name stands for a hyphen."""
    return f"{opening(name, **attributes)}\n{text}\n</{name}>"


def opening(name: str, /, **attributes: str) -> str:
    """Give the tag that begins an element."""
    said = "".join(f' {key.replace("_", "-")}="{_quoted(value)}"' for key, value in attributes.items())
    return f"<{name}{said}>"


def _quoted(value: str) -> str:
    for char, entity in _QUOTED.items():
        value = value.replace(char, entity)
    return value


@cache
def _tag(name: str) -> re.Pattern[str]:
    return re.compile(rf"<[\s/]*{re.escape(name)}(?:-(\d{{1,18}}))?\b", re.IGNORECASE)
