"""The endpoints below `/api/v1/worktrees`. The beginning of an id identifies a worktree if it is unique."""

from collections.abc import Sequence
from functools import partial
from typing import Annotated, Literal

import msgspec
from msgspec import Meta
from starlette.requests import Request

from clinvk.api.access.hosts import refuse_foreign
from clinvk.api.endpoints.services import Services
from clinvk.dialects.dialect import copy_as
from clinvk.dialects.rest import views
from clinvk.runtime.worktrees.kept_worktrees import State, WorktreeApplied, WorktreeListed
from clinvk.runtime.worktrees.worktrees import DIFF_BYTES
from clinvk.store.protocol import RunQuery, SessionQuery
from clinvk.types.orchestration import ChangedFile
from clinvk.types.record import RunRecord, Session
from clinvk.types.request import RunRequest


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
    return await services.worktrees.apply(await _changeable(services, request))


async def discard_worktree(services: Services, request: Request) -> Discarded:
    """Remove a worktree, with its branch and changes."""
    id_ = await _changeable(services, request)
    await services.worktrees.discard(id_)
    return Discarded(id=id_)


async def _changeable(services: Services, request: Request) -> str:
    """Return the id of the worktree of the path.

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
    return listed.id


async def _sessions(services: Services, listed: WorktreeListed) -> Sequence[Session]:
    return (await services.store.sessions(SessionQuery(working_dir=listed.path, archived=None, limit=1000))).items


async def _runs(services: Services, session: Session) -> Sequence[RunRecord]:
    return (await services.store.runs(RunQuery(session_id=session.id, limit=views.SHOWN_PARTS))).items


def _item(listed: WorktreeListed) -> WorktreeItem:
    return copy_as(WorktreeItem, listed, made_at=views.time(listed.made_at), problem=listed.problem or None)
