"""Spawn agent processes in turn, and end a process with all its descendants.

Uses `subprocess.Popen` on the event loop's thread. Asyncio's subprocesses fork under uvloop, which is many times
slower, and every other way costs more as well.
"""

import asyncio
import errno
import fcntl
import logging
import os
import subprocess
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Collection, Generator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress

from clinvk.backends.base import HELD
from clinvk.config.model import AgentSettings
from clinvk.runtime.process.orphans import children
from clinvk.runtime.process.process import PIPE_BYTES, Process
from clinvk.runtime.process.process_scan import kill_tagged
from clinvk.runtime.process.process_tags import TAG_VARIABLE, ProcessTags, kill_tools, resident_bytes, tag_label
from clinvk.runtime.process.resource_limits import ResourceLimits
from clinvk.runtime.process.waiting import finish_shielded, in_background
from clinvk.types.errors import BackendUnavailable, ClinvkError, InvalidRequest, ResourcesExhausted, exhausted

logger = logging.getLogger(__name__)

_SWEEP_INTERVAL_S = 0.02
_REAP_INTERVAL_S = 1.0
_SEARCH_INTERVAL_S = 0.2
"""Pause after a search that failed for lack of a file descriptor."""

_PER_CORE = 4
_MAX_START_S = 3.0
"""Some agents print nothing before their answer, so a start counts no longer than this."""

_DIRECTORY_FLAGS = os.O_DIRECTORY | os.O_CLOEXEC | getattr(os, "O_PATH", os.O_RDONLY)
DESCRIPTORS = "/proc/self/fd" if os.path.isdir("/proc/self/fd") else ""
"""The folder with a path for each descriptor; empty on systems without `/proc`."""


class Start:
    """The start of one agent, which may begin once `is_granted`."""

    def __init__(self, on_grant: Callable[[], None]) -> None:
        self.is_granted = False
        self.on_grant = on_grant
        self.timer: asyncio.TimerHandle | None = None


class Starts:
    """The agents that start at the same time: at most four for each core. Others wait in order.

    An agent computes while it starts, and mostly waits for its model afterwards.
    """

    def __init__(self, cores: int) -> None:
        self._most = cores * _PER_CORE
        self._starting: set[Start] = set()
        self._waiting: deque[Start] = deque()

    def begin(self, on_grant: Callable[[], None]) -> Start:
        """Return a start, which is granted at once or later; then call `on_grant`."""
        start = Start(on_grant)
        self._waiting.append(start)
        self._grant()
        return start

    def end(self, start: Start) -> None:
        """Grant the next start: the agent has started, or will not start. Further calls do nothing."""
        if start in self._starting:
            self._starting.remove(start)
        elif start in self._waiting:
            self._waiting.remove(start)
        if start.timer:
            start.timer.cancel()
        self._grant()

    def _grant(self) -> None:
        while self._waiting and len(self._starting) < self._most:
            start = self._waiting.popleft()
            self._starting.add(start)
            start.timer = asyncio.get_running_loop().call_later(_MAX_START_S, self.end, start)
            start.is_granted = True
            start.on_grant()


class Spawner:
    """Spawns tagged processes and ends their leftover descendants.

    `server_id` is the server number in the tags, `spawned` is how many processes were started so far. `starts` staggers
    the starts of agents.
    """

    def __init__(
        self, tags: ProcessTags, resource_limits: ResourceLimits | None = None, starts: Starts | None = None
    ) -> None:
        self._tags = tags
        self.server_id = tags.server
        self.starts = starts or Starts(1)
        self._limits = resource_limits or ResourceLimits(AgentSettings(), tags.server)
        self.spawned = 0
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
    ) -> Process:
        """Start a process; call `wake` after every output and at the exit.

        Stdout is split into lines, or with `raw` left unsplit. With `real_path`, the process starts only if `cwd`
        resolves to `real_path`. Words of `argv` that begin with `HELD` become descriptors of directories.

        Raises:
            BackendUnavailable: the program cannot be started.
            ResourcesExhausted: no file descriptor, process or memory is left.
            InvalidRequest: the command line is too long, or the directory cannot be entered.
        """
        self.spawned = number = self.spawned + 1
        env = {**env, TAG_VARIABLE: tag_label(self._tags.server, number)}
        try:
            with (
                _opened_directories(argv, cwd, real_path) as (words, path, held),
                children.spawning((self._tags.server, number)) as register,
                self._tags.tagging(number),
            ):
                popen, pipes = _popen(self._limits.wrap(words, number), env, path, held)
                register(popen.pid)
        except ClinvkError:
            if self._limits.cgroup:
                self._schedule_end(number, 0)  # the cgroup may have been created
            raise
        self._limits.lower_open_files(popen.pid)
        return Process(popen, pipes, number, wake, stderr_lines, raw)

    @asynccontextmanager
    async def adopting(self) -> AsyncGenerator[None]:
        """Adopt the orphans of agents inside the context, and reap them."""
        with self._tags.adopting():
            async with in_background(self._reap()):
                yield

    async def _reap(self) -> None:
        while True:
            await asyncio.sleep(_REAP_INTERVAL_S)
            if children.has_agents:
                await asyncio.to_thread(children.reap)

    async def sweep(self, process: Process) -> None:
        """End a process and all its descendants, even if the caller is cancelled meanwhile.

        The pipes are closed afterwards, even if the search fails.

        Each search reads every process of the machine. Runs that end within `_SWEEP_INTERVAL_S` therefore share a
        search.
        """
        try:
            await finish_shielded(self._schedule_end(process.number, process.pid if process.exit_code is None else 0))
        finally:
            process.discard()

    async def end_tools(self, process: Process, variable: tuple[str, str] | None, *, holding: bool = False) -> None:
        """End the tools of a process. With `variable`, end only tools that have the variable in their environment.

        The process keeps running. With `holding`, a process that has tools is stopped before the tools end, and notices
        the exits only when resumed.
        """
        pause = process.suspend if holding else None
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
        kill_tagged(lambda: self._tags.find(roots))
        self._limits.end(roots)
        children.ended((self._tags.server, number) for number in roots)


def _popen(
    argv: Sequence[str], env: Mapping[str, str], cwd: str | None, held: Sequence[int]
) -> "tuple[subprocess.Popen[bytes], list[int]]":
    """Start a process on raw pipes: the file objects of `Popen` cost more than the rest of the spawn.

    The process inherits the descriptors `held`.

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
            argv, stdin=stdin, stdout=stdout, stderr=stderr, cwd=cwd, env=env, start_new_session=True, pass_fds=held
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
        fcntl.fcntl(ours[1], fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    return popen, ours


@contextmanager
def held_directory(path: str, real_path: str) -> Generator[int]:
    """Open a directory and yield the descriptor, which leads to this directory even if the path becomes a link.

    Without `/proc` the path is only resolved again.

    Raises:
        OSError: the directory cannot be opened.
        InvalidRequest: the path of the directory without links is not `real_path`.
    """
    fd = os.open(path, _DIRECTORY_FLAGS)
    try:
        if (os.readlink(f"{DESCRIPTORS}/{fd}") if DESCRIPTORS else os.path.realpath(path)) != real_path:
            raise InvalidRequest(f"cannot work in {path!r}: it leads elsewhere since it was checked", "workdir")
        yield fd
    finally:
        os.close(fd)


@contextmanager
def _opened_directories(
    argv: Sequence[str], cwd: str | None, real_path: str
) -> Generator[tuple[Sequence[str], str | None, Sequence[int]]]:
    """Hold the directories of a process open.

    Yield the command line with numbers of descriptors, a path of the working directory that cannot be redirected by
    replacing a directory with a link, and the descriptors to inherit. Without `/proc` no such path exists.

    Raises:
        ResourcesExhausted: no file can be opened.
        InvalidRequest: a directory cannot be opened, or its path without links is not the expected one.
    """
    held: dict[str, int] = {}
    path = cwd
    with ExitStack() as stack:
        try:
            for word in (word for word in argv if word.startswith(HELD)):
                path = word.removeprefix(HELD)
                held[word] = stack.enter_context(held_directory(path, path))
            path = cwd
            if cwd and real_path:
                fd = stack.enter_context(held_directory(cwd, real_path))
                path = f"{DESCRIPTORS}/{fd}" if DESCRIPTORS else cwd
        except OSError as exc:
            raise _refusal(exc, argv[0], path) from exc
        yield [str(held.get(word, word)) for word in argv], path, tuple(held.values())


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
