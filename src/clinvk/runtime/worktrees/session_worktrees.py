"""The worktrees in which sessions live from turn to turn.

The worktree of a session exists from the first turn until it is applied, committed or discarded. The next turn makes
the worktree again at the same path, because agents find their conversations by the directory: from the branch of the
worktree if there is one, else from HEAD of the repository.
"""

import asyncio
import logging
import os
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import NamedTuple

from clinvk.runtime.worktrees.folders import Worktree
from clinvk.runtime.worktrees.git import ISOLATION
from clinvk.runtime.worktrees.private_git import quoted
from clinvk.runtime.worktrees.repository import SourceCheck
from clinvk.runtime.worktrees.worktrees import Worktrees
from clinvk.types.errors import ClinvkError, InvalidRequest, NotResumable
from clinvk.types.record import Session, worktree_of
from clinvk.types.request import RunRequest

logger = logging.getLogger(__name__)

_RECORD_TIMEOUT_S = 20.0


class SessionWorktree(NamedTuple):
    """The worktree of one session.

    Attributes:
        project: the directory that the user chose.
        directory: where the agent works.
        turn: holds the worktree for the turn with the id of a run.
        warnings: what is in the project and not in the new worktree.
    """

    project: str
    directory: str
    turn: Callable[[str], AbstractAsyncContextManager[None]]
    warnings: Sequence[str] = ()


class SessionWorktrees(Worktrees):
    """The worktrees of a clinvk home, for sessions."""

    async def of_session(
        self, request: RunRequest, session: Session | None, check_source: SourceCheck | None
    ) -> SessionWorktree:
        """Return the worktree of a session, or of the new session of a request. Make the worktree unless it exists.

        Raises:
            InvalidRequest: the session cannot have a worktree; the field is `isolation`.
            NotResumable: the worktree cannot be made again.
            ClinvkError: git failed.
        """
        if session and not session.worktree:
            where = f"session {session.id!r} works in {session.working_dir!r}"
            raise InvalidRequest(f"{where}: only a new session gets a worktree", ISOLATION)
        if session:
            project, directory, warnings = session.project, session.working_dir, ()
            await self.ensure(directory, project, check_source)
        elif request.ephemeral:
            raise InvalidRequest("an ephemeral run has no session, which a worktree needs", ISOLATION)
        else:
            project = await asyncio.to_thread(os.path.realpath, request.workdir or "")
            worktree = await self._made(project, request.backend, check_source)
            directory, warnings = await asyncio.to_thread(os.path.realpath, worktree.path), worktree.warnings
        return SessionWorktree(project, directory, partial(self._turn, directory, project, check_source), warnings)

    async def ensure(self, directory: str, project: str, check_source: SourceCheck | None = None) -> None:
        """Make the worktree with a directory again if it was removed.

        Raises:
            NotResumable: the worktree cannot be made, or has lost the directory.
        """
        id_ = worktree_of(directory) or ""
        try:
            if await asyncio.to_thread(self._folders.read, id_) is None:
                await self._made(project, "", check_source, id_)
        except ClinvkError as exc:
            raise NotResumable(f"worktree {id_} cannot be made again: {exc.message}") from exc
        if not await asyncio.to_thread(os.path.isdir, directory):
            raise NotResumable(f"{directory!r} does not exist; clinvk worktrees discard {id_} makes the worktree new")

    async def _made(self, project: str, label: str, check_source: SourceCheck | None, id_: str = "") -> Worktree:
        """Make a worktree without holding it. Until its first turn, the worktree counts as left behind."""
        worktree = await self.make(project, label, check_source, id_)
        self._held.pop(worktree.id).close()
        return worktree

    @asynccontextmanager
    async def _turn(
        self, directory: str, project: str, check_source: SourceCheck | None, run_id: str
    ) -> AsyncGenerator[None]:
        """Hold a worktree during a turn, and keep it afterwards.

        Raises:
            InvalidRequest, NotResumable, ClinvkError: as `ensure` and `used`.
        """
        await self.ensure(directory, project, check_source)
        async with self.used(directory):
            id_ = worktree_of(directory) or ""
            await asyncio.to_thread(self._folders.keep, id_)
            await self._record_turn(id_, run_id)
            yield

    async def _record_turn(self, id_: str, run_id: str) -> None:
        """Store the files at the beginning of a turn. Without that, nothing shows what the turn has changed."""
        try:
            worktree = await asyncio.to_thread(self._folders.read, id_)
            assert worktree, "an agent works there"
            objects, alternate = self._folders.objects(id_), quoted(os.path.join(worktree.common, "objects"))
            await asyncio.to_thread(os.makedirs, objects, exist_ok=True)
            variables = {"GIT_OBJECT_DIRECTORY": objects, "GIT_ALTERNATE_OBJECT_DIRECTORIES": alternate}
            async with asyncio.timeout(_RECORD_TIMEOUT_S), self._difference(worktree, **variables) as diff:
                await asyncio.to_thread(self._folders.add_turn, id_, run_id, await diff.tree())
        except (ClinvkError, OSError, TimeoutError) as exc:
            logger.warning("the changes of run %s cannot be shown alone: %s", run_id, exc)
