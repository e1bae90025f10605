"""`clinvk runs list` and `show`, and runs as text."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence, Sized

import msgspec
from msgspec.structs import replace

from clinvk.cli.parse.flags import JsonFlags, RunsFlags
from clinvk.cli.parse.settings import settings_of
from clinvk.cli.sessions.local_store import ALL, found_run, opened, real_directory
from clinvk.cli.sessions.session_text import directory, home_of, short_ids, tokens, took
from clinvk.cli.terminal.output import Notes, columns, has_colors, shown, tell, tell_json, without_sequences
from clinvk.cli.terminal.table import Column, Style, colored, one_line, table
from clinvk.cli.terminal.times import ago, at_length
from clinvk.dialects.rest import views
from clinvk.store.protocol import RunQuery, SessionStore
from clinvk.types.events import Usage
from clinvk.types.record import RunRecord
from clinvk.types.request import PartOf

_PROMPT_LEAST = 12
_DIRECTORY_LEAST = 12
_PIPED_PROMPT = 100

COLORS = {
    **dict.fromkeys(("queued", "running", "cancelled"), "\x1b[33m"),
    **dict.fromkeys(("failed", "interrupted"), "\x1b[31m"),
}
"""The colors of a state."""

_LISTED = (
    Column("ID"),
    Column("BACKEND"),
    Column("STATE"),
    Column("CREATED", is_spare=True),
    Column("TOOK", to_right=True, is_spare=True),
    Column("DIRECTORY", _DIRECTORY_LEAST, from_left=True),
    Column("PROMPT", _PROMPT_LEAST),
)
_PARTS = (
    Column("ID"),
    Column("BACKEND"),
    Column("STATE"),
    Column("TOOK", to_right=True, is_spare=True),
    Column("IN", to_right=True, is_spare=True),
    Column("OUT", to_right=True, is_spare=True),
    Column("PROMPT", _PROMPT_LEAST),
)
_PARTS_OF = {"parallel": ("task", "tasks"), "chain": ("step", "steps"), "compare": ("backend", "backends")}
"""The name of a part, and the field of the request that has the parts or their number."""


def listing(
    runs: Sequence[RunRecord], now: float, home: str | None, most: int | None = None, style: Style | None = None
) -> list[str]:
    """Return a table of runs, the head first; `most` is the width of the terminal, None is any."""
    rows = [
        (
            short,
            _backend(run),
            run.state,
            ago(run.created_at, now),
            took(run),
            directory(run.workdir, home),
            about(run) if most else about(run)[:_PIPED_PROMPT],
        )
        for short, run in zip(short_ids([run.id for run in runs]), runs, strict=True)
    ]
    return table(_LISTED, rows, most, style)


def about(run: RunRecord) -> str:
    """Return the prompt of a run, or the number of its parts, on one line."""
    if run.prompt or run.kind == "prompt":
        return one_line(run.prompt)
    word, field = _PARTS_OF[run.kind]
    parts = run.request.get(field)
    number = len(parts) if isinstance(parts, Sized) else parts
    return f"{number} {word}{'' if number == 1 else 's'}"


def details(run: RunRecord, now: float, home: str | None) -> list[str]:
    """Return the fields of a run except its prompt, answer and parts, one per line."""
    usage = run.usage or Usage()
    lines = {
        "id": run.id,
        "backend": f"{_backend(run)} ({run.model})" if run.model else _backend(run),
        "about": "" if run.prompt else about(run),
        "state": run.state,
        "error": without_sequences(run.error_message or ""),
        "error code": run.error_code or "",
        "exit code": str(run.exit_code) if run.exit_code else "",
        "stop reason": run.stop_reason if run.stop_reason not in (None, "end_turn") else "",
        "session": run.session_id or "",
        "part of": run.parent_id or "",
        "name": run.part.name if run.part else "",
        "directory": directory(run.workdir, home),
        "created": f"{at_length(run.created_at)} ({ago(run.created_at, now)})",
        "took": took(run),
        "tokens": tokens(usage) if usage != Usage() else "",
        "cost": f"${run.cost_usd:.4f}" if run.cost_usd is not None else "",
        "API key": run.key_name,
    }
    return [f"{name:<11}  {one_line(text)}" for name, text in lines.items() if text]


def parts_table(
    whole: RunRecord, runs: Sequence[RunRecord], most: int | None = None, style: Style | None = None
) -> list[str]:
    """Return a table of the parts of a run, in their order; steps are counted from 1."""
    number, first = ("STEP", 1) if whole.kind == "chain" else ("INDEX", 0)
    placed = sorted(((run.part or PartOf("", 0), run) for run in runs), key=lambda own: _order(*own))
    rows = [
        (
            str(place.index + first),
            short,
            _backend(run),
            run.state,
            took(run),
            f"{run.usage.input_tokens:,}" if run.usage else "",
            f"{run.usage.output_tokens:,}" if run.usage else "",
            _named(place, run) if most else _named(place, run)[:_PIPED_PROMPT],
        )
        for short, (place, run) in zip(short_ids([run.id for _, run in placed]), placed, strict=True)
    ]
    return table((Column(number, to_right=True), *_PARTS), rows, most, style)


def said(run: RunRecord) -> Iterator[str]:
    """Yield the prompt and the answer of a run below headings; of several agents the last answer, if any."""
    for head, text in (("prompt", run.prompt), ("answer", run.output)):
        if text.strip():
            yield f"\n── {head} ──"
            yield text.strip("\n")


def _named(place: PartOf, run: RunRecord) -> str:
    return one_line(f"{place.name}: {run.prompt}" if place.name else run.prompt)


def _order(place: PartOf, run: RunRecord) -> tuple[int, float]:
    return place.index, run.created_at


def _backend(run: RunRecord) -> str:
    return one_line(run.backend or run.kind)


_PAGE = 500


class RunsListed(msgspec.Struct, frozen=True):
    """Runs, the newest first; `has_more` says whether older runs were left out."""

    runs: list[views.RunItem]
    has_more: bool


def list_all(flags: RunsFlags, environ: Mapping[str, str], notes: Notes) -> int:
    """Print the runs that match the flags.

    Raises:
        ClinvkError: the runs cannot be read, or the backend or directory does not exist.
    """
    settings = settings_of(flags, environ, {}, notes)
    found = asyncio.run(_listed(flags, environ, notes))
    runs = found[: flags.limit or None]
    has_more = len(found) > len(runs)
    if flags.wants_json:
        tell_json(RunsListed([views.run_item(run) for run in runs], has_more))
    elif runs:
        style = colored(COLORS) if settings.output.color and has_colors(1, environ) else None
        tell("\n".join(listing(runs, time.time(), home_of(environ.get("HOME")), columns(), style)))
        if has_more:
            notes.say(f"the newest {len(runs)}; --limit 0 shows all")
    else:
        is_filtered = flags.backend or flags.state or flags.here or flags.workdir is not None
        notes.say("no runs match" if is_filtered else "no runs yet: each prompt is one")
    return 0


async def _listed(flags: RunsFlags, environ: Mapping[str, str], notes: Notes) -> list[RunRecord]:
    """Return the runs that match the flags, and one more if more exist."""
    where = real_directory(flags.workdir) if flags.here or flags.workdir is not None else None
    most = flags.limit + 1 if flags.limit else ALL
    found: list[RunRecord] = []
    async with opened(environ, notes) as store:
        query = RunQuery(backend=flags.backend, state=flags.state, limit=min(_PAGE, most))
        async for run in _newest(store, query):
            if (flags.parts or run.parent_id is None) and where in (None, run.workdir):
                found.append(run)
            if len(found) == most:
                break
    return found


async def _newest(store: SessionStore, query: RunQuery) -> AsyncIterator[RunRecord]:
    """Yield runs, the newest first, page by page: a list may skip thousands of parts."""
    seen: set[str] = set()
    while True:
        page = await store.runs(query)
        for run in page.items:
            if run.id not in seen:  # a run that started meanwhile has shifted the pages
                seen.add(run.id)
                yield run
        query = replace(query, limit=_PAGE, offset=query.offset + query.limit)
        if query.offset >= page.total:
            return


def show(flags: JsonFlags, environ: Mapping[str, str], notes: Notes) -> int:
    """Print a run: its prompt and answer, or its parts.

    Raises:
        RunNotFound, AmbiguousId: the ID names no run, or several.
    """
    settings = settings_of(flags, environ, {}, notes)
    run, parts = asyncio.run(_whole(flags.words[0], environ, notes))
    if flags.wants_json:
        tell_json(views.run_view(run, parts, len(parts)))
        return 0
    now, most = time.time(), columns()
    style = colored(COLORS) if settings.output.color and has_colors(1, environ) else None
    lines = details(run, now, home_of(environ.get("HOME")))
    lines += ["", *parts_table(run, parts, most, style)] if parts else []
    tell("\n".join([*lines, *map(shown, said(run))]))
    return 0


async def _whole(reference: str, environ: Mapping[str, str], notes: Notes) -> tuple[RunRecord, Sequence[RunRecord]]:
    """Return a run and its parts."""
    async with opened(environ, notes) as store:
        run = await found_run(store, reference)
        page = await store.runs(RunQuery(parent_id=run.id, limit=ALL))
    return run, page.items
