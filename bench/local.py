"""Prompts through `LocalRuns` in this process, without HTTP."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import TypeVar

import uvloop

from bench.load import Times, times
from bench.workplace import BenchBroken, Workplace
from clinvk.backends.registry import BACKENDS
from clinvk.config.model import Settings, complete
from clinvk.runtime.local import LocalRuns
from clinvk.store.memory import MemoryStore
from clinvk.store.protocol import SessionStore
from clinvk.types.request import RunRequest

_WARM_UP = 30
_SETTLE_S = 0.1
_PATIENCE_S = 60

_T = TypeVar("_T")

Opening = Callable[[], AbstractAsyncContextManager[SessionStore]]


def _nowhere() -> AbstractAsyncContextManager[SessionStore]:
    return nullcontext(MemoryStore())


def prompts(place: Workplace, clients: int, count: int, opening: Opening = _nowhere) -> Times:
    """Run `count` prompts from `clients` callers at once, into the store that `opening` gives."""
    return _run(_prompts(place, clients, count, opening))


async def _prompts(place: Workplace, clients: int, count: int, opening: Opening) -> Times:
    settings = Settings()
    request = complete(RunRequest(prompt="hello", backend="claude", workdir=str(place.root)), settings)
    async with (
        opening() as store,
        LocalRuns(settings, store, place.env, BACKENDS) as runs,
        asyncio.timeout(_PATIENCE_S),
    ):
        await _ask(runs, request, 1, _WARM_UP)
        await asyncio.sleep(_SETTLE_S)
        return await _ask(runs, request, clients, count)


async def _ask(runs: LocalRuns, request: RunRequest, clients: int, count: int) -> Times:
    latencies_ms: list[float] = []
    left = count

    async def client() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            began = time.perf_counter()
            async with runs.run(request) as run:
                result = await run.log.result()
            latencies_ms.append((time.perf_counter() - began) * 1000)
            if result.error:
                raise BenchBroken(f"a prompt failed: {result.error}")

    began = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(clients):
            group.create_task(client())
    return times(began, latencies_ms)


def _run(work: Coroutine[None, None, _T]) -> _T:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)
