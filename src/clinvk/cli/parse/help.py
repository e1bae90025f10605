"""The help of a command around its flags: usage, description, and what follows the flags. `help.txt` has the texts."""

import os
import re
from collections.abc import Iterable
from functools import cache
from typing import NamedTuple

from clinvk.cli.parse.commands import GROUPS, SECTIONS, command_of, members

OVERVIEW = "clinvk"
"""The name of the main help."""

_TEXTS = os.path.join(os.path.dirname(__file__), "help.txt")
_SECTION = re.compile(r"^== (.+) ==\n(?:usage: ((?:.+\n)+)\n)?((?:.+\n)+)\n*((?:(?!== ).*\n)*)", re.MULTILINE)


class Help(NamedTuple):
    """The help of a command around its flags. `usage` begins with `clinvk`."""

    usage: str
    description: str
    epilog: str


@cache
def _texts() -> dict[str, Help]:
    """Return the sections of `help.txt`: an optional usage, a description, and what follows the flags."""
    with open(_TEXTS, encoding="utf-8") as file:  # pathlib would be another import
        found = _SECTION.findall(file.read())
    return {name: Help(*(text.rstrip("\n") for text in texts)) for name, *texts in found}


def help_of(name: str) -> Help:
    """Return the help of a command, a group or the overview; the empty name is a prompt."""
    usage, description, epilog = _texts()[name or "prompt"]
    if name in GROUPS:
        names = [f"{name} {word}" for word in members(name)]
        usage = f"clinvk {name} COMMAND"
        table = _table("commands", map(_line, names))
        epilog = "\n\n".join([table, *filter(None, [epilog]), f"Help for each: clinvk help {names[0]}"])
    elif name == OVERVIEW:
        tables = (_table(heading, map(_line, words)) for heading, words in SECTIONS.items())
        description = "\n\n".join([description, *tables])
    return Help(usage or f"clinvk {name} [flags] {_arguments(name)}".rstrip(), description, epilog)


def topics() -> dict[str, str]:
    """Return the text of each topic of `clinvk help`, by name."""
    prefix = "topic "
    return {
        name.removeprefix(prefix): "\n\n".join(filter(None, text))
        for name, text in _texts().items()
        if name.startswith(prefix)
    }


def summary(name: str) -> str:
    """Return the first sentence of the help of a command or a group."""
    return " ".join(_texts()[name].description.split()).split(". ")[0].split(": ")[0].rstrip(".")


def _arguments(name: str) -> str:
    words = dict.fromkeys(command_of(name).arguments)
    return " ".join(f"[{word.replace('?', '')}]" if "?" in word else word for word in words)


def _line(name: str) -> tuple[str, str]:
    """Return how a command is called, and its summary; of a group its commands."""
    if name in GROUPS:
        return f"{name} COMMAND", ", ".join(members(name))
    return f"{name} {_arguments(name)}".rstrip(), summary(name)


def _table(heading: str, lines: Iterable[tuple[str, str]]) -> str:
    lines = list(lines)
    width = max(24, *(len(called) for called, _ in lines))
    return "\n".join([f"{heading}:", *(f"  {called:{width}}  {text}" for called, text in lines)])
