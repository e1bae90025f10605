"""The caller's end of a run: a run of another process, kept up to date by the messages of the process."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

from msgspec.structs import replace

from clinvk.remote.messages import ROOM_BYTES, Answer, Begun, Events, Message, Read, Refused, Stop
from clinvk.runtime.process.waiting import finish_shielded
from clinvk.runtime.run.event_log import EventLog
from clinvk.types.errors import Cancelled, ClinvkError, error_from_code
from clinvk.types.events import Logged, RunFailed
from clinvk.types.request import RunRequest
from clinvk.types.run import RunFacts

_STOPS_TIMEOUT_S = 6.0
"""The longest that another process takes to stop a run: the grace of the agent, and the end of its child processes."""

_STOPS_AT_ONCE_TIMEOUT_S = 2.0

_EXITS_TIMEOUT_S = 15.0
"""How long the agent may take to exit after the ending of its run."""

_AGENT_STATE_UNKNOWN = "the server does not tell whether its agent is gone"


class RemoteRun:
    """A run of another process. The log asks for further events while its readers keep up.

    `send` sends a message to the owner; `warn` learns that an owner does not stop the run in time, and counts as lost.

    Attributes:
        request: the request to the current agent.
        facts: the facts as last reported.
        exited: set once the agent has exited, or its process is lost, or if the prompt has no run of its own.
        begun: the first answer of the owner, or the error if the run failed before.
        stopping: the last request to stop the run, if any.
        is_overdue: whether the run has failed because its process does not answer.
    """

    def __init__(
        self, run_id: str, request: RunRequest, send: Callable[[Message], object], warn: Callable[[str], None]
    ) -> None:
        self.id = run_id
        self.request = request
        self.facts = RunFacts(run_id=run_id, backend=request.backend, created_at=time.time())
        self.log = EventLog(self._read)
        self.exited = asyncio.Event()
        self.begun: asyncio.Future[Answer | ClinvkError] = asyncio.get_running_loop().create_future()
        self.stopping: Stop | None = None
        self.is_overdue = False
        self._send = send
        self._warn = warn
        self._unread = 0
        self._gap = -1
        self._left_queue = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def is_begun(self) -> bool:
        """Whether the owner has answered, or the run failed before."""
        return self.begun.done()

    @property
    def received(self) -> int | None:
        """The number of the last event, for `Holding`; None while the run takes no events."""
        return None if self.log.is_ahead or not self.is_begun else self.log.count

    def feed(self, message: Answer, size: int = 0) -> None:
        """Take a message of `size` bytes about the run; skip events that are known, and ask for missing events."""
        if isinstance(message, Refused):
            self.lose(error_from_code(message.code, message.message, message.field))
            return
        if not self.is_begun:
            self.begun.set_result(message)
        elif isinstance(message, Begun):  # a repeated answer, with old facts
            return
        if isinstance(message, Begun | Events) and message.facts:
            self._note(message.facts)
        if isinstance(message, Events) and message.events and not self.log.ending:
            self._append(message.events, size)

    def _append(self, events: list[Logged], size: int) -> None:
        count = self.log.count
        if events[0].number > count + 1:
            if self._gap != count:
                self._gap = count
                self.read_again()
            return
        self.log.append(events[count + 1 - events[0].number :], size)
        self._unread += size
        if self._unread >= ROOM_BYTES / 2 and not self.log.is_ahead:
            self._read()

    def read_again(self) -> None:
        """Ask for the events that may be lost."""
        self._send(Read(self.id, self.log.count, again=True))

    def _note(self, facts: RunFacts) -> None:
        self.facts = facts
        agent = {"backend": facts.backend, "model": facts.model, "fell_back": facts.fallback}
        self.request = replace(self.request, **agent)
        if facts.has_exited or facts.is_steered:
            self._exit()
        if facts.state != "queued":
            self._left_queue.set()

    def _read(self) -> None:
        self._unread = 0
        self._send(Read(self.id, self.log.count))

    def lose(self, error: ClinvkError, is_overdue: bool = False) -> None:
        """End the run with an error, unless its ending is known: the owner has refused the run, or is lost.

        With the owner the agent is gone. With `is_overdue` the owner only does not answer.
        """
        self.is_overdue = is_overdue
        if not is_overdue:
            self._exit()
        if not self.is_begun:
            self.begun.set_result(error)
        self._left_queue.set()
        if not self.log.ending:
            at = time.time()
            self.facts = replace(self.facts, ended_at=at)
            self.log.append([Logged(self.log.count + 1, at, RunFailed(error.code, error.message))])

    def stop(self, at_once: bool = False) -> None:
        """Ask the owner to stop the run; with `at_once` the agent gets no time to stop by itself."""
        self.stopping = Stop(self.id, at_once)
        self._send(self.stopping)
        self.lose_after(_STOPS_AT_ONCE_TIMEOUT_S if at_once else _STOPS_TIMEOUT_S)

    def lose_after(self, timeout_s: float) -> None:
        """Let the run be lost if the agent has not exited in time."""
        self._cancel_timer()
        self._timer = asyncio.get_running_loop().call_later(timeout_s, self._give_up)

    def _cancel_timer(self) -> None:
        if self._timer:
            self._timer.cancel()

    def _exit(self) -> None:
        self.exited.set()
        self._cancel_timer()

    def _give_up(self) -> None:
        if not self.exited.is_set():
            self._warn(_AGENT_STATE_UNKNOWN)
            self.lose(Cancelled(Cancelled.DEFAULT_MESSAGE))

    async def answer(self) -> Answer:
        """Wait for the first answer of the owner.

        Raises:
            ClinvkError: the run is refused, or its process is lost.
        """
        answer = await asyncio.shield(self.begun)
        if isinstance(answer, ClinvkError):
            raise answer
        return answer

    async def left_queue(self) -> None:
        """Wait until the run leaves the queue: it has a slot, or was stopped."""
        await self._left_queue.wait()

    async def cancel(self) -> None:
        """Stop the run unless it has ended, and wait until its agent is gone."""
        if self.exited.is_set():
            return
        if self.log.ending:
            self.lose_after(_EXITS_TIMEOUT_S)
        else:
            self.stop()
        await self.exited.wait()


@asynccontextmanager
async def attached(run: RemoteRun) -> AsyncGenerator[RemoteRun]:
    """Wait until a run is begun. Leaving the context stops the run, and waits until its agent has exited.

    Raises:
        ClinvkError: the run is refused, or its process is lost.
    """
    try:
        await run.answer()
        yield run
    finally:
        await _finish(run, at_once=run.is_overdue)


async def _finish(run: RemoteRun, at_once: bool) -> None:
    """Stop the run unless it has ended, and wait until the agent has exited; its last events can then be followed.

    A cancelled wait stops the run at once.
    """
    try:
        if at_once and not run.exited.is_set():
            run.stop(at_once)
            await run.exited.wait()
        else:
            await run.cancel()
    except asyncio.CancelledError:
        await finish_shielded(_finish(run, at_once=True))
        raise
