"""`clinvk sessions delete`, `clean`, `fork`, `tag` and `rename`."""

import asyncio
import os
import time
from collections.abc import Mapping, Sequence

import msgspec
from msgspec.structs import replace

from clinvk.cli.parse.flags import CleanFlags, DeleteFlags, JsonFlags, TagFlags
from clinvk.cli.parse.settings import settings_of
from clinvk.cli.sessions.local_store import found, opened
from clinvk.cli.sessions.session_text import short_ids, titled
from clinvk.cli.terminal import exits
from clinvk.cli.terminal.input import agreed
from clinvk.cli.terminal.output import Notes, tell, tell_json
from clinvk.cli.terminal.table import cut
from clinvk.cli.terminal.times import age_s, at_length
from clinvk.config.model import Settings
from clinvk.dialects.rest import views
from clinvk.runtime import sessions
from clinvk.types.errors import InvalidRequest, SessionBusy, SessionError
from clinvk.types.session import Session, as_tag, as_title, retagged

_DAY_S = 86400.0
_TITLE_SHOWN = 50


class Deleted(msgspec.Struct, frozen=True):
    """The sessions that were deleted."""

    deleted: list[str]
    dry_run: bool


class Cleaned(msgspec.Struct, frozen=True):
    """The number of deleted sessions; `before` is null if sessions are kept forever."""

    deleted: int
    before: str | None
    dry_run: bool


def delete(flags: DeleteFlags, environ: Mapping[str, str], notes: Notes) -> int:
    """Delete sessions; on a terminal ask first.

    Raises:
        InvalidRequest: stdin is not a terminal, and `--yes` is missing.
        SessionNotFound, AmbiguousId: an ID names no session, or several; nothing was deleted.
        SessionBusy: some sessions have a run in progress; the others were deleted.
    """
    settings_of(flags, environ, {}, notes)
    wanted = asyncio.run(_wanted(flags.words, environ, notes))
    if not (flags.yes or flags.dry_run) and not agreed("delete", _named(wanted), "sessions"):
        notes.say("nothing was deleted")
        return exits.CANCELLED
    deleted, busy = asyncio.run(_deleted([] if flags.dry_run else wanted, environ, notes))
    gone = wanted if flags.dry_run else deleted
    if flags.wants_json:
        tell_json(Deleted([session.id for session in gone], flags.dry_run))
    elif gone:
        verb = "would delete" if flags.dry_run else "deleted"
        tell("\n".join(f"{verb} {line}" for line in _named(gone)))
    if busy:
        raise SessionBusy("; ".join(error.message for error in busy))
    return 0


async def _wanted(references: Sequence[str], environ: Mapping[str, str], notes: Notes) -> list[Session]:
    async with opened(environ, notes) as store:
        sessions = [await found(store, reference) for reference in references]
    return list({session.id: session for session in sessions}.values())


async def _deleted(
    wanted: Sequence[Session], environ: Mapping[str, str], notes: Notes
) -> tuple[list[Session], list[SessionError]]:
    deleted: list[Session] = []
    failed: list[SessionError] = []
    async with opened(environ, notes) as store:
        for session in wanted:
            try:
                await store.delete(session.id)
            except SessionError as exc:
                failed.append(exc)
            else:
                deleted.append(session)
    return deleted, failed


def _named(wanted: Sequence[Session]) -> list[str]:
    ids = short_ids([session.id for session in wanted])
    return [
        f"{short}  {cut(titled(session), _TITLE_SHOWN)}".rstrip() for short, session in zip(ids, wanted, strict=True)
    ]


def clean(flags: CleanFlags, environ: Mapping[str, str], notes: Notes) -> int:
    """Delete old sessions.

    Raises:
        InvalidRequest: `--older-than` is not an age.
    """
    age = _age_s(flags, settings_of(flags, environ, {}, notes))
    if age is None:
        if flags.wants_json:
            tell_json(Cleaned(0, None, flags.dry_run))
        notes.say("session.retention_days is 0: sessions are kept forever; use --older-than to delete some")
        return 0
    now = time.time()
    before = max(0.0, now - age)
    number = asyncio.run(_cleaned(before, flags.dry_run, environ, notes))
    if flags.wants_json:
        tell_json(Cleaned(number, views.time(before), flags.dry_run))
    else:
        what = f"{number:,} session{'' if number == 1 else 's'}, last used before {at_length(before)}"
        tell(f"{'would delete' if flags.dry_run else 'deleted'} {what}")
    return 0


def _age_s(flags: CleanFlags, settings: Settings) -> float | None:
    if flags.older_than is not None:
        return age_s(flags.older_than, "--older-than")
    return settings.session.retention_days * _DAY_S or None


async def _cleaned(before: float, dry_run: bool, environ: Mapping[str, str], notes: Notes) -> int:
    async with opened(environ, notes) as store:
        return await store.clean(before, dry_run)


def fork(flags: JsonFlags, environ: Mapping[str, str], notes: Notes) -> int:
    """Fork a session; print the new ID.

    Raises:
        SessionNotFound, AmbiguousId: the ID names no session, or several.
        NotResumable, BackendUnavailable, Unsupported: the conversation cannot be forked.
    """
    settings_of(flags, environ, {}, notes)
    session = asyncio.run(_forked(flags, environ, notes))
    if flags.wants_json:
        tell_json(views.session_view(session))
    elif flags.dry_run:
        tell(f"would fork {_named([session])[0]}")
    else:
        tell(session.id)
    return 0


async def _forked(flags: JsonFlags, environ: Mapping[str, str], notes: Notes) -> Session:
    async with opened(environ, notes) as store:
        parent = await found(store, flags.words[0])
        return parent if flags.dry_run else await sessions.fork(store, parent.id, os.urandom(16).hex())


def tag(flags: TagFlags, environ: Mapping[str, str], notes: Notes) -> int:
    """Tag a session.

    Raises:
        SessionNotFound, AmbiguousId: the ID names no session, or several.
        InvalidRequest: no tag is given, or a tag is invalid.
    """
    settings_of(flags, environ, {}, notes)
    added = [as_tag(text) for text in flags.words[1:]]
    removed = [as_tag(text) for text in flags.remove]
    if not added and not removed:
        raise InvalidRequest("sessions tag needs a TAG, or --remove TAG")

    async def changed() -> Session:
        async with opened(environ, notes) as store:
            session = await found(store, flags.words[0])
            if flags.dry_run:
                return replace(session, tags=retagged(session.tags, added, removed))
            return await store.tag(session.id, added, removed)

    session = asyncio.run(changed())
    if flags.wants_json:
        tell_json(views.session_view(session))
    else:
        would = "would be " if flags.dry_run else ""
        tell(f"{would}{short_ids([session.id])[0]}  {', '.join(session.tags) or '(no tags)'}")
    return 0


def rename(flags: JsonFlags, environ: Mapping[str, str], notes: Notes) -> int:
    """Set the title of a session.

    Raises:
        SessionNotFound, AmbiguousId: the ID names no session, or several.
        InvalidRequest: the title is invalid.
    """
    settings_of(flags, environ, {}, notes)
    title = as_title(flags.words[1])

    async def changed() -> Session:
        async with opened(environ, notes) as store:
            session = await found(store, flags.words[0])
            if flags.dry_run:
                return replace(session, title=title)
            return await store.describe(session.id, title, None)

    session = asyncio.run(changed())
    if flags.wants_json:
        tell_json(views.session_view(session))
    else:
        tell(f"{'would be ' if flags.dry_run else ''}{_named([session])[0]}")
    return 0
