"""What a server writes to stderr, without keys and passwords: lines for people, or a JSON object a line.

A message whose values have names, as `logger.info("%(method)s %(path)s", {...})`, has them as fields in JSON too. What
is `noted` of the request or run that is being served is a field of each line that comes of it.
"""

import asyncio
import logging
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from contextvars import Context, ContextVar, copy_context
from types import MappingProxyType
from typing import TextIO

import msgspec

from clinvk.config import LogFormat, LogLevel
from clinvk.redaction import MOST_CHARS, redacted

_LEVELS: Mapping[LogLevel, int] = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}
_OF_REQUESTS = ("clinvk.api.middleware", "clinvk.api.journal")
"""Where a line comes from for each request, and for each run."""
_TOGETHER_S = 0.05

_noted: ContextVar[Mapping[str, str]] = ContextVar("noted", default=MappingProxyType({}))
_encoder = msgspec.json.Encoder(enc_hook=str)


def note(**fields: str) -> None:
    """Put fields on all lines that come of what the present task does from here on."""
    _noted.set({**_noted.get(), **fields})


def noted() -> Mapping[str, str]:
    """Give the fields of all lines of the present task."""
    return _noted.get()


def to_stderr(form: LogFormat) -> None:
    """Write lines of this form to stderr, unless logging leads elsewhere already."""
    handler = Together(sys.stderr)
    handler.setFormatter(JsonLines() if form == "json" else TextLines())
    logging.basicConfig(handlers=[handler])
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False  # no line tells of these


def adjust(level: LogLevel, requests: bool) -> None:
    """Say what is told: what is of this level or above, and, whatever that is, each request and run."""
    least = _LEVELS[level]
    logging.getLogger("clinvk").setLevel(least)
    for name in _OF_REQUESTS:
        told = min(least, logging.INFO) if requests or least == logging.DEBUG else max(least, logging.WARNING)
        logging.getLogger(name).setLevel(told)


class Together(logging.StreamHandler[TextIO]):
    """Writes lines together: to format and write one by one costs each of them three times as much.

    A line waits for others for a moment, but none waits that is a warning or worse, and those before it go with it.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._waiting: list[tuple[Context, logging.LogRecord]] = []
        self._is_due = False

    def emit(self, record: logging.LogRecord) -> None:
        """Take a line; write it soon, or at once where nothing would come back to it."""
        self._waiting.append((copy_context(), record))
        if record.levelno >= logging.WARNING:
            self.flush()
        elif not self._is_due:
            try:
                asyncio.get_running_loop().call_later(_TOGETHER_S, self._fall_due)
                self._is_due = True
            except RuntimeError:  # there is no loop
                self.flush()

    def flush(self) -> None:
        """Write what waits."""
        with self.lock or nullcontext():
            waiting, self._waiting = self._waiting, []
            lines = [line for context, record in waiting if (line := context.run(self._shown, record))]
            if not lines:
                return
            try:
                self.stream.write("".join(lines))
                super().flush()
            except OSError:  # nobody reads stderr any more, which ends nobody's work
                self.handleError(waiting[-1][1])

    def _fall_due(self) -> None:
        self._is_due = False
        self.flush()

    def _shown(self, record: logging.LogRecord) -> str:
        try:
            return self.format(record) + self.terminator
        except Exception:  # noqa: BLE001 - as logging itself: a faulty message must not end what it tells of
            self.handleError(record)
            return ""


class TextLines(logging.Formatter):
    """Lines for people. What is in a message cannot look like another line."""

    def __init__(self) -> None:
        super().__init__()
        self._clock = _Clock("%Y-%m-%d %H:%M:%S", time.localtime)

    def format(self, record: logging.LogRecord) -> str:
        """Give the line, with the lines of a traceback indented below it."""
        at = self._clock.show(record.created)
        message = _printable(redacted(record.getMessage()))
        line = f"{at},{int(record.msecs):03d} {record.levelname} {record.name}: {message}"
        trace = redacted(self.formatException(record.exc_info)).split("\n") if record.exc_info else ()
        return "\n  ".join([line, *map(_printable, trace)])


class JsonLines(logging.Formatter):
    """A JSON object a line: time (RFC 3339, UTC), level, logger and message, then the fields."""

    def __init__(self) -> None:
        super().__init__()
        self._clock = _Clock("%Y-%m-%dT%H:%M:%S", time.gmtime)

    def format(self, record: logging.LogRecord) -> str:
        """Give the line."""
        line: dict[str, object] = {
            "time": f"{self._clock.show(record.created)}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_noted.get(),
        }
        if isinstance(record.args, dict):
            line.update(record.args)
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        texts = {name: value for name, value in line.items() if isinstance(value, str)}
        whole = "\n".join(texts.values())
        if len(whole) > MOST_CHARS or redacted(whole) != whole:  # seldom: so one look is enough for all of them
            line.update((name, redacted(value)) for name, value in texts.items())
        try:
            return _encoder.encode(line).decode()
        except UnicodeEncodeError:  # a lone surrogate, as in the name of a file that is no UTF-8
            return _encoder.encode({name: _escaped(str(value)) for name, value in line.items()}).decode()


class _Clock:
    """Writes times, each second once."""

    def __init__(self, form: str, broken_down: Callable[[float], time.struct_time]) -> None:
        self._form = form
        self._broken_down = broken_down
        self._second = -1
        self._shown = ""

    def show(self, at: float) -> str:
        second = int(at)
        if second != self._second:
            self._second, self._shown = second, time.strftime(self._form, self._broken_down(second))
        return self._shown


def _printable(text: str) -> str:
    return text if text.isprintable() else _escaped(text)


def _escaped(text: str) -> str:
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
