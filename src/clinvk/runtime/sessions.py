"""Sessions for runs: the directory of a conversation, the handle that resumes it, and forks."""

import os
import time
from collections.abc import Mapping
from functools import partial
from math import inf

from msgspec.structs import replace

from clinvk.backends import registry as backends
from clinvk.backends.base import Backend
from clinvk.runtime.process.waiting import Lookups
from clinvk.store.protocol import RunQuery, SessionStore
from clinvk.types.errors import InvalidRequest, NotResumable, SessionBusy, SessionNotFound, Unsupported
from clinvk.types.events import Usage
from clinvk.types.record import Resume, RunRecord, Session
from clinvk.types.request import RunRequest

_MAX_TURNS = 1000


async def fork(store: SessionStore, reference: str, session_id: str, registry: Mapping[str, Backend]) -> Session:
    """Store a new session that branches off another session's conversation; the parent stays unchanged.

    No agent starts. The fork's first run branches off, from the parent's state at the time.

    Raises:
        SessionNotFound, AmbiguousId: raised by the store.
        SessionBusy: the parent's agent has not reported a session id yet.
        NotResumable: the parent's agent never reported a session id.
        BackendUnavailable, Unsupported: the backend is unknown, or its CLI cannot branch off.
    """
    parent = await store.session(reference)
    handle_of(parent)
    capabilities = backends.backend_named(parent.backend, registry).capabilities
    if not (capabilities.resume and capabilities.fork):
        raise Unsupported(f"{parent.backend} cannot branch off a conversation: session {parent.id!r} cannot be forked")
    at = time.time()
    session = replace(
        parent,
        id=session_id,
        created_at=at,
        last_used=at,
        status="completed",
        turn_count=0,
        token_usage=Usage(),
        error_message=None,
        parent_id=parent.id,
        forks_parent=True,
        archived=False,
    )
    await store.create(session)
    return session


async def in_session_directory(request: RunRequest, session: Session, lookups: Lookups) -> RunRequest:
    """Return the request with the directory of its session: Claude Code and Gemini bind a conversation to a directory.

    Raises:
        InvalidRequest: the session belongs to another backend, the run is ephemeral, or its file system hangs.
        NotResumable: the directory does not exist any more, and is in no worktree.
    """
    if request.backend != session.backend and not request.continue_with:
        raise InvalidRequest(
            f"session {session.id!r} is of backend {session.backend!r}, not {request.backend!r}; continue_with "
            "(--continue-with on the command line) lets another agent continue it",
            "backend",
        )
    if request.ephemeral:
        raise InvalidRequest("a run that continues a session cannot be ephemeral: it becomes a part of it", "ephemeral")
    directory = "" if session.worktree else session.working_dir
    if directory and not await lookups.run(partial(os.path.isdir, directory), directory):
        raise NotResumable(
            f"session {session.id!r} belongs to the directory {session.working_dir!r}, which does not exist any more"
        )
    return replace(request, session_id=session.id, workdir=session.working_dir or None)


def kept_worktree(session: Session) -> str | None:
    """Return the id of the worktree of a session if the worktree exists. Blocks."""
    return session.worktree if session.worktree and os.path.isdir(session.working_dir) else None


async def with_modes(store: SessionStore, request: RunRequest, session: Session) -> RunRequest:
    """Return the request with the modes of the session's last run, where the request names none."""
    for last in (await store.runs(RunQuery(session_id=session.id, limit=1))).items:
        modes = {name: getattr(request, name) or last.request.get(name) for name in ("approval_mode", "sandbox_mode")}
        request = replace(request, **modes)
    return request


async def turns_before(store: SessionStore, session: Session, before: float = inf) -> list[RunRecord]:
    """Return the runs of a session that started before a time, oldest first, at most `_MAX_TURNS`.

    The turns of a fork's parent before the fork are among them.
    """
    earlier: list[RunRecord] = []
    while True:
        turns = (await store.runs(RunQuery(session_id=session.id, limit=_MAX_TURNS))).items
        earlier = [turn for turn in reversed(turns) if (turn.started_at or inf) < before] + earlier
        if earlier:
            before = earlier[0].started_at or before
        if session.parent_id is None or len(earlier) >= _MAX_TURNS:
            return earlier
        try:
            session = await store.session(session.parent_id)
        except SessionNotFound:  # deleted; its fork stays
            return earlier


async def resume(store: SessionStore, session: Session) -> Resume:
    """Return the agent's session id and token counts that resume a session.

    Raises:
        SessionBusy: the agent has not reported a session id yet.
        NotResumable: the agent never reported a session id.
    """
    origin = await _origin(store, session)
    return Resume(handle_of(origin), _counted(origin), session.forks_parent)


def handle_of(session: Session) -> str:
    """Return the agent's session id of the conversation.

    Raises:
        SessionBusy: the first turn has not reported the id yet.
        NotResumable: the agent never reported the id.
    """
    if not session.backend_session_id and session.status == "active":
        raise SessionBusy(f"session {session.id!r} is busy: its first run is in progress")
    if not session.backend_session_id:
        raise NotResumable(f"session {session.id!r} cannot be continued: its agent never reported a session id")
    return session.backend_session_id


async def _origin(store: SessionStore, session: Session) -> Session:
    """Return the session whose conversation is resumed: the parent for a fork without runs, else `session`.

    The parent may have continued since, and its agent may have changed the session id.
    """
    while session.forks_parent and session.parent_id:
        try:
            session = await store.session(session.parent_id)
        except SessionNotFound:  # deleted in the store, but not in the agent's record
            break
    return session


def _counted(session: Session) -> Usage:
    """Return the token counts that the agent starts from; an imported session has only a total."""
    return session.counted if session.counted != Usage() else session.token_usage
