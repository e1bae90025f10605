"""Choose the session of a prompt: the current session, the newest session, or a new session."""

import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from msgspec.structs import replace

from clinvk.cli.parse.settings import CommandContext, age_s
from clinvk.cli.sessions.local_store import has_directory, real_directory, within
from clinvk.cli.sessions.session_text import directory as shown_directory
from clinvk.cli.sessions.session_text import home_of, short_id, short_title
from clinvk.cli.terminal.input import ask_yes_no
from clinvk.cli.terminal.output import DAY_S, Notes, time_ago
from clinvk.config.model import Settings
from clinvk.policy.rules import APPROVAL, SANDBOX, modes_up_to
from clinvk.store.protocol import RunQuery, SessionQuery, SessionStore
from clinvk.types.errors import SessionNotFound
from clinvk.types.record import RunRecord, Session
from clinvk.types.request import RunRequest

_LOOKED_AT = 16
"""Sessions read at once in the search for one that can be resumed. The first one nearly always can."""


class SessionChoice(NamedTuple):
    """The session to resume, or None for a new one. `is_own` marks a choice that the user did not ask for."""

    session: Session | None = None
    note: str = ""
    is_own: bool = False


async def newest(store: SessionStore, backend: str | None, workdir: str | None, notes: Notes) -> SessionChoice:
    """Choose the newest session that can be resumed. A note names newer sessions whose directories are gone.

    Raises:
        SessionNotFound: no session can be resumed.
    """
    query = within(SessionQuery(backend=backend, resumable=True, limit=_LOOKED_AT), workdir)
    gone: list[Session] = []
    while items := (await store.sessions(replace(query, offset=len(gone)))).items:
        for session in items:
            if has_directory(session):
                _note_missing(gone, notes)
                return session_choice(session, notes)
            gone.append(session)
    _note_missing(gone, notes)
    of = f" of {backend}" if backend else ""
    where = f" in {workdir}" if workdir else ""
    raise SessionNotFound(f"no session{of}{where} to resume")


def _note_missing(gone: Sequence[Session], notes: Notes) -> None:
    if len(gone) > 1:
        notes.info(f"{len(gone):,} sessions skipped: their directories are gone")
    for session in gone if len(gone) == 1 else ():
        notes.info(f"skipping session {short_id(session.id)}: its directory {session.working_dir!r} is gone")


def session_choice(session: Session, notes: Notes) -> SessionChoice:
    """Choose a session. The note names a directory other than the current one."""
    last_used = time_ago(session.last_used, time.time())
    what = f"continuing {_name(session, notes)} ({session.backend}, {last_used})"
    if session.worktree:
        what = f"{what} in worktree {session.worktree}"
    return SessionChoice(session, f"{what} in {session.project}" if _is_elsewhere(session) else what)


def _is_elsewhere(session: Session) -> bool:
    return session.project not in ("", real_directory(None))


def _name(session: Session, notes: Notes) -> str:
    """Return the title of a session on a terminal, the ID elsewhere."""
    title = short_title(session) if notes.is_terminal else ""
    return f"“{title}”" if title else f"session {short_id(session.id)}"


async def resumed(store: SessionStore, request: RunRequest, settings: Settings, notes: Notes) -> SessionChoice:
    """Choose the current session of the agent in the directory, unless it is too old or had stricter modes.

    A session of another node of a cluster cannot be continued here.
    """
    session = await store.current(request.backend, real_directory(request.workdir))
    now = time.time()
    ages: list[float] = [settings.session.retention_days * DAY_S]
    if isinstance(settings.session.auto_resume, str):
        ages.append(age_s(settings.session.auto_resume, "session.auto_resume"))
    if session is None or any(0 < most < now - session.last_used for most in ages):
        return SessionChoice()
    if session.node and settings.cluster.node not in ("", session.node):
        return SessionChoice()
    last = (await store.runs(RunQuery(session_id=session.id, limit=1))).items
    if last and (looser := _looser_mode(request, last[0])):
        short = short_id(session.id)
        of = f"{looser}, the mode of {_name(session, notes)}"
        return SessionChoice(note=f"new session: {of}; to continue that one: clinvk resume {short}")
    when = time_ago(session.last_used, now)
    return SessionChoice(session, f"continuing {_name(session, notes)} ({when}); --new starts another", is_own=True)


async def mode_change(store: SessionStore, request: RunRequest) -> str:
    """Return which modes of a request differ from those of the last run of its session; empty if none does."""
    last = (await store.runs(RunQuery(session_id=request.session_id, limit=1))).items
    if not last:
        return ""
    modes = _modes(request, last[0])
    changed = (each for each in modes if _unasked(each[1]) != _unasked(each[2]))
    changes = [f"{name} mode {mode} instead of {previous}" for name, mode, previous, _ in changed]
    return f", now with {' and '.join(changes)}" if changes else ""


def _looser_mode(request: RunRequest, last: RunRecord) -> str:
    """Return which mode of a request allows the agent more than the last run; empty if none does.

    `ask` is no looser than `default`: the agent does no more by itself.
    """
    for name, mode, previous, order in _modes(request, last):
        if _unasked(mode) not in modes_up_to(order, _unasked(previous)):
            return f"{name} mode {mode} is looser than {previous}"
    return ""


def _modes(request: RunRequest, last: RunRecord) -> Iterator[tuple[str, str, str, tuple[str, ...]]]:
    """Yield the name of each kind of mode, the modes of a request and of the last run, and all modes in order."""
    for name, order in (("approval", APPROVAL), ("sandbox", SANDBOX)):
        field = f"{name}_mode"
        yield name, getattr(request, field) or "default", str(last.request.get(field) or "default"), order


def _unasked(mode: str) -> str:
    return "default" if mode == "ask" else mode


def is_wanted(choice: SessionChoice, context: CommandContext) -> bool:
    """Ask whether to continue a session of another directory, where the agent would work."""
    session = choice.session
    if session is None or not _is_elsewhere(session):
        return True
    where = shown_directory(session.project, home_of(context.environ.get("HOME")))
    return ask_yes_no(f"The newest conversation is {_name(session, context.notes)} in {where}. Continue there")
