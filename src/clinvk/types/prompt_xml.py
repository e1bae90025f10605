"""Format parts of a prompt as elements that no text inside can close or open.

The element name is the protection: the first of `turn`, `turn-2`, `turn-3`, … that opens or closes an element in none
of the texts. Equal texts get an equal name.
"""

import re
from collections.abc import Iterable, Iterator
from functools import cache

_QUOTED = {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "\n": "&#10;", "\r": "&#13;"}


STDIN_CONTEXT = "\n\n<stdin>\n"
"""What separates the argument of a prompt from the context that the command line has read from stdin."""


def without_context(prompt: str) -> str:
    """Return the argument of a prompt, without the context from stdin."""
    return prompt.partition(STDIN_CONTEXT)[0]


def unused_tag(name: str, texts: Iterable[str]) -> str:
    """Return an element name, derived from `name`, that occurs as a tag in none of the texts.

    Upper and lower case count as equal and spaces inside a tag are skipped, since a model may read tags that way.
    """
    tag = _tag(name)
    used = {int(found[1] or 1) for text in texts for found in tag.finditer(text)}
    free = next(number for number in range(1, len(used) + 2) if number not in used)
    return name if free == 1 else f"{name}-{free}"


def element(name: str, text: str, /, **attributes: str) -> str:
    """Return a text as an element on separate lines; an underscore in an attribute name becomes a hyphen."""
    return f"{opening(name, **attributes)}\n{text}\n</{name}>"


def elements(name: str, text: str) -> Iterator[tuple[dict[str, str], str]]:
    """Yield the attributes and the text of each element with an unused name, as `element` makes them."""
    from html import unescape  # imported late: its table of entities takes 0.4 MB

    for found in re.finditer(rf'<{name}((?: [\w-]+="[^"]*")*)>\n(.*?)\n</{name}>', text, re.DOTALL):
        pairs = re.findall(r' ([\w-]+)="([^"]*)"', found[1])
        yield {key: unescape(value) for key, value in pairs}, found[2]


def opening(name: str, /, **attributes: str) -> str:
    """Return the opening tag of an element."""
    rendered = "".join(f' {key.replace("_", "-")}="{_quoted(value)}"' for key, value in attributes.items())
    return f"<{name}{rendered}>"


def _quoted(value: str) -> str:
    for char, entity in _QUOTED.items():
        value = value.replace(char, entity)
    return value


@cache
def _tag(name: str) -> re.Pattern[str]:
    return re.compile(rf"<[\s/]*{re.escape(name)}(?:-(\d{{1,18}}))?\b", re.IGNORECASE)
