"""git worktrees: a tree of files and a branch of its own for an agent, from the HEAD of where the user works.

They live in `worktrees/` of the clinvk home, outside every project. One that its agent left as it was is removed; one
that it changed stays, until its changes are applied to the tree that it was made from, or discarded. Which there are is
written down nowhere: a worktree is a folder there that its repository knows as one.
"""

import asyncio
import logging
import os
import time
from collections.abc import AsyncGenerator, Callable, Mapping, MutableSequence, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from clinvk.errors import ClinvkError, InvalidRequest
from clinvk.plan import Change, ChangedFile, Check
from clinvk.runtime.checks import run_check
from clinvk.runtime.cleanup import finished
from clinvk.runtime.process import Spawner
from clinvk.runtime.worktrees import repository
from clinvk.runtime.worktrees.folders import Facts, Folders, Place, remove_tree
from clinvk.runtime.worktrees.git import Git, GitFailed, GitTooSlow
from clinvk.runtime.worktrees.look import Look, looked
from clinvk.runtime.worktrees.words import Applied, Listed, State, Worktree

__all__ = ["Applied", "Listed", "State", "Worktree", "Worktrees"]

logger = logging.getLogger(__name__)

DIFF_BYTES = 1024 * 1024
"""How much of a diff is told."""

_MADE_WITHIN_S = 60.0
_REMOVED_WITHIN_S = 300.0
_FREE_WITHIN_S = 5.0
_TARGET_FREE_WITHIN_S = 60.0
_LOOK_AGAIN_S = 0.02
_LOOKS_AT_ONCE = 4


class Worktrees:
    """All worktrees of a clinvk home, of whatever repository.

    One that was made is held until it is left. Where this process dies before, its lock is free, and so others see
    that nobody works in it.
    """

    def __init__(self, spawner: Spawner, home: str | os.PathLike[str], environ: Mapping[str, str]) -> None:
        self._spawner = spawner
        self._environ = environ
        self._folders = Folders(home)
        self._held: dict[str, int] = {}
        self._kept: dict[str, bool] = {}
        self._unseen: dict[str, str] = {}
        self._changing = asyncio.Lock()

    @asynccontextmanager
    async def isolated(self, directory: str, label: str) -> AsyncGenerator[Worktree]:
        """Make a worktree, and leave it at the end.

        Raises:
            InvalidRequest, ClinvkError: as `make`.
        """
        worktree = await self.make(directory, label)
        try:
            yield worktree
        finally:
            await self.leave(worktree)

    async def make(self, directory: str, label: str) -> Worktree:
        """Make a worktree from the HEAD of the repository that holds a directory.

        Args:
            directory: where the agent was to work; in the worktree it works in the same sub-directory.
            label: whose it is; its id begins so.

        Raises:
            InvalidRequest: there can be none; the field is `isolation`.
            ClinvkError: git failed, e.g. for lack of room.
        """
        git = Git(self._spawner, self._environ, directory)
        source = await repository.source(git, directory)
        facts = Facts(
            repository=source.top,
            common=source.common,
            name=os.path.basename(source.top) or "root",
            inside=source.inside,
            base=source.base,
            submodules=source.submodules,
            made_at=time.time(),
        )
        made: list[Place] = []
        try:
            await finished(self._claim(label, facts, made))
            (place,) = made
            async with self._alone():
                await finished(repository.register(git, place), _MADE_WITHIN_S)
            await git.out("reset", "--hard", "--quiet", cwd=str(place.root))
            await asyncio.to_thread(repository.settle, place)
        except BaseException:
            for place in made:
                await self._give_up(place)
            raise
        return Worktree(
            id=place.id,
            path=str(place.workdir),
            root=str(place.root),
            branch=place.branch,
            base=facts.base,
            repository=facts.repository,
            warnings=source.warnings,
        )

    async def examine(self, directory: str) -> None:
        """Look whether a worktree can be made from a directory.

        Raises:
            InvalidRequest, ClinvkError: as `make`.
        """
        await repository.source(Git(self._spawner, self._environ, directory), directory)

    async def outcome(self, worktree: Worktree, max_diff_bytes: int = DIFF_BYTES) -> Change:
        """Look at what was done in a worktree; call it when the agent has ended, and before the worktree is left.

        Raises:
            ClinvkError: git cannot look.
        """
        async with self._look(await self._place(worktree.id)) as look:
            kept = self._kept[worktree.id] = look.is_changed
            diff, size, warnings = b"", 0, look.warnings
            try:
                if look.files:
                    await look.write_patch()
                    diff, size = await asyncio.to_thread(_beginning, look.patch, max_diff_bytes)
            except GitFailed as exc:  # a file of several GB, for one, is too much for git
                warnings = (*warnings, f"there is no diff: {exc.message}")
        return Change(
            diff=diff.decode(errors="replace"),
            is_cut=len(diff) < size,
            files=look.files,
            branch=worktree.branch,
            path=worktree.path,
            kept=kept,
            warnings=warnings,
        )

    async def check(self, worktree: Worktree, command: str, timeout_s: float) -> Check:
        """Run a command over what was done in a worktree; then its files are as before, ignored ones apart.

        Raises:
            ClinvkError: git cannot look, or the files cannot be put back.
        """
        async with self._look(await self._place(worktree.id)) as look:
            try:
                return await run_check(self._spawner, command, worktree.path, self._environ, timeout_s)
            finally:
                if not look.warnings:  # what git could not read it could not put back
                    await finished(look.restore(), _REMOVED_WITHIN_S)

    async def leave(self, worktree: Worktree) -> None:
        """Let go of a worktree. It is removed if it is as it was, by its outcome or else by a look; or else kept.

        What cannot be looked at or removed is kept.
        """
        if worktree.id not in self._held:
            return
        try:
            await finished(self._leave(worktree.id), _REMOVED_WITHIN_S)
        except (ClinvkError, OSError) as exc:
            logger.warning("worktree %s stays: %s", worktree.id, exc)
        finally:
            self._let_go(worktree.id)

    async def list(self, directory: str | None = None) -> Sequence[Listed]:
        """Give the worktrees that are there, the oldest first.

        What the death of a clinvk left over is removed if nothing was changed in it, and a removal that it did not
        finish is finished.

        Args:
            directory: only those of the repository that holds it; None is all.

        Raises:
            InvalidRequest: the directory is in no repository.
        """
        common = None
        if directory is not None:
            _, common, _ = await repository.find(Git(self._spawner, self._environ, directory), directory)
        slots = asyncio.Semaphore(_LOOKS_AT_ONCE)

        async def one(own: str) -> Listed | None:
            async with slots:
                return await self._listed(own, common)

        ids = await asyncio.to_thread(self._folders.ids)
        found = await asyncio.gather(*(one(own) for own in ids))
        return sorted((listed for listed in found if listed), key=lambda listed: (listed.made_at, listed.id))

    async def find(self, reference: str) -> str:
        """Give the id that a word stands for: an id, the beginning of one, or a branch.

        Raises:
            InvalidRequest: there is none, or several.
        """
        return await asyncio.to_thread(self._folders.find, reference)

    async def apply(self, own: str, keep: bool = False, dry_run: bool = False) -> Applied:
        """Bring the changes of a worktree into the tree that it was made from, all or none; then remove it.

        Args:
            own: its id.
            keep: do not remove it.
            dry_run: only see whether they fit.

        Raises:
            InvalidRequest: it is in use, there is nothing to apply, or it does not fit; nothing was changed.
            ClinvkError: git failed.
        """
        async with self._holding(own):
            place = await self._place(own)
            if await asyncio.to_thread(self._folders.removal, own) is not None:
                raise InvalidRequest(f"worktree {own} is being removed: clinvk worktrees list goes on with that")
            async with self._look(place) as look:
                if not look.files:
                    raise InvalidRequest(f"worktree {own} has no changes to apply")
                await look.write_patch()
                target = Git(self._spawner, self._environ, place.facts.repository)
                async with self._changing_target(place.facts.repository):
                    await repository.apply(target, look, place, dry_run)
            if removed := not (keep or dry_run or look.warnings):
                await finished(self._remove(place, with_commits=True), _REMOVED_WITHIN_S)
        return Applied(
            id=own, repository=place.facts.repository, files=look.files, removed=removed, warnings=look.warnings
        )

    async def discard(self, own: str) -> None:
        """Remove a worktree with its branch and all that was done in it.

        Raises:
            InvalidRequest: it is in use.
            ClinvkError: it cannot be removed.
        """
        async with self._holding(own):
            await finished(self._remove(await self._place(own), with_commits=True), _REMOVED_WITHIN_S)

    async def _claim(self, label: str, facts: Facts, made: MutableSequence[Place]) -> None:
        place, lock = await asyncio.to_thread(self._folders.make, label, facts)
        self._held[place.id] = lock
        made.append(place)

    async def _give_up(self, place: Place) -> None:
        """Remove what was begun; what cannot be is found and removed by the next who lists worktrees."""
        try:
            await finished(self._remove(place), _REMOVED_WITHIN_S)
        except (ClinvkError, TimeoutError) as exc:
            logger.warning("worktree %s could not be removed: %s", place.id, exc)
        finally:
            self._let_go(place.id)

    async def _place(self, own: str) -> Place:
        if place := await asyncio.to_thread(self._folders.read, own):
            return place
        raise InvalidRequest(f"no worktree {own!r}; clinvk worktrees list shows them")

    @asynccontextmanager
    async def _holding(self, own: str) -> AsyncGenerator[None]:
        lock = await _waited(lambda: self._folders.hold(own), _FREE_WITHIN_S)
        if lock is None:
            raise InvalidRequest(f"worktree {own} is in use: its agent is at work")
        try:
            yield
        finally:
            os.close(lock)

    @asynccontextmanager
    async def _alone(self) -> AsyncGenerator[None]:
        """Let no other clinvk change which worktrees there are."""
        async with self._changing:
            lock = await _waited(self._folders.hold_all, _MADE_WITHIN_S)
            if lock is None:
                raise ClinvkError(f"another clinvk has been changing worktrees for {_MADE_WITHIN_S:g} s")
            try:
                yield
            finally:
                os.close(lock)

    @asynccontextmanager
    async def _changing_target(self, top: str) -> AsyncGenerator[None]:
        """Let no other clinvk change the files of a tree."""
        lock = await _waited(lambda: self._folders.hold_target(top), _TARGET_FREE_WITHIN_S)
        if lock is None:
            raise ClinvkError(f"another clinvk has been changing the files of {top} for {_TARGET_FREE_WITHIN_S:g} s")
        try:
            yield
        finally:
            await finished(asyncio.to_thread(self._folders.free_target, top, lock))

    @asynccontextmanager
    async def _look(self, place: Place) -> AsyncGenerator[Look]:
        """Look at a worktree; at one where git took too long once, not again."""
        if place.id in self._unseen:
            raise ClinvkError(self._unseen[place.id])
        try:
            async with self._look_once(place) as look:
                yield look
        except GitTooSlow as exc:
            self._unseen[place.id] = exc.message
            raise

    @asynccontextmanager
    async def _look_once(self, place: Place) -> AsyncGenerator[Look]:
        admin = await asyncio.to_thread(repository.registered, place.facts.common, place.root)
        if admin is None or not await asyncio.to_thread(place.root.is_dir):
            raise ClinvkError(f"{place.facts.repository} knows no worktree {str(place.root)!r} any more")
        git = Git(self._spawner, self._environ, str(place.root))
        await git.guard(GIT_DIR=str(admin), GIT_WORK_TREE=str(place.root))
        async with looked(git, place) as look:
            yield look

    async def _leave(self, own: str) -> None:
        place = await self._place(own)
        if await self._is_changed(place):
            await asyncio.to_thread(self._folders.keep, own)
        else:
            await self._remove(place)

    async def _is_changed(self, place: Place) -> bool:
        if place.id in self._kept:
            return self._kept.pop(place.id)
        try:
            async with self._look(place) as look:
                return look.is_changed
        except ClinvkError:  # better kept than lost
            return True

    async def _remove(self, place: Place, with_commits: bool = False) -> None:
        """Remove a worktree; a branch with commits of its own goes only `with_commits`."""
        await asyncio.to_thread(self._folders.begin_removal, place.id, with_commits)
        await asyncio.to_thread(remove_tree, place.root)
        if await asyncio.to_thread(os.path.isdir, place.facts.common):
            git = Git(self._spawner, self._environ, place.facts.common)
            await git.guard(GIT_DIR=place.facts.common)
            async with self._alone():
                await repository.forget(git, place, with_commits)
        await asyncio.to_thread(self._folders.remove, place.id)

    def _let_go(self, own: str) -> None:
        self._unseen.pop(own, None)
        if (lock := self._held.pop(own, None)) is not None:
            os.close(lock)

    async def _listed(self, own: str, common: str | None) -> Listed | None:
        """Give one; None where it is of another repository, or where nobody could want it: then it is removed."""
        lock = await asyncio.to_thread(self._folders.share, own)
        try:
            place = await asyncio.to_thread(self._folders.read, own)
            if place and common not in (None, place.facts.common):
                return None
            if place is None or lock is None:
                return _listing(place, "in use") if place else None
            listed = await self._seen(place)
        finally:
            if lock is not None:
                os.close(lock)
        return listed or await self._swept(place)

    async def _seen(self, place: Place) -> Listed | None:
        """Look at one that nobody uses."""
        if not await asyncio.to_thread(self._folders.is_ready, place.id):  # no agent was ever there, or it was removed
            return None
        is_there = await asyncio.to_thread(place.root.is_dir)
        try:
            async with self._look(place) as look:
                files, problem, is_changed = look.files, "; ".join(look.warnings), look.is_changed
        except ClinvkError as exc:
            return _listing(place, "broken", problem=exc.message) if is_there else None
        if is_changed:
            return _listing(place, "changed", files, problem)
        return _listing(place, "unchanged") if await asyncio.to_thread(self._folders.is_kept, place.id) else None

    async def _swept(self, place: Place) -> Listed | None:
        """Remove what the death of a clinvk left over, or a worktree that was removed with git.

        Gives it where it cannot be removed.
        """
        lock = await asyncio.to_thread(self._folders.hold, place.id)
        if lock is None:
            return None
        try:
            with_commits = await asyncio.to_thread(self._folders.removal, place.id)
            await self._remove(place, bool(with_commits))
        except (ClinvkError, OSError) as exc:
            return _listing(place, "broken", problem=f"it cannot be removed: {exc}")
        finally:
            os.close(lock)
        return None


async def _waited(take: Callable[[], int | None], within_s: float) -> int | None:
    """Take a lock as soon as it is free; None where it is not in time."""
    deadline = time.monotonic() + within_s
    while True:
        lock = await asyncio.to_thread(take)
        if lock is not None or time.monotonic() > deadline:
            return lock
        await asyncio.sleep(_LOOK_AGAIN_S)


def _listing(place: Place, state: State, files: tuple[ChangedFile, ...] = (), problem: str = "") -> Listed:
    return Listed(
        id=place.id,
        repository=place.facts.repository,
        path=str(place.workdir),
        branch=place.branch,
        base=place.facts.base,
        made_at=place.facts.made_at,
        state=state,
        files=files,
        problem=problem,
    )


def _beginning(file: Path, most: int) -> tuple[bytes, int]:
    """Give the beginning of a file, in whole lines, and the size of the file."""
    with file.open("rb") as opened:
        size = os.fstat(opened.fileno()).st_size
        read = opened.read(most)
    return (read if size <= most else read[: read.rfind(b"\n") + 1]), size
