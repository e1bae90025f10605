"""Slots and queue: how many runs are active at once, in total and for each backend and client, and which is next."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from heapq import nlargest
from math import inf
from typing import NamedTuple

from clinvk.runtime.occupancy import ClientRuns, Occupancy, QueueLimits
from clinvk.types.errors import QueueFull

_RETRY_AFTER_S = 5.0
_MIB = 1024 * 1024
_MAX_REPORTED_CLIENTS = 200


class SlotRequest(NamedTuple):
    """A run that asks for a slot.

    Attributes:
        backend: the agent CLI of the run.
        client: the owner of the run; empty is this machine's user, who may fill the queue.
        held_bytes: the memory that the run holds while waiting, unless `Slots.reserved` counts it.
    """

    backend: str
    client: str = ""
    held_bytes: int = 0


class Slot:
    """A run's place: first in the queue, then a slot while `held`. A place that `is_blocked` gets no slot yet."""

    __slots__ = ("__weakref__", "_slots", "arrived_at", "held", "is_blocked", "number", "on_grant", "run")

    def __init__(
        self, slots: "Slots", run: SlotRequest, number: int, on_grant: Callable[[], None], is_blocked: bool
    ) -> None:
        self.run = run
        self.number = number
        self.arrived_at = time.monotonic()
        self.held = False
        self.is_blocked = is_blocked
        self.on_grant = on_grant
        self._slots = slots

    @property
    def position(self) -> int | None:
        """The position in the queue, from 1; None for a run that holds a slot."""
        return self._slots.position(self)

    def release(self) -> None:
        """Release the place, queued or held; further calls do nothing."""
        self._slots.release(self)

    def unblock(self) -> None:
        """Let the run have a slot, in the order of its arrival."""
        self._slots.unblock(self)

    def reacquire(self) -> bool:
        """Take the next free slot, before all queued runs, for a run that released its slot to wait for a person.

        Return whether the run holds the slot; else `on_grant` is called later. Further calls do nothing.
        """
        self._slots.reacquire(self)
        return self.held


_NO_RUNS = ClientRuns()


class _Client:
    """The runs of a client. Runs with the same backend wait in one line and are served in order."""

    __slots__ = ("held", "held_bytes", "lines", "queued")

    def __init__(self) -> None:
        self.held = self.held_bytes = self.queued = 0
        self.lines: dict[str, dict[int, Slot]] = {}


class Slots:
    """Slots with a bounded queue, divided fairly between clients.

    A free slot goes to the client with the fewest slots, with equal clients in turn, and within the client to the
    earliest run. A full backend or client blocks no other. No client can fill the queue: a client's queued runs,
    in number and in bytes, may not exceed the room left for the other clients.

    In a cluster, `count_elsewhere` counts what clients hold on other machines, for their limits and their turns. At its
    limit, a client's next slot goes to the run that waits for it the longest on any machine. Machines hear of each
    other with a delay, in which a client may exceed its limit.

    Attributes:
        busy: the number of held slots.
        queued: the number of places in the queue.
        on_limited: called when a client with a limit takes or releases a slot.
    """

    def __init__(self, limits: QueueLimits, max_runs_of: Callable[[str], int | None] = lambda _: None) -> None:
        """Use `max_runs_of` for the maximum of active runs of a client; None means no limit."""
        self.busy = self.queued = 0
        self._limits = limits
        self._max_runs_of = max_runs_of
        self.on_limited: Callable[[], None] | None = None
        self._elsewhere: Mapping[str, ClientRuns] = {}
        self._last_number = 0
        self._returning: list[Slot] = []
        self._held: dict[str, int] = {}
        self._held_bytes = 0
        self._clients: OrderedDict[str, _Client] = OrderedDict()  # in the order of their turns
        self._changed: asyncio.Event | None = None

    def resize(self, limits: QueueLimits) -> None:
        """Change the limits; current places are kept."""
        self._limits = limits
        self._grant_slots()

    def occupancy(self, backends: Iterable[str]) -> Occupancy:
        """Return the numbers of running and queued runs of the given backends."""
        running = {backend: self._held.get(backend, 0) for backend in backends}
        queued = dict.fromkeys(running, 0)
        for client in self._clients.values():
            for backend, line in client.lines.items():
                if backend in queued:
                    queued[backend] += len(line)
        return Occupancy(running, queued, self._limits.total, self._limits.queued)

    def count_elsewhere(self, clients: Mapping[str, ClientRuns]) -> None:
        """Count the runs of clients on other machines from now on, and serve the next runs."""
        if clients != self._elsewhere:
            self._elsewhere = clients
            self._grant_slots()

    def clients(self) -> dict[str, ClientRuns]:
        """Return the runs of the clients for other machines; of very many, the clients with the most slots."""
        queued = (self._first_waiting(client) for client in self._clients.values() if client.queued)
        returning = (slot for slot in self._returning if self._has_slot(slot.run.backend))
        waits_since: dict[str, float] = {}
        for slot in (*filter(None, queued), *returning):
            name = slot.run.client
            if self._max_runs_of(name) is not None:
                waits_since[name] = min(slot.arrived_at, waits_since.get(name, inf))
        held = {name: client.held for name, client in self._clients.items() if client.held}
        names = (name for name in {**held, **waits_since} if name)  # this machine's user is nobody elsewhere
        found = ((name, ClientRuns(held.get(name, 0), waits_since.get(name, inf))) for name in names)
        return dict(nlargest(_MAX_REPORTED_CLIENTS, found, key=lambda item: item[1].held))

    def acquire(
        self, run: SlotRequest, on_grant: Callable[[], None], may_wait: bool = True, is_blocked: bool = False
    ) -> Slot:
        """Take a slot or a place in the queue; `on_grant` is called once the run holds a slot.

        A free slot is granted at once: no queued run could use the slot, or the slot would not be free. A run that
        `is_blocked` waits in the queue for `Slot.unblock` first.

        Raises:
            QueueFull: no slot is free and the queue has no room for the run, or the run may not wait.
        """
        must_wait = "the run must wait" if is_blocked else self._no_slot_reason(run)
        if must_wait and (obstacle := self._queue_full_reason(run.client, run.held_bytes) if may_wait else must_wait):
            raise QueueFull(obstacle, retry_after_s=_RETRY_AFTER_S)
        self._last_number += 1
        slot = Slot(self, run, self._last_number, on_grant, is_blocked)
        client = self._client(run.client)
        if must_wait:
            client.lines.setdefault(run.backend, {})[slot.number] = slot
            self._count_queued(run, 1)
        else:
            self._grant(slot)
            self._notify()
        return slot

    def release(self, slot: Slot) -> None:
        """Remove a place, and serve the next runs."""
        if slot.held:
            slot.held = False
            self._count_held(slot.run, -1)
        elif slot in self._returning:
            self._returning.remove(slot)
        elif not self._leave_line(slot):
            return
        self._forget_if_idle(slot.run.client)
        self._grant_slots()

    def unblock(self, slot: Slot) -> None:
        """Let a blocked run have a slot, in the order of its arrival."""
        slot.is_blocked = False
        self._grant_slots()

    def reacquire(self, slot: Slot) -> None:
        """Grant the next free slot to a run that has released its slot, before all queued runs."""
        if not (slot.held or slot in self._returning):
            self._returning.append(slot)
            self._grant_slots()

    @contextmanager
    def reserved(self, first: SlotRequest, held_bytes: int) -> Generator[None]:
        """Count the memory of an orchestration's runs as queued inside this context.

        Raises:
            QueueFull: no slot is free and the queue has no room for the `first` run, or for `held_bytes`.
        """
        obstacle = self._no_slot_reason(first) and self._queue_full_reason(first.client, held_bytes)
        if obstacle := obstacle or self._memory_full_reason(first.client, held_bytes):
            raise QueueFull(obstacle, retry_after_s=_RETRY_AFTER_S)
        self._count_bytes(first.client, held_bytes)
        try:
            yield
        finally:
            self._count_bytes(first.client, -held_bytes)
            self._forget_if_idle(first.client)
            self._grant_slots()

    async def wait_for_capacity(self, run: SlotRequest) -> None:
        """Wait until `acquire` would accept a run; another run may still take the room first."""
        while self._no_slot_reason(run) and self._queue_full_reason(run.client, run.held_bytes):
            self._changed = self._changed or asyncio.Event()
            await self._changed.wait()

    def position(self, slot: Slot) -> int | None:
        """Return the run's position if clients keep taking turns; None if the run is not in the queue."""
        run, own = slot.run, self._clients.get(slot.run.client)
        if own is None or slot.number not in own.lines.get(run.backend, ()):
            return None
        before = sum(number < slot.number for line in own.lines.values() for number in line)
        position, is_earlier = before + 1, True
        own_held = own.held + self._held_elsewhere(run.client)
        for name, client in self._clients.items():
            if client is own:
                is_earlier = False
                continue
            held = client.held + self._held_elsewhere(name)
            is_before = held < own_held or (held == own_held and is_earlier)
            position += min(client.queued, before + is_before)
        return position

    def _client(self, name: str) -> _Client:
        if (client := self._clients.get(name)) is None:
            client = self._clients[name] = _Client()
        return client

    def _forget_if_idle(self, name: str) -> None:
        client = self._clients.get(name)
        if client and not (client.held or client.held_bytes or client.lines):
            del self._clients[name]

    def _count_bytes(self, client: str, added: int) -> None:
        """Add to the counted memory of a client; a negative number subtracts."""
        self._held_bytes += added
        self._client(client).held_bytes += added

    def _count_queued(self, run: SlotRequest, added: int) -> None:
        """Count a run entering or leaving a line."""
        self.queued += added
        self._clients[run.client].queued += added
        self._count_bytes(run.client, added * run.held_bytes)

    def _count_held(self, run: SlotRequest, added: int) -> None:
        """Count a run taking or leaving a slot."""
        self.busy += added
        self._held[run.backend] = self._held.get(run.backend, 0) + added
        self._clients[run.client].held += added
        self._clients.move_to_end(run.client)
        if self.on_limited and self._max_runs_of(run.client) is not None:
            self.on_limited()

    def _no_slot_reason(self, run: SlotRequest, arrived_at: float = inf) -> str:
        """Return why no slot is free for a run, or an empty string."""
        if self._has_slot(run.backend):
            return self._limit_reason(run.client, arrived_at)
        return f"no slot is free: {self.busy} of {self._limits.total} runs are under way (server.max_concurrent_runs)"

    def _queue_full_reason(self, client: str, held_bytes: int) -> str:
        """Return why a run cannot wait, or an empty string."""
        limit = self._limits.queued
        own = known.queued if client and (known := self._clients.get(client)) else 0
        if self.queued < limit and own <= limit - self.queued:
            return self._memory_full_reason(client, held_bytes)
        if self.queued >= limit:
            return f"the server's queue is full ({self.queued} of {limit} runs wait); try again later"
        return (
            f"the queue is full for this client, which may use about half of it: {self.queued} runs wait, {own} of "
            f"them its own (server.max_queued_runs: {limit})"
        )

    def _memory_full_reason(self, client: str, held_bytes: int) -> str:
        limit = self._limits.queued_bytes
        own = known.held_bytes if client and (known := self._clients.get(client)) else 0
        free = limit - self._held_bytes
        if not (limit and held_bytes and self._held_bytes) or (held_bytes <= free and own <= free):
            return ""
        return (
            f"the queue has no room for {held_bytes / _MIB:.1f} MB of this client: waiting runs hold "
            f"{self._held_bytes / _MIB:.1f} MB, {own / _MIB:.1f} MB of them of this client "
            f"(server.max_queued_mb: {limit // _MIB})"
        )

    def _has_slot(self, backend: str) -> bool:
        limit = self._limits.per_backend
        return self.busy < self._limits.total and not (limit and self._held.get(backend, 0) >= limit)

    def _held_elsewhere(self, client: str) -> int:
        return self._elsewhere.get(client, _NO_RUNS).held

    def _limit_reason(self, client: str, arrived_at: float) -> str:
        """Return why the limit of a client allows no slot for its run that arrived at a time, or an empty string."""
        limit = self._max_runs_of(client)
        if limit is None:
            return ""
        held = self._clients[client].held if client in self._clients else 0
        elsewhere, waits_since = self._elsewhere.get(client, _NO_RUNS)
        if held + elsewhere < limit and arrived_at <= waits_since:
            return ""
        places = f" here and {elsewhere} on other machines" if elsewhere else ""
        return (
            f"no slot is free for this client: {held}{places} of {limit} runs are under way (max_runs of its API key)"
        )

    def _grant_slots(self) -> None:
        """Assign free slots to the next runs."""
        for slot in [*self._returning]:
            if not self._no_slot_reason(slot.run, slot.arrived_at):
                self._returning.remove(slot)
                self._grant(slot)
        while self.queued and (first := self._next_slot()):
            self._leave_line(first)
            self._grant(first)
        self._notify()

    def _grant(self, slot: Slot) -> None:
        slot.held = True
        self._client(slot.run.client)
        self._count_held(slot.run, 1)
        slot.on_grant()

    def _notify(self) -> None:
        """Wake all callers of `wait_for_capacity`."""
        if self._changed:
            self._changed.set()
            self._changed = None

    def _next_slot(self) -> Slot | None:
        """Return the next run to serve, or None if no slot is free for any run."""
        if self.busy >= self._limits.total:
            return None
        fewest, first = 0, None
        for name, client in self._clients.items():
            held = client.held + self._held_elsewhere(name)
            if not client.queued or (first and held >= fewest):
                continue
            waiting = self._first_waiting(client)
            if waiting and not self._limit_reason(name, waiting.arrived_at):
                fewest, first = held, waiting
                if not fewest:
                    break
        return first

    def _first_waiting(self, client: _Client) -> Slot | None:
        """Return the earliest queued run of a client whose backend has a free slot."""
        lines = (line for backend, line in client.lines.items() if self._has_slot(backend))
        heads = (next((slot for slot in line.values() if not slot.is_blocked), None) for line in lines)
        return min(filter(None, heads), key=lambda slot: slot.number, default=None)

    def _leave_line(self, slot: Slot) -> bool:
        """Take a place out of its line; return False if the place is in no line."""
        run = slot.run
        lines = self._clients[run.client].lines if run.client in self._clients else {}
        line = lines.get(run.backend, {})
        if line.pop(slot.number, None) is None:
            return False
        if not line:
            del lines[run.backend]
        self._count_queued(run, -1)
        return True
