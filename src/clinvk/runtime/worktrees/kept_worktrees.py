"""List, show, apply and discard worktrees with changes."""

import asyncio
import os
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext
from typing import Literal, NamedTuple

import msgspec
from msgspec.structs import asdict

from clinvk.file_locks import FileLock
from clinvk.runtime.process import process_tags
from clinvk.runtime.process.spawn import Spawner
from clinvk.runtime.process.waiting import finish_thread
from clinvk.runtime.worktrees import repository
from clinvk.runtime.worktrees.diff import FileChange
from clinvk.runtime.worktrees.folders import Worktree, match, no_worktree
from clinvk.runtime.worktrees.git import branch_of
from clinvk.runtime.worktrees.private_git import quoted
from clinvk.runtime.worktrees.repository import SourceCheck
from clinvk.runtime.worktrees.tree_changes import uncommitted
from clinvk.runtime.worktrees.worktrees import REMOVE_TIMEOUT_S, Worktrees, wait_for_lock
from clinvk.types.errors import ClinvkError, InvalidRequest, WorktreeNotFound
from clinvk.types.orchestration import ChangedFile

_APPLY_FREE_TIMEOUT_S = 60.0
_PROBE_TIMEOUT_S = 0.2
"""How long another clinvk may take to probe the lock."""

_EXAMINED_AT_ONCE = 4


State = Literal["in use", "changed", "unchanged", "broken"]


class WorktreeListed(Worktree, frozen=True, kw_only=True):
    """A worktree and its state.

    Attributes:
        state: `in use` while an agent works in the worktree; `broken` if git cannot examine it.
        files: changed files, as in `Change`; empty while the worktree is in use.
        problem: why the worktree cannot be examined completely, or empty.
        patch: the changes as a patch for git, if requested; None while in use, or if there is a `problem`.
    """

    state: State
    files: tuple[ChangedFile, ...] = ()
    problem: str = ""
    patch: bytes | None = None


class WorktreeApplied(msgspec.Struct, frozen=True, kw_only=True):
    """The result of applying a worktree's changes.

    Attributes:
        removed: the worktree was removed.
        warnings: what in the worktree could not be examined; the worktree is then kept.
    """

    id: str
    repository: str
    files: tuple[ChangedFile, ...]
    removed: bool
    dry_run: bool
    warnings: tuple[str, ...] = ()


class WorktreeCommitted(msgspec.Struct, frozen=True, kw_only=True):
    """The commit of a worktree's changes on its branch. The worktree was removed."""

    id: str
    repository: str
    branch: str
    commit: str
    files: tuple[ChangedFile, ...]


class TreeChanges(NamedTuple):
    """What has changed in a tree; the diff may be cut."""

    files: Sequence[FileChange]
    diff: str
    is_cut: bool
    branch: str | None


class KeptWorktrees(Worktrees):
    """The worktrees of a clinvk home, as the command line reviews them."""

    async def list(self, directory: str | None = None) -> Sequence[WorktreeListed]:
        """Return the worktrees, oldest first, and clean up after a clinvk that died.

        Unchanged worktrees that a dead clinvk left are removed, and unfinished removals are finished.

        Args:
            directory: return only worktrees of the repository that holds this directory; None returns all.

        Raises:
            InvalidRequest: the directory is in no repository.
        """
        common = None
        if directory is not None:
            common = (await repository.find_repository(self._git(directory), directory)).dirs.common
        slots = asyncio.Semaphore(_EXAMINED_AT_ONCE)

        async def one(id_: str) -> WorktreeListed | None:
            async with slots:
                return await self._listed(id_, common)

        found = await asyncio.gather(*map(one, await asyncio.to_thread(self._folders.ids)))
        return sorted((item for item in found if item), key=lambda item: (item.made_at, item.id))

    async def show(self, id_: str) -> WorktreeListed:
        """Return a worktree with its `patch`.

        Raises:
            WorktreeNotFound: there is no such worktree, or it was left unchanged and is now removed.
        """
        if listed := await self._listed(id_, with_patch=True):
            return listed
        raise no_worktree(id_)

    async def find(self, reference: str) -> str:
        """Return the id for an id, the beginning of an id, or a branch.

        Raises:
            WorktreeNotFound: no worktree matches.
            InvalidRequest: several worktrees match.
        """
        if found := match(await asyncio.to_thread(self._folders.ids), reference):
            return found
        raise no_worktree(reference)

    async def apply(self, id_: str, keep: bool = False, dry_run: bool = False) -> WorktreeApplied:
        """Apply all changes of a worktree to the original tree, or none, and remove the worktree.

        Args:
            id_: the worktree's id.
            keep: do not remove the worktree.
            dry_run: only check that the changes apply.

        Raises:
            InvalidRequest: the worktree is in use or unchanged, or the changes do not apply or are applied already;
                nothing was changed.
            ClinvkError: git failed.
        """
        async with self._unused(id_) as worktree:
            if await asyncio.to_thread(self._folders.removal, id_) is not None:
                raise InvalidRequest(f"worktree {id_} is being removed; run clinvk worktrees list to finish")
            top = worktree.repository
            async with self._difference(worktree) as diff:
                if not diff.files:
                    raise InvalidRequest(f"worktree {id_} has no changes to apply")
                if not await diff.write_patch():
                    raise ClinvkError(f"worktree {id_}: {diff.warnings[-1]}")
                async with self._locked(".apply", "applying changes", _APPLY_FREE_TIMEOUT_S):
                    await repository.apply(self._git(top), diff, worktree, dry_run)
            if removed := not (keep or dry_run or diff.warnings):
                await self._discard(worktree)
        return WorktreeApplied(
            id=id_, repository=top, files=diff.files, removed=removed, dry_run=dry_run, warnings=diff.warnings
        )

    async def commit(self, id_: str, message: str) -> WorktreeCommitted:
        """Commit all changes of a worktree on its branch, which stays in the repository, and remove the worktree.

        Raises:
            InvalidRequest: the message is empty, the worktree is in use or unchanged, or the changes cannot be
                committed whole; nothing was changed.
            ClinvkError: git failed.
        """
        if not message.strip():
            raise InvalidRequest("message is empty", "message")
        async with self._unused(id_) as worktree:
            if await asyncio.to_thread(self._folders.removal, id_) is not None:
                raise InvalidRequest(f"worktree {id_} is being removed; run clinvk worktrees list to finish")
            objects = os.path.join(worktree.common, "objects")
            async with self._difference(worktree, GIT_OBJECT_DIRECTORY=objects) as diff:
                if diff.warnings:
                    raise InvalidRequest(f"worktree {id_} cannot be committed whole: {diff.warnings[0]}")
                commit = await repository.commit(self._git(worktree.root), diff, worktree, f"{message.strip()}\n")
            await self._discard(worktree, with_commits=False)
        return WorktreeCommitted(
            id=id_, repository=worktree.repository, branch=worktree.branch, commit=commit, files=diff.files
        )

    async def changes(self, id_: str, since: str = "") -> TreeChanges:
        """Return what has changed in a worktree, also while an agent works, since the turn of the run `since`.

        Without `since`, return all changes.

        Raises:
            WorktreeNotFound: there is no such worktree.
            InvalidRequest: the state at the beginning of the turn is not known.
            ClinvkError: git failed.
        """
        worktree = await asyncio.to_thread(self._folders.read, id_)
        if worktree is None:
            raise no_worktree(id_)
        tree = await asyncio.to_thread(self._folders.tree_of_turn, id_, since) if since else ""
        variables = {"GIT_ALTERNATE_OBJECT_DIRECTORIES": quoted(self._folders.objects(id_))} if since else {}
        async with self._difference(worktree, tree, **variables) as diff:
            return TreeChanges(await diff.counted(), *await diff.text(), worktree.branch)

    async def uncommitted(self, directory: str, check_source: SourceCheck) -> TreeChanges:
        """Return the uncommitted changes in the repository around a directory. Raise the errors of `uncommitted`."""
        git, place = self._git(directory), str(self._folders.path)
        await asyncio.to_thread(os.makedirs, place, mode=0o700, exist_ok=True)
        async with uncommitted(git, directory, place, check_source) as diff:
            branch = await asyncio.to_thread(branch_of, directory)
            return TreeChanges(await diff.counted(), *await diff.text(), branch)

    async def discard(self, *ids: str, dry_run: bool = False) -> None:
        """Remove worktrees with branches and commits; with `dry_run` only check whether a worktree is in use.

        Raises:
            InvalidRequest: a worktree is in use; none was removed.
            ClinvkError: a worktree cannot be removed; others may be removed.
        """
        async with AsyncExitStack() as held:
            # Sorted, or two that discard the same worktrees might wait for each other.
            worktrees = [await held.enter_async_context(self._unused(id_)) for id_ in sorted(set(ids))]
            for worktree in () if dry_run else worktrees:
                await self._discard(worktree)

    async def _discard(self, worktree: Worktree, with_commits: bool = True) -> None:
        await finish_thread(self._remove(worktree, with_commits), f"removing worktree {worktree.id}", REMOVE_TIMEOUT_S)

    @asynccontextmanager
    async def _unused(self, id_: str) -> AsyncGenerator[Worktree]:
        """Hold a worktree without agents; wait while another clinvk examines the worktree, but not for an agent.

        If the first agent ends meanwhile, refuse: the user has not seen the result. A later agent may have reported
        the end of a run, and gets the time to exit.

        Raises:
            WorktreeNotFound: there is no such worktree.
            InvalidRequest: an agent is at work, or another clinvk holds it for too long.
        """
        at_work = InvalidRequest(
            f"worktree {id_} is in use: its agent is at work; wait until that has ended, which clinvk worktrees list"
            " shows, or end it where it was started"
        )
        was_kept = await asyncio.to_thread(self._folders.is_kept, id_)

        def hold() -> FileLock | None:
            lock = self._folders.hold(id_)
            if lock is None and not was_kept and self._folders.share(id_) is None:
                raise at_work
            return lock

        lock = await wait_for_lock(hold)
        if lock is None:
            raise InvalidRequest(f"worktree {id_} is in use: another clinvk lists, applies or discards it")
        with lock, (excluding := await self._exclude_agents(id_)) or nullcontext():
            worktree = await asyncio.to_thread(self._folders.read, id_)
            if not (worktree and excluding) or await asyncio.to_thread(self._folders.is_kept, id_) != was_kept:
                raise at_work
            await asyncio.to_thread(self._folders.keep, id_)
            yield worktree

    async def _listed(self, id_: str, common: str | None = None, with_patch: bool = False) -> WorktreeListed | None:
        """Return a worktree and the state, or None for another repository or after a clean-up."""
        lock = await asyncio.to_thread(self._folders.share, id_)
        with lock or nullcontext():
            worktree = await asyncio.to_thread(self._folders.read, id_)
            if worktree is None or common not in (None, worktree.common):
                return None
            if lock is None or await self._has_agents(id_):
                return _item(worktree, "in use")
            item = await self._state(worktree, with_patch)
        return item or await self._cleaned_up(worktree)

    async def _has_agents(self, id_: str) -> bool:
        with (excluding := await self._exclude_agents(id_, _PROBE_TIMEOUT_S)) or nullcontext():
            return excluding is None

    async def _state(self, worktree: Worktree, with_patch: bool = False) -> WorktreeListed | None:
        """Examine an unused worktree; return None for a worktree to remove."""
        if not await asyncio.to_thread(self._folders.is_ready, worktree.id):
            return None
        is_there = await asyncio.to_thread(os.path.isdir, worktree.root)
        patch = None
        try:
            async with self._difference(worktree) as diff:
                is_changed = diff.is_changed
                if with_patch and await diff.write_patch():
                    patch = await asyncio.to_thread(diff.patch.read_bytes)
        except ClinvkError as exc:
            return _item(worktree, "broken", problem=exc.message) if is_there else None
        if not (is_changed or await asyncio.to_thread(self._folders.is_kept, worktree.id)):
            return None
        state = "changed" if is_changed else "unchanged"
        return _item(worktree, state, diff.files, "; ".join(diff.warnings), patch)

    async def _cleaned_up(self, worktree: Worktree) -> WorktreeListed | None:
        """Remove a worktree left by a dead clinvk, or removed with git.

        Return the worktree instead if the removal fails, or if an agent has worked there since the examination.
        """
        try:
            # Another clinvk may examine the worktree.
            lock = await wait_for_lock(lambda: self._folders.hold(worktree.id))
        except WorktreeNotFound:  # another clinvk has removed the worktree
            return None
        if lock is None:
            return _item(worktree, "in use")
        with lock, (excluding := await self._exclude_agents(worktree.id, _PROBE_TIMEOUT_S)) or nullcontext():
            if excluding is None:
                return _item(worktree, "in use")
            try:
                item = await self._state(worktree)
                if item is None or item.state == "unchanged":
                    with_commits = await asyncio.to_thread(self._folders.removal, worktree.id)
                    await self._remove(worktree, bool(with_commits))
                    return None
            except (ClinvkError, OSError) as exc:
                return _item(worktree, "broken", problem=f"it cannot be removed: {exc}")
            return item


def kept_worktrees(home: str | os.PathLike[str], environ: Mapping[str, str]) -> KeptWorktrees:
    """Return the worktrees of a clinvk home for a command, for one event loop."""
    return KeptWorktrees(Spawner(process_tags.choose_tags()), home, environ)


def _item(
    worktree: Worktree, state: State, files: tuple[ChangedFile, ...] = (), problem: str = "", patch: bytes | None = None
) -> WorktreeListed:
    return WorktreeListed(**asdict(worktree), state=state, files=files, problem=problem, patch=patch)
