import asyncio
import weakref

import pytest

from clinvk.errors import QueueFull
from clinvk.runtime.slots import Place, Share, Slots


def enter(slots: Slots, backend: str, granted: list[str], name: str) -> Place:
    return slots.enter(backend, lambda: granted.append(name))


def test_a_free_slot_is_taken_at_once() -> None:
    granted: list[str] = []
    slots = Slots(total=1, per_backend=1, max_queued=0)
    assert enter(slots, "claude", granted, "a").held
    assert (slots.busy, slots.queued) == (1, 0)


def test_the_queue_is_first_come_first_served() -> None:
    granted: list[str] = []
    slots = Slots(total=1, per_backend=1, max_queued=9)
    places = [enter(slots, "claude", granted, name) for name in "abc"]
    for place in places:
        assert place.held
        place.leave()
    assert granted == ["a", "b", "c"]
    assert (slots.busy, slots.queued) == (0, 0)


def test_a_full_backend_does_not_hold_up_another() -> None:
    granted: list[str] = []
    slots = Slots(total=2, per_backend=1, max_queued=9)
    enter(slots, "claude", granted, "a")
    waiting = enter(slots, "claude", granted, "b")
    assert enter(slots, "codex", granted, "c").held
    assert not waiting.held


def test_the_oldest_of_all_backends_is_next_when_the_total_is_the_limit() -> None:
    granted: list[str] = []
    slots = Slots(total=1, per_backend=1, max_queued=9)
    first = enter(slots, "claude", granted, "first")
    enter(slots, "gemini", granted, "second")
    enter(slots, "codex", granted, "third")
    first.leave()
    assert granted == ["first", "second"]


def test_who_leaves_the_queue_is_passed_over() -> None:
    granted: list[str] = []
    slots = Slots(total=1, per_backend=1, max_queued=9)
    first, left, last = (enter(slots, "claude", granted, name) for name in ("first", "left", "last"))
    left.leave()
    assert slots.queued == 1
    first.leave()
    assert last.held
    assert not left.held


def test_a_queue_that_all_have_left_does_not_hold_up_a_newcomer() -> None:
    granted: list[str] = []
    slots = Slots(total=1, per_backend=1, max_queued=9)
    first, left = enter(slots, "claude", granted, "first"), enter(slots, "claude", granted, "left")
    left.leave()
    first.leave()
    assert enter(slots, "claude", granted, "new").held


def test_leaving_twice_gives_up_one_slot_only() -> None:
    granted: list[str] = []
    slots = Slots(total=2, per_backend=2, max_queued=9)
    first = enter(slots, "claude", granted, "a")
    enter(slots, "claude", granted, "b")
    first.leave()
    first.leave()
    assert slots.busy == 1


def test_a_full_queue_refuses_with_a_time_to_come_back() -> None:
    granted: list[str] = []
    slots = Slots(total=1, per_backend=1, max_queued=1)
    enter(slots, "claude", granted, "a")
    enter(slots, "claude", granted, "b")
    with pytest.raises(QueueFull) as refused:
        enter(slots, "claude", granted, "c")
    assert refused.value.retry_after_s > 0
    assert slots.queued == 1


def test_what_runs_and_what_waits_is_told_by_backend() -> None:
    granted: list[str] = []
    slots = Slots(total=2, per_backend=1, max_queued=9)
    for backend in ("claude", "claude", "claude", "codex"):
        enter(slots, backend, granted, backend)
    told = slots.occupancy(["claude", "codex", "gemini"])
    assert told.running == {"claude": 1, "codex": 1, "gemini": 0}
    assert told.queued == {"claude": 2, "codex": 0, "gemini": 0}
    assert (told.slots, told.queue_slots) == (2, 9)


async def test_who_waits_for_room_is_woken_by_whoever_leaves_and_by_other_limits() -> None:
    slots = Slots(total=1, per_backend=1, max_queued=0)
    place = enter(slots, "claude", [], "a")
    for make_room in (place.leave, lambda: slots.resize(2, 2, 0)):
        waiting = asyncio.create_task(slots.room("claude"))
        await asyncio.sleep(0)
        assert not waiting.done()
        make_room()
        await waiting
        enter(slots, "claude", [], "b")


async def test_a_place_in_the_queue_is_room() -> None:
    slots = Slots(total=1, per_backend=1, max_queued=1)
    enter(slots, "claude", [], "a")
    await slots.room("claude")
    enter(slots, "claude", [], "b")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(slots.room("claude"), 0.01)


def test_a_taken_share_holds_up_neither_others_nor_the_queue() -> None:
    slots, share = Slots(total=3, per_backend=3, max_queued=0), Share(at_once=1)
    first, second = (slots.enter("claude", lambda: None, share) for _ in range(2))
    assert (first.held, second.held, slots.busy, slots.queued) == (True, False, 1, 0)
    assert slots.enter("claude", lambda: None).held
    assert slots.enter("codex", lambda: None, Share(at_once=1)).held
    assert slots.occupancy(["claude", "codex"]).queued == {"claude": 0, "codex": 0}
    first.leave()
    assert second.held


def test_whose_share_is_free_waits_for_a_slot_in_the_order_of_all() -> None:
    granted: list[str] = []
    slots, share = Slots(total=1, per_backend=1, max_queued=9), Share(at_once=1)
    first = slots.enter("claude", lambda: None, share)
    slots.enter("claude", lambda: granted.append("shared"), share)
    other = slots.enter("claude", lambda: granted.append("other"))
    assert slots.queued == 1
    first.leave()
    assert granted == ["shared"]
    assert (slots.queued, other.held) == (1, False)


def test_who_leaves_a_share_while_waiting_for_it_is_passed_over() -> None:
    slots, share = Slots(total=3, per_backend=3, max_queued=9), Share(at_once=1)
    first, left, last = (slots.enter("claude", lambda: None, share) for _ in range(3))
    left.leave()
    first.leave()
    assert (last.held, left.held, slots.busy) == (True, False, 1)


def test_who_leaves_the_queue_is_let_go_though_nothing_moves() -> None:
    """Clients that give up and ask again are thousands in the hour that the runs before them may take."""
    slots = Slots(total=1, per_backend=1, max_queued=9)
    slots.enter("claude", lambda: None)
    slots.enter("claude", lambda: None)
    waiting = slots.enter("claude", lambda: None)
    known = weakref.ref(waiting)
    waiting.leave()
    del waiting
    assert known() is None
    assert slots.queued == 1


async def test_who_waits_for_room_is_woken_where_a_share_that_others_wait_for_is_taken() -> None:
    slots, share = Slots(total=2, per_backend=1, max_queued=1), Share(at_once=1)
    enter(slots, "codex", [], "a")
    slots.enter("codex", lambda: None, share)
    waiting = asyncio.create_task(slots.room("codex"))
    await asyncio.sleep(0)
    assert not waiting.done()
    assert slots.enter("claude", lambda: None, share).held
    async with asyncio.timeout(30):
        await waiting
    assert slots.queued == 0
