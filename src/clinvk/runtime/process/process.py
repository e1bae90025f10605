"""One agent process: read lines, write and wait for the exit, without blocking the event loop."""

import asyncio
import logging
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress

from clinvk.runtime.process.orphans import children

logger = logging.getLogger(__name__)

LINGER_S = 5.0
"""Time in which a process must exit after closing its output or reporting the end of the run."""
DRAIN_S = 0.5
"""Time to read output after the exit if another process holds the pipe open."""
MAX_LINE_BYTES = 64 * 1024 * 1024
HIGH_WATER_BYTES = 1024 * 1024
STDERR_TAIL_BYTES = 64 * 1024
PIPE_BYTES = 1024 * 1024
"""The largest pipe size that Linux grants every user."""
_READ_BYTES = 64 * 1024
_EMPTY = memoryview(b"")


class Process:
    """A spawned process.

    `take` returns output without waiting; `wake` notifies the owner. When more than `HIGH_WATER_BYTES` are unread,
    reading pauses and the full pipe slows the process down.
    """

    def __init__(
        self,
        popen: "subprocess.Popen[bytes]",
        pipes: list[int],
        number: int,
        wake: Callable[[], None],
        stderr_lines: bool,
        raw: bool,
    ) -> None:
        self.number = number
        self.pid = popen.pid
        self.exit_code: int | None = None
        self.has_overlong_line = False
        self._popen = popen
        self._open = set(pipes)
        self._in, self._out, self._err = pipes
        self._wake = wake
        self._loop = asyncio.get_running_loop()
        self._lines: list[bytes] = []
        self._waiting_bytes = 0
        self._splitter = None if raw else LineSplitter(MAX_LINE_BYTES)
        self._stderr = bytearray()
        self._stderr_splitter = LineSplitter(STDERR_TAIL_BYTES) if stderr_lines else None
        self._stderr_lines: list[bytes] = []
        self._unwritten = _EMPTY
        self._close_stdin = False
        self._holders = 0
        self._reading = True
        self._loop.add_reader(self._out, self._read_stdout)
        self._loop.add_reader(self._err, self._read_stderr)
        self._watch_exit()

    @property
    def at_eof(self) -> bool:
        """Whether stdout is closed and completely taken."""
        return self._out not in self._open and not self._lines

    @property
    def stderr(self) -> bytes:
        """The last `STDERR_TAIL_BYTES` of stderr."""
        return bytes(self._stderr)

    def take(self) -> list[bytes]:
        """Return the lines of stdout since the last call, or with `raw` the chunks."""
        lines, self._lines, self._waiting_bytes = self._lines, [], 0
        if not self._reading and self._out in self._open:
            self._reading = True
            self._loop.add_reader(self._out, self._read_stdout)
        return lines

    def read_pipe(self) -> None:
        """Read everything that the pipe of stdout holds now, without waiting for the event loop."""
        for _ in range(PIPE_BYTES // _READ_BYTES + 1):  # another process may hold the pipe open and print forever
            if self._out in self._open:
                self._read_stdout()

    def take_stderr(self) -> list[bytes]:
        """Return the lines of stderr since the last call; empty unless spawned with `stderr_lines`."""
        lines, self._stderr_lines = self._stderr_lines, []
        return lines

    def write(self, data: bytes, close: bool) -> None:
        """Write to stdin as fast as the process reads, then close stdin if `close`."""
        self._unwritten = memoryview(bytes(self._unwritten) + data)
        self._close_stdin |= close
        self._write_stdin()

    def signal(self, number: int) -> None:
        """Send a signal to the process only, without its descendants."""
        if self.exit_code is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    @contextmanager
    def allow_suspend(self) -> Generator[None]:
        """Allow `suspend` inside the context.

        Contexts of several runs may overlap. The process resumes when the last context exits.
        """
        self._holders += 1
        try:
            yield
        finally:
            self._holders -= 1
            if not self._holders:
                self._signal_group(signal.SIGCONT)

    def suspend(self) -> None:
        """Stop the process and its process group, which includes a wrapper's CLI but no tools."""
        if self._holders:  # otherwise the run that wanted the hold has given up
            self._signal_group(signal.SIGSTOP)

    def _signal_group(self, number: int) -> None:
        if self.exit_code is None:
            with suppress(ProcessLookupError, PermissionError):  # macOS raises PermissionError if all members are dead
                os.killpg(self.pid, number)

    def discard(self) -> None:
        """Close the pipes and drop all unread output."""
        for fd in tuple(self._open):
            self._close(fd)
        self._lines.clear()

    def _read_stdout(self) -> None:
        chunk = _read(self._out)
        if chunk is None:
            return
        try:
            lines = self._splitter.feed(chunk) if self._splitter else [chunk] if chunk else []
        except LineTooLong:
            self.has_overlong_line = True
            lines, chunk = [], b""
        self._lines += lines
        self._waiting_bytes += len(chunk)
        if not chunk:
            self._close(self._out)
        elif self._waiting_bytes > HIGH_WATER_BYTES and self._lines:
            self._reading = False
            self._loop.remove_reader(self._out)
        if lines or not chunk:
            self._wake()

    def _read_stderr(self) -> None:
        chunk = _read(self._err)
        if chunk is None:
            return
        if not chunk:
            self._close(self._err)
        self._stderr += chunk
        del self._stderr[:-STDERR_TAIL_BYTES]
        if self._stderr_splitter:
            with suppress(LineTooLong):
                self._stderr_lines += self._stderr_splitter.feed(chunk)
            self._wake()

    def _write_stdin(self) -> None:
        if self._in not in self._open:
            return
        try:
            written = os.write(self._in, self._unwritten) if self._unwritten else 0
        except BlockingIOError:
            written = 0
        except OSError:  # the process closed stdin or exited; the exit is reported elsewhere
            self._close(self._in)
            return
        self._unwritten = self._unwritten[written:] or _EMPTY  # an empty slice would keep the whole prompt in memory
        if self._unwritten:
            self._loop.add_writer(self._in, self._write_stdin)
            return
        self._loop.remove_writer(self._in)
        if self._close_stdin:
            self._close(self._in)

    def _close(self, fd: int) -> None:
        if fd in self._open:
            self._open.remove(fd)
            (self._loop.remove_writer if fd == self._in else self._loop.remove_reader)(fd)
            os.close(fd)

    def _watch_exit(self) -> None:
        try:
            pidfd = os.pidfd_open(self.pid)
        except (AttributeError, OSError):  # not Linux, or forbidden
            threading.Thread(target=self._wait_in_thread, daemon=True).start()
        else:
            self._loop.add_reader(pidfd, self._reap, pidfd)

    def _reap(self, pidfd: int) -> None:
        self._loop.remove_reader(pidfd)
        os.close(pidfd)
        self._popen.wait()
        self._exited()

    def _wait_in_thread(self) -> None:
        """Wait for the exit in a dedicated thread: the loop's pool must stay free for ending stuck processes."""
        self._popen.wait()
        with suppress(RuntimeError):  # the loop is closed, and no caller is waiting
            self._loop.call_soon_threadsafe(self._exited)

    def _exited(self) -> None:
        children.forget(self.pid)
        code = self._popen.returncode or 0
        self.read_pipe()
        self.exit_code = 128 - code if code < 0 else code
        if self._err in self._open:
            self._read_stderr()  # the last stderr output is in the pipe, whichever event the loop handles first
        self._wake()


def _read(fd: int) -> bytes | None:
    """Read available bytes; return None if no data is available, and `b""` at end of file."""
    try:
        return os.read(fd, _READ_BYTES)
    except BlockingIOError:
        return None
    except OSError as exc:
        logger.warning("the output of an agent cannot be read: %s", exc)
        return b""


class LineTooLong(Exception):
    """A line exceeded the limit before its newline arrived."""


class LineSplitter:
    """Splits a stream of chunks into lines without newlines; empty lines are dropped.

    `max_line_bytes` bounds the buffer, so an agent that never ends a line cannot fill the memory.
    """

    def __init__(self, max_line_bytes: int) -> None:
        self._max = max_line_bytes
        self._parts: list[bytes] = []
        self._buffered = 0

    def feed(self, chunk: bytes) -> list[bytes]:
        """Add a chunk, which is empty at the end of the stream; return the completed lines.

        Raises:
            LineTooLong: the incomplete line exceeded the limit; its buffer is dropped.
        """
        *lines, last = (chunk or b"\n").split(b"\n")
        if lines and self._parts:
            self._hold(lines[0])
            lines[0] = b"".join(self._parts)
            self._parts, self._buffered = [], 0
        if last:
            self._hold(last)
        return [line for line in lines if line]

    def _hold(self, part: bytes) -> None:
        self._buffered += len(part)
        if self._buffered > self._max:
            self._parts, self._buffered = [], 0
            raise LineTooLong
        self._parts.append(part)
