"""The warm workers in groups of equals: how a worker is keyed, started and ended."""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from math import inf
from typing import NamedTuple, Self

import msgspec
from msgspec.structs import replace

from clinvk.backends.base import Backend, Host, Launch
from clinvk.runtime.pool.file_fingerprints import Fingerprint, fingerprint
from clinvk.runtime.pool.worker import Worker
from clinvk.runtime.process.private_folder import PrivateFolder
from clinvk.runtime.process.process import Process
from clinvk.runtime.process.spawn import Spawner
from clinvk.runtime.process.waiting import finish_shielded
from clinvk.types.errors import ClinvkError

logger = logging.getLogger(__name__)

MAX_HELD = 8
"""The number of conversations that a process keeps open exclusively."""

_MAX_BACKOFF_S = 20.0

_STABLE_AFTER_S = 10.0
"""A process that was up for this time did not fail because of its start."""

_EXIT_TIMEOUT_S = 2.0


class WorkerSpec(NamedTuple):
    """The specification of a worker; `launch` is a long-lived launch."""

    backend: Backend
    host: Host
    path: str
    launch: Launch

    @property
    def env(self) -> Mapping[str, str]:
        """The environment of the worker, before the launch's own variables."""
        return self.host.env

    @property
    def key(self) -> object:
        """Everything fixed at a worker's start: the command and its environment."""
        launch = _without_conversation(self.launch)
        fixed = (launch.argv, launch.env, launch.cwd, launch.files, launch.links, launch.session_params, launch.reads)
        encoded = msgspec.json.encode((fixed, launch.client_tools))
        policy = (launch.max_runs, launch.resumes)
        return self.backend.name, self.path, frozenset(self.env.items()), encoded, policy

    def files(self) -> "WorkerFiles":
        """Return the current fingerprints of the files that a worker reads. Blocks."""
        launch = self.launch
        return WorkerFiles(
            fingerprint((self.path, *launch.reads), self.env), fingerprint(launch.conversation_reads, self.env)
        )


class WorkerFiles(NamedTuple):
    """The files of a worker: `read` by every process, including the program, `initial` only by new conversations."""

    read: Fingerprint
    initial: Fingerprint


class WorkerGroup:
    """Workers with the same key; each can carry any run with the key.

    Attributes:
        spec: the specification of a worker; the conversation of the launch has no meaning.
        files: the fingerprints that the workers were started with.
        last_requested_at: when a run last asked for a worker.
        begin_times: when runs that begin a conversation came, for which any ready worker would do.
        failures: the number of failures since a run last went well.
        not_before: no worker is started before this time.
        is_mute: the last worker that failed never spoke its protocol. Only a run starts a worker then.
    """

    def __init__(self, spec: WorkerSpec, files: WorkerFiles) -> None:
        self.spec = spec
        self.files = files
        self.workers: list[Worker] = []
        self.last_requested_at = -inf
        self.begin_times: deque[float] = deque(maxlen=64)
        self.failures = 0
        self.not_before = 0.0
        self.is_mute = False

    @property
    def backend(self) -> str:
        """The name of the backend."""
        return self.spec.backend.name

    @property
    def is_shared(self) -> bool:
        """Whether a worker carries several runs at once."""
        return self.spec.launch.resumes != "named"

    @property
    def launch(self) -> Launch:
        """The launch of a worker without a conversation."""
        return _without_conversation(self.spec.launch)

    def record_request(self, *, begins: bool) -> None:
        """Record that a run asks for a worker; `begins` is whether the run begins a conversation."""
        self.last_requested_at = time.monotonic()
        if begins:
            self.begin_times.append(self.last_requested_at)

    def renew(self, files: WorkerFiles) -> None:
        """Adopt the current fingerprints, and retire workers that were started with changed files."""
        has_changed = files.read != self.files.read
        if has_changed:
            self.failures, self.not_before, self.is_mute = 0, 0.0, False
        if files != self.files:
            self.files = files
            for worker in self.workers:
                if has_changed or can_begin(worker):
                    worker.retire()

    def blame(self, worker: Worker, reason: str) -> None:
        """Count a failure and delay the next start, longer with each failure in a row without a good run."""
        if worker.is_blamed:
            return
        worker.is_blamed = True
        was_killed = worker.was_started and (worker.process.exit_code or 0) >= 128  # shows no lack of a protocol
        self.is_mute = not (worker.is_ready or was_killed)
        is_stable = worker.is_ready and time.monotonic() > worker.since + _STABLE_AFTER_S
        self.failures = 1 if worker.is_proven or is_stable else self.failures + 1
        self.not_before = time.monotonic() + min(_MAX_BACKOFF_S, 0.25 * 2.0**self.failures)
        suffix = f" (pid {worker.process.pid})" if worker.was_started else ""
        logger.warning("a kept process of %s%s failed, %d in a row: %s", self.spec.path, suffix, self.failures, reason)


def can_begin(worker: Worker, share: float = 1) -> bool:
    """Return whether a worker can begin a conversation within a `share` of its runs.

    A one-conversation process can begin only its first conversation.
    """
    runs = worker.past_runs + len(worker.handles)
    if worker.channel.capacity == 1:
        return not runs and not worker.launch.resume_args
    return runs < share * worker.launch.max_runs


def best_worker(workers: Iterable[Worker]) -> Worker | None:
    """Return a ready worker if possible, preferring the busiest: idle workers can then be ended."""
    return max(workers, key=lambda worker: (worker.is_ready, worker.past_runs, len(worker.handles)), default=None)


def _without_conversation(launch: Launch) -> Launch:
    argv = tuple(argument for argument in launch.argv if argument not in launch.resume_args)
    return replace(launch, argv=argv, resume_args=())


class WorkerSet:
    """All workers, in groups. `on_change` is called when a worker has gone.

    Attributes:
        groups: the groups by key.
        ending: the workers that are being ended.
    """

    def __init__(self, spawner: Spawner, on_change: Callable[[], None]) -> None:
        self.groups: dict[object, WorkerGroup] = {}
        self.ending: set[Worker] = set()
        self._spawner = spawner
        self._on_gone = on_change
        self._tasks = asyncio.TaskGroup()

    async def __aenter__(self) -> Self:
        await self._tasks.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        """End all workers; call after the last run."""
        for worker in self.workers:
            self.end(worker)
        await self._tasks.__aexit__(None, None, None)

    @property
    def workers(self) -> list[Worker]:
        """All workers except those being ended."""
        return [worker for group in self.groups.values() for worker in group.workers]

    @property
    def counted(self) -> list[Worker]:
        """The workers that count as kept: all except exclusive workers with a run."""
        return [worker for worker in self.workers if worker.channel.capacity > 1 or not worker.handles]

    @property
    def idle(self) -> list[Worker]:
        """The workers without runs that may take a run, longest idle first."""
        idle = [worker for worker in self.workers if not worker.handles and not worker.is_retiring]
        return sorted(idle, key=lambda worker: worker.idle_since)

    async def group(self, spec: WorkerSpec) -> WorkerGroup:
        """Return the group of a spec; check the files, which may be many, in a thread."""
        key, files = spec.key, await asyncio.to_thread(spec.files)
        group = self.groups.setdefault(key, WorkerGroup(spec, files))
        group.renew(files)
        return group

    def open(self, group: WorkerGroup, launch: Launch) -> Worker:
        """Start a worker in the background. The worker admits runs at once, and has a process when `opened` is set.

        A group that was forgotten meanwhile is added to `groups` again.
        """
        group = self.groups.setdefault(group.spec.key, group)
        env = dict(group.spec.env)  # shared with the channel, and completed at the start
        channel = group.spec.backend.channel(launch, replace(group.spec.host, env=env))
        folder = PrivateFolder(launch, group.spec.env, self._spawner.server_id)
        worker = Worker(launch, channel, folder, lambda: self._on_change(worker))
        worker.group = group
        group.workers.append(worker)
        self._tasks.create_task(self._start(worker, env))
        return worker

    async def _start(self, worker: Worker, env: dict[str, str]) -> None:
        group = worker.group
        try:
            await worker.start(self._spawner, group.spec.path, env)
        except Exception as exc:
            is_expected = isinstance(exc, ClinvkError | TimeoutError)
            logger.warning("cannot start a kept process of %s: %s", group.spec.path, exc, exc_info=not is_expected)
            group.blame(worker, "it could not be started")
            group.workers.remove(worker)
            self.ending.discard(worker)

    def _on_change(self, worker: Worker) -> None:
        """Handle output or the exit of a worker."""
        if worker.is_gone and not worker.handles and worker in worker.group.workers:
            if not worker.is_proven:
                worker.group.blame(worker, worker.failure)
            self._on_gone()

    def end(self, worker: Worker) -> None:
        """Retire a worker and end the worker in the background."""
        worker.retire()
        if worker not in self.ending and worker in worker.group.workers:
            self.ending.add(worker)
            self._tasks.create_task(self._end_in_background(worker))

    async def _end_in_background(self, worker: Worker) -> None:
        try:
            await worker.opened.wait()
            await self.end_and_wait(worker, graceful=True)
        except Exception:
            logger.exception("cannot end a kept process")

    async def end_and_wait(self, worker: Worker, *, graceful: bool) -> None:
        """End a worker with all its descendants; if `graceful`, a running process may exit by itself first."""
        if worker not in worker.group.workers:
            return
        worker.group.workers.remove(worker)
        self.ending.add(worker)
        process = worker.process
        try:
            if graceful and worker.is_up:
                await worker.release_all()
                process.write(b"", close=True)
                await _wait_for_exit(process)
        finally:
            worker.close()
            try:
                await self._spawner.sweep(process)
                await finish_shielded(_wait_for_exit(process))  # the loop that receives the exit may end next
            finally:
                self.ending.discard(worker)
                self._on_gone()
                await worker.folder.clear()


async def _wait_for_exit(process: Process) -> None:
    """Wait up to `_EXIT_TIMEOUT_S` for the exit of a process, and drop its output."""
    until = time.monotonic() + _EXIT_TIMEOUT_S
    while process.exit_code is None and time.monotonic() < until:
        await asyncio.sleep(0.02)
        process.take()
