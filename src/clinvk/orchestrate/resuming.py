"""A chain that goes on from the first step that is not finished, as its record has it."""

import asyncio
import os

import msgspec
from msgspec.structs import replace

from clinvk.errors import InvalidRequest
from clinvk.events import RunFinished, RunStarted
from clinvk.plan import Chain, Part, PartResult
from clinvk.record import RunRecord
from clinvk.request import PartOf
from clinvk.result import RunResult
from clinvk.store import UNDER_WAY, RunQuery, SessionStore

_FIELD = "resume_from"
_MOST_STEPS = 10_000


class _Kept(msgspec.Struct):
    steps: list[Part] | int
    input: str | None
    stop_on_failure: bool
    resumed: str = ""


class _Place(msgspec.Struct):
    part: PartOf | None = None


async def resumed(store: SessionStore, reference: str) -> Chain:
    """Give the chain that goes on from another one, as it was asked.

    Raises:
        RunNotFound, AmbiguousId: as the store.
        InvalidRequest: the run is no chain, has not ended, has nothing left to do, or kept nothing to go on from.
    """
    record = await store.run(reference)
    if record.kind != "chain":
        raise InvalidRequest(f"run {record.id!r} is no chain", _FIELD)
    if record.state in UNDER_WAY:
        raise InvalidRequest(f"chain {record.id!r} is under way", _FIELD)
    kept = msgspec.convert(record.request, _Kept)
    if isinstance(kept.steps, int):
        raise InvalidRequest(f"chain {record.id!r} was ephemeral: none of it is kept", _FIELD)
    finished = await _finished(store, record, kept.steps)
    done: list[PartResult] = []
    while (result := finished.get(len(done))) is not None:
        done.append(result)
    if len(done) == len(kept.steps):
        raise InvalidRequest(f"chain {record.id!r} is finished: there is no step to go on from", _FIELD)
    if done:
        done[-1] = await asyncio.to_thread(_where_there_is_something, done[-1])
    return Chain(
        parts=tuple(kept.steps),
        input=kept.input,
        stop_on_failure=kept.stop_on_failure,
        done=tuple(done),
        resumed=record.id,
    )


async def _finished(store: SessionStore, record: RunRecord, steps: list[Part]) -> dict[int, PartResult]:
    """Give the steps that are finished, those included that an earlier chain did which this one went on from."""
    found: dict[int, PartResult] = {}
    while True:
        page = await store.runs(RunQuery(parent_id=record.id, state="finished", limit=_MOST_STEPS))
        for run in page.items:
            place = msgspec.convert(run.request, _Place).part
            if place and place.index < len(steps):
                found.setdefault(place.index, _result(place, steps[place.index], run))
        before = msgspec.convert(record.request, _Kept).resumed
        if not before:
            return found
        record = await store.run(before)


def _where_there_is_something(result: PartResult) -> PartResult:
    """Give a result with what its worktree was made from, where that is gone: unchanged, applied or discarded."""
    return result if os.path.isdir(result.workdir) else replace(result, workdir=result.part.request.workdir or "")


def _result(place: PartOf, part: Part, run: RunRecord) -> PartResult:
    asked = replace(part.request, backend=run.backend, workdir=place.base or run.workdir)
    ending = RunFinished(run.stop_reason or "end_turn", run.usage, run.cost_usd)
    return PartResult(
        index=place.index,
        part=replace(part, request=asked),
        result=RunResult(text=run.output, started=RunStarted(run.model), ending=ending),
        run_id=run.id,
        session_id=run.session_id,
        model=run.model,
        workdir=run.workdir,
        duration_s=max(0.0, (run.ended_at or 0.0) - (run.started_at or 0.0)),
    )
