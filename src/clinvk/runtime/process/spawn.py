"""One agent process: spawn, read lines, write, and end the process with all its descendants.

Uses `subprocess.Popen` on the event loop's thread. Asyncio's subprocesses fork under uvloop, which is many times
slower, and every other way costs more as well.
"""

import asyncio
import errno
import fcntl
import logging
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress

from clinvk.runtime.process.process_tags import TAG_VARIABLE, ProcessTags, kill, kill_tools, resident_bytes, tag_label
from clinvk.runtime.process.resource_limits import ResourceLimits
from clinvk.runtime.process.waiting import finish_shielded
from clinvk.types.errors import BackendUnavailable, ClinvkError, InvalidRequest, ResourcesExhausted, exhausted

logger = logging.getLogger(__name__)

LINGER_S = 5.0
"""Time in which a process must exit after closing its output or reporting the end of the run."""
DRAIN_S = 0.5
"""Time to read output after the exit if another process holds the pipe open."""
MAX_LINE_BYTES = 64 * 1024 * 1024
HIGH_WATER_BYTES = 1024 * 1024
STDERR_TAIL_BYTES = 64 * 1024
_READ_BYTES = 64 * 1024
_PIPE_BYTES = 1024 * 1024
"""The largest pipe size that Linux grants every user."""
_DIRECTORY = os.O_DIRECTORY | os.O_CLOEXEC | getattr(os, "O_PATH", os.O_RDONLY)
_DESCRIPTORS = "/proc/self/fd" if os.path.isdir("/proc/self/fd") else ""
_SWEEP_INTERVAL_S = 0.02
_SEARCH_INTERVAL_S = 0.2
"""Pause after a search that failed for lack of a file descriptor."""
_EMPTY = memoryview(b"")


class Spawner:
    """Spawns tagged processes and ends their leftover descendants."""

    def __init__(self, tags: ProcessTags, resource_limits: ResourceLimits | None = None) -> None:
        self._tags = tags
        self._resource_limits = resource_limits
        self._count = 0
        self._ending: dict[int, tuple[int, asyncio.Future[None]]] = {}
        self._search: asyncio.Task[None] | None = None
        self._searched_at = 0.0

    def spawn(
        self,
        argv: Sequence[str],
        env: Mapping[str, str],
        cwd: str | None,
        wake: Callable[[], None],
        stderr_lines: bool = False,
        raw: bool = False,
        real_path: str = "",
    ) -> "Process":
        """Start a process; call `wake` after every output and at the exit.

        Stdout is split into lines, or with `raw` left unsplit. With `real_path`, the process starts only if `cwd`
        resolves to `real_path`.

        Raises:
            BackendUnavailable: the program cannot be started.
            ResourcesExhausted: no file descriptor, process or memory is left.
            InvalidRequest: the command line is too long, or the directory cannot be entered.
        """
        self._count += 1
        number = self._count
        env = {**env, TAG_VARIABLE: tag_label(self._tags.server, number)}
        try:
            with _opened_directory(argv[0], cwd, real_path) as path, self._tags.marking(number):
                popen, pipes = _popen(
                    self._resource_limits.around(argv, number) if self._resource_limits else argv, env, path
                )
        except ClinvkError:
            if self._resource_limits and self._resource_limits.cgroup:
                self._schedule_end(number, 0)  # the cgroup may have been created
            raise
        if self._resource_limits:
            self._resource_limits.settle(popen.pid)
        return Process(popen, pipes, number, wake, stderr_lines, raw)

    @property
    def server_id(self) -> int:
        """The server number in the tags of this clinvk."""
        return self._tags.server

    @property
    def spawned(self) -> int:
        """How many processes were started so far."""
        return self._count

    async def sweep(self, process: "Process") -> None:
        """End a process and all its descendants, even if the caller is cancelled meanwhile.

        The pipes are closed afterwards, even if the search fails.

        Each search reads every process of the machine. Runs that end within `_SWEEP_INTERVAL_S` therefore share a
        search.
        """
        try:
            await finish_shielded(self._schedule_end(process.number, process.pid if process.exit_code is None else 0))
        finally:
            process.discard()

    async def end_tools(self, process: "Process", variable: tuple[str, str] | None, *, holding: bool = False) -> None:
        """End the tools of a process. With `variable`, end only tools that have the variable in their environment.

        The process keeps running. With `holding`, a process that has tools is stopped before the tools end, and notices
        the exits only when resumed.
        """
        pause = process.pause_reading if holding else None
        await asyncio.to_thread(kill_tools, self._tags, process.number, process.pid, variable, pause)

    async def memory(self, numbers: Collection[int]) -> Mapping[int, int]:
        """Return the resident bytes of each process including all descendants, by process number."""
        return await asyncio.to_thread(resident_bytes, self._tags, numbers)

    def _schedule_end(self, number: int, pid: int) -> "asyncio.Future[None]":
        """Schedule the end of a process and its descendants; `pid` is 0 if the process has exited or never started."""
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[None] = loop.create_future()
        self._ending[number] = pid, ended
        if self._search is None:
            self._search = loop.create_task(self._search_all())
        return ended

    async def _search_all(self) -> None:
        while self._ending:
            await asyncio.sleep(self._searched_at + _SWEEP_INTERVAL_S - time.monotonic())
            ending, self._ending = self._ending, {}
            try:
                await asyncio.to_thread(self._end, {number: pid for number, (pid, _) in ending.items()})
            except Exception as exc:
                if exhausted(exc):
                    self._ending = ending | self._ending
                    await asyncio.sleep(_SEARCH_INTERVAL_S)
                    continue
                logger.exception("cannot search for leftover processes of ended agents")
            self._searched_at = time.monotonic()
            for _, ended in ending.values():
                if not ended.done():
                    ended.set_result(None)
        self._search = None

    def _end(self, roots: Mapping[int, int]) -> None:
        kill(self._tags, roots)
        if self._resource_limits:
            self._resource_limits.end(roots)


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
        self.too_long = False
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
    def holding(self) -> Generator[None]:
        """Allow `pause_reading` inside the context.

        Several runs may nest contexts: the process resumes when all are left.
        """
        self._holders += 1
        try:
            yield
        finally:
            self._holders -= 1
            if not self._holders:
                self._signal_group(signal.SIGCONT)

    def pause_reading(self) -> None:
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
            self.too_long = True
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
        code = self._popen.returncode or 0
        for _ in range(_PIPE_BYTES // _READ_BYTES + 1):  # another process may hold the pipe open and print forever
            if self._out in self._open:
                self._read_stdout()
        self.exit_code = 128 - code if code < 0 else code
        if self._err in self._open:
            self._read_stderr()  # the last stderr output is in the pipe, whichever event the loop handles first
        self._wake()


def _popen(argv: Sequence[str], env: Mapping[str, str], cwd: str | None) -> "tuple[subprocess.Popen[bytes], list[int]]":
    """Start a process on raw pipes: the file objects of `Popen` cost more than the rest of the spawn.

    Returns:
        The process, and our ends of stdin, stdout and stderr.
    """
    ours: list[int] = []
    theirs: list[int] = []
    try:
        for is_input in (True, False, False):
            read, write = os.pipe()
            ours.append(write if is_input else read)
            theirs.append(read if is_input else write)
        stdin, stdout, stderr = theirs
        popen = subprocess.Popen(
            argv, stdin=stdin, stdout=stdout, stderr=stderr, cwd=cwd, env=env, start_new_session=True
        )
    except (OSError, ValueError) as exc:
        for fd in ours:
            os.close(fd)
        raise _refusal(exc, argv[0], cwd) from exc
    finally:
        for fd in theirs:
            os.close(fd)
    for fd in ours:
        os.set_blocking(fd, False)
    with suppress(AttributeError, OSError):  # not Linux, or the user's pipe quota is used up
        # Claude Code and Gemini CLI lose output that does not fit into the pipe when they exit.
        fcntl.fcntl(ours[1], fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
    return popen, ours


@contextmanager
def _opened_directory(program: str, cwd: str | None, real_path: str) -> Generator[str | None]:
    """Hold the working directory open; yield a path that cannot be redirected by replacing a directory with a link.

    Without `/proc` no such path exists, and `cwd` is only resolved again.

    Raises:
        ResourcesExhausted: no file can be opened.
        InvalidRequest: the directory cannot be opened, or its path without links is not `real_path`.
    """
    if not cwd or not real_path:
        yield cwd
        return
    try:
        fd = os.open(cwd, _DIRECTORY)
    except OSError as exc:
        raise _refusal(exc, program, cwd) from exc
    try:
        path = f"{_DESCRIPTORS}/{fd}" if _DESCRIPTORS else cwd
        if (os.readlink(path) if _DESCRIPTORS else os.path.realpath(cwd)) != real_path:
            raise InvalidRequest(f"cannot work in {cwd!r}: it leads elsewhere since it was checked", "workdir")
        yield path
    finally:
        os.close(fd)


def _refusal(exc: OSError | ValueError, program: str, cwd: str | None) -> ClinvkError:
    if isinstance(exc, ValueError):  # an invalid argument or variable, such as a name with a `=`
        return BackendUnavailable(f"cannot start {program!r}: {exc}")
    if exc.errno == errno.EAGAIN or exhausted(exc):  # EAGAIN: the user has too many processes
        return ResourcesExhausted(f"cannot start {program!r}: {exc.strerror}")
    if exc.filename == cwd and cwd is not None:
        return InvalidRequest(f"cannot work in {cwd!r}: {exc.strerror}", "workdir")
    if exc.errno == errno.E2BIG:
        return InvalidRequest("the options are too long for a command line")
    return BackendUnavailable(f"cannot start {program!r}: {exc.strerror}")


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
