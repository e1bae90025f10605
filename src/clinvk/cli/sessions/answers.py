"""Print what a command has found, as JSON or as text."""

import os
import time
from collections.abc import Callable, Iterable
from contextlib import suppress

from clinvk.cli.parse.flags import JsonFlags
from clinvk.cli.parse.settings import CommandContext
from clinvk.cli.sessions.session_text import STATE_STYLE, TextView, home_of
from clinvk.cli.terminal.output import columns, has_colors, print_json, print_text, renders_markdown


def text_view(context: CommandContext) -> TextView:
    """Return what the text of records on stdout depends on."""
    output, environ = context.settings.output, context.environ
    style = STATE_STYLE if output.color and has_colors(1, environ) else None
    is_rendered = renders_markdown(output, environ)
    return TextView(time.time(), home_of(environ.get("HOME")), columns(), style, _here(), is_rendered)


def _here() -> str | None:
    with suppress(OSError):  # the directory is gone
        return os.getcwd()


def print_answer(
    flags: JsonFlags,
    context: CommandContext,
    value: Callable[[], object],
    text: Callable[[TextView], Iterable[str]],
    *remarks: str,
) -> int:
    """Print a value as JSON, if the flags say so, or its lines and remarks, unless empty; return the exit code 0."""
    if flags.wants_json:
        print_json(value())
        return 0
    if lines := [*text(text_view(context))]:
        print_text("\n".join(lines))
    for remark in filter(None, remarks):
        context.notes.info(remark)
    return 0
