"""The pages of `clinvk help`: the overview, a prompt, a command, a group, or a topic."""

import re
from collections.abc import Sequence

from clinvk.cli.parse.arguments import Parser, command_named, parser_of
from clinvk.cli.parse.commands import FIRST_WORDS, GROUPS, OVERVIEW, flags_shown, topics
from clinvk.types.errors import InvalidRequest
from clinvk.types.text import nearest

COMMON_FLAGS = (
    *("backend", "model", "continue_", "workdir"),
    *("sandbox_mode", "approval_mode", "output_format", "timeout"),
)
"""The flags of the overview, in its order."""

_HEADING = re.compile(r"^(?:usage:|\S.*:$)", re.MULTILINE)


def page(words: Sequence[str]) -> str:
    """Return a page, named by up to two words; no word names the overview.

    Raises:
        InvalidRequest: there is no such page.
    """
    name = " ".join(words)
    if not name:
        return _overview()
    if name == "prompt":
        return parser_of("").format_help()
    if name in topics():
        return topics()[name]
    if name in GROUPS:
        return parser_of(name).format_help()
    if words[0] not in FIRST_WORDS:
        near = nearest(name, ("prompt", *FIRST_WORDS, *topics()))
        raise InvalidRequest(
            f"unknown command or topic {name!r}; {f'did you mean {near!r}?' if near else 'see clinvk help'}"
        )
    command = command_named(words)
    if len(words) > len(command.split()):
        raise InvalidRequest(f"{command} has no command {words[-1]!r}")
    return parser_of(command).format_help()


def with_bold_headings(text: str) -> str:
    """Return a page with bold headings for a terminal."""
    return _HEADING.sub("\x1b[1m\\g<0>\x1b[0m", text)


def _overview() -> str:
    parser = Parser(OVERVIEW)
    group = parser.add_argument_group("common flags")
    flags = {flag.field: flag for flag in flags_shown("")}
    for field in COMMON_FLAGS:
        flags[field].add_to(group)
    return parser.format_help()
