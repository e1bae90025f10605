"""`GET /metrics`, and how runs come into it."""

import asyncio
from collections.abc import Callable
from functools import partial

from starlette.requests import Request
from starlette.responses import Response

from clinvk.errors import ClinvkError
from clinvk.metrics import Metrics, Standing
from clinvk.runtime.runs import Runs
from clinvk.runtime.watching import Watch, Watched, first_word_at
from clinvk.store import SessionStore

_MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def counting(metrics: Metrics) -> Watch:
    """Give what counts runs."""
    return lambda run: partial(_count, metrics, run)


def _count(metrics: Metrics, run: Watched) -> None:
    if not (ending := run.ending):
        return
    backend = run.request.backend
    metrics.count_run(backend, ending)
    if run.started_at is not None:
        first = first_word_at(run)
        metrics.time_run(
            backend,
            run.started_at - run.created_at,
            None if first is None else first - run.created_at,
            (run.ended_at or run.started_at) - run.started_at,
        )


class Exposition:
    """The endpoint."""

    def __init__(self, metrics: Metrics, runs: Runs, store: SessionStore, active: Callable[[], int]) -> None:
        """`active` tells how many requests are under way."""
        self._metrics = metrics
        self._runs = runs
        self._store = store
        self._active = active

    async def show(self, _: Request) -> Response:
        """Answer `GET /metrics`, in a thread: it takes milliseconds, in which streams go on."""
        standing = await self._standing()
        text = await asyncio.to_thread(self._metrics.generate, standing)
        return Response(text, media_type=_MEDIA_TYPE, headers={"cache-control": "no-store"})

    async def _standing(self) -> Standing:
        try:
            sessions = await self._store.count()
        except (ClinvkError, OSError):
            sessions = None
        occupancy = self._runs.occupancy
        return Standing(
            requests=self._active(),
            running=occupancy.running,
            queued=occupancy.queued,
            slots=occupancy.slots,
            queue_slots=occupancy.queue_slots,
            sessions=sessions,
            store_bytes=await self._store.size(),
            warm=self._runs.warm,
        )
