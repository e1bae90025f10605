"""git worktrees: a tree of files and a branch of its own for an agent, from the HEAD of where the user works.

They live in `worktrees/` of the clinvk home, outside every project. One that its agent left as it was is removed; one
that it changed stays, until its changes are applied to the tree that it was made from, or discarded. Which there are is
written down nowhere: a worktree is a folder there that its repository knows as one.
"""

import asyncio
import logging
import os
import time
from collections.abc import AsyncGenerator, Mapping, MutableSequence, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import BinaryIO

from clinvk.runtime.process.spawn import Spawner
from clinvk.runtime.process.waiting import finished, whole
from clinvk.runtime.worktrees import listing, repository
from clinvk.runtime.worktrees.checks import run_check
from clinvk.runtime.worktrees.folders import Facts, Place
from clinvk.runtime.worktrees.git import Git, GitFailed
from clinvk.runtime.worktrees.trees import CHANGED_WITHIN_S, Trees
from clinvk.runtime.worktrees.worktree_types import Applied, Judge, Listed, Worktree
from clinvk.types.errors import ClinvkError, InvalidRequest
from clinvk.types.orchestration import Change, Check

logger = logging.getLogger(__name__)

DIFF_BYTES = 1024 * 1024
"""How much of a diff is told."""

_CLAIMED_WITHIN_S = 10.0
_REMOVED_WITHIN_S = 300.0


class Worktrees:
    """All worktrees of a clinvk home, of whatever repository.

    One that was made is held until it is left. Where this process dies before, its lock is free, and so others see
    that nobody works in it.
    """

    def __init__(self, spawner: Spawner, home: str | os.PathLike[str], environ: Mapping[str, str]) -> None:
        self._spawner = spawner
        self._environ = environ
        self._trees = Trees(spawner, home, environ)
        self._held: dict[str, int] = {}
        self._kept: set[str] = set()

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
        """Make a worktree from the HEAD of the repository that holds a directory.

        Args:
            directory: where the agent was to work; in the worktree it works in the same sub-directory.
            label: whose it is; its id begins so.
            judge: judges where its files come from. Without it they may come from anywhere.

        Raises:
            InvalidRequest: there can be none, or the judge refuses it; the field is `isolation`.
            ClinvkError: git failed, e.g. for lack of room.
        """
        git = self._trees.git(directory)
        source = await repository.source(git, directory, judge)
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
            await whole(self._claim(label, facts, made), "making a folder", _CLAIMED_WITHIN_S)
            (place,) = made
            async with self._trees.alone():
                await whole(repository.register(git, place), "git worktree add", CHANGED_WITHIN_S)
            await repository.check_out(git, place, source.left_out)
            await whole(asyncio.to_thread(repository.settle, place), "copying an index")
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

    async def examine(self, directory: str, judge: Judge | None = None) -> None:
        """Look whether a worktree can be made from a directory; `judge` as in `make`.

        Raises:
            InvalidRequest, ClinvkError: as `make`.
        """
        await repository.source(self._trees.git(directory), directory, judge)

    async def outcome(self, worktree: Worktree, max_diff_bytes: int = DIFF_BYTES) -> Change:
        """Look at what was done in a worktree; call it when the agent has ended, and before the worktree is left.

        Raises:
            ClinvkError: git cannot look.
        """
        async with self._trees.look(await self._trees.place(worktree.id)) as look:
            kept = look.is_changed
            if kept:
                self._kept.add(worktree.id)
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
        async with self._trees.look(await self._trees.place(worktree.id)) as look:
            try:
                return await run_check(self._spawner, command, worktree.path, self._environ, timeout_s)
            finally:
                if not look.warnings:  # what git could not read it could not put back
                    await whole(look.restore(), "putting the files back", _REMOVED_WITHIN_S)

    async def leave(self, worktree: Worktree) -> None:
        """Let go of a worktree. It is removed if it is as it was, and kept where its outcome said that it is not.

        It is looked at again before it is removed, since others may have worked in it; what cannot be looked at or
        removed is kept.
        """
        if worktree.id not in self._held:
            return
        try:
            await finished(self._leave(worktree.id), _REMOVED_WITHIN_S)
        except (ClinvkError, OSError) as exc:
            logger.warning("worktree %s stays: %s", worktree.id, exc)
        finally:
            self._let_go(worktree.id)

    def used(self, directory: str) -> AbstractAsyncContextManager[None]:
        """Hold the worktree that a directory lies in, if any, while an agent works there that it was not made for.

        Several may. Until the last is gone it is listed as in use, and neither applied, nor discarded, nor removed.

        Raises:
            InvalidRequest: it is being removed or applied; the field is `workdir`.
            ClinvkError: it cannot be locked.
        """
        return self._trees.used(directory)

    async def use_from_here(self, directory: str) -> None:
        """Hold it likewise until this process is gone, and the program that it becomes.

        Raises:
            InvalidRequest, ClinvkError: as `used`.
        """
        if entered := await self._trees.enter(directory):
            os.set_inheritable(entered.lock, True)

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
            _, common, _ = await repository.find(self._trees.git(directory), directory)
        return await listing.listed(self._trees, common)

    async def show(self, own: str) -> tuple[Listed, BinaryIO | None]:
        """Give one of those, by its id, with the patch of its changes as a file, which the caller closes.

        There is no patch where there can be none: that it is in use, or what its `problem` is, says why.

        Raises:
            InvalidRequest: there is none, or it was left unchanged, and is removed.
        """
        listed, patch = await listing.shown(self._trees, own)
        if listed is None:
            raise InvalidRequest(f"no worktree {own!r}; clinvk worktrees list shows them")
        return listed, patch

    async def find(self, reference: str) -> str:
        """Give the id that a word stands for: an id, the beginning of one, or a branch.

        Raises:
            InvalidRequest: there is none, or several.
        """
        return await asyncio.to_thread(self._trees.folders.find, reference)

    async def apply(self, own: str, keep: bool = False, dry_run: bool = False, directory: str | None = None) -> Applied:
        """Bring the changes of a worktree into the tree that it was made from, all or none; then remove it.

        Args:
            own: its id.
            keep: do not remove it.
            dry_run: only see whether they fit.
            directory: where the caller is, if anywhere: in the tree it stays, though all in it may be replaced.

        Raises:
            InvalidRequest: it is in use, there is nothing to apply, it does not fit or is there already; nothing was
                changed.
            ClinvkError: git failed.
        """
        async with self._trees.unused(own) as place:
            if await asyncio.to_thread(self._trees.folders.removal, own) is not None:
                raise InvalidRequest(f"worktree {own} is being removed: clinvk worktrees list goes on with that")
            async with self._trees.look(place) as look:
                if not look.files:
                    raise InvalidRequest(f"worktree {own} has no changes to apply")
                await look.write_patch()
                target = await self._target(place.facts.repository, directory)
                async with self._trees.changing_target(place.facts.repository):
                    await repository.apply(target, look, place, dry_run)
            if removed := not (keep or dry_run or look.warnings):
                await whole(self._trees.remove(place, with_commits=True), f"removing worktree {own}", _REMOVED_WITHIN_S)
        return Applied(
            id=own, repository=place.facts.repository, files=look.files, removed=removed, warnings=look.warnings
        )

    async def discard(self, *owns: str, dry_run: bool = False) -> None:
        """Remove worktrees with their branches and all that was done in them; in a `dry_run` only see if they are free.

        Raises:
            InvalidRequest: one is in use; none was removed.
            ClinvkError: one cannot be removed; others may be gone.
        """
        in_order = sorted(set(owns))  # the same for all who do so, or two might wait for each other
        async with AsyncExitStack() as held:
            places = [await held.enter_async_context(self._trees.unused(own)) for own in in_order]
            if not dry_run:
                for place in places:
                    removing = self._trees.remove(place, with_commits=True)
                    await whole(removing, f"removing worktree {place.id}", _REMOVED_WITHIN_S)

    async def _target(self, top: str, directory: str | None) -> Git:
        """Give git for a tree; started where the caller is only if that is in it, for elsewhere git may have no way."""
        is_inside = directory is not None and await asyncio.to_thread(_lies_in, directory, top)
        return self._trees.git(top, directory if is_inside else None)

    async def _claim(self, label: str, facts: Facts, made: MutableSequence[Place]) -> None:
        making = asyncio.get_running_loop().run_in_executor(None, self._trees.folders.make, label, facts)
        try:
            place, lock = await asyncio.shield(making)
        except asyncio.CancelledError:  # it is given up; the next who lists worktrees removes what comes of it
            making.add_done_callback(_unlock)
            raise
        self._held[place.id] = lock
        made.append(place)

    async def _give_up(self, place: Place) -> None:
        """Remove what was begun; what cannot be is found and removed by the next who lists worktrees."""
        try:
            await finished(self._trees.remove(place), _REMOVED_WITHIN_S)
        except (ClinvkError, TimeoutError) as exc:
            logger.warning("worktree %s could not be removed: %s", place.id, exc)
        finally:
            self._let_go(place.id)

    async def _leave(self, own: str) -> None:
        place = await self._trees.place(own)
        await asyncio.to_thread(self._trees.folders.keep, own)
        if not (own in self._kept or await self._trees.stays_used(own) or await self._is_changed(place)):
            await self._trees.remove(place)

    async def _is_changed(self, place: Place) -> bool:
        try:
            async with self._trees.look(place) as look:
                return look.is_changed
        except ClinvkError:  # better kept than lost
            return True

    def _let_go(self, own: str) -> None:
        self._trees.let_go(own)
        self._kept.discard(own)
        if (lock := self._held.pop(own, None)) is not None:
            os.close(lock)


def _unlock(making: "asyncio.Future[tuple[Place, int]]") -> None:
    if not making.cancelled() and not making.exception():
        os.close(making.result()[1])


def _lies_in(directory: str, top: str) -> bool:
    return Path(os.path.realpath(directory)).is_relative_to(os.path.realpath(top))


def _beginning(file: Path, most: int) -> tuple[bytes, int]:
    """Give the beginning of a file, in whole lines, and the size of the file."""
    with file.open("rb") as opened:
        size = os.fstat(opened.fileno()).st_size
        read = opened.read(most)
    return (read if size <= most else read[: read.rfind(b"\n") + 1]), size
