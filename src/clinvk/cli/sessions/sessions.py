"""`clinvk sessions list`, `show` and `export`."""

import asyncio
import os
import time
from collections.abc import Mapping
from pathlib import Path

import msgspec

from clinvk.cli.parse.flags import ExportFlags, JsonFlags, ListFlags
from clinvk.cli.parse.settings import settings_of
from clinvk.cli.sessions import session_text as text
from clinvk.cli.sessions.local_store import ALL, found, opened, real_directory
from clinvk.cli.sessions.session_text import home_of, markdown
from clinvk.cli.terminal.output import Notes, columns, has_colors, shown, tell, tell_json
from clinvk.cli.terminal.table import colored
from clinvk.config.saving import replace_file
from clinvk.dialects.rest import views
from clinvk.store.protocol import Page, RunQuery, SessionQuery, SessionStore
from clinvk.types.errors import InvalidRequest
from clinvk.types.record import RunRecord
from clinvk.types.session import Session


class Shown(views.SessionView, frozen=True, kw_only=True):
    """A conversation with its turns, the oldest first."""

    turns: list[views.RunItem]


def list_all(flags: ListFlags, environ: Mapping[str, str], notes: Notes) -> int:
    """Print the sessions that match the flags.

    Raises:
        ClinvkError: the sessions cannot be read, or the backend or directory does not exist.
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
        number = "1 session" if page.unreadable == 1 else f"{page.unreadable} sessions"
        notes.say(f"{number} cannot be read: the database is damaged; see clinvk doctor")
    if flags.wants_json:
        items = [views.session_item(session) for session in sessions]
        tell_json(
            views.SessionList(sessions=items, total=total, limit=flags.limit, offset=0, unreadable=page.unreadable)
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
        SessionNotFound, AmbiguousId: the ID names no session, or several.
    """
    settings_of(flags, environ, {}, notes)
    session, runs = asyncio.run(whole(flags.words[0], environ, notes))
    if flags.wants_json:
        fields = msgspec.structs.asdict(views.session_view(session))
        tell_json(Shown(**fields, turns=[views.run_item(run) for run in runs]))
        return 0
    now, most = time.time(), columns()
    lines = text.details(session, now, text.home_of(environ.get("HOME")), most)
    tell("\n".join(lines + (["", *text.turns(runs, now, most)] if runs else [])))
    return 0


async def whole(reference: str, environ: Mapping[str, str], notes: Notes) -> tuple[Session, list[RunRecord]]:
    """Return a session and its runs, the oldest first."""
    async with opened(environ, notes) as store:
        session = await found(store, reference)
        return session, await _turns(store, session)


async def _turns(store: SessionStore, session: Session) -> list[RunRecord]:
    page = await store.runs(RunQuery(session_id=session.id, limit=ALL))
    return [*reversed(page.items)]


class Exported(views.SessionView, frozen=True, kw_only=True):
    """A conversation with all prompts and answers, the oldest turn first."""

    turns: list[views.RunView]


def export(flags: ExportFlags, environ: Mapping[str, str], notes: Notes) -> int:
    """Export a session.

    Raises:
        SessionNotFound, AmbiguousId: the ID names no session, or several.
        InvalidRequest: the file cannot be written, or the flags name two formats.
    """
    settings_of(flags, environ, {}, notes)
    if flags.wants_json and flags.format == "markdown":
        raise InvalidRequest("--json and --format markdown exclude each other")
    session, runs = asyncio.run(whole(flags.words[0], environ, notes))
    if flags.wants_json or flags.format == "json":
        fields = msgspec.structs.asdict(views.session_view(session))
        data = msgspec.json.encode(Exported(**fields, turns=[views.run_view(run) for run in runs]))
        text = msgspec.json.format(data, indent=2).decode() + "\n"
    else:
        text = markdown(session, runs, home_of(environ.get("HOME")))
    if flags.output is None or flags.output == "-":
        tell(shown(text.removesuffix("\n")))
    elif flags.dry_run:
        notes.say(f"would write {flags.output}")
    else:
        _write(flags.output, text)
        notes.say(f"wrote {flags.output}")
    return 0


def _write(file: str, text: str) -> None:
    """Replace a file atomically; write to a pipe or device directly."""
    path = Path(os.path.realpath(file))
    data = text.encode("utf-8", "replace")
    try:
        if path.exists() and not path.is_file():
            path.write_bytes(data)
        else:
            replace_file(path, data)
    except OSError as exc:
        raise InvalidRequest(f"--output: {file!r} cannot be written: {exc.strerror}", "--output") from exc
