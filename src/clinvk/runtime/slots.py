"""How many runs go at once, in all and for each backend, and who is next."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import NamedTuple

from clinvk.errors import QueueFull

_RETRY_AFTER_S = 5.0


class Share:
    """What some runs may have of the slots: `at_once`, at most. Those beyond it are not in the queue yet."""

    def __init__(self, at_once: int) -> None:
        self.at_once = at_once
        self.held = 0

    @property
    def is_taken(self) -> bool:
        """Whether they have all of it."""
        return self.held >= self.at_once


class Place:
    """A run's place: in the queue at first, a slot once `held`."""

    def __init__(
        self, slots: "Slots", backend: str, share: Share | None, number: int, granted: Callable[[], None]
    ) -> None:
        self.backend = backend
        self.share = share
        self.number = number
        self.held = False
        self.granted = granted
        self._slots = slots

    def leave(self) -> None:
        """Give the place up, queued or held. Leaving twice is fine."""
        self._slots.left(self)


class Occupancy(NamedTuple):
    """How many hold slots and how many wait, by backend; and how many may, in all."""

    running: dict[str, int]
    queued: dict[str, int]
    slots: int
    queue_slots: int


_Line = tuple[str, Share | None]
"""Those with one backend and one share are served in their order."""


class Slots:
    """Slots with a bounded queue: first come, first served, but a full backend or share holds up nobody else."""

    def __init__(self, total: int, per_backend: int, max_queued: int) -> None:
        self._total = total
        self._per_backend = per_backend
        self._max_queued = max_queued
        self._arrived = 0
        self._held: dict[str, int] = {}
        self._lines: dict[_Line, OrderedDict[int, Place]] = {}
        self._members: set[Place] = set()
        self._changed = asyncio.Event()

    def resize(self, total: int, per_backend: int, max_queued: int) -> None:
        """Let more or fewer run and wait from now on; whoever has a place keeps it."""
        self._total, self._per_backend, self._max_queued = total, per_backend, max_queued
        self._serve()

    @property
    def busy(self) -> int:
        """Slots that are held."""
        return sum(self._held.values())

    @property
    def queued(self) -> int:
        """Places in the queue."""
        return sum(len(line) for line in self._queue().values())

    def occupancy(self, backends: Iterable[str]) -> Occupancy:
        """Give what is so at the moment, of these backends."""
        running = {backend: self._held.get(backend, 0) for backend in backends}
        queued = dict.fromkeys(running, 0)
        for (backend, _), line in self._queue().items():
            if backend in queued:
                queued[backend] += len(line)
        return Occupancy(running, queued, self._total, self._max_queued)

    def enter(
        self, backend: str, granted: Callable[[], None], share: Share | None = None, may_wait: bool = True
    ) -> Place:
        """Take a slot, of the run's `share` where it has one, or a place in the queue; `granted` is called at the slot.

        Raises:
            QueueFull: no slot is free and the queue has no room, or the run may not wait.
        """
        if not (self._has_room(backend) if may_wait else self._free(backend)):
            raise QueueFull(f"{self.busy} runs are under way and {self.queued} wait; no more are taken", _RETRY_AFTER_S)
        place = Place(self, backend, share, self._arrived, granted)
        self._arrived += 1
        self._members.add(place)
        self._lines.setdefault((backend, share), OrderedDict())[place.number] = place
        self._serve()
        return place

    def left(self, place: Place) -> None:
        """Take a place out, and give what it held to the next."""
        if place not in self._members:
            return
        self._members.remove(place)
        if place.held:
            self._held[place.backend] -= 1
            if place.share:
                place.share.held -= 1
        else:
            self._step_out(place)
        self._serve()

    async def room(self, backend: str) -> None:
        """Wait until `enter` would take a place; whoever enters before this goes on takes it away again."""
        while not self._has_room(backend):
            await self._changed.wait()

    def _has_room(self, backend: str) -> bool:
        return self._free(backend) or self.queued < self._max_queued

    def _free(self, backend: str) -> bool:
        return self.busy < self._total and self._held.get(backend, 0) < self._per_backend

    def _queue(self) -> dict[_Line, OrderedDict[int, Place]]:
        """Give the lines of those that wait for a slot, and not for their share."""
        return {key: line for key, line in self._lines.items() if not (key[1] and key[1].is_taken)}

    def _serve(self) -> None:
        """Give the slots that are free to those who are next, and let all who wait for room look again."""
        while first := self._first():
            self._step_out(first)
            first.held = True
            self._held[first.backend] = self._held.get(first.backend, 0) + 1
            if first.share:
                first.share.held += 1
            first.granted()
        self._changed.set()
        self._changed = asyncio.Event()

    def _first(self) -> Place | None:
        heads = [next(iter(line.values())) for (backend, _), line in self._queue().items() if self._free(backend)]
        return min(heads, key=lambda place: place.number, default=None)

    def _step_out(self, place: Place) -> None:
        line = self._lines[place.backend, place.share]
        del line[place.number]
        if not line:
            del self._lines[place.backend, place.share]
