import asyncio
import contextlib
import random
import time
import weakref

import pytest

from clinvk.runtime.occupancy import ClientRuns, QueueLimits
from clinvk.runtime.slots import Slot, SlotRequest, Slots
from clinvk.types.errors import QueueFull


def enter(slots: Slots, backend: str, granted: list[str], name: str) -> Slot:
    return slots.acquire(SlotRequest(backend), lambda: granted.append(name))


def test_the_queue_is_first_come_first_served() -> None:
    granted: list[str] = []
    slots = Slots(QueueLimits(1, 1, 9))
    places = [enter(slots, "claude", granted, name) for name in "abc"]
    for place in places:
        assert place.held
        place.release()
    assert granted == ["a", "b", "c"]
    assert (slots.busy, slots.queued) == (0, 0)


def test_full_backend_does_not_block_another() -> None:
    granted: list[str] = []
    slots = Slots(QueueLimits(2, 1, 9))
    enter(slots, "claude", granted, "a")
    waiting = enter(slots, "claude", granted, "b")
    assert enter(slots, "codex", granted, "c").held
    assert not waiting.held


def test_total_limit_grants_the_oldest_run_across_backends() -> None:
    granted: list[str] = []
    slots = Slots(QueueLimits(1, 1, 9))
    first = enter(slots, "claude", granted, "first")
    enter(slots, "gemini", granted, "second")
    enter(slots, "codex", granted, "third")
    first.release()
    assert granted == ["first", "second"]


def test_run_that_left_the_queue_is_skipped() -> None:
    granted: list[str] = []
    slots = Slots(QueueLimits(1, 1, 9))
    first, left, last = (enter(slots, "claude", granted, name) for name in ("first", "left", "last"))
    left.release()
    assert slots.queued == 1
    first.release()
    assert last.held
    assert not left.held


def test_abandoned_queue_does_not_block_a_new_run() -> None:
    granted: list[str] = []
    slots = Slots(QueueLimits(1, 1, 9))
    first, left = enter(slots, "claude", granted, "first"), enter(slots, "claude", granted, "left")
    left.release()
    first.release()
    assert enter(slots, "claude", granted, "new").held


def test_leaving_twice_releases_one_slot_only() -> None:
    granted: list[str] = []
    slots = Slots(QueueLimits(2, 2, 9))
    first = enter(slots, "claude", granted, "a")
    enter(slots, "claude", granted, "b")
    first.release()
    first.release()
    assert slots.busy == 1


def test_full_queue_rejects_with_retry_after() -> None:
    granted: list[str] = []
    slots = Slots(QueueLimits(1, 1, 1))
    enter(slots, "claude", granted, "a")
    enter(slots, "claude", granted, "b")
    with pytest.raises(QueueFull) as refused:
        enter(slots, "claude", granted, "c")
    assert refused.value.retry_after_s
    assert refused.value.message == "the server's queue is full (1 of 1 runs wait); try again later"
    assert slots.queued == 1


def test_prompt_too_large_for_the_queue_is_rejected_with_the_limit() -> None:
    slots = Slots(QueueLimits(1, queued=9, queued_bytes=2 << 20))
    queue(slots, "ana", 2, held_bytes=1 << 20)
    with pytest.raises(QueueFull, match=r"no room for 1\.5 MB .* hold 1\.0 MB,.*\(server\.max_queued_mb: 2\)"):
        slots.acquire(SlotRequest("claude", "ben", held_bytes=3 << 19), lambda: None)


def test_occupancy_reports_running_and_queued_per_backend() -> None:
    granted: list[str] = []
    slots = Slots(QueueLimits(2, 1, 9))
    for backend in ("claude", "claude", "claude", "codex"):
        enter(slots, backend, granted, backend)
    told = slots.occupancy(["claude", "codex", "gemini"])
    assert told.running == {"claude": 1, "codex": 1, "gemini": 0}
    assert told.queued == {"claude": 2, "codex": 0, "gemini": 0}
    assert (told.slots, told.queue_slots) == (2, 9)


async def test_room_waiter_wakes_when_a_run_leaves_or_limits_change() -> None:
    slots = Slots(QueueLimits(1, 1, 0))
    place = enter(slots, "claude", [], "a")
    for make_room in (place.release, lambda: slots.resize(QueueLimits(2, 2))):
        waiting = asyncio.create_task(slots.wait_for_capacity(SlotRequest("claude")))
        await asyncio.sleep(0)
        assert not waiting.done()
        make_room()
        await waiting
        enter(slots, "claude", [], "b")


async def test_queue_place_counts_as_room() -> None:
    slots = Slots(QueueLimits(1, 1, 1))
    enter(slots, "claude", [], "a")
    await slots.wait_for_capacity(SlotRequest("claude"))
    enter(slots, "claude", [], "b")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(slots.wait_for_capacity(SlotRequest("claude")), 0.01)


def test_place_that_left_the_queue_is_freed_immediately() -> None:
    """Clients that give up and retry are thousands in the hour that earlier runs may take."""
    slots = Slots(QueueLimits(1, 1, 9))
    slots.acquire(SlotRequest("claude"), lambda: None)
    slots.acquire(SlotRequest("claude"), lambda: None)
    waiting = slots.acquire(SlotRequest("claude"), lambda: None)
    known = weakref.ref(waiting)
    waiting.release()
    del waiting
    assert known() is None
    assert slots.queued == 1


def queue(slots: Slots, client: str, count: int, held_bytes: int = 0, backend: str = "claude") -> list[Slot]:
    """Queue up to `count` runs of a client."""
    places: list[Slot] = []
    with contextlib.suppress(QueueFull):
        for _ in range(count):
            places.append(slots.acquire(SlotRequest(backend, client, held_bytes=held_bytes), lambda: None))
    return places


def served(slots: Slots, running: Slot, waiting: list[Slot]) -> list[str]:
    """End one run after another; return the clients in the order in which their runs got the slot."""
    order: list[str] = []
    while waiting:
        running.release()
        (running,) = (place for place in waiting if place.held)
        waiting.remove(running)
        order.append(running.run.client)
    return order


def test_clients_take_turns_for_a_slot() -> None:
    slots = Slots(QueueLimits(1, queued=99))
    running, *waiting = queue(slots, "ana", 5)
    waiting += queue(slots, "ben", 2) + queue(slots, "eve", 1)
    assert served(slots, running, waiting) == ["ben", "eve", "ana", "ben", "ana", "ana", "ana"]


def test_new_clients_do_not_starve_a_waiting_client() -> None:
    slots = Slots(QueueLimits(1, queued=99))
    running, waiting = queue(slots, "ana", 2)
    for number in range(2):
        assert not waiting.held
        (new,) = queue(slots, f"new{number}", 1)
        running.release()
        running = waiting if waiting.held else new
    assert waiting.held


def test_free_slot_goes_to_the_client_with_the_fewest_slots() -> None:
    slots = Slots(QueueLimits(4, queued=99))
    running = queue(slots, "ana", 8)
    late = queue(slots, "ben", 3)
    for place in running[:2]:
        place.release()
    assert [place.held for place in late] == [True, True, False]
    running[2].release()
    assert running[4].held, "both hold two slots, and it is the turn of ana"


def test_one_client_cannot_fill_the_queue() -> None:
    slots = Slots(QueueLimits(1, queued=10))
    assert len(queue(slots, "ana", 99)) == 1 + 6
    assert len(queue(slots, "ben", 99)) == 3
    assert slots.queued == 9
    assert len(queue(slots, "eve", 99)) == 1, "a client that has nothing queued finds the last place"
    assert not queue(slots, "joe", 1)


def test_local_user_can_fill_the_queue() -> None:
    slots = Slots(QueueLimits(1, queued=10))
    assert len(queue(slots, "", 99)) == 11


def test_queue_is_bounded_in_bytes() -> None:
    slots = Slots(QueueLimits(1, queued=99, queued_bytes=100))
    running, *waiting = queue(slots, "", 99, held_bytes=30)
    assert len(waiting) == 3
    running.release()
    assert len(queue(slots, "", 99, held_bytes=30)) == 1


def test_one_client_cannot_fill_the_queue_bytes() -> None:
    slots = Slots(QueueLimits(1, queued=99, queued_bytes=100))
    queue(slots, "ana", 99, held_bytes=10)
    assert len(queue(slots, "ben", 99, held_bytes=10)) == 3
    assert len(queue(slots, "eve", 99, held_bytes=10)) == 1


def test_run_larger_than_the_byte_limit_can_wait_in_an_empty_queue() -> None:
    slots = Slots(QueueLimits(1, queued=99, queued_bytes=100))
    assert len(queue(slots, "ana", 99, held_bytes=500)) == 2
    assert not queue(slots, "ben", 1, held_bytes=1)


def test_reserved_bytes_count_until_released() -> None:
    slots = Slots(QueueLimits(1, queued=99, queued_bytes=100))
    queue(slots, "ana", 1)
    with slots.reserved(SlotRequest("claude", "ana"), 90):
        assert not queue(slots, "ben", 1, held_bytes=20)
        with pytest.raises(QueueFull), slots.reserved(SlotRequest("claude", "ben"), 20):
            pass
    assert len(queue(slots, "ben", 1, held_bytes=20)) == 1


def test_client_does_not_exceed_its_concurrency_limit() -> None:
    slots = Slots(QueueLimits(4, queued=99), {"ana": 1}.get)
    first, second = queue(slots, "ana", 2)
    assert (first.held, second.held, slots.queued) == (True, False, 1)
    assert [place.held for place in queue(slots, "ben", 2)] == [True, True]
    first.release()
    assert second.held


def test_client_at_its_concurrency_limit_cannot_fill_the_queue() -> None:
    slots = Slots(QueueLimits(4, queued=10, queued_bytes=100), {"ana": 1}.get)
    assert len(queue(slots, "ana", 99)) == 1 + 6
    assert len(queue(slots, "ben", 4)) == 4


def test_limit_of_a_client_counts_its_runs_on_other_machines() -> None:
    slots = Slots(QueueLimits(4, queued=99), {"ana": 2}.get)
    slots.count_elsewhere({"ana": ClientRuns(1), "ben": ClientRuns(9)})
    first, second = queue(slots, "ana", 2)
    assert (first.held, second.held, slots.queued) == (True, False, 1)
    assert [place.held for place in queue(slots, "ben", 2)] == [True, True]
    with pytest.raises(QueueFull, match="1 here and 1 on other machines of 2 runs are under way"):
        slots.acquire(SlotRequest("claude", "ana"), lambda: None, may_wait=False)
    slots.count_elsewhere({})
    assert second.held


def test_free_slot_goes_to_the_client_with_the_fewest_slots_on_all_machines() -> None:
    slots = Slots(QueueLimits(1, queued=99))
    (working,), (ana,), (ben,) = (queue(slots, client, 1) for client in ("eve", "ana", "ben"))
    assert (ana.position, ben.position) == (1, 2)
    slots.count_elsewhere({"ana": ClientRuns(1)})
    assert (ana.position, ben.position) == (2, 1)
    working.release()
    assert ben.held
    ben.release()
    assert ana.held


@pytest.mark.parametrize("seed", range(20))
def test_limit_of_a_client_is_kept_on_all_machines_in_the_order_of_arrival(seed: int) -> None:
    chance, limit = random.Random(seed), 3
    machines = [Slots(QueueLimits(20, queued=999), {"ana": limit}.get) for _ in range(3)]
    places: list[Slot] = []

    def exchange() -> None:
        """Let each machine hear of the others until nothing changes."""
        for machine in machines * 4:
            others = [other.clients().get("ana", ClientRuns()) for other in machines if other is not machine]
            held, since = (list(each) for each in zip(*others, strict=True))
            machine.count_elsewhere({"ana": ClientRuns(sum(map(int, held)), min(since))})

    for _ in range(200):
        if places and chance.random() < 0.45:
            places.pop(chance.randrange(len(places))).release()
        else:
            places.append(chance.choice(machines).acquire(SlotRequest("claude", "ana"), lambda: None))
            if places[-1].held and chance.random() < 0.1:  # it waits for a person
                places[-1].release()
                exchange()
                places[-1].reacquire()
        exchange()
        waiting = [place.arrived_at for place in places if not place.held]
        assert sum(machine.busy for machine in machines) == min(limit, len(places))
        assert not waiting or sorted(waiting) == waiting
        held = [place.arrived_at for place in places if place.held]
        assert not waiting or max(held) < min(waiting)


def test_machine_reports_its_clients_with_the_most_slots_and_changes_of_those_with_a_limit() -> None:
    slots = Slots(QueueLimits(999, queued=9), {"ana": 1}.get)
    changes: list[dict[str, ClientRuns]] = []
    slots.on_limited = lambda: changes.append(slots.clients())
    for number in range(300):
        queue(slots, f"client{number}", 1)
    queue(slots, "", 5)
    assert not changes
    first, second = queue(slots, "ana", 2)
    assert "ana" not in slots.clients(), "others came first"
    first.release()
    queue(slots, "ben", 2)
    assert len(changes) == 3
    found = slots.clients()
    assert (len(found), found["ben"].held) == (200, 2)
    second.release()
    assert len(changes) == 4


def test_queue_position_counts_the_turns_of_all_clients() -> None:
    slots = Slots(QueueLimits(1, queued=99))
    running, *ana = queue(slots, "ana", 4)
    ben = queue(slots, "ben", 2)
    waiting = {place: place.position for place in (*ana, *ben)}
    assert running.position is None
    assert list(waiting.values()) == [2, 4, 5, 1, 3]
    ana[0].release()
    assert ana[0].position is None
    assert [place.position for place in (*ana[1:], *ben)] == [2, 4, 1, 3]


def test_client_without_runs_is_forgotten() -> None:
    slots = Slots(QueueLimits(1, queued=99))
    for place in queue(slots, "ana", 3, held_bytes=5):
        place.release()
    assert not vars(slots)["_clients"]


def test_thousands_of_waiting_clients_do_not_slow_each_other_down() -> None:
    slots = Slots(QueueLimits(16, queued=50_000, queued_bytes=1 << 40))
    began = time.thread_time()
    places = [place for number in range(10_000) for place in queue(slots, f"client{number}", 1, held_bytes=1)]
    for place in places[:1000]:
        place.release()
    assert (slots.busy, slots.queued) == (16, 10_000 - 1000 - 16)
    assert time.thread_time() - began < 5


@pytest.mark.parametrize("seed", range(20))
def test_counts_stay_consistent_when_runs_enter_and_leave_at_random(seed: int) -> None:
    chance = random.Random(seed)
    slots = Slots(QueueLimits(5, per_backend=3, queued=1000), {"ana": 2}.get)
    places: list[Slot] = []
    for _ in range(400):
        if places and chance.random() < 0.45:
            places.pop(chance.randrange(len(places))).release()
        else:
            run = SlotRequest(chance.choice(["claude", "codex"]), chance.choice(["ana", "ben", "eve"]))
            places.append(slots.acquire(run, lambda: None))
        told = slots.occupancy(["claude", "codex"])
        assert slots.queued == sum(told.queued.values()) == sum(place.position is not None for place in places)
        assert slots.busy == sum(told.running.values()) == sum(place.held for place in places)


def test_returning_run_precedes_queued_runs() -> None:
    granted: list[str] = []
    slots = Slots(QueueLimits(1, 0, 9))
    waiting = enter(slots, "claude", granted, "waiting")
    waiting.release()
    working = enter(slots, "claude", granted, "working")
    enter(slots, "claude", granted, "queued")
    waiting.reacquire()
    assert not waiting.held
    working.release()
    assert granted == ["waiting", "working", "waiting"]
    assert waiting.held
    waiting.release()
    assert granted[-1] == "queued"


def test_returning_run_takes_a_free_slot_at_once() -> None:
    granted: list[str] = []
    slots = Slots(QueueLimits(1))
    slot = enter(slots, "claude", granted, "a")
    slot.release()
    slot.reacquire()
    assert slot.held
    assert (slots.busy, slots.queued) == (1, 0)


def test_returning_run_that_ends_leaves_its_place() -> None:
    granted: list[str] = []
    slots = Slots(QueueLimits(1))
    slot = enter(slots, "claude", granted, "a")
    slot.release()
    other = enter(slots, "claude", granted, "b")
    slot.reacquire()
    slot.release()
    other.release()
    assert granted == ["a", "b"]
    assert slots.busy == 0
