"""The steps of a chain: prompt templates with places for earlier answers and the input, and resuming a chain."""

import asyncio
import os
import re
from collections.abc import Iterator, Mapping, Set

import msgspec
from msgspec.structs import replace

from clinvk.store.protocol import RunQuery, SessionStore
from clinvk.types.choices import UNDER_WAY
from clinvk.types.errors import AmbiguousId, InvalidRequest, RunNotFound
from clinvk.types.events import RunFinished, RunResult, RunStarted
from clinvk.types.orchestration import Chain, Part, PartResult
from clinvk.types.record import RunRecord
from clinvk.types.request import PartPosition

MAX_FILLED_CHARS = 16 * 1024 * 1024
"""A prompt that contains the previous answer twice doubles with each step."""

_PLACE = re.compile(r"\{\{(?:(?P<word>previous|input)|steps\.(?P<step>[^{}\n]+))\}\}")
_SIMILAR = re.compile(r"\{\{\s*(?:(?P<word>previous|input)\s*|steps\.(?P<step>[^{}\n]+))\}\}", re.IGNORECASE)
_INPUT = "{{input}}"
_COMMAND = re.compile(r"\s*/[^\s{]+(?!\S)")


def expand_template(template: str, previous: str, steps: Mapping[str, str], given: str | None) -> str:
    """Fill the places of a template. Filled-in text is not expanded again; an unknown place stays as written.

    `{{previous}}` is the answer of the previous step, `{{steps.NAME}}` the answer of an earlier step, `{{input}}` the
    input that was `given` with the chain.

    Raises:
        InvalidRequest: the filled-in text would exceed `MAX_FILLED_CHARS`.
    """
    size = 0

    def text_of(place: re.Match[str]) -> str:
        nonlocal size
        match place["word"]:
            case "previous":
                text = previous
            case "input":
                text = place[0] if given is None else given
            case _:
                text = steps.get(place["step"], place[0])
        size += len(text)
        if size > MAX_FILLED_CHARS:
            raise InvalidRequest(f"prompt has more than {MAX_FILLED_CHARS} characters once it is filled in", "prompt")
        return text

    return _PLACE.sub(text_of, template)


def unknown_steps(template: str, earlier: Set[str]) -> Iterator[str]:
    """Yield the places that name no earlier step."""
    for place in _PLACE.finditer(template):
        if place["step"] is not None and place["step"] not in earlier:
            yield place[0]


def misspelt_steps(template: str, earlier: Set[str]) -> Iterator[tuple[str, str]]:
    """Yield text that is no place only because of blanks or capitals, with the place that was probably meant.

    `{{ steps.NAME }}` counts only for an earlier step: other programs, such as GitHub workflows, use the same syntax.
    """
    for found in _SIMILAR.finditer(template):
        place = _PLACE.fullmatch(found[0])
        if place and (place["word"] or place["step"] in earlier):
            continue
        step = (found["step"] or "").strip()
        meant = f"{{{{steps.{step}}}}}" if step else f"{{{{{(found['word'] or '').lower()}}}}}"
        if (step in earlier or not step) and _PLACE.fullmatch(meant):
            yield found[0], meant


def filled_step(chain: Chain, part: Part, previous: PartResult | None, answers: Mapping[str, str]) -> Part:
    """Return a step with the prompt filled in; a following step gets the directory of the previous step.

    `answers` are the answers of the earlier steps by name. The prompt becomes `literal` if the expansion contains `@`
    or a leading `/` and neither was written by the user: an answer must never act as a command of a CLI.

    Raises:
        InvalidRequest: as `expand_template`.
    """
    template = part.request.prompt
    answer = previous.result.text if previous else ""
    if previous and previous.part.dry_run:  # a command is no answer, so the place stays
        answer = "{{previous}}"
    request = replace(part.request, prompt=expand_template(template, answer, answers, chain.input))
    if "@" in request.prompt or request.prompt.lstrip().startswith("/"):
        marks = {name: text and "{" for name, text in answers.items()}
        of_user = expand_template(template, answer and "{", marks, chain.input)
        acts = "@" in of_user or _COMMAND.match(of_user) is not None
        request = replace(request, literal=of_user != request.prompt and not acts)
    if part.follows and previous and previous.workdir:
        request = replace(request, workdir=previous.workdir)
    return replace(part, request=request)


def warnings(chain: Chain) -> Iterator[str]:
    """Yield what stays unfilled in the prompts although it looks like a place."""
    earlier: set[str] = set()
    for index, part in enumerate(chain.parts):
        template, at = part.request.prompt, f"steps[{index}].prompt"
        meant = dict(misspelt_steps(template, earlier))
        for text, place in meant.items():
            has_none = chain.input is None and place == _INPUT
            yield f"{at}: {text} is not replaced{': there is no input' if has_none else f'; did you mean {place}?'}"
        for place in unknown_steps(template, earlier):
            if place not in meant:
                yield f"{at}: {place} is not replaced: no earlier step has this name"
        if chain.input is None and _INPUT in template:
            yield f"{at}: {_INPUT} is not replaced: there is no input"
        earlier.add(part.name)


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
        raise InvalidRequest(f"run {record.id!r} is not a chain", _FIELD)
    if record.state in UNDER_WAY:
        raise InvalidRequest(f"chain {record.id!r} is still running", _FIELD)
    options = msgspec.convert(record.request, _ChainOptions)
    if isinstance(options.steps, int):
        reason = "was ephemeral, or the session of a step was deleted"
        raise InvalidRequest(f"chain {record.id!r} {reason}: its record is gone", _FIELD)
    begun = await _begun_steps(store, record)
    done: list[PartResult] = []
    for index, step in enumerate(options.steps):
        if index not in begun or begun[index][1].state != "finished":
            break
        done.append(_result(*begun[index], step))
    if len(done) == len(options.steps):
        raise InvalidRequest(f"chain {record.id!r} is finished: it has no unfinished step", _FIELD)
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
        reason = "which was applied or discarded" if tried else "which was unchanged, applied or discarded"
        what = f"worktree is gone, {reason}" if workdir != base else "directory does not exist"
        raise InvalidRequest(f"step {previous.index + 2} cannot run: its {what}: {workdir!r}", _FIELD)
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
