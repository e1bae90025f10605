"""The endpoints below `/api/v1/worktrees`. The beginning of an id identifies a worktree if it is unique."""

from collections.abc import Sequence
from functools import partial
from typing import Annotated, Literal

import msgspec
from msgspec import Meta
from starlette.requests import Request

from clinvk.api.access.hosts import refuse_foreign
from clinvk.api.endpoints.request_admission import Caller
from clinvk.api.endpoints.services import Services
from clinvk.api.http.response import read_json, within_prepare_timeout
from clinvk.dialects import json_bodies
from clinvk.dialects.dialect import Call, copy_as
from clinvk.dialects.rest import views
from clinvk.runtime.worktrees.commit_message import message_of, message_request
from clinvk.runtime.worktrees.git import ISOLATION
from clinvk.runtime.worktrees.kept_worktrees import State, WorktreeApplied, WorktreeCommitted, WorktreeListed
from clinvk.runtime.worktrees.worktrees import DIFF_BYTES
from clinvk.store.protocol import RunQuery, SessionQuery
from clinvk.types.errors import InvalidRequest
from clinvk.types.orchestration import Alteration, ChangedFile
from clinvk.types.record import RunRecord, Session
from clinvk.types.request import RunRequest

_MESSAGE_CHARS = 100_000


class WorktreeItem(msgspec.Struct, frozen=True, kw_only=True):
    """A git worktree with the changes of an agent."""

    id: str
    state: Annotated[State, Meta(description="in use: an agent is at work. broken: git cannot examine the worktree.")]
    repository: Annotated[str, Meta(description="Top of the tree that the worktree was made from.")]
    path: Annotated[str, Meta(description="The agent's working directory.")]
    branch: str
    base: Annotated[str, Meta(description="The commit that the worktree was made from.")]
    made_at: Annotated[str, Meta(description="RFC 3339, UTC, milliseconds.")]
    files: Annotated[tuple[ChangedFile, ...], Meta(description="Changed files; empty while the worktree is in use.")]
    problem: Annotated[str | None, Meta(description="Why the worktree cannot be examined completely.")]


class WorktreeView(WorktreeItem, frozen=True, kw_only=True):
    """A worktree with its runs and changes."""

    runs: Annotated[list[views.RunItem], Meta(description="The runs of the sessions in the worktree, oldest first.")]
    diff: Annotated[str | None, Meta(description="A patch for `git apply`; null while the worktree is in use.")]
    diff_is_cut: Annotated[bool, Meta(description=f"Whether the diff was cut after {DIFF_BYTES:,} bytes.")]


class WorktreeList(msgspec.Struct, frozen=True, kw_only=True):
    """Worktrees, oldest first."""

    worktrees: list[WorktreeItem]


class Discarded(msgspec.Struct, frozen=True, kw_only=True):
    """A removed worktree, with its branch and changes."""

    discarded: Literal[True] = True
    id: str


class CommitBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The message of a commit."""

    message: Annotated[str, Meta(max_length=_MESSAGE_CHARS, examples=["Fix the failing test"])]


class ProposedMessage(msgspec.Struct, frozen=True, kw_only=True):
    """A commit message: a subject of at most 72 characters, and perhaps a blank line and a body."""

    message: str


class ChangesQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which changes of a session to show."""

    since: Annotated[
        Annotated[str, Meta(pattern="^[0-9a-f]{32}$")] | None,
        Meta(description="Only the changes since this run of the session began."),
    ] = None


class FileChanged(msgspec.Struct, frozen=True):
    """A changed file with the numbers of its lines, null for a binary file."""

    path: str
    status: Alteration
    added: int | None
    removed: int | None


class SessionChanges(msgspec.Struct, frozen=True, kw_only=True):
    """What has changed in the directory of a session."""

    files: list[FileChanged]
    diff: Annotated[str, Meta(description="A patch for `git apply`.")]
    diff_is_cut: Annotated[bool, Meta(description=f"Whether the diff was cut after {DIFF_BYTES:,} bytes.")]
    branch: str | None
    worktree: Annotated[str | None, Meta(description="The id of the worktree; null for uncommitted changes.")]
    since: Annotated[str | None, Meta(description="The run since whose beginning the changes are.")]


_commits = json_bodies.decoder(CommitBody)


async def list_worktrees(services: Services, _: Request) -> WorktreeList:
    """List the worktrees in which agents have left changes."""
    return WorktreeList(worktrees=[*map(_item, await services.worktrees.list())])


async def get_worktree(services: Services, request: Request) -> WorktreeView:
    """Show a worktree with its runs and changes."""
    listed = await services.worktrees.show(await services.worktrees.find(request.path_params["id"]))
    runs = [run for session in await _sessions(services, listed) for run in await _runs(services, session)]
    patch = listed.patch
    diff = None if patch is None else patch[: patch.rfind(b"\n", 0, DIFF_BYTES) + 1].decode(errors="replace")
    return copy_as(
        WorktreeView,
        _item(listed),
        runs=[*map(views.run_item, sorted(runs, key=lambda run: run.created_at))],
        diff=diff,
        diff_is_cut=patch is not None and len(patch) > DIFF_BYTES,
    )


async def apply_worktree(services: Services, request: Request) -> WorktreeApplied:
    """Apply the changes of a worktree to the tree that it was made from, uncommitted, and remove the worktree.

    All changes are applied, or none.
    """
    return await services.worktrees.apply((await _changeable(services, request)).id)


async def commit_worktree(services: Services, request: Request) -> WorktreeCommitted:
    """Commit the changes of a worktree on its branch, which stays, and remove the worktree.

    The commit is by the author in the settings of git. No hooks run.
    """
    body = json_bodies.decode(await read_json(request.scope, request.receive, services.settings.server), _commits)
    return await services.worktrees.commit((await _changeable(services, request)).id, body.message)


async def propose_message(services: Services, request: Request) -> ProposedMessage:
    """Let the agent of the worktree propose a commit message. The agent reads the changes, and keeps no session."""
    listed = await _changeable(services, request)
    session = next(iter(await _sessions(services, listed)), None)
    backend = session.backend if session else services.settings.default_backend
    asked = message_request(listed.id, listed.patch, listed.path, backend, session.model if session else None)
    admitted = await services.admission.admit(Call(request=asked), Caller.of(request.scope["state"]))
    async with services.runs.run(admitted.request) as run:
        return ProposedMessage(message=message_of(await run.log.result()))


async def get_changes(services: Services, request: Request, query: ChangesQuery) -> SessionChanges:
    """Show what has changed in the directory of a session.

    In a worktree, these are all changes, or with `since` those since the beginning of a turn. In another repository,
    these are the uncommitted changes.
    """
    key_name: str = request.state.key_name
    session = await services.store.session(request.path_params["id"])
    await services.admission.key_policy.check_session(session, key_name)
    if session.worktree:
        found = services.worktrees.changes(session.worktree, query.since or "")
    elif query.since:
        raise InvalidRequest(f"session {session.id!r} has no worktree: only its uncommitted changes are known", "since")
    else:
        reading = RunRequest(backend=session.backend, workdir=session.project, key_name=key_name)
        found = services.worktrees.uncommitted(session.project, partial(services.admission.check_repository, reading))
    try:
        changes = await within_prepare_timeout(found)
    except InvalidRequest as exc:
        if type(exc) is InvalidRequest and exc.field == ISOLATION:
            raise InvalidRequest(
                f"changes are unknown: {session.project!r} is in no git repository with files"
            ) from exc
        raise
    return SessionChanges(
        files=[FileChanged(file.path, file.change, file.added, file.deleted) for file in changes.files],
        diff=changes.diff,
        diff_is_cut=changes.is_cut,
        branch=changes.branch,
        worktree=session.worktree,
        since=query.since,
    )


async def discard_worktree(services: Services, request: Request) -> Discarded:
    """Remove a worktree, with its branch and changes."""
    id_ = (await _changeable(services, request)).id
    await services.worktrees.discard(id_)
    return Discarded(id=id_)


async def _changeable(services: Services, request: Request) -> WorktreeListed:
    """Return the worktree of the path.

    The request must be allowed to run the worktree's agent in the repository, with permission to write there.
    """
    refuse_foreign(request.scope)
    listed = await services.worktrees.show(await services.worktrees.find(request.path_params["id"]))
    sessions = await _sessions(services, listed)
    admission, backend = services.admission, sessions[0].backend if sessions else services.settings.default_backend
    changing = RunRequest(
        prompt="", backend=backend, workdir=listed.repository, sandbox_mode="workspace", key_name=request.state.key_name
    )
    check = partial(admission.check_repository, admission.policy.completed(changing), listed.repository)
    await admission.lookups.run(check, listed.repository)
    return listed


async def _sessions(services: Services, listed: WorktreeListed) -> Sequence[Session]:
    return (await services.store.sessions(SessionQuery(working_dir=listed.path, archived=None, limit=1000))).items


async def _runs(services: Services, session: Session) -> Sequence[RunRecord]:
    return (await services.store.runs(RunQuery(session_id=session.id, limit=views.SHOWN_PARTS))).items


def _item(listed: WorktreeListed) -> WorktreeItem:
    return copy_as(WorktreeItem, listed, made_at=views.time(listed.made_at), problem=listed.problem or None)
