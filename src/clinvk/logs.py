"""The log of a server on stderr, without keys and passwords: lines for people, or one JSON object per line.

The named values of a message, as in `logger.info("%(method)s %(path)s", {...})`, are also fields of the JSON object.
Fields set with `add_fields` for a request or run are added to each JSON line about the request or run.
"""

import io
import logging
import os
import select
import sys
import threading
import time
from collections.abc import Callable, Collection, Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC
from math import inf
from types import MappingProxyType
from typing import TYPE_CHECKING

import msgspec

from clinvk.config.model import LogFormat, LogLevel
from clinvk.types.redaction import MAX_CHARS, redacted
from clinvk.types.text import Clock, visible

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_LEVELS: Mapping[LogLevel, int] = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}
_REQUEST_LOGGERS = ("clinvk.api.http.middleware", "clinvk.api.observe.observers")
"""The loggers that write one line per request and one line per run."""
_CLIENT_LOGGERS = ("uvicorn.error", "clinvk.remote.socket_server")
"""The loggers whose warnings a client can cause at any rate."""
_RATE_LIMIT_S = 60.0
_MAX_BYTES = 4 * 1024 * 1024
_LAST_TIMEOUT_S = 1.0

logger = logging.getLogger(__name__)

_fields: ContextVar[Mapping[str, str]] = ContextVar("log_fields", default=MappingProxyType({}))
_encoder = msgspec.json.Encoder(enc_hook=str)


def add_fields(**fields: str) -> None:
    """Add fields to all later log lines of the current task."""
    _fields.set({**_fields.get(), **fields})


def current_fields() -> Mapping[str, str]:
    """Return the fields of all log lines of the current task."""
    return _fields.get()


def formatter_of(form: LogFormat) -> logging.Formatter:
    """Return the formatter of `log.format`."""
    return JsonFormatter() if form == "json" else TextFormatter()


@contextmanager
def on_stderr(formatter: logging.Formatter) -> Generator[None]:
    """Log to stderr, unless logging is configured already.

    Inside this context, Python code that writes to stderr never waits for the reader of stderr.
    """
    before, unblocked = sys.stderr, NonBlockingWriter(2)
    thread = threading.Thread(target=unblocked.run, daemon=True)
    thread.start()
    sys.stderr = io.TextIOWrapper(unblocked, "utf-8", "backslashreplace", write_through=True)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    handler.addFilter(RateLimitFilter(_CLIENT_LOGGERS, _RATE_LIMIT_S))
    logging.basicConfig(handlers=[handler])
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False  # no line has these fields
    try:
        yield
    finally:
        unblocked.finish()
        thread.join(_LAST_TIMEOUT_S)
        sys.stderr = before


def adjust(level: LogLevel, requests: bool) -> None:
    """Set the log level. With `requests`, also log each request and run unless the level is above info."""
    least = _LEVELS[level]
    logging.getLogger("clinvk").setLevel(least)
    for name in _REQUEST_LOGGERS:
        log_level = min(least, logging.INFO) if requests or least == logging.DEBUG else max(least, logging.WARNING)
        logging.getLogger(name).setLevel(log_level)


_GATHER_S = 0.01
"""How long the log thread gathers lines after a write: a wake-up for each line would cost more than the line."""


class NonBlockingWriter(io.RawIOBase):
    """Writes to a file descriptor on a separate thread, which calls `run`; a stuck reader blocks only the thread.

    At most `_MAX_BYTES` wait. Further lines, and lines that cannot be written, are dropped. The number of dropped
    lines is logged once a write succeeds.
    """

    name = "<stderr>"

    def __init__(self, fd: int) -> None:
        super().__init__()
        self._fd = fd
        self._waiting = bytearray()
        self._dropped = 0
        self._is_finished = False
        self._changed = threading.Condition()

    def writable(self) -> bool:
        """Return True."""
        return True

    def write(self, data: "ReadableBuffer", /) -> int:
        """Queue bytes, or drop them if too many wait."""
        chunk = bytes(data)
        with self._changed:
            if len(self._waiting) < _MAX_BYTES:
                self._waiting += chunk
                self._changed.notify()
            else:
                self._dropped += chunk.count(b"\n")
        return len(chunk)

    def finish(self) -> None:
        """Let `run` return once all bytes are written."""
        with self._changed:
            self._is_finished = True
            self._changed.notify()

    def run(self) -> None:
        """Write the queued bytes until `finish` is called."""
        while data := self._next_chunk():
            try:
                _write(self._fd, data)
            except OSError:  # the reader is gone, or the disk is full: neither ends the server
                with self._changed:
                    self._dropped += data.count(b"\n")
                continue
            with self._changed:
                dropped, self._dropped = self._dropped, 0
            if dropped:
                logger.error("dropped %d lines of the log: stderr could not be written", dropped)
            time.sleep(_GATHER_S)

    def _next_chunk(self) -> bytearray:
        """Wait for bytes and return all waiting bytes; empty at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._is_finished)
            chunk, self._waiting = self._waiting, bytearray()
            return chunk


def _write(fd: int, data: bytearray) -> None:
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[os.write(fd, rest) :]
        except BlockingIOError:  # another process that shares the pipe made it non-blocking
            select.select([], [fd], [])


class RateLimitFilter(logging.Filter):
    """Passes one warning of each kind per `every_s`, with the number of warnings suppressed since the last one.

    Only the named loggers are limited; errors always pass.
    """

    def __init__(self, names: Collection[str], every_s: float) -> None:
        super().__init__()
        self._names = names
        self._every_s = every_s
        self._kinds: dict[str, tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether to log the record."""
        if record.name not in self._names or record.levelno != logging.WARNING:
            return True
        now = time.monotonic()
        since, count = self._kinds.get(record.msg, (-inf, 0))
        if now - since < self._every_s:
            self._kinds[record.msg] = since, count + 1
            return False
        self._kinds[record.msg] = now, 0
        if count:
            record.msg, record.args = f"{record.getMessage()} ({count} more since the last such line)", ()
        return True


class TextFormatter(logging.Formatter):
    """Lines for people. Control characters are escaped, so a message cannot imitate a second line."""

    def __init__(self) -> None:
        super().__init__()
        self._clock = Clock("%Y-%m-%d %H:%M:%S")

    def head(self, record: logging.LogRecord) -> str:
        """Return the part before the message: time, level and logger."""
        at = self._clock.show(record.created)
        return f"{at},{int(record.msecs):03d} {record.levelname} {record.name}: "

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, with the lines of a traceback indented below."""
        line = self.head(record) + visible(redacted(record.getMessage()))
        trace = redacted(self.formatException(record.exc_info)).split("\n") if record.exc_info else ()
        return "\n  ".join([line, *map(visible, trace)])


_LEVEL_COLORS = {logging.DEBUG: "\x1b[2m", logging.INFO: "\x1b[2m", logging.WARNING: "\x1b[33m"}
_RED, _PLAIN = "\x1b[31m", "\x1b[0m"


class TerminalFormatter(TextFormatter):
    """Lines for the terminal of a server: the time of day and the message, in the color of the level."""

    def __init__(self, has_color: bool, wrap: Callable[[str], str] = str) -> None:
        super().__init__()
        self._has_color = has_color
        self._wrap = wrap
        self._clock = Clock("%H:%M:%S")

    def head(self, record: logging.LogRecord) -> str:
        """Return the time."""
        return f"{self._clock.show(record.created)}  "

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, with the lines of a traceback indented below."""
        text = self._wrap(super().format(record))
        return f"{_LEVEL_COLORS.get(record.levelno, _RED)}{text}{_PLAIN}" if self._has_color else text


class JsonFormatter(logging.Formatter):
    """One JSON object per line: time (RFC 3339, UTC), level, logger and message, then the fields."""

    def __init__(self) -> None:
        super().__init__()
        self._clock = Clock("%Y-%m-%dT%H:%M:%S", UTC)

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line: dict[str, object] = {
            "time": f"{self._clock.show(record.created)}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_fields.get(),
        }
        if isinstance(record.args, dict):
            line.update(record.args)
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        texts = {name: value for name, value in line.items() if isinstance(value, str)}
        whole = "\n".join(texts.values())
        if len(whole) > MAX_CHARS or redacted(whole) != whole:  # rare, so one check covers all texts
            line.update((name, redacted(value)) for name, value in texts.items())
        try:
            return _encoder.encode(line).decode()
        except UnicodeEncodeError:  # a lone surrogate, as in a file name that is not UTF-8
            return _encoder.encode({name: visible(str(value)) for name, value in line.items()}).decode()
