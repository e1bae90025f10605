"""Execution of a run: wait for a slot, then work in the run's own process or in a warm process."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Coroutine
from contextlib import asynccontextmanager, nullcontext

from msgspec.structs import replace

from clinvk import logs
from clinvk.backends.base import PRIVATE, Launch, ProtocolNotSupported
from clinvk.runtime.pool.pool import Pool
from clinvk.runtime.pool.run_process import OwnProcess, PooledProcess
from clinvk.runtime.pool.warm_set import WarmSpec
from clinvk.runtime.process.private_folder import PrivateFolder
from clinvk.runtime.process.process import LINGER_S, Process
from clinvk.runtime.process.tool_socket import ToolSocket, tool_socket
from clinvk.runtime.process.waiting import finish_shielded
from clinvk.runtime.run.run_io import RunIO
from clinvk.runtime.run.task import RunTask
from clinvk.runtime.run.turn_end import can_fall_back, fall_back, finish_turn
from clinvk.types.errors import AgentCrashed, ClinvkError, exhausted
from clinvk.types.events import RunFailed, RunFinished, RunStarted

logger = logging.getLogger(__name__)


STOP_GRACE_S = 3.0
"""How long an agent may take to stop by itself before the kill."""

_TOOLS_GRACE_S = 1.0
"""How long the agent's tools may take to stop. Gemini CLI ends no tool, and stops only after its current tool."""

INTERRUPTED_TIMEOUT_S = 1.0
"""How long an interrupted agent may take to end its turn."""

ANSWER_TIMEOUT_S = 10.0
"""How long a process that has spoken its protocol before may take to answer."""

START_TIMEOUT_S = 30.0
"""How long a process may take to start and to answer."""


async def drive(task: RunTask) -> None:
    """Wait for the session and the slot, run the agent, log the ending, and release all resources."""
    logs.add_fields(run_id=task.id)
    try:
        await task.wait_for_turn()
        while not task.log.ending:
            await task.wait_for_slot()
            try:
                await _run(task)
            except ClinvkError as exc:
                if not can_fall_back(task, exc):
                    raise
                await fall_back(task, exc)
    except ClinvkError as exc:
        await task.refuse(exhausted(exc) or exc)
    except Exception as exc:
        logger.exception("run %s failed inside clinvk", task.id)
        await task.refuse(exhausted(exc) or ClinvkError("clinvk itself failed; its log has the details"))
    finally:
        task.alarm.close()
        task.slot.release()


async def _run(task: RunTask) -> None:
    """Run the current agent, in a warm process or in the run's own process."""
    async with task.spec.hold() if task.spec.hold and not task.stopped_by else nullcontext():
        try:
            if await _end_if_stopped(task):  # while the run waited for the slot or for the worktree
                return
            await task.candidates.check_limits()
            if not await _run_pooled(task):
                await _run_own(task)
        finally:
            task.end_start()


async def _end_if_stopped(task: RunTask) -> bool:
    """End a run that was stopped before its agent has received the prompt; return whether the run has ended."""
    if task.stopped_by:
        await task.end(task.stopped_by)
    return task.log.ending is not None


async def _run_own(task: RunTask) -> None:
    """Run the agent in the run's own process, one for each turn, with the private folder of the launch.

    Raises:
        ClinvkError: the agent cannot start, or does not speak the protocol of its channel.
    """
    await task.wait_to_start()
    folder = PrivateFolder(task.spec.launch, task.spec.host.env, task.spawner.server_id)
    try:
        while not task.log.ending:
            await folder.prepare(task.spec.launch)
            await _run_process(task, folder)
    except ProtocolNotSupported as exc:
        raise AgentCrashed(f"{task.spec.path} does not speak its protocol: {exc}") from exc
    finally:
        await folder.clear()


async def _run_process(task: RunTask, folder: PrivateFolder) -> None:
    if await _end_if_stopped(task):  # while the run waited for its start, or during the preparation
        return
    spec = task.spec
    name = spec.launch.tool_socket
    async with tool_socket(folder.filled(f"{PRIVATE}/{name}"), task.on_output) if name else nullcontext() as socket:
        process = task.spawner.spawn(
            folder.command(spec.path),
            {**folder.environment(), **{name.upper(): value for name, value in task.trace.items()}},
            spec.launch.cwd,
            task.on_output,
            stderr_lines=spec.request.verbose,
            real_path=await spec.checked_directory(spec.launch),
        )
        try:
            await task.started()
            await _converse(task, process, replace(spec.launch, session_params=folder.session_params()), socket)
            if task.log.ending:
                task.slot.release()
        finally:
            task.last_process = None  # the process refers to the task: a cycle would keep the prompt in memory
            await task.spawner.sweep(process)


async def _converse(task: RunTask, process: Process, launch: Launch, socket: ToolSocket | None) -> None:
    """Send the prompt, log the events and the ending, and make the process exit.

    If the log has no ending afterwards, the answer must be asked for again with the new spec.
    """
    spec = task.spec
    handle = OwnProcess(task.id, process, spec.backend.channel(launch, spec.host), launch.long_lived, socket)
    io = task.open_io(handle, launch, START_TIMEOUT_S)
    ending = await task.listen(io)
    if is_reported := ending is io.ending:
        if task.request.output_schema is None:  # else the answer may be asked for again
            task.free_slot_at_exit(process)
        if isinstance(ending, RunFailed) and ending.exit_code is None:
            await _wait_for_exit(task, process)
            ending = replace(ending, exit_code=process.exit_code)
    else:
        await _interrupt(task, io)
        await _stop(task, io, process)
    await finish_turn(task, io, ending)
    if is_reported and isinstance(ending, RunFinished):
        await _wait_for_exit(task, process)
    if is_reported and process.exit_code is None:
        await _stop(task, io, process)


async def _interrupt(task: RunTask, io: RunIO) -> None:
    """If possible, ask the agent to end the turn by itself, so that the agent records and counts the turn.

    Log the remaining output.
    """
    handle = io.process
    process, tools = handle.process, handle.tools
    async with _tools_ended(task, process, tools) if tools or isinstance(handle, OwnProcess) else nullcontext():
        is_interrupting = handle.interrupt()
    until = task.now() + INTERRUPTED_TIMEOUT_S
    await task.drain(io)
    while is_interrupting and not (io.reported or handle.is_lost or task.no_grace) and task.now() < until:
        await task.alarm.wait_until(until)
        await task.drain(io)


@asynccontextmanager
async def _tools_ended(task: RunTask, process: Process, variable: tuple[str, str] | None) -> AsyncGenerator[None]:
    """Kill the run's tools before this context if the stopped agent would otherwise kill the tools hard.

    The tools are the processes with `variable` in their environment; with None, all tools of the process. Inside the
    context, an agent that had tools is suspended: otherwise the agent would ask its model again when the tools end.
    """
    if not task.spec.launch.stops_tools_first or task.no_grace:
        yield
        return
    with process.allow_suspend():
        await finish_shielded(task.spawner.end_tools(process, variable, holding=True))
        yield


async def _stop(task: RunTask, io: RunIO, process: Process) -> None:
    """Signal the process to stop and log the remaining output; the caller kills the rest."""
    process.signal(task.spec.launch.stop_signal)
    until, tools_until = task.now() + STOP_GRACE_S, task.now() + _TOOLS_GRACE_S
    while True:
        await task.drain(io)
        if process.exit_code is not None or task.no_grace or task.now() >= until:
            return
        if task.now() >= tools_until:
            tools_until = until
            await finish_shielded(task.spawner.end_tools(process, None))
        await task.alarm.wait_until(tools_until)


async def _wait_for_exit(task: RunTask, process: Process) -> None:
    """Wait up to `LINGER_S` for the exit: the agent may still be writing its conversation record."""
    until = task.now() + LINGER_S
    while process.exit_code is None and task.now() < until:
        if task.no_grace or (task.stopped_by and not task.log.ending):
            return
        await task.alarm.wait_until(until)
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
    if launch and task.request.warm and not task.request.verbose:
        real_path = await spec.checked_directory(launch)
        if real_path in ("", launch.cwd):  # a warm process starts only in the directory of its key
            warm, turns = WarmSpec(spec.backend, spec.host, spec.path, launch, spec.is_of_user), _turn_count(task)
            if process := await pool.admit(warm, spec.resume, turns, task.id, task.wake, task.wait_to_start):
                await _run_in_pool(task, pool, process, launch)
    if not task.log.ending and spec.resume and not spec.resume.fork:
        await pool.forget(spec.resume.handle)  # the conversation continues in the run's own process
    return task.log.ending is not None


def _turn_count(task: RunTask) -> int:
    """Return the stored number of turns in the run's session."""
    return task.recorder.session.turn_count if task.recorder.session else 0


async def _run_in_pool(task: RunTask, pool: Pool, process: PooledProcess, launch: Launch) -> None:
    """Hold the conversation, and return the process to the pool."""
    is_trusted = is_reported = False
    try:
        is_trusted, is_reported = await _converse_in_pool(task, pool, process, launch)
        if task.log.ending:
            task.slot.release()
    finally:
        is_whole = is_reported and isinstance(task.log.ending, RunFinished)
        keep = (is_whole or (is_trusted and task.spec.launch.needs_its_process)) and not task.request.ephemeral
        await pool.release(process, _turn_count(task), trusted=is_trusted, keep=keep)


async def _converse_in_pool(task: RunTask, pool: Pool, process: PooledProcess, launch: Launch) -> tuple[bool, bool]:
    """Send the prompt, log the events and the ending.

    Return whether the process is as good as before, and whether the process reported the ending of an unstopped run.
    If the log has no ending afterwards, the process was lost or does not speak its protocol, and no event was logged.
    """
    await task.started()
    if await _end_if_stopped(task):  # before the prompt was sent
        return not process.is_lost, False
    io = task.open_io(process, launch, ANSWER_TIMEOUT_S if process.agent.is_ready else START_TIMEOUT_S)
    try:
        ending = await task.listen(io)
    except ProtocolNotSupported as exc:
        pool.evict(process, str(exc))
        return False, False
    is_reported = ending is io.ending
    if process.is_lost:
        pool.evict(process, process.agent.failure)
        # A run that has logged more than the start cannot start again.
        if is_reported and all(isinstance(entry.event, RunStarted) for entry in task.log.since(0)):
            return False, False
    if not is_reported:
        await _interrupt(task, io)
    await finish_turn(task, io, ending)
    is_reported = is_reported and not process.is_lost
    is_over = process.is_over and not process.is_lost and not io.activity.open_calls
    return is_reported or is_over, is_reported


class OwnedRun:
    """A context that stops its run on exit. A generator-based context would cost three times as much."""

    __slots__ = ("_pending", "_run")

    def __init__(self, pending: Coroutine[None, None, RunTask]) -> None:
        self._pending = pending

    async def __aenter__(self) -> RunTask:
        self._run = await self._pending
        del self._pending
        return self._run

    async def __aexit__(self, *_: object) -> None:
        if not self._run.log.ending:
            self._run.stop()
            await asyncio.wait([self._run.task], timeout=STOP_GRACE_S + 1)
