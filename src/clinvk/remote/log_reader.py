"""The owner's end of a stream: send the log of a run to a process that reads the run."""

import sys
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable

from clinvk.remote.messages import ROOM_BYTES, Events
from clinvk.runtime.process.waiting import WakeUp
from clinvk.runtime.runs import Run
from clinvk.types.events import TextDelta, ThinkingDelta, ToolCallDelta

_BATCH = 500
_PIECES = (TextDelta, ThinkingDelta, ToolCallDelta)
"""Events that change no facts."""


class Sender(ABC):
    """Sends numbered messages of a run or a response, about `ROOM_BYTES` ahead of what the peer has read."""

    def __init__(self) -> None:
        self._unread: deque[tuple[int, int]] = deque()
        self._ahead = self._sent = 0
        self._held = -1
        self._room = WakeUp()

    def read(self, after: int) -> None:
        """Note that the peer has the messages up to a number."""
        while self._unread and self._unread[0][0] <= after:
            self._ahead -= self._unread.popleft()[1]
        self._room.set()

    def hold(self, after: int) -> None:
        """Note what the peer has, which it reports regularly. Send the rest again if the peer has got nothing since."""
        self.read(after)
        if after == self._held:
            self.send_again(after)
        self._held = after

    def _note_sent(self, number: int, size: int) -> None:
        """Note that a message was sent."""
        self._sent = number
        self._ahead += size
        self._unread.append((number, size))

    async def _wait_for_room(self) -> None:
        while self._ahead >= ROOM_BYTES:
            await self._room.wait()

    @abstractmethod
    def send_again(self, after: int) -> None:
        """Send again what was sent after a number."""

    @abstractmethod
    def stop(self, at_once: bool) -> None:
        """Stop the run or the response, because the peer has left."""


class LogReader(Sender):
    """Sends the events of a run. `send` sends a message, and returns its size in bytes."""

    def __init__(self, run: Run, send: Callable[[Events], int]) -> None:
        super().__init__()
        self.run = run
        self._send = send

    def hold(self, after: int) -> None:
        """Note what the peer has, as `Sender.hold`. A quiet run sends nothing to a peer with all events."""
        if self.run.log.ending or after < self._sent or after == 0:
            super().hold(after)
        else:
            self.read(after)

    def send_again(self, after: int) -> None:
        """Send the facts, and the events after a number that were sent before."""
        lost = self.run.log.since(after)[: max(0, self._sent - after)]
        for start in range(0, len(lost), _BATCH):
            self._send(Events(self.run.id, lost[start : start + _BATCH]))
        self._send(Events(self.run.id, facts=self.run.facts))

    async def send_all(self) -> None:
        """Send the events until the ending, then the facts once the agent has exited."""
        try:
            await self._send_all()
        finally:
            self._sent = sys.maxsize  # `send_again` then sends all, also what is logged later

    async def _send_all(self) -> None:
        run = self.run
        await run.left_queue()
        self._send(Events(run.id, facts=run.facts))
        async for batch in run.log.batches():
            for start in range(0, len(batch), _BATCH):
                await self._wait_for_room()
                events = batch[start : start + _BATCH]
                facts = None if all(isinstance(entry.event, _PIECES) for entry in events) else run.facts
                self._note_sent(events[-1].number, self._send(Events(run.id, events, facts)))
        await run.cancel()  # the run has ended: wait until the agent has exited
        self._send(Events(run.id, facts=run.facts))

    def stop(self, at_once: bool) -> None:
        """Stop the run."""
        self.run.stop(at_once=at_once)
