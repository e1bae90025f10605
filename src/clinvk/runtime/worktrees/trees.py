"""The worktrees of a clinvk home, one at a time: held, looked at and removed."""

import asyncio
import os
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import NamedTuple

from clinvk.runtime.process.spawn import Spawner
from clinvk.runtime.process.waiting import finished
from clinvk.runtime.worktrees import repository
from clinvk.runtime.worktrees.diff import Look, looked
from clinvk.runtime.worktrees.folders import Folders, Place
from clinvk.runtime.worktrees.git import Git, GitTooSlow
from clinvk.runtime.worktrees.tree_files import remove_tree
from clinvk.types.errors import ClinvkError, InvalidRequest

CHANGED_WITHIN_S = 60.0
"""How long another clinvk may change which worktrees there are."""

_FREE_WITHIN_S = 5.0
_GONE_WITHIN_S = 2.0
"""How long an agent that has told its end may take to go."""

_TARGET_FREE_WITHIN_S = 60.0
_LOOK_AGAIN_S = 0.02


class Use(NamedTuple):
    """That an agent works in a worktree: its id, a word for the use, and the lock of that."""

    own: str
    use: str
    lock: int


class Trees:
    """Holds worktrees, looks at them and removes them; `folders` are all there are."""

    def __init__(self, spawner: Spawner, home: str | os.PathLike[str], environ: Mapping[str, str]) -> None:
        self.folders = Folders(home)
        self._spawner = spawner
        self._environ = environ
        self._unseen: dict[str, str] = {}
        self._changing = asyncio.Lock()

    def git(self, directory: str, started_in: str | None = None) -> Git:
        """Give git for a directory, yet unguarded; `started_in` as `Git` has it."""
        return Git(self._spawner, self._environ, directory, started_in)

    async def place(self, own: str) -> Place:
        """Give a worktree by its id.

        Raises:
            InvalidRequest: there is none.
        """
        if place := await asyncio.to_thread(self.folders.read, own):
            return place
        raise InvalidRequest(f"no worktree {own!r}; clinvk worktrees list shows them")

    @asynccontextmanager
    async def unused(self, own: str) -> AsyncGenerator[Place]:
        """Hold a worktree that no agent works in. A clinvk that looks at it or changes it is waited for, not an agent.

        What the first agent has done while others wait is nothing that they know of. A later one may have told its end,
        and gets the time to go.

        Raises:
            InvalidRequest: there is none, its agent is at work, or another clinvk has it for too long.
            ClinvkError: no agent can be kept from entering it.
        """
        place = await self.place(own)
        was_left = await asyncio.to_thread(self.folders.is_kept, own)
        at_work = InvalidRequest(
            f"worktree {own} is in use: its agent is at work; wait until that has ended, which clinvk worktrees list"
            " shows, or end it where it was started"
        )

        def take() -> int | None:
            lock = self.folders.hold(own)
            if lock is None and not was_left and not self.folders.can_be_shared(own):
                raise at_work
            return lock

        lock = await _waited(take, _FREE_WITHIN_S)
        if lock is None:
            await self.place(own)
            raise InvalidRequest(f"worktree {own} is in use: another clinvk lists, applies or discards it")
        try:
            if await asyncio.to_thread(self.folders.is_kept, own) != was_left:
                raise at_work
            await asyncio.to_thread(self.folders.keep, own)
            if await self.stays_used(own):
                raise at_work
            yield place
        finally:
            os.close(lock)

    @asynccontextmanager
    async def used(self, directory: str) -> AsyncGenerator[None]:
        """Let nobody remove the worktree that a directory lies in, if it lies in one: an agent works there.

        Raises:
            InvalidRequest, ClinvkError: as `enter`.
        """
        entered = await self.enter(directory)
        try:
            yield
        finally:
            if entered:
                await finished(asyncio.to_thread(self.folders.exit, *entered))

    async def enter(self, directory: str) -> Use | None:
        """Begin such a use, which `Folders.exit` ends; None where the directory lies in no worktree.

        Raises:
            InvalidRequest: it is being removed, or another clinvk has it for too long.
            ClinvkError: it cannot be locked.
        """
        own = await asyncio.to_thread(self.folders.around, directory)
        if own is None:
            return None
        use = os.urandom(4).hex()
        lock = await _waited(
            lambda: self.folders.enter(own, use), _FREE_WITHIN_S, lambda lock: self.folders.exit(own, use, lock)
        )
        if lock is None:
            raise InvalidRequest(f"worktree {own} is in use: another clinvk applies or discards it", "workdir")
        return Use(own, use, lock)

    async def stays_used(self, own: str) -> bool:
        """Say whether an agent that has entered a worktree is still there once it had the time to go."""
        deadline = time.monotonic() + _GONE_WITHIN_S
        while await asyncio.to_thread(self.folders.is_used, own):
            if time.monotonic() > deadline:
                return True
            await asyncio.sleep(_LOOK_AGAIN_S)
        return False

    @asynccontextmanager
    async def alone(self) -> AsyncGenerator[None]:
        """Let no other clinvk change which worktrees there are.

        Raises:
            ClinvkError: another does so for too long.
        """
        async with self._changing:
            lock = await _waited(self.folders.hold_all, CHANGED_WITHIN_S)
            if lock is None:
                raise ClinvkError(f"another clinvk has been changing worktrees for {CHANGED_WITHIN_S:g} s")
            try:
                yield
            finally:
                os.close(lock)

    @asynccontextmanager
    async def changing_target(self, top: str) -> AsyncGenerator[None]:
        """Let no other clinvk change the files of a tree that worktrees were made from.

        Raises:
            ClinvkError: another does so for too long.
        """
        lock = await _waited(
            lambda: self.folders.hold_target(top),
            _TARGET_FREE_WITHIN_S,
            lambda lock: self.folders.free_target(top, lock),
        )
        if lock is None:
            raise ClinvkError(f"another clinvk has been changing the files of {top} for {_TARGET_FREE_WITHIN_S:g} s")
        try:
            yield
        finally:
            await finished(asyncio.to_thread(self.folders.free_target, top, lock))

    @asynccontextmanager
    async def look(self, place: Place) -> AsyncGenerator[Look]:
        """Look at a worktree; at one where git took too long once, not again until it is let go.

        Raises:
            ClinvkError: git cannot look.
        """
        if place.id in self._unseen:
            raise ClinvkError(self._unseen[place.id])
        try:
            async with self._look_once(place) as look:
                yield look
        except GitTooSlow as exc:
            self._unseen[place.id] = exc.message
            raise

    def let_go(self, own: str) -> None:
        """Forget what is known of a worktree."""
        self._unseen.pop(own, None)

    async def remove(self, place: Place, with_commits: bool = False) -> None:
        """Remove a worktree, which the caller holds; a branch with commits of its own goes only `with_commits`.

        Raises:
            ClinvkError: it cannot be removed.
        """
        await asyncio.to_thread(self.folders.begin_removal, place.id, with_commits)
        await asyncio.to_thread(remove_tree, place.root)
        if await asyncio.to_thread(os.path.isdir, place.facts.common):
            git = self.git(place.facts.common)
            await git.guard(GIT_DIR=place.facts.common)
            async with self.alone():
                await repository.forget(git, place, with_commits)
        await asyncio.to_thread(self.folders.remove, place.id)

    @asynccontextmanager
    async def _look_once(self, place: Place) -> AsyncGenerator[Look]:
        admin = await asyncio.to_thread(repository.registered, place.facts.common, place.root)
        if admin is None or not await asyncio.to_thread(place.root.is_dir):
            raise ClinvkError(f"{place.facts.repository} knows no worktree {str(place.root)!r} any more")
        git = self.git(str(place.root))
        await git.guard(GIT_DIR=str(admin), GIT_WORK_TREE=str(place.root))
        async with looked(git, place) as look:
            yield look


async def _waited(
    take: Callable[[], int | None], within_s: float, free: Callable[[int], object] = os.close
) -> int | None:
    """Take a lock as soon as it is free; None where it is not in time. Otherwise as `taken`."""
    deadline = time.monotonic() + within_s
    while True:
        lock = await taken(take, free)
        if lock is not None or time.monotonic() > deadline:
            return lock
        await asyncio.sleep(_LOOK_AGAIN_S)


async def taken(take: Callable[[], int | None], free: Callable[[int], object] = os.close) -> int | None:
    """Take a lock if it is free.

    The thread that takes it goes on where the caller is cancelled: what it gets then is let go with `free`.
    """
    taking = asyncio.get_running_loop().run_in_executor(None, take)
    try:
        return await asyncio.shield(taking)
    except asyncio.CancelledError:
        await finished(asyncio.shield(_freed(taking, free)))  # given up, it still lets go
        raise


async def _freed(taking: Awaitable[int | None], free: Callable[[int], object]) -> None:
    """Let go of a lock as soon as it is got, if it is."""
    with suppress(ClinvkError):
        if (lock := await taking) is not None:
            await asyncio.to_thread(free, lock)
