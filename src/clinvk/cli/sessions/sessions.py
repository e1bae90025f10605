"""`clinvk sessions`: list, show and export conversations, and delete, clean, archive, fork, tag and rename them."""

import os
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator

import msgspec
from msgspec.structs import replace

from clinvk.cli.parse.flags import (
    CleanFlags,
    DeleteFlags,
    ExportFlags,
    JsonFlags,
    ListFlags,
    SearchFlags,
    ShowFlags,
    TagFlags,
)
from clinvk.cli.parse.settings import CommandContext, age_s
from clinvk.cli.sessions import session_text as text
from clinvk.cli.sessions.answers import print_answer, text_view
from clinvk.cli.sessions.local_store import ALL, directory_filter, find, over_store, within
from clinvk.cli.terminal import exits
from clinvk.cli.terminal.input import ask_yes_no, confirm
from clinvk.cli.terminal.output import DAY_S, date_and_time, print_json, print_text, printable
from clinvk.dialects.rest import views
from clinvk.store.protocol import Page, RunQuery, SessionQuery, SessionStore
from clinvk.store.words import RunMatch
from clinvk.types.errors import InvalidRequest, SessionBusy, SessionError
from clinvk.types.record import RunRecord, Session, valid_tag, valid_title, with_tags


def list_all(flags: ListFlags, context: CommandContext) -> int:
    """Print the sessions that match the flags.

    Raises:
        ClinvkError: the sessions cannot be read, or the backend or directory does not exist.
    """
    return _list(flags, context, flags.search)


def search(flags: SearchFlags, context: CommandContext) -> int:
    """Print the sessions with the words in prompts and answers, or in the title. Raises like `list_all`."""
    return _list(flags, context, " ".join(flags.words))


def _list(flags: SearchFlags, context: CommandContext, wanted: str | None) -> int:
    every = SessionQuery(
        backend=flags.backend,
        status=flags.status,
        tag=flags.tag,
        text=wanted,
        archived=flags.archived,
        limit=flags.limit or ALL,
    )
    query = within(every, directory_filter(flags, flags.here))

    async def read(store: SessionStore) -> tuple[Page[Session], dict[str, float], dict[str, RunMatch]]:
        page = await store.sessions(query)
        ids = [session.id for session in page.items]
        return page, await store.costs(ids), await store.matches(wanted, ids) if wanted else {}

    page, costs, matches = over_store(context, read)
    found = page.items

    def listed() -> views.SessionList:
        items = [views.session_item(session, costs, matches) for session in found]
        return views.SessionList(sessions=items, total=page.total, limit=flags.limit, offset=0)

    def table(view: text.TextView) -> list[str]:
        return text.sessions_table(found, costs, view, matches={id_: match.text for id_, match in matches.items()})

    remark = f"{len(found)} of {page.total:,}; --limit 0 shows all" if page.total > len(found) else ""
    if not found:
        remark = "no sessions match" if query != SessionQuery(limit=query.limit) else "no sessions yet"
    return print_answer(flags, context, listed, table, remark)


def show(flags: ShowFlags, context: CommandContext) -> int:
    """Print a session with its newest turns, their prompts and answers; as JSON with all turns.

    Raises:
        SessionNotFound, AmbiguousId: the ID names no session, or several.
    """
    session, runs = _with_runs(flags, context)
    newest = runs[-flags.limit :]
    first = len(runs) - len(newest) + 1

    def shown(view: text.TextView) -> Iterator[str]:
        yield from text.details(session, view)
        if newest:
            yield from ("", *text.turns(newest, view._replace(style=None), first))
            yield from text.conversation(newest, view, first)

    remark = f"the newest {len(newest)} of {len(runs):,} turns; --limit 0 shows all" if first > 1 else ""
    return print_answer(flags, context, lambda: _with_turns(session, map(views.run_item, runs)), shown, remark)


def export(flags: ExportFlags, context: CommandContext) -> int:
    """Export a session with all prompts and answers.

    Raises:
        SessionNotFound, AmbiguousId: the ID names no session, or several.
        InvalidRequest: the flags name two formats.
    """
    if flags.wants_json and flags.format == "markdown":
        raise InvalidRequest("--json and --format markdown exclude each other")
    session, runs = _with_runs(flags, context)
    if flags.wants_json or flags.format == "json":
        data = msgspec.json.encode(_with_turns(session, map(views.run_view, runs)))
        exported = msgspec.json.format(data, indent=2).decode() + "\n"
    else:
        exported = text.markdown(session, runs, text_view(context).home)
    print_text(printable(exported.removesuffix("\n")))
    return 0


def _with_turns(session: Session, turns: Iterable[views.RunItem]) -> dict[str, object]:
    """Return the JSON of a session with its turns, the oldest first."""
    return {**msgspec.to_builtins(views.session_view(session)), "turns": [*turns]}


def _with_runs(flags: JsonFlags, context: CommandContext) -> tuple[Session, list[RunRecord]]:
    """Return the session of the first argument and its runs, the oldest first."""

    async def read(store: SessionStore) -> tuple[Session, list[RunRecord]]:
        session = await find(store.session(flags.words[0]))
        page = await store.runs(RunQuery(session_id=session.id, limit=ALL))
        return session, [*reversed(page.items)]

    return over_store(context, read)


def delete(flags: DeleteFlags, context: CommandContext) -> int:
    """Delete sessions; on a terminal ask first.

    Raises:
        InvalidRequest: stdin is not a terminal, and `--yes` is missing.
        SessionNotFound, AmbiguousId: an ID names no session, or several; nothing was deleted.
        SessionBusy: some sessions have a run in progress; the others were deleted.
    """
    from clinvk.runtime.sessions import kept_worktree

    busy: list[str] = []

    async def deleted(store: SessionStore) -> list[Session]:
        gone: list[Session] = []
        for session in wanted:
            try:
                await store.delete(session.id)
                gone.append(session)
            except SessionError as exc:
                busy.append(exc.message)
        return gone

    wanted = over_store(context, lambda store: _named(store, flags.words))
    if not (flags.yes or flags.dry_run) and not confirm("delete", [*map(_line, wanted)], "sessions"):
        context.notes.info("nothing was deleted")
        return exits.CANCELLED
    gone = wanted if flags.dry_run else over_store(context, deleted)
    verb = "would delete" if flags.dry_run else "deleted"
    value = {"deleted": [session.id for session in gone], "dry_run": flags.dry_run}
    print_answer(flags, context, lambda: value, lambda _: [f"{verb} {_line(session)}" for session in gone])
    for id_ in filter(None, map(kept_worktree, gone)):
        context.notes.info(f"worktree {id_} stays: clinvk worktrees discard {id_} removes it")
    if busy:
        raise SessionBusy("; ".join(busy))
    return 0


def archive(flags: JsonFlags, context: CommandContext) -> int:
    """Archive sessions.

    Raises:
        SessionNotFound, AmbiguousId: an ID names no session, or several; nothing was changed.
    """
    return _archive(flags, context, True)


def unarchive(flags: JsonFlags, context: CommandContext) -> int:
    """Take sessions out of the archive. Raises like `archive`."""
    return _archive(flags, context, False)


def _archive(flags: JsonFlags, context: CommandContext, archived: bool) -> int:
    async def changed(store: SessionStore) -> list[Session]:
        wanted = await _named(store, flags.words)
        for session in () if flags.dry_run else wanted:
            await store.describe(session.id, None, None, archived)
        return wanted

    changes = over_store(context, changed)
    verb = "archive" if archived else "unarchive"
    value = {f"{verb}d": [session.id for session in changes], "dry_run": flags.dry_run}
    did = f"would {verb}" if flags.dry_run else f"{verb}d"
    return print_answer(flags, context, lambda: value, lambda _: [f"{did} {_line(session)}" for session in changes])


async def _named(store: SessionStore, references: Iterable[str]) -> list[Session]:
    """Return the sessions with these IDs, each session once."""
    wanted = [await find(store.session(reference)) for reference in references]
    return list({session.id: session for session in wanted}.values())


def _line(session: Session) -> str:
    return f"{text.short_id(session.id)}  {text.short_title(session)}".rstrip()


def clean(flags: CleanFlags, context: CommandContext) -> int:
    """Delete old sessions; on a terminal ask first.

    Raises:
        InvalidRequest: `--older-than` is not an age.
    """
    kept_s = context.settings.session.retention_days * DAY_S
    age = kept_s if flags.older_than is None else age_s(flags.older_than, "--older-than")
    if not age:
        if flags.wants_json:
            print_json({"deleted": 0, "before": None, "dry_run": flags.dry_run})
        context.notes.info("session.retention_days is 0: sessions are kept forever; use --older-than to delete some")
        return 0
    before = max(0.0, time.time() - age)

    def clean_store(dry_run: bool) -> int:
        return over_store(context, lambda store: store.clean(before, dry_run))

    def described(number: int) -> str:
        return f"{number:,} session{'' if number == 1 else 's'}, last used before {date_and_time(before)}"

    if os.isatty(0) and not (flags.yes or flags.dry_run):
        old = clean_store(dry_run=True)
        if old and not ask_yes_no(f"Delete {described(old)}"):
            context.notes.info("nothing was deleted")
            return exits.CANCELLED
    number = clean_store(flags.dry_run)
    line = f"{'would delete' if flags.dry_run else 'deleted'} {described(number)}"
    value = {"deleted": number, "before": views.time(before), "dry_run": flags.dry_run}
    return print_answer(flags, context, lambda: value, lambda _: [line])


def fork(flags: JsonFlags, context: CommandContext) -> int:
    """Fork a session; print the new ID, and how to continue.

    Raises:
        SessionNotFound, AmbiguousId: the ID names no session, or several.
        NotResumable, BackendUnavailable, Unsupported: the conversation cannot be forked.
    """
    from clinvk.runtime import sessions

    async def forked(store: SessionStore, parent: Session) -> Session:
        new_id = os.urandom(16).hex()
        return parent if flags.dry_run else await sessions.fork(store, parent.id, new_id, context.backends)

    session = _changed(flags, context, forked)
    how = "" if flags.dry_run else f'to continue: clinvk resume {text.short_id(session.id)} "..."'

    def printed(view: text.TextView) -> list[str]:
        own = text.short_id(session.id) if view.most else session.id  # a script gets the whole ID
        return [f"would fork {_line(session)}" if flags.dry_run else own]

    return print_answer(flags, context, lambda: views.session_view(session), printed, how)


def tag(flags: TagFlags, context: CommandContext) -> int:
    """Tag a session.

    Raises:
        SessionNotFound, AmbiguousId: the ID names no session, or several.
        InvalidRequest: no tag is given, or a tag is invalid.
    """
    added = [valid_tag(word) for word in flags.words[1:]]
    removed = [valid_tag(word) for word in flags.remove]
    if not added and not removed:
        raise InvalidRequest("sessions tag needs a TAG, or --remove TAG")

    async def tagged(store: SessionStore, session: Session) -> Session:
        if flags.dry_run:
            return replace(session, tags=with_tags(session.tags, added, removed))
        return await store.tag(session.id, added, removed)

    session = _changed(flags, context, tagged)
    line = f"{text.short_id(session.id)}  {', '.join(session.tags) or '(no tags)'}"
    return _print_changed(flags, context, session, line)


def rename(flags: JsonFlags, context: CommandContext) -> int:
    """Set the title of a session.

    Raises:
        SessionNotFound, AmbiguousId: the ID names no session, or several.
        InvalidRequest: the title is invalid.
    """
    title = valid_title(flags.words[1])

    async def renamed(store: SessionStore, session: Session) -> Session:
        return replace(session, title=title) if flags.dry_run else await store.describe(session.id, title, None)

    session = _changed(flags, context, renamed)
    return _print_changed(flags, context, session, _line(session))


def _print_changed(flags: JsonFlags, context: CommandContext, session: Session, line: str) -> int:
    """Print a session after a change; in a dry run, as the session would be."""
    would = "would be " if flags.dry_run else ""
    return print_answer(flags, context, lambda: views.session_view(session), lambda _: [would + line])


def _changed(
    flags: JsonFlags, context: CommandContext, change: Callable[[SessionStore, Session], Awaitable[Session]]
) -> Session:
    """Return the session of the first argument after a change."""

    async def changed(store: SessionStore) -> Session:
        return await change(store, await find(store.session(flags.words[0])))

    return over_store(context, changed)
