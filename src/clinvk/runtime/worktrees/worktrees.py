"""git worktrees for agents: made from HEAD of the user's repository, examined, applied, and removed.

Worktrees are in `worktrees/` of the clinvk home, outside of all projects. A worktree without changes is removed when
its agent has ended; a changed one is kept until its changes are applied or discarded. Nothing else records which
worktrees exist: a worktree is a folder that its repository knows as a worktree.
"""

import asyncio
import logging
import os
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, nullcontext
from pathlib import Path
from typing import BinaryIO

from msgspec.structs import asdict

from clinvk.runtime.process.spawn import Spawner
from clinvk.runtime.process.waiting import finished, whole
from clinvk.runtime.worktrees import repository
from clinvk.runtime.worktrees.checks import run_check
from clinvk.runtime.worktrees.diff import TreeDiff, difference
from clinvk.runtime.worktrees.folders import Lock, WorktreeFolders
from clinvk.runtime.worktrees.git import Git, GitTimedOut
from clinvk.runtime.worktrees.tree_files import remove_tree
from clinvk.runtime.worktrees.worktree_types import Applied, Judge, Listed, State, Worktree
from clinvk.types.errors import ClinvkError, InvalidRequest
from clinvk.types.orchestration import Change, ChangedFile, Check

logger = logging.getLogger(__name__)

DIFF_BYTES = 1024 * 1024
"""The most bytes of a diff that `outcome` returns."""

CHANGED_WITHIN_S = 60.0
"""How long to wait while another clinvk adds or removes worktrees."""

_CLAIMED_WITHIN_S = 10.0
_REMOVED_WITHIN_S = 300.0
_FREE_WITHIN_S = 5.0
_GONE_WITHIN_S = 2.0
"""How long an agent that has reported its end may take to exit."""

_TARGET_FREE_WITHIN_S = 60.0
_PROBED_WITHIN_S = 0.2
"""How long to retry the lock of agents: another clinvk that probes the lock has it for a moment."""

_RETRY_AFTER_S = 0.02
_EXAMINED_AT_ONCE = 4


class Worktrees:
    """All worktrees of a clinvk home.

    A worktree is locked from `make` to `leave`. If this process dies, the lock is free, and other processes see that
    no agent is at work.
    """

    def __init__(self, spawner: Spawner, home: str | os.PathLike[str], environ: Mapping[str, str]) -> None:
        self._spawner = spawner
        self._environ = environ
        self._folders = WorktreeFolders(home)
        self._changing = asyncio.Lock()
        self._held: dict[str, Lock] = {}
        self._changed: set[str] = set()
        self._timed_out: dict[str, str] = {}

    @asynccontextmanager
    async def isolated(self, directory: str, label: str, judge: Judge | None = None) -> AsyncGenerator[Worktree]:
        """Make a worktree, and leave it at the end.

        Raises:
            InvalidRequest, ClinvkError: as `make`.
        """
        worktree = await self.make(directory, label, judge)
        try:
            yield worktree
        finally:
            await self.leave(worktree)

    async def make(self, directory: str, label: str, judge: Judge | None = None) -> Worktree:
        """Make a worktree from HEAD of the repository that holds a directory.

        Args:
            directory: where the agent was to work; in the worktree it works in the same sub-directory.
            label: the beginning of the id.
            judge: judges the directories that files come from; None allows all.

        Raises:
            InvalidRequest: the directory can have no worktree, or the judge refuses; the field is `isolation`.
            ClinvkError: git failed, e.g. because the disk is full.
        """
        git = self._git(directory)
        origin, left_out = await repository.origin(git, directory, judge)
        claimed: list[Worktree] = []

        async def claim() -> None:
            worktree, lock = await asyncio.to_thread(self._folders.make, label, origin)
            self._held[worktree.id] = lock
            claimed.append(worktree)

        try:
            await whole(claim(), "making a folder", _CLAIMED_WITHIN_S)
            (worktree,) = claimed
            async with self._alone():
                await whole(repository.register(git, worktree), "git worktree add", CHANGED_WITHIN_S)
            await repository.check_out(git, worktree, left_out)
        except BaseException:
            for worktree in claimed:
                await self._let_go(worktree, self._remove(worktree))
            raise
        return worktree

    async def examine(self, directory: str, judge: Judge | None = None) -> None:
        """Check that a worktree can be made from a directory; `judge` as in `make`.

        Raises:
            InvalidRequest, ClinvkError: as `make`.
        """
        await repository.origin(self._git(directory), directory, judge)

    async def outcome(self, worktree: Worktree, max_diff_bytes: int = DIFF_BYTES) -> Change:
        """Return the changes in a worktree; call this after the agent has ended and before `leave`.

        Raises:
            ClinvkError: git failed.
        """
        async with self._difference(worktree) as diff:
            if kept := diff.is_changed:
                self._changed.add(worktree.id)
            text, size = b"", 0
            if diff.files and await diff.write_patch():
                text, size = await asyncio.to_thread(_beginning, diff.patch, max_diff_bytes)
        return Change(
            diff=text.decode(errors="replace"),
            is_cut=len(text) < size,
            files=diff.files,
            branch=worktree.branch,
            path=worktree.path,
            kept=kept,
            warnings=diff.warnings,
        )

    async def check(self, worktree: Worktree, command: str, timeout_s: float) -> Check:
        """Run a command in a worktree, then restore all files except ignored ones.

        Raises:
            ClinvkError: git failed, or the files cannot be restored.
        """
        async with self._difference(worktree) as diff:
            try:
                return await run_check(self._spawner, command, worktree.path, self._environ, timeout_s)
            finally:
                if not diff.warnings:  # files that git cannot read cannot be restored either
                    await whole(diff.restore(), "putting the files back", _REMOVED_WITHIN_S)

    async def leave(self, worktree: Worktree) -> None:
        """Unlock a worktree after its agent has ended. Remove it if it has no changes and no other agent works there.

        A worktree that cannot be examined or removed is kept.
        """
        if worktree.id in self._held:
            await self._let_go(worktree, self._left(worktree))

    async def _left(self, worktree: Worktree) -> None:
        excluding = await self._excluded(worktree.id, _GONE_WITHIN_S)
        with excluding or nullcontext():
            if excluding is None or worktree.id in self._changed or await self._is_changed(worktree):
                await asyncio.to_thread(self._folders.keep, worktree.id)
            else:
                await self._remove(worktree)

    async def _is_changed(self, worktree: Worktree) -> bool:
        try:
            async with self._difference(worktree) as diff:
                return diff.is_changed
        except ClinvkError:  # kept rather than lost
            return True

    async def _let_go(self, worktree: Worktree, work: Awaitable[None]) -> None:
        """Do the last work on a worktree that this process made, and unlock the worktree, whatever happens.

        Unfinished removals are finished by the next `list`.
        """
        try:
            await finished(work, _REMOVED_WITHIN_S)
        except (ClinvkError, OSError) as exc:
            logger.warning("worktree %s stays: %s", worktree.id, exc)
        finally:
            self._timed_out.pop(worktree.id, None)
            self._changed.discard(worktree.id)
            self._held.pop(worktree.id).close()

    @asynccontextmanager
    async def used(self, directory: str) -> AsyncGenerator[None]:
        """Lock the worktree that holds a directory, if any, while an agent works there that it was not made for.

        Several agents may. Until the last has ended, the worktree is `in use`: it is not applied, discarded or removed.

        Raises:
            InvalidRequest: the worktree is being removed or applied; the field is `workdir`.
            ClinvkError: the worktree cannot be locked.
        """
        with await self._entered(directory) or nullcontext():
            yield

    async def use_from_here(self, directory: str) -> None:
        """Lock the worktree in the same way until this process, or the program that it executes, has exited.

        Raises:
            InvalidRequest, ClinvkError: as `used`.
        """
        if lock := await self._entered(directory):
            lock.hand_over()

    async def _entered(self, directory: str) -> Lock | None:
        id_ = await asyncio.to_thread(self._folders.around, directory)
        if id_ is None:
            return None
        if lock := await _taken(lambda: self._folders.enter(id_), _FREE_WITHIN_S):
            return lock
        raise InvalidRequest(f"worktree {id_} is in use: another clinvk applies or discards it", "workdir")

    async def list(self, directory: str | None = None) -> Sequence[Listed]:
        """Return the worktrees, oldest first, and clean up after a clinvk that died.

        Unchanged worktrees that a dead clinvk left are removed, and unfinished removals are finished.

        Args:
            directory: return only worktrees of the repository that holds this directory; None returns all.

        Raises:
            InvalidRequest: the directory is in no repository.
        """
        common = None
        if directory is not None:
            _, common, _ = await repository.find(self._git(directory), directory)
        slots = asyncio.Semaphore(_EXAMINED_AT_ONCE)

        async def one(id_: str) -> Listed | None:
            async with slots:
                return await self._listed(id_, common)

        found = await asyncio.gather(*map(one, await asyncio.to_thread(self._folders.ids)))
        return sorted((item for item in found if item), key=lambda item: (item.made_at, item.id))

    async def show(self, id_: str) -> tuple[Listed, BinaryIO | None]:
        """Return a worktree and its patch, an open file that the caller closes.

        The patch is None if the worktree is in use or has a `problem`.

        Raises:
            InvalidRequest: there is no such worktree, or it was left unchanged and is now removed.
        """
        patches: list[BinaryIO] = []
        with ExitStack() as opened:

            async def take(diff: TreeDiff) -> None:
                if await diff.write_patch():
                    patches.append(opened.enter_context(diff.patch.open("rb")))

            listed = await self._listed(id_, take=take)
            if listed is None:
                raise _no_worktree(id_)
            opened.pop_all()
        return listed, patches[0] if patches else None

    async def find(self, reference: str) -> str:
        """Return the id for an id, the beginning of an id, or a branch.

        Raises:
            InvalidRequest: no worktree matches, or several.
        """
        return await asyncio.to_thread(self._folders.find, reference)

    async def apply(self, id_: str, keep: bool = False, dry_run: bool = False, directory: str | None = None) -> Applied:
        """Apply the changes of a worktree to the tree that it was made from, all or none, and remove the worktree.

        Args:
            id_: the worktree's id.
            keep: do not remove the worktree.
            dry_run: only check that the changes apply.
            directory: the caller's directory, if any: it stays in the tree even if everything in it is replaced.

        Raises:
            InvalidRequest: the worktree is in use or unchanged, or the changes do not apply or are applied already;
                nothing was changed.
            ClinvkError: git failed.
        """
        async with self._unused(id_) as worktree:
            if await asyncio.to_thread(self._folders.removal, id_) is not None:
                raise InvalidRequest(f"worktree {id_} is being removed: clinvk worktrees list goes on with that")
            top = worktree.repository
            async with self._difference(worktree) as diff:
                if not diff.files:
                    raise InvalidRequest(f"worktree {id_} has no changes to apply")
                if not await diff.write_patch():
                    raise ClinvkError(f"worktree {id_}: {diff.warnings[-1]}")
                is_inside = directory is not None and await asyncio.to_thread(_is_inside, directory, top)
                git = Git(self._spawner, self._environ, top, directory if is_inside else None)
                async with self._locked(".apply", "applying changes", _TARGET_FREE_WITHIN_S):
                    await repository.apply(git, diff, worktree, dry_run)
            if removed := not (keep or dry_run or diff.warnings):
                await self._discard(worktree)
        return Applied(
            id=id_, repository=top, files=diff.files, removed=removed, dry_run=dry_run, warnings=diff.warnings
        )

    async def discard(self, *ids: str, dry_run: bool = False) -> None:
        """Remove worktrees with their branches and commits; with `dry_run` only check that none is in use.

        Raises:
            InvalidRequest: a worktree is in use; none was removed.
            ClinvkError: a worktree cannot be removed; others may be removed.
        """
        async with AsyncExitStack() as held:
            # Sorted, or two that discard the same worktrees might wait for each other.
            worktrees = [await held.enter_async_context(self._unused(id_)) for id_ in sorted(set(ids))]
            for worktree in () if dry_run else worktrees:
                await self._discard(worktree)

    async def _discard(self, worktree: Worktree) -> None:
        await whole(self._remove(worktree, with_commits=True), f"removing worktree {worktree.id}", _REMOVED_WITHIN_S)

    async def _remove(self, worktree: Worktree, with_commits: bool = False) -> None:
        """Remove a worktree, which the caller holds; keep a branch with commits of its own unless `with_commits`."""
        await asyncio.to_thread(self._folders.begin_removal, worktree.id, with_commits)
        await asyncio.to_thread(remove_tree, Path(worktree.root))
        if await asyncio.to_thread(os.path.isdir, worktree.common):
            git = self._git(worktree.common)
            await git.guard(GIT_DIR=worktree.common)
            async with self._alone():
                await repository.forget(git, worktree, with_commits)
        await asyncio.to_thread(remove_tree, Path(worktree.folder))

    @asynccontextmanager
    async def _unused(self, id_: str) -> AsyncGenerator[Worktree]:
        """Hold a worktree that no agent works in; wait for another clinvk that examines it, not for an agent.

        The caller does not know what the first agent finishes meanwhile, so that is never changed. A later agent may
        have reported its end, and gets the time to exit.

        Raises:
            InvalidRequest: there is no such worktree, an agent is at work, or another clinvk holds it for too long.
        """
        at_work = InvalidRequest(
            f"worktree {id_} is in use: its agent is at work; wait until that has ended, which clinvk worktrees list"
            " shows, or end it where it was started"
        )
        was_kept = await asyncio.to_thread(self._folders.is_kept, id_)

        def hold() -> Lock | None:
            if self._folders.read(id_) is None:
                raise _no_worktree(id_)
            lock = self._folders.hold(id_)
            if lock is None and not was_kept and self._folders.share(id_) is None:
                raise at_work
            return lock

        lock = await _taken(hold, _FREE_WITHIN_S)
        if lock is None:
            raise InvalidRequest(f"worktree {id_} is in use: another clinvk lists, applies or discards it")
        with lock, (excluding := await self._excluded(id_, _GONE_WITHIN_S)) or nullcontext():
            worktree = await asyncio.to_thread(self._folders.read, id_)
            if not (worktree and excluding) or await asyncio.to_thread(self._folders.is_kept, id_) != was_kept:
                raise at_work
            await asyncio.to_thread(self._folders.keep, id_)
            yield worktree

    async def _excluded(self, id_: str, within_s: float) -> Lock | None:
        """Keep agents out of a worktree, or return None if an agent that the worktree was not made for stays there."""
        return await _taken(lambda: self._folders.exclude(id_), within_s)

    @asynccontextmanager
    async def _alone(self) -> AsyncGenerator[None]:
        """Lock adding and removing worktrees: git reads worktrees that are being added, and fails on incomplete ones.

        Raises:
            ClinvkError: another clinvk has the lock for too long.
        """
        async with self._changing, self._locked(".lock", "changing worktrees", CHANGED_WITHIN_S):
            yield

    @asynccontextmanager
    async def _locked(self, name: str, what: str, within_s: float) -> AsyncGenerator[None]:
        lock = await _taken(lambda: self._folders.lock_home(name), within_s)
        if lock is None:
            raise ClinvkError(f"another clinvk has been {what} for {within_s:g} s")
        with lock:
            yield

    async def _listed(
        self, id_: str, common: str | None = None, take: Callable[[TreeDiff], Awaitable[None]] | None = None
    ) -> Listed | None:
        """Return a worktree with its state, or None if it belongs to another repository or was cleaned up."""
        lock = await asyncio.to_thread(self._folders.share, id_)
        with lock or nullcontext():
            worktree = await asyncio.to_thread(self._folders.read, id_)
            if worktree is None or common not in (None, worktree.common):
                return None
            if lock is None or await self._is_used(id_):
                return _item(worktree, "in use")
            item = await self._state(worktree, take)
        return item or await self._cleaned_up(worktree)

    async def _is_used(self, id_: str) -> bool:
        with (excluding := await self._excluded(id_, _PROBED_WITHIN_S)) or nullcontext():
            return excluding is None

    async def _state(
        self, worktree: Worktree, take: Callable[[TreeDiff], Awaitable[None]] | None = None
    ) -> Listed | None:
        """Examine a worktree that is not in use; `take` gets the difference. Return None if it is to be removed."""
        if not await asyncio.to_thread(self._folders.is_ready, worktree.id):
            return None
        is_there = await asyncio.to_thread(os.path.isdir, worktree.root)
        try:
            async with self._difference(worktree) as diff:
                is_changed = diff.is_changed
                if take:
                    await take(diff)
        except ClinvkError as exc:
            return _item(worktree, "broken", problem=exc.message) if is_there else None
        problem = "; ".join(diff.warnings)
        if is_changed:
            return _item(worktree, "changed", diff.files, problem)
        is_kept = await asyncio.to_thread(self._folders.is_kept, worktree.id)
        return _item(worktree, "unchanged", problem=problem) if is_kept else None

    async def _cleaned_up(self, worktree: Worktree) -> Listed | None:
        """Remove a worktree that a dead clinvk left, or that was removed with git.

        Return the worktree if it cannot be removed, or an agent has come, or has come and gone, since it was examined.
        """
        lock = await asyncio.to_thread(self._folders.hold, worktree.id)
        if lock is None:
            return None
        with lock, (excluding := await self._excluded(worktree.id, _PROBED_WITHIN_S)) or nullcontext():
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

    @asynccontextmanager
    async def _difference(self, worktree: Worktree) -> AsyncGenerator[TreeDiff]:
        """Compare a worktree with its base, unless git has timed out there since the worktree was made.

        Raises:
            ClinvkError: git failed, or the repository does not know the worktree any more.
        """
        if worktree.id in self._timed_out:
            raise ClinvkError(self._timed_out[worktree.id])
        admin = await asyncio.to_thread(repository.registered, worktree)
        if admin is None or not await asyncio.to_thread(os.path.isdir, worktree.root):
            raise ClinvkError(f"{worktree.repository} knows no worktree {worktree.root!r} any more")
        git = self._git(worktree.root)
        try:
            await git.guard(GIT_DIR=str(admin), GIT_WORK_TREE=worktree.root)
            async with difference(git, worktree) as diff:
                yield diff
        except GitTimedOut as exc:
            self._timed_out[worktree.id] = exc.message
            raise

    def _git(self, directory: str) -> Git:
        return Git(self._spawner, self._environ, directory)


async def _taken(take: Callable[[], Lock | None], within_s: float) -> Lock | None:
    """Take a lock as soon as it is free, or return None if it is not free in time."""
    deadline = time.monotonic() + within_s
    while True:
        lock = await asyncio.to_thread(take)
        if lock or time.monotonic() > deadline:
            return lock
        await asyncio.sleep(_RETRY_AFTER_S)


def _no_worktree(id_: str) -> InvalidRequest:
    return InvalidRequest(f"no worktree {id_!r}; clinvk worktrees list shows them")


def _item(worktree: Worktree, state: State, files: tuple[ChangedFile, ...] = (), problem: str = "") -> Listed:
    return Listed(**asdict(worktree), state=state, files=files, problem=problem)


def _is_inside(directory: str, top: str) -> bool:
    return Path(os.path.realpath(directory)).is_relative_to(os.path.realpath(top))


def _beginning(file: Path, limit: int) -> tuple[bytes, int]:
    """Return the beginning of a file, in whole lines, and the size of the file."""
    with file.open("rb") as opened:
        size = os.fstat(opened.fileno()).st_size
        read = opened.read(limit)
    return (read if size <= limit else read[: read.rfind(b"\n") + 1]), size
