"""Encode a run's events in an output format: events in, bytes for stdout out."""

import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import msgspec

from clinvk.cli.terminal import exits
from clinvk.cli.terminal.table import width
from clinvk.types import events
from clinvk.types.text import without_sequences

if TYPE_CHECKING:
    from clinvk.cli.terminal.markdown import BlockRenderer
    from clinvk.dialects.dialect import Encoder
    from clinvk.types.request import RunRequest
    from clinvk.types.run import RunFacts


class ShownRun(Protocol):
    """A run that is shown: of this process, of a server, or from the store."""

    request: "RunRequest"

    @property
    def facts(self) -> "RunFacts":
        """The facts of the run so far."""
        ...


class TextPrinter:
    """The answer as it arrives, with a newline at the end."""

    def __init__(self) -> None:
        self._last = "\n"

    def feed(self, event: events.Event, at: float) -> bytes:
        """Return the text of one event."""
        match event:
            case events.TextDelta(text=text) if text:
                self._last = text[-1]
                return text.encode(errors="replace")
            case events.RunFinished() | events.RunFailed() if self._last != "\n":
                return b"\n"
            case _:
                return b""


_REDRAW_S = 0.05
_COST_SHARE = 8
"""A redraw waits for this many times the time that the last one took, so that long blocks do not use the processor."""

_ERASE_BELOW = "\x1b[J"


class MarkdownPrinter:
    """The answer for a terminal, rendered block by block. The unfinished block is redrawn in place as the text comes.

    `size` returns the size of the terminal, `width` the width of the text. The last rows of an unfinished block are
    shown, as many as fit: what has scrolled away cannot be redrawn.
    """

    def __init__(self, width: Callable[[], int], size: Callable[[], os.terminal_size]) -> None:
        self._width = width
        self._size = size
        self._renderer: BlockRenderer | None = None
        self._text = ""
        self._drawn: list[int] = []
        self._is_stale = False
        self._due = 0.0

    @property
    def is_drawn(self) -> bool:
        """Whether the cursor is behind an unfinished block."""
        return bool(self._drawn)

    def feed(self, event: events.Event, at: float) -> bytes:
        """Return the blocks that have ended by an event, and the unfinished block if it is time to draw."""
        if not self._renderer:
            from clinvk.cli.terminal.markdown import BlockRenderer  # imported while the agent works

            self._renderer = BlockRenderer(self._width)
        match event:
            case events.TextDelta(text=text):
                self._text += text
                self._is_stale = True
                return self.redraw().encode(errors="replace")
            case (
                events.ToolCall()
                | events.ThinkingDelta()
                | events.InteractionRequested()
                | events.RunFinished()
                | events.RunFailed()
            ):
                self._is_stale = False
                data = self._erased() + self._fed() + self._renderer.flush()
                return data.encode(errors="replace")
            case _:
                return b""

    def redraw(self) -> str:
        """Return the finished blocks and the unfinished block, if there is news and it is time to draw."""
        start = time.monotonic()
        if not (self._renderer and self._is_stale) or start < self._due:
            return ""
        columns, rows = self._size()
        finished = self._fed()
        lines = self._renderer.unfinished(rows - 1)
        widths = [width(without_sequences(line)) for line in lines]
        while _rows(widths, columns) >= rows:
            del lines[0], widths[0]
        data = self._erased() + finished + "\n".join(lines)
        self._drawn, self._is_stale = widths, False
        self._due = start + max(_REDRAW_S, _COST_SHARE * (time.monotonic() - start))
        return data

    def erase(self) -> str:
        """Return what removes the unfinished block until the next redraw, to make room for other lines."""
        self._is_stale = self._is_stale or self.is_drawn
        self._due = 0.0
        return self._erased()

    def _fed(self) -> str:
        assert self._renderer is not None
        text, self._text = self._text, ""
        return self._renderer.feed(text)

    def _erased(self) -> str:
        """Return what erases the unfinished block: a terminal that has become narrower has wrapped its lines."""
        rows = _rows(self._drawn, self._size().columns)
        self._drawn = []
        return f"\r\x1b[{rows - 1}A{_ERASE_BELOW}" if rows > 1 else f"\r{_ERASE_BELOW}" if rows else ""


def _rows(widths: list[int], columns: int) -> int:
    """Return the rows that lines of these widths take on a terminal."""
    return sum(max(1, -(-cells // columns)) for cells in widths)


class TokenUsage(msgspec.Struct, frozen=True, omit_defaults=True):
    """`usage` of the JSON result. Cached and reasoning tokens are parts of the sums; of these, 0 is left out."""

    input_tokens: int
    output_tokens: int
    total_tokens: int
    cached_tokens: int = 0
    reasoning_tokens: int = 0


class JsonPrinter:
    """One JSON object at the end, indented for people.

    `exit_code` is clinvk's; `raw` is the agent's own last event. A run that succeeded has a `stop_reason`; a run that
    failed has `error` and `error_code`.
    """

    def __init__(self, run: ShownRun, indent: bool) -> None:
        self._run = run
        self._model = run.request.model
        self._indent = indent
        self._text: list[str] = []

    def feed(self, event: events.Event, at: float) -> bytes:
        """Return nothing until the ending, then the object."""
        match event:
            case events.TextDelta(text=text):
                self._text.append(text)
            case events.RunStarted(model=model):
                self._model = model or self._model
            case events.RunFinished() | events.RunFailed():
                return self._result(event)
            case _:
                pass
        return b""

    def _result(self, ending: events.Ending) -> bytes:
        facts = self._run.facts
        result: dict[str, object] = {
            "backend": facts.backend,
            "content": "".join(self._text),
            "session_id": facts.session_id,
            "model": self._model,
            "duration_seconds": duration_s(facts),
            "exit_code": exit_code_of_ending(ending),
            "usage": msgspec.convert(ending.usage, TokenUsage | None, from_attributes=True),
            **({} if ending.cost_usd is None else {"cost_usd": ending.cost_usd}),
            "run_id": facts.run_id,
            **({"fallback": facts.fallback} if facts.fallback else {}),
        }
        match ending:
            case events.RunFailed(message=message, code=code):
                result |= {"error": message, "error_code": code}
            case events.RunFinished(stop_reason=reason, structured_output=answer):
                result |= {"stop_reason": reason} | ({} if answer is None else {"structured_output": answer})
        result["raw"] = _json(facts.raw)
        data = msgspec.json.encode(result)
        return (msgspec.json.format(data, indent=2) if self._indent else data) + b"\n"


class LinesPrinter:
    """The unified events, one JSON object per line."""

    def __init__(self, run: ShownRun) -> None:
        self._run = run
        self._encoder: Encoder | None = None

    def feed(self, event: events.Event, at: float) -> bytes:
        """Return the lines of one event.

        The encoder is created at the first event: by then the start time is known, and the import delays nothing.
        """
        if not self._encoder:
            from clinvk.dialects.rest.unified import UnifiedEncoder

            self._encoder = UnifiedEncoder(self._run.facts)
        return self._encoder.feed(event, at)


def exit_code_of_ending(ending: events.Ending) -> int:
    """Return the exit code of a run."""
    return exits.exit_code_of_error(ending.code, ending.exit_code) if isinstance(ending, events.RunFailed) else 0


def duration_s(facts: "RunFacts") -> float:
    """Return the seconds from the agent's start to the ending, or until now; 0 if the agent never started."""
    return round((facts.ended_at or time.time()) - facts.started_at, 3) if facts.started_at else 0.0


def _json(line: bytes) -> msgspec.Raw | None:
    try:
        msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return msgspec.Raw(line)
