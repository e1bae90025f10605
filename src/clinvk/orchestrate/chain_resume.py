"""Resuming a chain: the plan that continues a recorded chain at the first unfinished step."""

import asyncio
import os

import msgspec
from msgspec.structs import replace

from clinvk.store.protocol import UNDER_WAY, RunQuery, SessionStore
from clinvk.types.errors import AmbiguousId, InvalidRequest, RunNotFound
from clinvk.types.events import RunFinished, RunStarted
from clinvk.types.orchestration import Chain, Part, PartResult
from clinvk.types.record import RunRecord
from clinvk.types.request import PartPosition
from clinvk.types.result import RunResult

_FIELD = "resume_from"
_ALL = 2**31 - 1


class _ChainOptions(msgspec.Struct):
    """The recorded options of a chain; `steps` is only a number if the prompts were not kept."""

    steps: list[Part] | int
    input: str | None
    stop_on_failure: bool
    resumed: str = ""


async def resume_chain(store: SessionStore, reference: str) -> Chain:
    """Return the plan, before admission, that continues a recorded chain.

    Raises:
        RunNotFound, AmbiguousId: as the store.
        InvalidRequest: the run is no chain, is still running, has no step left, kept no prompts, or has to continue in
            a directory that is gone.
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
    options = msgspec.convert(record.request, _ChainOptions)
    if isinstance(options.steps, int):
        why = "was ephemeral, or the session of a step was deleted"
        raise InvalidRequest(f"chain {record.id!r} {why}: none of it is kept", _FIELD)
    begun = await _begun_steps(store, record)
    done: list[PartResult] = []
    for index, step in enumerate(options.steps):
        if index not in begun or begun[index][1].state != "finished":
            break
        done.append(_result(*begun[index], step))
    if len(done) == len(options.steps):
        raise InvalidRequest(f"chain {record.id!r} is finished: there is no step to go on from", _FIELD)
    step = options.steps[len(done)]
    if done and step.follows:
        _, tried = begun.get(len(done), (None, None))
        done[-1] = await asyncio.to_thread(_with_followed_directory, done[-1], step, tried)
    return Chain(
        parts=tuple(options.steps),
        input=options.input,
        stop_on_failure=options.stop_on_failure,
        done=tuple(done),
        resumed=record.id,
    )


async def _begun_steps(store: SessionStore, record: RunRecord) -> dict[int, tuple[PartPosition, RunRecord]]:
    """Return the last run of each step by index; a step of an earlier chain that this chain resumed counts."""
    found: dict[int, tuple[PartPosition, RunRecord]] = {}
    while True:
        page = await store.runs(RunQuery(parent_id=record.id, limit=_ALL))  # the newest first
        for run in page.items:
            if place := run.part:
                found.setdefault(place.index, (place, run))
        before = msgspec.convert(record.request, _ChainOptions).resumed
        if not before:
            return found
        try:
            record = await store.run(before)
        except RunNotFound:  # deleted with the last of its sessions
            return found


def _with_followed_directory(previous: PartResult, step: Part, tried: RunRecord | None) -> PartResult:
    """Return a finished step with the directory in which the next step works.

    If an earlier attempt of the next step was `tried`, that is the attempt's directory: an unchanged worktree was
    removed, and the attempt worked in the original directory. A step with a worktree of its own starts from committed
    files, so the original directory replaces a missing worktree.

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


def _result(place: PartPosition, run: RunRecord, part: Part) -> PartResult:
    request = replace(part.request, backend=run.backend, workdir=place.base or run.workdir)
    ending = RunFinished(run.stop_reason or "end_turn", run.usage, run.cost_usd)
    return PartResult(
        index=place.index,
        part=replace(part, request=request),
        result=RunResult(text=run.output, started=RunStarted(run.model), ending=ending),
        run_id=run.id,
        session_id=run.session_id,
        model=run.model,
        workdir=run.workdir,
        duration_s=max(0.0, (run.ended_at or 0.0) - (run.started_at or 0.0)),
    )
