"""How many runs go at once, in all and for each backend and client, and who is next.

How many runs this machine can carry at once, and how much memory a run holds that waits.
"""

import asyncio
import math
import os
import sys
from collections import OrderedDict
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import msgspec

from clinvk.config.model import ServerSettings
from clinvk.runtime.process.resource_limits import own_cgroup
from clinvk.types.errors import ConfigError, QueueFull
from clinvk.types.request import RunRequest

_RETRY_AFTER_S = 5.0
_MIB = 1024 * 1024


class Share:
    """What some runs may have of the slots: `at_once`, at most. Those beyond it are not in the queue yet."""

    def __init__(self, at_once: int) -> None:
        self.at_once = at_once
        self.held = 0
        self.waiting = 0

    @property
    def is_taken(self) -> bool:
        """Whether they have all of it."""
        return self.held >= self.at_once


class Applicant(NamedTuple):
    """A run that asks for a slot.

    Attributes:
        backend: the agent CLI that it starts.
        client: whose run it is; empty is this machine's user, who owes nobody a share of the queue.
        share: the share that it belongs to; what its runs hold is counted by `Slots.reserved`.
        held_bytes: the memory that it holds while it waits.
    """

    backend: str
    client: str = ""
    share: Share | None = None
    held_bytes: int = 0


class Place:
    """A run's place: in the queue at first, a slot once `held`."""

    def __init__(self, slots: "Slots", run: Applicant, number: int, granted: Callable[[], None]) -> None:
        self.run = run
        self.number = number
        self.held = False
        self.granted = granted
        self._slots = slots

    @property
    def position(self) -> int | None:
        """The position in the queue, from 1; None for a run that holds a slot or waits for its share."""
        return self._slots.position(self)

    def leave(self) -> None:
        """Give the place up, queued or held. Leaving twice is fine."""
        self._slots.left(self)


class Occupancy(NamedTuple):
    """How many hold slots and how many wait, by backend; and how many may, in all."""

    running: dict[str, int]
    queued: dict[str, int]
    slots: int
    queue_slots: int


class QueueLimits(NamedTuple):
    """What may run and wait at the same time; 0 is no limit, except that with `queued` 0 no run waits.

    Attributes:
        total: runs at once.
        per_backend: runs of one backend at once.
        queued: runs that wait.
        queued_bytes: memory that waiting runs hold. A run that finds nothing held may wait whatever its size.
    """

    total: int
    per_backend: int = 0
    queued: int = 0
    queued_bytes: int = 0


_Line = tuple[str, Share | None]
"""Runs of a client with one backend and one share are served in their order."""


class _Client:
    """The runs of one client."""

    def __init__(self) -> None:
        self.held = 0
        self.held_bytes = 0
        self.queued = 0
        self.lines: dict[_Line, OrderedDict[int, Place]] = {}

    @property
    def is_idle(self) -> bool:
        return not (self.held or self.held_bytes or self.lines)

    def queue(self) -> dict[_Line, OrderedDict[int, Place]]:
        """Return the lines of runs that wait for a slot, and not for their share."""
        return {key: line for key, line in self.lines.items() if not (key[1] and key[1].is_taken)}


class Slots:
    """Slots with a bounded queue that all clients have a fair part of.

    A free slot goes to the client that holds the fewest, in turn among equals, and there to the run that came first; a
    full backend, share or client holds up nobody else. A client may queue no more than it leaves free for the others,
    in number and in bytes, so that none fills the queue.
    """

    def __init__(self, limits: QueueLimits, most_of: Callable[[str], int | None] = lambda _: None) -> None:
        """`most_of` returns how many runs of a client may go at once; None is no limit."""
        self._limits = limits
        self._most_of = most_of
        self._arrived = 0
        self._held: dict[str, int] = {}
        self._held_bytes = 0
        self._queued = 0
        self._clients: OrderedDict[str, _Client] = OrderedDict()  # in the order of their turns
        self._members: set[Place] = set()
        self._changed = asyncio.Event()

    def resize(self, limits: QueueLimits) -> None:
        """Let more or fewer run and wait from now on; whoever has a place keeps it."""
        self._limits = limits
        self._serve()

    @property
    def busy(self) -> int:
        """Slots that are held."""
        return sum(self._held.values())

    @property
    def queued(self) -> int:
        """Places in the queue."""
        return self._queued

    def occupancy(self, backends: Iterable[str]) -> Occupancy:
        """Return the runs of these backends that hold slots and that wait."""
        running = {backend: self._held.get(backend, 0) for backend in backends}
        queued = dict.fromkeys(running, 0)
        for client in self._clients.values():
            for (backend, _), line in client.queue().items():
                if backend in queued:
                    queued[backend] += len(line)
        return Occupancy(running, queued, self._limits.total, self._limits.queued)

    def enter(self, run: Applicant, granted: Callable[[], None], may_wait: bool = True) -> Place:
        """Take a slot or a place in the queue; `granted` is called once the run holds a slot.

        Raises:
            QueueFull: no slot is free and the queue has no room for the run, or the run may not wait.
        """
        if obstacle := self._obstacle(run) if may_wait else self._taken_slots(run):
            raise QueueFull(obstacle, _RETRY_AFTER_S)
        place = Place(self, run, self._arrived, granted)
        self._arrived += 1
        self._members.add(place)
        client = self._client(run.client)
        client.lines.setdefault((run.backend, run.share), OrderedDict())[place.number] = place
        self._count(place, 1)
        self._hold(run.client, run.held_bytes)
        if not self._taken_slots(run):
            self._serve()
        return place

    def left(self, place: Place) -> None:
        """Take a place out, and serve the next runs with what it held."""
        if place not in self._members:
            return
        self._members.remove(place)
        if place.held:
            self._held[place.run.backend] -= 1
            self._clients[place.run.client].held -= 1
            self._clients.move_to_end(place.run.client)
            self._hold_share(place, -1)
            self._forget_if_idle(place.run.client)
        else:
            self._step_out(place)
        self._serve()

    @contextmanager
    def reserved(self, client: str, held_bytes: int) -> Generator[None]:
        """Count the memory that runs of a share hold, inside this context, as queued.

        Raises:
            QueueFull: the queue has no room for so many bytes.
        """
        if obstacle := self._taken_memory(client, held_bytes):
            raise QueueFull(obstacle, _RETRY_AFTER_S)
        self._hold(client, held_bytes)
        try:
            yield
        finally:
            self._hold(client, -held_bytes)
            self._serve()

    async def room(self, run: Applicant) -> None:
        """Wait until `enter` would take a run; whoever enters before this returns takes the room away again."""
        while self._obstacle(run):
            await self._changed.wait()

    def position(self, place: Place) -> int | None:
        """Return how many runs are served up to this one, if clients go on taking turns; None if it does not wait."""
        run, own = place.run, self._clients.get(place.run.client)
        if place.held or place not in self._members or own is None or (run.share and run.share.is_taken):
            return None
        before = sum(number < place.number for line in own.queue().values() for number in line)
        position, is_earlier = before + 1, True
        for client in self._clients.values():
            if client is own:
                is_earlier = False
                continue
            goes_first = client.held < own.held or (client.held == own.held and is_earlier)
            position += min(client.queued, before + goes_first)
        return position

    def _client(self, name: str) -> _Client:
        return self._clients.setdefault(name, _Client())

    def _forget_if_idle(self, name: str) -> None:
        if self._clients[name].is_idle:
            del self._clients[name]

    def _hold(self, client: str, held_bytes: int) -> None:
        """Count memory for a client, or no longer if negative."""
        self._held_bytes += held_bytes
        self._client(client).held_bytes += held_bytes
        self._forget_if_idle(client)

    def _count(self, place: Place, added: int) -> None:
        """Count a place that enters or leaves its line; the queue has those that do not wait for their share."""
        share = place.run.share
        if share:
            share.waiting += added
        if not (share and share.is_taken):
            self._count_queued(place.run.client, added)

    def _count_queued(self, client: str, added: int) -> None:
        self._clients[client].queued += added
        self._queued += added

    def _hold_share(self, place: Place, added: int) -> None:
        """Count a slot of a share; while the share is taken, none of its runs is in the queue."""
        if not (share := place.run.share):
            return
        was_taken = share.is_taken
        share.held += added
        if was_taken != share.is_taken:
            self._count_queued(place.run.client, share.waiting if was_taken else -share.waiting)

    def _obstacle(self, run: Applicant) -> str:
        """Return why a run can neither have a slot nor wait; empty if it can."""
        if not self._taken_slots(run):
            return ""
        return self._taken_queue(run.client) or self._taken_memory(run.client, run.held_bytes)

    def _taken_slots(self, run: Applicant) -> str:
        """Return why no slot is free for a run, apart from its share; empty if one is."""
        if self._has_slot(run.backend) and not self._has_most(run.client):
            return ""
        return f"no slot is free: {self.busy} runs are under way (server.max_concurrent_runs: {self._limits.total})"

    def _taken_queue(self, client: str) -> str:
        most = self._limits.queued
        own = known.queued if client and (known := self._clients.get(client)) else 0
        if self._queued < most and own <= most - self._queued:
            return ""
        return (
            f"the queue has no room for this client: {self._queued} runs wait, {own} of them of this client "
            f"(server.max_queued_runs: {most})"
        )

    def _taken_memory(self, client: str, held_bytes: int) -> str:
        most = self._limits.queued_bytes
        own = known.held_bytes if client and (known := self._clients.get(client)) else 0
        free = most - self._held_bytes
        if not (most and held_bytes and self._held_bytes) or (held_bytes <= free and own <= free):
            return ""
        return (
            f"the queue has no room for {held_bytes / _MIB:.1f} MB of this client: waiting runs hold "
            f"{self._held_bytes / _MIB:.1f} MB, {own / _MIB:.1f} MB of them of this client "
            f"(server.max_queued_mb: {most // _MIB})"
        )

    def _has_slot(self, backend: str) -> bool:
        most = self._limits.per_backend
        return self.busy < self._limits.total and not (most and self._held.get(backend, 0) >= most)

    def _has_most(self, client: str) -> bool:
        """Say whether a client has as many slots as it may."""
        most = self._most_of(client)
        return most is not None and client in self._clients and self._clients[client].held >= most

    def _serve(self) -> None:
        """Give free slots to the runs that are next, and let all who wait for room look again."""
        while first := self._first():
            name, client = first.run.client, self._clients[first.run.client]
            first.held = True
            client.held += 1
            self._clients.move_to_end(name)
            self._held[first.run.backend] = self._held.get(first.run.backend, 0) + 1
            self._step_out(first)
            self._hold_share(first, 1)
            first.granted()
        self._changed.set()
        self._changed = asyncio.Event()

    def _first(self) -> Place | None:
        """Return the run that is next; None if no slot is free for any."""
        if self.busy >= self._limits.total:
            return None
        fewest, first = 0, None
        for name, client in self._clients.items():
            if not client.queued or (first and client.held >= fewest) or self._has_most(name):
                continue
            lines = (line for (backend, _), line in client.queue().items() if self._has_slot(backend))
            if heads := [next(iter(line.values())) for line in lines]:
                fewest, first = client.held, min(heads, key=lambda place: place.number)
                if not fewest:
                    break
        return first

    def _step_out(self, place: Place) -> None:
        """Take a place out of the queue."""
        self._count(place, -1)
        lines, key = self._clients[place.run.client].lines, (place.run.backend, place.run.share)
        del lines[key][place.number]
        if not lines[key]:
            del lines[key]
        self._hold(place.run.client, -place.run.held_bytes)


LEAST_RUNS = 16
_RUN_MB = 512
_RUNS_PER_CORE = 8
"""Agents wait for their model most of the time, so that a core carries several."""

_VALUE_BYTES = 100
"""What a value of JSON takes in memory besides its text."""


class Capacity(NamedTuple):
    """How many runs go at once, and why."""

    runs: int
    reason: str


def capacity(server: ServerSettings) -> Capacity:
    """Return `server.max_concurrent_runs`, or what this machine can carry if it is not set."""
    if server.max_concurrent_runs is not None:
        return Capacity(server.max_concurrent_runs, "set by server.max_concurrent_runs")
    return of_machine(_cores(), _memory_bytes() // _MIB)


def of_machine(cores: int, memory_mb: int) -> Capacity:
    """Return what a machine with so many cores and so much memory can carry."""
    by_cores, by_memory = cores * _RUNS_PER_CORE, memory_mb // _RUN_MB
    machine = f"{cores} cores with {_RUNS_PER_CORE} runs each, {memory_mb:,} MB of memory with {_RUN_MB} for each run"
    if (runs := min(by_cores, by_memory)) < LEAST_RUNS:
        return Capacity(LEAST_RUNS, f"the least, though this machine has {machine}")
    return Capacity(runs, f"this machine has {machine}")


def queue_limits(server: ServerSettings, runs: int) -> QueueLimits:
    """Return the limits that the settings ask for, with `runs` at once."""
    return QueueLimits(
        total=runs,
        per_backend=server.max_concurrent_per_backend,
        queued=server.max_queued_runs,
        queued_bytes=server.max_queued_mb * _MIB,
    )


def held_bytes(request: RunRequest) -> int:
    """Estimate the memory that a run holds while it waits; its options are held by the request and by its record."""
    options = msgspec.json.encode((request.metadata, request.output_schema, request.answer_as, request.extra))
    values = sum(map(options.count, (b",", b"[", b"{")))
    # A text that is not ASCII is held with its UTF-8 form, which the store makes of it.
    texts = (request.prompt, request.system_prompt or "")
    held = sum(sys.getsizeof(text) * (1 if text.isascii() else 2) for text in texts)
    return held + sum(len(image.data) for image in request.images) + 2 * (len(options) + values * _VALUE_BYTES)


def _memory_bytes() -> int:
    """Return the memory of the machine, or that of this process's cgroup where that is less."""
    own = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min((own, *(limit for (limit,) in _cgroup_limits("memory.max"))))


def _cores() -> int:
    """Return the cores that this process may use, or the CPU quota of its cgroup where that is less."""
    own = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return min((own, *(math.ceil(quota / period) for quota, period in _cgroup_limits("cpu.max"))))


def _cgroup_limits(name: str) -> Iterator[list[int]]:
    """Yield the numbers in the file `name` of this process's cgroup and of those above it, where they set a limit."""
    with suppress(ConfigError):
        own = Path(own_cgroup())
        for folder in (own, *own.parents):
            with suppress(OSError, ValueError):  # "max" is no limit
                yield [int(number) for number in (folder / name).read_text().split()]
