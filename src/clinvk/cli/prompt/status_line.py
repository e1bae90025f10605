"""What is redrawn on the terminal during a run: the status line on stderr, and the unfinished text on stdout.

The status line has the agent, the elapsed time and the current activity. Text takes its place.
"""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from itertools import cycle
from typing import TYPE_CHECKING

from clinvk.cli.terminal import output
from clinvk.cli.terminal.output import STDERR, Notes
from clinvk.cli.terminal.table import cut, readable_patch
from clinvk.types import events
from clinvk.types.text import last_line, on_one_line, without_sequences
from clinvk.types.tool_text import activity

if TYPE_CHECKING:
    from clinvk.cli.prompt.printers import MarkdownPrinter

_FRAME_S = 0.1
_CLEAR = "\r\x1b[2K"
_UP = "\x1b[1A"
_SILENCE_S = 1.0
"""The time without new text after which the line is drawn below unfinished text."""

_OUTPUT = " → "
"""Stands in the status line between a tool and the last line of its output."""

_TOOL_SHOWN = 30
"""The characters of a tool that leave room for its output."""

_WRITTEN_SHOWN = 20
"""The lines of a new file that are shown, including the head of the diff."""


class StatusLine:
    """Draws the line while it is shown. `hide` erases the line before other output, and `feed` shows it again.

    `is_on` says whether the line is drawn: on a terminal that understands control sequences. `text` prints the answer
    if its unfinished block is to be redrawn, and `elapsed_s` is the time since the start of the run.
    """

    def __init__(self, agent: str, is_on: bool, text: "MarkdownPrinter | None" = None, elapsed_s: float = 0.0) -> None:
        self._is_on = is_on
        self._text = text
        self._agent = agent
        self._start = time.monotonic() - elapsed_s
        self._activity = ""
        self._is_wanted = True
        self._is_drawn = self._is_below = False
        self._text_at = 0.0

    def feed(self, event: events.Event) -> None:
        """Take the activity of an event. Text hides the line; a tool or thinking shows it again."""
        doing = activity(event)
        if self._activity and (printed := last_line(_output_of(event))):
            last = on_one_line(without_sequences(printed))
            doing = f"{cut(self._activity.partition(_OUTPUT)[0], _TOOL_SHOWN)}{_OUTPUT}{last}"
        if isinstance(event, events.TextDelta):
            self._text_at = time.monotonic()
        if doing or isinstance(event, events.TextDelta | events.ToolResult | events.InteractionResolved):
            self._activity, self._is_wanted = doing, not isinstance(event, events.TextDelta)

    def hide(self) -> None:
        """Erase the line, until the next frame."""
        if self._is_drawn:
            self._is_drawn = False
            _draw(_CLEAR + (_UP if self._is_below else ""))

    @asynccontextmanager
    async def shown(self, notes: Notes) -> AsyncGenerator[None]:
        """Draw the line and the unfinished text in the context. Notes are printed above them."""
        if not (self._is_on or self._text):
            yield
            return

        def print_note(text: str) -> None:
            self.hide()
            if self._text and self._text.is_drawn:
                _draw(self._text.erase(), output.STDOUT)
            output.write(STDERR, text)

        frames = asyncio.create_task(self._draw_frames(notes))
        try:
            with notes.redirected_to(print_note):
                yield
        finally:
            frames.cancel()
            with suppress(asyncio.CancelledError):
                await frames
            self.hide()

    async def _draw_frames(self, notes: Notes) -> None:
        for frame in cycle("⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"):
            await asyncio.sleep(_FRAME_S)
            if notes.is_asking:
                continue
            if self._text and output.is_writable(output.STDOUT) and (data := self._text.redraw()):
                self.hide()
                _draw(data, output.STDOUT)
            has_text = self._text is not None and self._text.is_drawn
            is_silent = has_text and time.monotonic() > self._text_at + _SILENCE_S
            is_free = is_silent or (self._is_wanted and not has_text)
            if self._is_on and is_free and output.is_writable(STDERR):
                parts = (self._agent, f"{time.monotonic() - self._start:.0f} s", self._activity)
                line = cut(f"{frame} {' · '.join(filter(None, parts))}", output.terminal_size(STDERR).columns - 1)
                start = "\n" if is_silent and not self._is_drawn else ""
                _draw(start + _CLEAR + output.paint(line, output.DIM if notes.has_color else ""))
                self._is_drawn, self._is_below = True, is_silent


def _output_of(event: events.Event) -> str:
    match event:
        case events.ToolResult(output=printed) | events.Progress(stage="output", message=printed):
            return printed
        case _:
            return ""


def _draw(text: str, fd: int = STDERR) -> None:
    with suppress(OSError):  # the terminal is gone
        output.write(fd, text)


def edit_lines(call: events.ToolCall, is_colored: bool) -> list[str]:
    """Return the edit of a tool call as a diff, and the first lines of a written file; empty for other calls."""
    match call.input:
        case {"old_string": str(old), "new_string": str(new)}:
            most = None
        case {"content": str(new)} if call.name == "Write":
            old, most = "", _WRITTEN_SHOWN
        case _:
            return []
    from difflib import unified_diff  # an import that only a verbose run needs

    lines = [*unified_diff(old.splitlines(), new.splitlines(), lineterm="")][2:]  # without the names of files
    more = len(lines[most:]) if most else 0
    return [*readable_patch(lines[:most], is_colored), *([f"… {more:,} more lines"] if more else [])]
