"""Execution of a run: wait for a slot, then work in the run's own process or in a warm process."""

import asyncio
import logging
from contextlib import nullcontext

from msgspec.structs import replace

from clinvk import logs
from clinvk.backends.base import Launch, NotSpoken
from clinvk.runtime.pool.pool import Pool
from clinvk.runtime.pool.worker import PooledProcess
from clinvk.runtime.pool.worker_set import WorkerSpec
from clinvk.runtime.process.private_folder import PrivateFolder
from clinvk.runtime.process.spawn import LINGER_S, Process
from clinvk.runtime.process.waiting import finished
from clinvk.runtime.run.process_handle import OwnProcess
from clinvk.runtime.run.run_io import RunIO
from clinvk.runtime.run.task import Phase, RunTask
from clinvk.types.errors import AgentCrashed, ClinvkError, exhausted
from clinvk.types.events import Ending, RunFailed, RunFinished, RunStarted

logger = logging.getLogger(__name__)

STOP_GRACE_S = 3.0
"""How long an agent may take to stop by itself before the kill."""

_TOOLS_GRACE_S = 1.0
"""How long the agent's tools may take to stop. Gemini CLI ends no tool, and stops only after its current tool."""

INTERRUPTED_WITHIN_S = 1.0
"""How long an interrupted agent may take to end its turn."""

_PREPARES_WITHIN_S = 10.0
"""How long the preparing command before an agent may take."""

_COLD_PATIENCE = 3
"""A process that was still starting when the run arrived gets so many times longer to answer."""


async def drive(task: RunTask) -> None:
    """Wait for the slot, run the agent, log the ending, and release all resources."""
    logs.note(run_id=task.id)
    try:
        await task.wait_for_slot()
        if task.spec.hold and not task.stopped_by:
            async with task.spec.hold():
                await _work(task)
        else:
            await _work(task)
    except ClinvkError as exc:
        task.refusal = exhausted(exc) or exc
        await task.end(RunFailed(task.refusal.code, task.refusal.message))
    except Exception as exc:
        logger.exception("run %s failed inside clinvk", task.id)
        task.refusal = exhausted(exc)
        failed = task.refusal or ClinvkError("clinvk itself failed; its log has the details")
        await task.end(RunFailed(failed.code, failed.message))
    finally:
        task.close()
        task.slot.leave()


async def _work(task: RunTask) -> None:
    if task.stopped_by:  # while the run waited for the slot, or for the worktree
        await task.end(task.stopped_by)
    elif not await _run_pooled(task):
        await _run_own(task)


async def _run_own(task: RunTask) -> None:
    """Run the agent in the run's own process; if the CLI does not speak the planned protocol, use the other protocol.

    Raises:
        ClinvkError: the agent cannot start, or speaks neither protocol.
    """
    launch = task.spec.fallbacks.choose(task.spec.path, task.spec.launch)
    try:
        await _OwnRun(task).run(launch)
    except NotSpoken as exc:
        if launch.otherwise is None:
            raise AgentCrashed(f"{task.spec.path} cannot be talked to: {exc}") from exc
        task.unspoken = str(exc)
        await _OwnRun(task).run(launch.otherwise)


class _OwnRun:
    """A run in its own process, or in two processes in sequence if the answer is asked for again.

    `_last` is the final process of the run, set once that process has reported the ending.
    """

    __slots__ = ("_last", "_task")

    def __init__(self, task: RunTask) -> None:
        self._task = task
        self._last: Process | None = None

    async def run(self, launch: Launch) -> None:
        """Run to the ending; create and remove the launch's private folder."""
        task = self._task
        task.spec = replace(task.spec, launch=launch)
        folder = PrivateFolder(launch, task.spec.env, task.spawner.server)
        try:
            await folder.prepare()
            if launch.before:
                await self._run_before(launch)
            await self._run_in(folder)
            if task.phase < Phase.ENDED:
                await finished(asyncio.to_thread(folder.add, task.spec.launch))
                await self._run_in(folder)
        finally:
            await folder.clear()

    async def _run_before(self, launch: Launch) -> None:
        """Run the preparing command before the agent. A failure is ignored: the agent itself reports the cause best."""
        task = self._task
        process = task.spawner.spawn((task.spec.path, *launch.before), task.spec.env, None, task.wake)
        until = task.now() + _PREPARES_WITHIN_S
        try:
            process.write(b"", close=True)
            while process.exit_code is None and not task.stopped_by and task.now() < until:
                await task.wait(until)
                process.take()
        finally:
            await task.spawner.sweep(process)

    async def _run_in(self, folder: PrivateFolder) -> None:
        task = self._task
        if task.stopped_by:  # during the preparation
            await task.end(task.stopped_by)
            return
        process = await self._spawn(folder)
        try:
            await task.started()
            await self._talk(process)
            if task.phase is Phase.ENDED:
                task.slot.leave()
        finally:
            self._last = None  # the process refers to this object: a cycle would keep the prompt in memory
            await task.spawner.sweep(process)

    async def _spawn(self, folder: PrivateFolder) -> Process:
        spec = self._task.spec
        real = await spec.check() if spec.check else ""
        return self._task.spawner.spawn(
            folder.command(spec.path),
            folder.environment(),
            spec.launch.cwd,
            self._on_output,
            stderr_lines=spec.request.verbose,
            real=real,
        )

    def _on_output(self) -> None:
        """Handle output. The slot becomes free when the last process exits, before the run is completely stored."""
        if self._last and self._last.exit_code is not None:
            self._task.slot.leave()
        self._task.on_output()

    async def _talk(self, process: Process) -> None:
        """Send the prompt, log the events and the ending, and make the process exit.

        If the log has no ending afterwards, the answer must be asked for again with the new spec.
        """
        task, spec, launch = self._task, self._task.spec, self._task.spec.launch
        handle = OwnProcess(task.id, process, spec.backend.channel(launch, spec.host), launch.long_lived)
        io = task.open_io(handle, launch)
        ending = await task.listen(io)
        if is_reported := ending is io.ending:
            if task.request.output_schema is None:  # else the answer may be asked for again
                self._last = process
            self._on_output()
            ending = await self._with_exit_code(ending, process)
        else:
            await self._interrupt(io, handle)
            await self._stop(io, process, launch)
        await task.finish(io, ending)
        if is_reported and isinstance(ending, RunFinished):
            await self._wait_for_exit(process)
        if is_reported and process.exit_code is None:
            await self._stop(io, process, launch)

    async def _interrupt(self, io: RunIO, handle: OwnProcess) -> None:
        """If possible, ask the agent to end the turn by itself, so that the agent records and counts the turn."""
        task = self._task
        async with task.tools_gone(handle.process, None):
            if task.no_grace or handle.exit_code is not None or not handle.interrupt():
                return
        until = task.now() + INTERRUPTED_WITHIN_S
        while not io.costs and handle.exit_code is None and not task.no_grace and task.now() < until:
            await task.wait(until)
            await task.drain(io)

    async def _stop(self, io: RunIO, process: Process, launch: Launch) -> None:
        """Signal the process to stop and log the remaining output; the caller kills the rest."""
        task = self._task
        process.signal(launch.stop_signal)
        until, tools_until = task.now() + STOP_GRACE_S, task.now() + _TOOLS_GRACE_S
        while True:
            await task.drain(io)
            if process.exit_code is not None or task.no_grace or task.now() >= until:
                return
            if task.now() >= tools_until:
                tools_until = until
                await finished(task.spawner.end_tools(process, None))
            await task.wait(tools_until)

    async def _with_exit_code(self, ending: Ending, process: Process) -> Ending:
        """Return a reported failure with the exit code of the exiting agent."""
        if not isinstance(ending, RunFailed) or ending.exit_code is not None:
            return ending
        await self._wait_for_exit(process)
        return replace(ending, exit_code=process.exit_code)

    async def _wait_for_exit(self, process: Process) -> None:
        """Wait up to `LINGER_S` for the exit: the agent may still be writing its conversation record."""
        task = self._task
        until = task.now() + LINGER_S
        while process.exit_code is None and task.now() < until:
            if task.no_grace or task.phase is Phase.STOPPING:
                return
            await task.wait(until)
            process.take()


async def _run_pooled(task: RunTask) -> bool:
    """Run in a warm process; return False, with an empty log, if the run needs its own process.

    Raises:
        ClinvkError: the agent must not start after all.
    """
    spec = task.spec
    pool, launch = spec.pool, spec.launch.warm
    if pool is None:
        return False
    # A verbose run shows its agent's stderr; the stderr of a shared process belongs to no run.
    if launch and task.request.warm and not task.request.verbose and spec.fallbacks.is_spoken(spec.path):
        real = await spec.check() if spec.check else launch.cwd
        worker_spec = WorkerSpec(spec.backend, spec.host, spec.path, spec.env, launch)
        process = None
        if real == launch.cwd:  # a warm process starts only in the directory of its key
            process = await pool.admit(worker_spec, spec.resume, _turn_count(task), task.id, task.wake)
        if process:
            await _PooledRun(task, pool, process).run(launch)
    if task.phase < Phase.ENDED and spec.resume and not spec.resume.fork:
        await pool.forget(spec.resume.handle)  # the conversation continues in the run's own process
    return task.phase is Phase.ENDED


def _turn_count(task: RunTask) -> int:
    """Return the stored number of turns in the run's session."""
    return task.recorder.session.turn_count if task.recorder.session else 0


class _PooledRun:
    """A run in a warm process. `_is_reported` is true if the process reported the ending of an unstopped run."""

    def __init__(self, task: RunTask, pool: Pool, process: PooledProcess) -> None:
        self._task = task
        self._pool = pool
        self._process = process
        self._is_reported = False

    async def run(self, launch: Launch) -> None:
        """Have the conversation, and return the process to the pool."""
        task = self._task
        is_trusted = False
        try:
            is_trusted = await self._talk(launch)
            if task.phase is Phase.ENDED:
                task.slot.leave()
        finally:
            kept = self._is_reported and not task.request.ephemeral and isinstance(task.ending, RunFinished)
            await self._pool.release(self._process, _turn_count(task), trusted=is_trusted, kept=kept)

    async def _talk(self, launch: Launch) -> bool:
        """Send the prompt, log the events and the ending; return whether the process is as good as before.

        If the log has no ending afterwards, the process was lost or does not speak its protocol, and no event was
        logged.
        """
        task, process = self._task, self._process
        await task.started()
        if task.stopped_by:  # before the prompt was sent
            await task.end(task.stopped_by)
            return not process.is_lost
        was_ready = process.worker.is_ready
        io = task.open_io(process, launch, patience=1 if was_ready else _COLD_PATIENCE)
        try:
            ending = await task.listen(io)
        except NotSpoken as exc:
            speaks = was_ready and not process.is_refused
            self._pool.distrust(process, str(exc), speaks=speaks)
            if not speaks:
                task.unspoken = str(exc)
            return False
        is_reported = ending is io.ending
        if process.is_lost:
            self._pool.distrust(process, process.worker.trouble)
            if is_reported and not self._has_logged:
                return False
        self._is_reported = is_reported and not process.is_lost
        if not is_reported:
            await self._interrupt(io)
        await task.finish(io, ending)
        return self._is_reported or (process.is_over and not process.is_lost and not io.activity.open_calls)

    @property
    def _has_logged(self) -> bool:
        """Whether the log has more than the start: the run then cannot start again."""
        return any(not isinstance(entry.event, RunStarted) for entry in self._task.entries)

    async def _interrupt(self, io: RunIO) -> None:
        """Ask the process to end the turn, and log the remaining output."""
        task, process = self._task, self._process
        async with task.tools_gone(process.worker.process, process.tools) if process.tools else nullcontext():
            is_asked = process.worker.stop(process.run)
        until = task.now() + INTERRUPTED_WITHIN_S
        await task.drain(io)
        while is_asked and not (io.costs or process.is_lost or task.no_grace) and task.now() < until:
            await task.wait(until)
            await task.drain(io)
