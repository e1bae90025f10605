"""A chain that goes on from the first step that is not finished, as its record has it."""

import asyncio
import os
from collections.abc import AsyncIterator

import msgspec
from msgspec.structs import replace

from clinvk.store.protocol import UNDER_WAY, RunQuery, SessionStore
from clinvk.types.errors import AmbiguousId, InvalidRequest, RunNotFound
from clinvk.types.events import RunFinished, RunStarted
from clinvk.types.orchestration import Chain, Part, PartResult
from clinvk.types.record import RunRecord
from clinvk.types.request import PartOf
from clinvk.types.result import RunResult

_FIELD = "resume_from"
_PAGE = 1000


class _Kept(msgspec.Struct):
    steps: list[Part] | int
    input: str | None
    stop_on_failure: bool
    resumed: str = ""


async def resumed(store: SessionStore, reference: str) -> Chain:
    """Give the chain that goes on from another one, as it was asked.

    Raises:
        RunNotFound, AmbiguousId: as the store.
        InvalidRequest: the run is no chain, has not ended, has nothing left to do, kept nothing to go on from, or is to
            go on in a directory that is gone.
    """
    try:
        record = await store.run(reference)
    except (RunNotFound, AmbiguousId) as exc:
        exc.field = _FIELD
        raise
    if record.kind != "chain":
        raise InvalidRequest(f"run {record.id!r} is no chain", _FIELD)
    if record.state in UNDER_WAY:
        raise InvalidRequest(f"chain {record.id!r} is under way", _FIELD)
    kept = msgspec.convert(record.request, _Kept)
    if isinstance(kept.steps, int):
        why = "was ephemeral, or the session of a step was deleted"
        raise InvalidRequest(f"chain {record.id!r} {why}: none of it is kept", _FIELD)
    begun = await _begun(store, record)
    done: list[PartResult] = []
    for index, step in enumerate(kept.steps):
        place, run = begun.get(index, (None, None))
        if place is None or run is None or run.state != "finished":
            break
        done.append(_result(place, step, run))
    if len(done) == len(kept.steps):
        raise InvalidRequest(f"chain {record.id!r} is finished: there is no step to go on from", _FIELD)
    step = kept.steps[len(done)]
    if done and step.follows:
        _, tried = begun.get(len(done), (None, None))
        done[-1] = await asyncio.to_thread(_followed, done[-1], step, tried)
    return Chain(
        parts=tuple(kept.steps),
        input=kept.input,
        stop_on_failure=kept.stop_on_failure,
        done=tuple(done),
        resumed=record.id,
    )


async def _begun(store: SessionStore, record: RunRecord) -> dict[int, tuple[PartOf, RunRecord]]:
    """Give the last run of each step, those included of an earlier chain that this one went on from."""
    found: dict[int, tuple[PartOf, RunRecord]] = {}
    while True:
        async for run in _below(store, record.id):
            if place := run.part:
                found.setdefault(place.index, (place, run))
        before = msgspec.convert(record.request, _Kept).resumed
        if not before:
            return found
        try:
            record = await store.run(before)
        except RunNotFound:  # it went with the last of its sessions
            return found


async def _below(store: SessionStore, run_id: str) -> AsyncIterator[RunRecord]:
    """Give the runs of a chain, the newest first."""
    offset, total = 0, 1
    while offset < total:
        page = await store.runs(RunQuery(parent_id=run_id, limit=_PAGE, offset=offset))
        for run in page.items:
            yield run
        offset, total = offset + _PAGE, page.total


def _followed(previous: PartResult, step: Part, tried: RunRecord | None) -> PartResult:
    """Give a finished step with the directory that the next one follows: where that was `tried`, or else its own.

    The two differ where the step left its worktree as it was: that was removed, and the next worked in what it was made
    from. A step in a worktree of its own begins with what is committed, so it can do without one that is gone.

    Raises:
        InvalidRequest: the directory is gone.
    """
    workdir = tried.workdir if tried and step.isolation == "none" else previous.workdir
    base = previous.part.request.workdir or ""
    if not os.path.isdir(workdir) and step.isolation != "none":
        workdir = base
    if not os.path.isdir(workdir):
        why = "which was applied or discarded" if tried else "which was unchanged, applied or discarded"
        where = f"in a worktree that is gone, {why}" if workdir != base else "where nothing is any more"
        raise InvalidRequest(f"step {previous.index + 2} is to go on {where}: {workdir!r}", _FIELD)
    return replace(previous, workdir=workdir)


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
