"""A run of another process, kept up to date by the messages of the process."""

import asyncio
import time
from collections.abc import Callable

from msgspec.structs import replace

from clinvk.remote.messages import ROOM_BYTES, Begun, Events, Message, Read, Stop
from clinvk.runtime.run.event_log import EventLog
from clinvk.types.events import Logged, RunFailed
from clinvk.types.request import RunRequest
from clinvk.types.run import RunFacts


class RemoteRun:
    """A run of another process. The log asks for further events while its readers keep up.

    Attributes:
        request: the request to the current agent.
        facts: the facts as last reported.
        exited: set once the agent has exited, or its process is lost, or if the prompt has no run of its own.
        begun: the answer of the owner, or None if the run failed before.
    """

    def __init__(self, run_id: str, request: RunRequest, send: Callable[[Message], object]) -> None:
        self.id = run_id
        self.request = request
        self.facts = RunFacts(run_id=run_id, backend=request.backend, created_at=time.time())
        self.log = EventLog(self._read)
        self.exited = asyncio.Event()
        self.begun: asyncio.Future[Message | None] = asyncio.get_running_loop().create_future()
        self._send = send
        self._unread = 0
        self._left_queue = asyncio.Event()

    def feed(self, message: Message | None, size: int = 0) -> None:
        """Take a message of `size` bytes about the run. The first is the answer of the owner."""
        if not self.begun.done():
            self.begun.set_result(message)
        if isinstance(message, Begun | Events) and message.facts:
            self._note(message.facts)
        if isinstance(message, Events) and not self.log.ending:
            self.log.append(message.events, size)
            self._unread += size
            if self._unread >= ROOM_BYTES / 2 and not self.log.is_ahead:
                self._read()

    def _note(self, facts: RunFacts) -> None:
        self.facts = facts
        agent = {"backend": facts.backend, "model": facts.model, "fell_back": facts.fallback}
        self.request = replace(self.request, **agent)
        if facts.has_exited or facts.is_steered:
            self.exited.set()
        if facts.state != "queued":
            self._left_queue.set()

    def _read(self) -> None:
        self._unread = 0
        self._send(Read(self.id, self.log.count))

    def lose(self, code: str, message: str) -> None:
        """Note that the process of the run is lost, and its agent with it."""
        self.exited.set()
        self.fail(code, message)

    def fail(self, code: str, message: str) -> None:
        """End the run with a failure, unless its ending is known."""
        self.feed(None)
        self._left_queue.set()
        if not self.log.ending:
            at = time.time()
            self.facts = replace(self.facts, ended_at=at)
            self.log.append([Logged(self.log.count + 1, at, RunFailed(code, message))])

    def stop(self, at_once: bool = False) -> None:
        """Ask the owner to stop the run; with `at_once` the agent gets no time to stop by itself."""
        self._send(Stop(self.id, at_once))

    async def left_queue(self) -> None:
        """Wait until the run leaves the queue: it has a slot, or was stopped."""
        await self._left_queue.wait()

    async def cancel(self) -> None:
        """Stop the run unless it has ended, and wait until its agent is gone."""
        if not self.log.ending:
            self.stop()
        await self.exited.wait()
