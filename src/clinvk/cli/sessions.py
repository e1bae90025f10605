"""`clinvk sessions list` and `show`."""

import asyncio
import time
from collections.abc import Mapping

import msgspec

from clinvk.cli import sessions_text as text
from clinvk.cli.flags import JsonFlags, ListFlags
from clinvk.cli.notes import Notes
from clinvk.cli.output import columns, has_colors, tell, tell_json
from clinvk.cli.sessions_store import ALL, found, opened, real_directory
from clinvk.cli.settings import settings_of
from clinvk.cli.table import colored
from clinvk.dialects import records
from clinvk.record import RunRecord
from clinvk.session import Session
from clinvk.store import Page, RunQuery, SessionQuery, SessionStore


class Shown(records.SessionView, frozen=True, kw_only=True):
    """A conversation with its turns, oldest first."""

    turns: list[records.RunItem]


def list_all(flags: ListFlags, environ: Mapping[str, str], notes: Notes) -> int:
    """Print the sessions that were asked for.

    Raises:
        ClinvkError: they cannot be read, or there is no such backend or directory.
    """
    settings = settings_of(flags, environ, {}, notes)
    query = SessionQuery(
        backend=flags.backend,
        status=flags.status,
        tag=flags.tag,
        text=flags.search,
        working_dir=real_directory(flags.workdir) if flags.here or flags.workdir is not None else None,
        limit=flags.limit or ALL,
    )
    page = asyncio.run(_listed(query, environ, notes))
    sessions, total = page.items, page.total
    if page.unreadable:
        notes.say(f"{page.unreadable} sessions cannot be read: the database is damaged; see clinvk doctor")
    if flags.wants_json:
        items = [records.session_item(session) for session in sessions]
        tell_json(
            records.SessionList(sessions=items, total=total, limit=flags.limit, offset=0, unreadable=page.unreadable)
        )
    elif sessions:
        style = colored(text.COLORS) if settings.output.color and has_colors(1, environ) else None
        tell("\n".join(text.listing(sessions, time.time(), text.home_of(environ.get("HOME")), columns(), style)))
        if total > len(sessions):
            notes.say(f"{len(sessions)} of {total:,}; --limit 0 shows all")
    else:
        is_filtered = query != SessionQuery(limit=query.limit)
        notes.say("no sessions match" if is_filtered else "no sessions yet: each prompt makes one")
    return 0


async def _listed(query: SessionQuery, environ: Mapping[str, str], notes: Notes) -> Page[Session]:
    async with opened(environ, notes) as store:
        return await store.sessions(query)


def show(flags: JsonFlags, environ: Mapping[str, str], notes: Notes) -> int:
    """Print a session with its turns.

    Raises:
        SessionNotFound, AmbiguousId: the word stands for no session.
    """
    settings_of(flags, environ, {}, notes)
    session, runs = asyncio.run(whole(flags.words[0], environ, notes))
    if flags.wants_json:
        fields = msgspec.structs.asdict(records.session_view(session))
        tell_json(Shown(**fields, turns=[records.run_item(run) for run in runs]))
        return 0
    now, most = time.time(), columns()
    lines = text.details(session, now, text.home_of(environ.get("HOME")), most)
    tell("\n".join(lines + (["", *text.turns(runs, now, most)] if runs else [])))
    return 0


async def whole(reference: str, environ: Mapping[str, str], notes: Notes) -> tuple[Session, list[RunRecord]]:
    """Give a session and its runs, oldest first."""
    async with opened(environ, notes) as store:
        session = await found(store, reference)
        return session, await _turns(store, session)


async def _turns(store: SessionStore, session: Session) -> list[RunRecord]:
    page = await store.runs(RunQuery(session_id=session.id, limit=ALL))
    return [*reversed(page.items)]
