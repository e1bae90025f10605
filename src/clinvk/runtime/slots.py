"""How many runs go at once, in all and for each backend, and who is next."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import NamedTuple

from clinvk.errors import QueueFull

_RETRY_AFTER_S = 5.0


class Place:
    """A run's place: in the queue at first, a slot once `held`."""

    def __init__(self, slots: "Slots", backend: str, number: int, granted: Callable[[], None]) -> None:
        self.backend = backend
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


class Slots:
    """Slots with a bounded queue: first come, first served, but a full backend holds up nobody else."""

    def __init__(self, total: int, per_backend: int, max_queued: int) -> None:
        self._total = total
        self._per_backend = per_backend
        self._max_queued = max_queued
        self._arrived = 0
        self._held: dict[str, int] = {}
        self._queues: dict[str, OrderedDict[int, Place]] = {}
        self._members: set[Place] = set()
        self._changed = asyncio.Event()

    def resize(self, total: int, per_backend: int, max_queued: int) -> None:
        """Let more or fewer run and wait from now on; whoever has a place keeps it."""
        self._total, self._per_backend, self._max_queued = total, per_backend, max_queued
        self._serve()
        self._wake()

    @property
    def busy(self) -> int:
        """Slots that are held."""
        return sum(self._held.values())

    @property
    def queued(self) -> int:
        """Places in the queue."""
        return len(self._members) - self.busy

    def occupancy(self, backends: Iterable[str]) -> Occupancy:
        """Give what is so at the moment, of these backends."""
        running = {backend: self._held.get(backend, 0) for backend in backends}
        queued = dict.fromkeys(running, 0)
        for place in self._members:
            if not place.held and place.backend in queued:
                queued[place.backend] += 1
        return Occupancy(running, queued, self._total, self._max_queued)

    def enter(self, backend: str, granted: Callable[[], None], may_wait: bool = True) -> Place:
        """Take a slot, or a place in the queue; `granted` is called once it is a slot.

        Raises:
            QueueFull: no slot is free and the queue has no room, or the run may not wait.
        """
        if not (self._has_room(backend) if may_wait else self._free(backend)):
            raise QueueFull(f"{self.busy} runs are under way and {self.queued} wait; no more are taken", _RETRY_AFTER_S)
        place = Place(self, backend, self._arrived, granted)
        self._arrived += 1
        self._members.add(place)
        self._queues.setdefault(backend, OrderedDict())[place.number] = place
        self._serve()
        return place

    def left(self, place: Place) -> None:
        """Take a place out, and give what it held to the next."""
        if place not in self._members:
            return
        self._members.remove(place)
        if place.held:
            self._held[place.backend] -= 1
        else:
            del self._queues[place.backend][place.number]
        self._serve()
        self._wake()

    async def room(self, backend: str) -> None:
        """Wait until `enter` would take a place; whoever enters before this goes on takes it away again."""
        while not self._has_room(backend):
            await self._changed.wait()

    def _has_room(self, backend: str) -> bool:
        return self._free(backend) or self.queued < self._max_queued

    def _wake(self) -> None:
        """Let all who wait for room look again."""
        self._changed.set()
        self._changed = asyncio.Event()

    def _free(self, backend: str) -> bool:
        return self.busy < self._total and self._held.get(backend, 0) < self._per_backend

    def _grant(self, place: Place) -> None:
        place.held = True
        self._held[place.backend] = self._held.get(place.backend, 0) + 1

    def _serve(self) -> None:
        while place := self._next():
            del self._queues[place.backend][place.number]
            self._grant(place)
            place.granted()

    def _next(self) -> Place | None:
        """Give who came first of those whose backend has a free slot."""
        first = (next(iter(queue.values())) for backend, queue in self._queues.items() if queue and self._free(backend))
        return min(first, key=lambda place: place.number, default=None)
