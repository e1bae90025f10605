"""The live events of a server: changes of its runs and interactions, for the viewers that are connected."""

import asyncio
import secrets
from collections import deque
from collections.abc import AsyncGenerator, Callable
from itertools import islice
from typing import TypeVar

import msgspec

from clinvk.dialects import sse
from clinvk.dialects.rest import views
from clinvk.dialects.rest.interactions import interaction_view
from clinvk.types.interaction import Interaction
from clinvk.types.record import RunRecord

RESET = "reset"
"""The event that begins a stream, and takes the place of events that are no longer kept."""

_MAX_EVENTS = 1000
_MAX_BYTES = 2 * 1024 * 1024
_BITS_OF_START = 52
"""The numbers stay below 2^53, so every reader of JSON represents them exactly."""

T = TypeVar("T")


class LiveEvents:
    """A bounded buffer of the newest events as server-sent events, shared by all viewers.

    Events have increasing numbers from a random start, so that a viewer that continues at another server, or after a
    restart, gets `RESET`. Without viewers, publishing only counts: a viewer that returns gets `RESET` if anything has
    changed. `forward` is called with each event, for the viewers of other servers. If `only_forwarded`, the events of
    this server are left out, because the servers that run the agents forward them.
    `watcher` is called with the kind and the data of each event.
    """

    forward: Callable[[str, bytes], None] | None = None
    watcher: Callable[[str, bytes], None] | None = None
    only_forwarded = False

    def __init__(self) -> None:
        self._frames: deque[bytes] = deque()
        self._bytes = 0
        self._last = secrets.randbits(_BITS_OF_START)
        self._viewers = 0
        self._changed = asyncio.Event()
        self._is_closed = False

    def publish_run(self, run: RunRecord) -> None:
        """Publish a run whose record has changed."""
        self.publish("run", run, views.run_item)

    def publish_interaction(self, interaction: Interaction) -> None:
        """Publish an interaction that was requested or resolved."""
        self.publish("interaction", interaction, interaction_view)

    def publish(self, kind: str, item: T, view: Callable[[T], msgspec.Struct]) -> None:
        """Publish an event. `view` makes its data, for viewers only. Call this in the event loop."""
        if self.only_forwarded:
            return
        data = msgspec.json.encode(view(item)) if self._viewers or self.forward or self.watcher else b""
        if self.forward:
            self.forward(kind, data)
        self.publish_data(kind, data)

    def publish_data(self, kind: str, data: bytes) -> None:
        """Publish an event with data that is JSON already."""
        if self.watcher:
            self.watcher(kind, data)
        if not self._viewers:
            self.reset()
            return
        self._last += 1
        frame = sse.frame(data, kind, self._last)
        self._frames.append(frame)
        self._bytes += len(frame)
        while len(self._frames) > _MAX_EVENTS or self._bytes > _MAX_BYTES:
            self._bytes -= len(self._frames.popleft())
        self._wake()

    def reset(self) -> None:
        """Send `RESET` to all viewers, because events may be lost."""
        self._last += 1
        self._frames.clear()
        self._bytes = 0
        self._wake()

    async def follow(self, after: int | None, quiet_s: float) -> AsyncGenerator[bytes]:
        """Yield the events after number `after` (None: from now on) until `close`, and a comment after `quiet_s`.

        A viewer that is too slow for the buffer gets `RESET` instead of the events that it has missed.
        """
        self._viewers += 1
        try:
            while not self._is_closed:
                first = self._last - len(self._frames)
                if after is None or not first <= after <= self._last:
                    after = self._last
                    yield sse.frame(b"{}", RESET, after)
                elif after < self._last:
                    frames = b"".join(islice(self._frames, after - first, None))
                    after = self._last
                    yield frames
                else:
                    try:
                        await asyncio.wait_for(self._changed.wait(), quiet_s)
                    except TimeoutError:
                        yield sse.PULSE
        finally:
            self._viewers -= 1

    def close(self) -> None:
        """End all streams."""
        self._is_closed = True
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
