"""Look-ups in threads of their own: results, errors, deadlines."""

import asyncio
import threading

import pytest

from clinvk.runtime.process import waiting
from clinvk.runtime.process.waiting import Lookups
from clinvk.types.errors import InvalidRequest


async def test_lookup_returns_its_result_or_raises_its_error() -> None:
    lookups = Lookups()
    assert await lookups.run(lambda: 5) == 5
    with pytest.raises(ValueError, match="amiss"):
        await lookups.run(_fail)


async def test_stuck_lookups_time_out_and_free_their_thread_when_they_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "_MAX_THREADS", 2)
    lookups = Lookups(timeout_s=0.1)
    answers = threading.Event()
    for _ in range(3):  # the third gets no thread
        with pytest.raises(InvalidRequest):
            await lookups.run(answers.wait)
    answers.set()
    async with asyncio.timeout(30):
        while True:
            try:
                assert await lookups.run(lambda: "there") == "there"
                break
            except InvalidRequest:
                continue


async def test_directory_that_just_answered_is_looked_up_on_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    lookups, loop = Lookups(), threading.get_ident()
    assert await lookups.run(threading.get_ident, "/a") != loop
    assert await lookups.run(threading.get_ident, "/a") == loop
    assert await lookups.run(threading.get_ident, "/a", "/b") != loop
    monkeypatch.setattr(waiting, "_TRUSTED_S", 0.0)
    assert await lookups.run(threading.get_ident, "/a") != loop


async def test_directory_that_failed_is_looked_up_in_a_thread_again() -> None:
    lookups, loop = Lookups(), threading.get_ident()
    with pytest.raises(ValueError, match="amiss"):
        await lookups.run(_fail, "/a")
    assert await lookups.run(threading.get_ident, "/a") != loop


def _fail() -> None:
    raise ValueError("something is amiss")
