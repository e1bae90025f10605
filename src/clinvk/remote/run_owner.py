"""The owner's end of the runs that one other process has begun here, whatever carries the messages."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

from clinvk.remote.log_reader import LogReader, Sender
from clinvk.remote.messages import Begun, Holding, HttpReceived, Message, Read, Refused, Stop
from clinvk.runtime.runs import Run
from clinvk.types.errors import ClinvkError, NodeUnavailable
from clinvk.types.run import RunFacts

logger = logging.getLogger(__name__)

OpenRun = Callable[[], AbstractAsyncContextManager[Run]]
"""Opens the context of a run; leaving the context stops the run."""

Steer = Callable[[], Awaitable[RunFacts | None]]
"""Gives a prompt to another run and returns the facts of that run, or None if the prompt needs a run of its own."""


@dataclass
class _OwnedRun:
    """A run of the peer, or a request. Without a sender, the run is not yet begun, or was refused."""

    task: asyncio.Task[None] | None = None
    answer: Message | None = None
    sender: Sender | None = None
    is_stopped: bool = False
    is_request: bool = False

    def stop(self, at_once: bool) -> None:
        """Stop the run; a run that is not yet begun is stopped when it begins."""
        self.is_stopped = True
        if self.sender:
            self.sender.stop(at_once)

    def leave(self) -> None:
        """Stop the run, at once if the peer has stopped it before."""
        if self.task and not self.task.done():
            self.stop(at_once=self.is_stopped)
            if not self.is_request:  # a request may begin a run that continues without its client
                self.task.cancel()  # the run may not have begun, and nobody reads its events


class RunOwner:
    """Runs what a peer begins: answers the peer, sends it the events, and stops the runs when the peer leaves.

    `send` sends a message to the peer, and returns its size in bytes.
    """

    def __init__(self, send: Callable[[Message], int], tasks: asyncio.TaskGroup) -> None:
        self._send = send
        self._tasks = tasks
        self._runs: dict[str, _OwnedRun] = {}

    def begin(self, run_id: str, open_run: OpenRun, steer: Steer | None = None) -> None:
        """Begin a run, unless its prompt steers another run. Answer again if the peer has begun the run before."""

        async def run_to_end(owned: _OwnedRun) -> Message | None:
            if steer and (steered := await steer()):
                return Begun(run_id, steered)
            async with open_run() as run:
                reader, owned.answer = LogReader(run, self._send), Begun(run_id, run.facts)
                owned.sender = reader
                self._send(owned.answer)
                if owned.is_stopped:
                    run.stop()
                await reader.send_all()
            return None

        self.work(run_id, run_to_end)

    def serve(self, run_id: str, sender: Sender, serve: Callable[[], Coroutine[None, None, None]]) -> None:
        """Serve a request once. `sender` sends the pieces of the response."""
        if not self._answer_again(run_id):
            answer = HttpReceived(run_id)
            owned = self._runs[run_id] = _OwnedRun(answer=answer, sender=sender, is_request=True)
            self._send(answer)
            owned.task = self._tasks.create_task(serve())

    def work(self, run_id: str, work: Callable[[_OwnedRun], Awaitable[Message | None]]) -> None:
        """Do what the peer asks under an id once, and answer with the result."""
        if not self._answer_again(run_id):
            owned = self._runs[run_id] = _OwnedRun()
            owned.task = self._tasks.create_task(self._serve(run_id, owned, work))

    def _answer_again(self, run_id: str) -> bool:
        """Return whether the peer has asked before, and repeat the answer if there is one."""
        known = self._runs.get(run_id)
        if known and known.answer:
            self._send(known.answer)
        return known is not None

    async def answer(self, run_id: str, work: Awaitable[Message | None]) -> Message | None:
        """Send the result of the work to the peer, and return it. An error is a refusal."""
        try:
            answer = await work
        except ClinvkError as exc:
            answer = Refused(exc.message, exc.code, exc.field, run_id)
        except Exception:
            logger.exception("a request of another process failed inside clinvk")
            answer = Refused("clinvk itself failed; the server's log has the details", ClinvkError.code, run_id=run_id)
        if answer:
            self._send(answer)
        return answer

    async def _serve(
        self, run_id: str, owned: _OwnedRun, work: Callable[[_OwnedRun], Awaitable[Message | None]]
    ) -> None:
        owned.answer = await self.answer(run_id, work(owned)) or owned.answer

    def take(self, message: Read | Stop | Holding) -> None:
        """Take a message of the peer about runs that it has begun."""
        if isinstance(message, Holding):
            self._hold(message)
        elif owned := self._runs.get(message.run_id):
            if isinstance(message, Stop):
                owned.stop(message.at_once)
            elif owned.sender:
                if message.again:
                    owned.sender.send_again(message.after)
                else:
                    owned.sender.read(message.after)
        elif isinstance(message, Stop):
            self._refuse(message.run_id)

    def _hold(self, holding: Holding) -> None:
        for run_id in self._runs.keys() - holding.runs.keys():
            self._runs.pop(run_id).leave()
        for run_id, after in holding.runs.items():
            owned = self._runs.get(run_id)
            if owned and owned.sender and after is not None:
                owned.sender.hold(after)
            elif after is not None and not (owned and owned.task):
                self._refuse(run_id)

    def _refuse(self, run_id: str) -> None:
        self._send(_broken_off(run_id))

    def leave(self) -> None:
        """Stop all runs: the peer has left. The peer can still get the events if it returns, until `forget`."""
        for owned in self._runs.values():
            owned.leave()
        self._runs = {run_id: owned for run_id, owned in self._runs.items() if owned.sender or not owned.task}

    def forget(self) -> None:
        """Free the memory of ended runs. Their ids stay known, so that no run begins twice."""
        for run_id, owned in self._runs.items():
            if owned.task and owned.task.done():
                self._runs[run_id] = _OwnedRun(answer=_broken_off(run_id))


def _broken_off(run_id: str) -> Refused:
    return Refused("the node broke off the run", NodeUnavailable.code, run_id=run_id)
