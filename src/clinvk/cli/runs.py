"""`clinvk runs list` and `show`."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence

import msgspec
from msgspec.structs import replace

from clinvk.cli import runs_text as text
from clinvk.cli.flags import JsonFlags, RunsFlags
from clinvk.cli.notes import Notes
from clinvk.cli.output import columns, has_colors, shown, tell, tell_json
from clinvk.cli.sessions_store import ALL, found_run, opened, real_directory
from clinvk.cli.sessions_text import home_of
from clinvk.cli.settings import settings_of
from clinvk.cli.table import colored
from clinvk.dialects import records
from clinvk.record import RunRecord
from clinvk.store import RunQuery, SessionStore

_PAGE = 500


class RunsListed(msgspec.Struct, frozen=True):
    """Runs, the newest first; `has_more` is whether older ones are left out."""

    runs: list[records.RunItem]
    has_more: bool


def list_all(flags: RunsFlags, environ: Mapping[str, str], notes: Notes) -> int:
    """Print the runs that were asked for.

    Raises:
        ClinvkError: they cannot be read, or there is no such backend or directory.
    """
    settings = settings_of(flags, environ, {}, notes)
    found = asyncio.run(_listed(flags, environ, notes))
    runs = found[: flags.limit or None]
    has_more = len(found) > len(runs)
    if flags.wants_json:
        tell_json(RunsListed([records.run_item(run) for run in runs], has_more))
    elif runs:
        style = colored(text.COLORS) if settings.output.color and has_colors(1, environ) else None
        tell("\n".join(text.listing(runs, time.time(), home_of(environ.get("HOME")), columns(), style)))
        if has_more:
            notes.say(f"the newest {len(runs)}; --limit 0 shows all")
    else:
        is_filtered = flags.backend or flags.state or flags.here or flags.workdir is not None
        notes.say("no runs match" if is_filtered else "no runs yet: each prompt is one")
    return 0


async def _listed(flags: RunsFlags, environ: Mapping[str, str], notes: Notes) -> list[RunRecord]:
    """Give the runs that were asked for, and one more where there is one."""
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
    """Give runs, the newest first, read as they are asked for: a list may have thousands of parts to pass over."""
    seen: set[str] = set()
    while True:
        page = await store.runs(query)
        for run in page.items:
            if run.id not in seen:  # one that began meanwhile has moved the others on
                seen.add(run.id)
                yield run
        query = replace(query, limit=_PAGE, offset=query.offset + query.limit)
        if query.offset >= page.total:
            return


def show(flags: JsonFlags, environ: Mapping[str, str], notes: Notes) -> int:
    """Print a run: what was asked and answered, or the parts that it has.

    Raises:
        RunNotFound, AmbiguousId: the word stands for no run.
    """
    settings = settings_of(flags, environ, {}, notes)
    run, parts = asyncio.run(_whole(flags.words[0], environ, notes))
    if flags.wants_json:
        tell_json(records.run_view(run, parts, len(parts)))
        return 0
    now, most = time.time(), columns()
    style = colored(text.COLORS) if settings.output.color and has_colors(1, environ) else None
    lines = text.details(run, now, home_of(environ.get("HOME")))
    lines += ["", *text.parts(run, parts, most, style)] if parts else []
    tell("\n".join([*lines, *map(shown, text.said(run))]))
    return 0


async def _whole(reference: str, environ: Mapping[str, str], notes: Notes) -> tuple[RunRecord, Sequence[RunRecord]]:
    """Give a run and its parts."""
    async with opened(environ, notes) as store:
        run = await found_run(store, reference)
        page = await store.runs(RunQuery(parent_id=run.id, limit=ALL))
    return run, page.items
