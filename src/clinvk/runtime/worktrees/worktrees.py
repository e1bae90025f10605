"""git worktrees for agents: made from HEAD of the user's repository, examined, and removed if unchanged.

Worktrees are in `worktrees/` of the clinvk home, outside of all projects. A worktree without changes is removed when
its agent has ended; a changed one is kept (`kept_worktrees.py`). Nothing else records which worktrees exist: a worktree
is a folder that its repository knows as a worktree.
"""

import asyncio
import logging
import os
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, nullcontext, suppress
from pathlib import Path

from clinvk.file_locks import FileLock
from clinvk.runtime.process.spawn import Spawner
from clinvk.runtime.process.waiting import WakeUp, finish_shielded, finish_thread
from clinvk.runtime.worktrees import registration, repository
from clinvk.runtime.worktrees.diff import TreeDiff, difference
from clinvk.runtime.worktrees.folders import Worktree, WorktreeFolders, new_id, remove_tree
from clinvk.runtime.worktrees.git import Git, GitTimedOut, environment
from clinvk.runtime.worktrees.repository import SourceCheck
from clinvk.types.errors import ClinvkError, InvalidRequest
from clinvk.types.orchestration import Change, Check

logger = logging.getLogger(__name__)

DIFF_BYTES = 1024 * 1024
"""The most bytes of a diff that `outcome` returns."""

CHANGE_TIMEOUT_S = 60.0
"""How long to wait while another clinvk adds or removes worktrees."""

_CLAIM_TIMEOUT_S = 10.0
REMOVE_TIMEOUT_S = 300.0
_LOCK_TIMEOUT_S = 5.0
_EXIT_TIMEOUT_S = 2.0
"""How long an agent that has reported its end may take to exit."""

_RETRY_AFTER_S = 0.02

CHECK_OUTPUT_BYTES = 64 * 1024
"""How much of a check's output is kept: the end, which says why a check failed."""

_DRAIN_S = 1.0
"""How long processes that a check leaves behind may keep its output open."""


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
        self._held: dict[str, FileLock] = {}
        self._changed: set[str] = set()
        self._timed_out: dict[str, str] = {}

    @asynccontextmanager
    async def isolated(
        self, directory: str, label: str, check_source: SourceCheck | None = None
    ) -> AsyncGenerator[Worktree]:
        """Make a worktree, and leave the worktree at the end.

        Raises:
            InvalidRequest, ClinvkError: as `make`.
        """
        worktree = await self.make(directory, label, check_source)
        try:
            yield worktree
        finally:
            await self.leave(worktree)

    async def make(
        self, directory: str, label: str, check_source: SourceCheck | None = None, id_: str = ""
    ) -> Worktree:
        """Make a worktree from HEAD of the repository that holds a directory, or from the branch of the worktree.

        Args:
            directory: where the agent was to work; in the worktree it works in the same sub-directory.
            label: the beginning of the id.
            check_source: checks the directories that files come from; None allows all.
            id_: the id of a removed worktree, to make the worktree again; empty chooses an id.

        Raises:
            InvalidRequest: the directory can have no worktree, or `check_source` refuses; the field is `isolation`.
            ClinvkError: git failed, e.g. because the disk is full.
        """
        git = self._git(directory)
        id_ = id_ or new_id(label)
        origin = await repository.origin(git, directory, str(self._folders.path), check_source, f"clinvk/{id_}")
        claimed: list[Worktree] = []

        async def claim() -> None:
            worktree, lock = await asyncio.to_thread(self._folders.make, id_, origin.worktree)
            self._held[worktree.id] = lock
            claimed.append(worktree)

        try:
            await finish_thread(claim(), "making a folder", _CLAIM_TIMEOUT_S)
            (worktree,) = claimed
            async with self._exclusive():
                await finish_thread(
                    registration.register(git, worktree, origin.dirs), "git worktree add", CHANGE_TIMEOUT_S
                )
            await registration.check_out(git, worktree, origin)
        except BaseException:
            for worktree in claimed:
                await self._finish_and_unlock(worktree, self._remove(worktree))
            raise
        return worktree

    async def examine(self, directory: str, check_source: SourceCheck | None = None) -> None:
        """Check that a worktree can be made from a directory; `check_source` as in `make`.

        Raises:
            InvalidRequest, ClinvkError: as `make`.
        """
        await repository.origin(self._git(directory), directory, str(self._folders.path), check_source)

    async def outcome(self, worktree: Worktree, max_diff_bytes: int = DIFF_BYTES) -> Change:
        """Return the changes in a worktree; call this after the agent has ended and before `leave`.

        Raises:
            ClinvkError: git failed.
        """
        async with self._difference(worktree) as diff:
            if keep := diff.is_changed:
                self._changed.add(worktree.id)
            text, is_cut = await diff.text(max_diff_bytes)
        return Change(
            diff=text,
            is_cut=is_cut,
            files=diff.files,
            branch=worktree.branch,
            path=worktree.path,
            kept=keep,
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
                    await finish_thread(diff.restore(), "putting the files back", REMOVE_TIMEOUT_S)

    async def leave(self, worktree: Worktree) -> None:
        """Unlock a worktree after the agent has ended, and remove an unchanged worktree without other agents.

        The worktree is kept if clinvk cannot examine or remove the worktree.
        """
        if worktree.id in self._held:
            await self._finish_and_unlock(worktree, self._keep_or_remove(worktree))

    async def _keep_or_remove(self, worktree: Worktree) -> None:
        lock = await self._exclude_agents(worktree.id)
        with lock or nullcontext():
            if lock is None or worktree.id in self._changed or await self._is_changed(worktree):
                await asyncio.to_thread(self._folders.keep, worktree.id)
            else:
                await self._remove(worktree)

    async def _is_changed(self, worktree: Worktree) -> bool:
        try:
            async with self._difference(worktree) as diff:
                return diff.is_changed
        except ClinvkError:  # kept rather than lost
            return True

    async def _finish_and_unlock(self, worktree: Worktree, work: Awaitable[None]) -> None:
        """Finish the work on a worktree of this process, and unlock the worktree even if the work fails.

        The next `list` completes a removal.
        """
        with self._held.pop(worktree.id):
            try:
                await finish_shielded(work, REMOVE_TIMEOUT_S)
            except (ClinvkError, OSError) as exc:
                logger.warning("worktree %s stays: %s", worktree.id, exc)
            finally:
                self._timed_out.pop(worktree.id, None)
                self._changed.discard(worktree.id)

    @asynccontextmanager
    async def used(self, directory: str) -> AsyncGenerator[None]:
        """Lock the worktree around a directory, if any, while a later agent works there.

        Several agents may work there. Until the last agent has ended, the worktree is `in use`, and cannot be applied,
        discarded or removed.

        Raises:
            InvalidRequest: the worktree is being removed or applied; the field is `workdir`.
            ClinvkError: the worktree cannot be locked.
        """
        with await self._lock_around(directory) or nullcontext():
            yield

    async def lock_until_exit(self, directory: str) -> None:
        """Lock the worktree around a directory until this process exits, also after an `exec`.

        Raises:
            InvalidRequest, ClinvkError: as `used`.
        """
        if lock := await self._lock_around(directory):
            os.set_inheritable(lock.file, True)
            lock.file = -1  # keep the descriptor open when `lock` is collected

    async def _lock_around(self, directory: str) -> FileLock | None:
        id_ = await asyncio.to_thread(self._folders.worktree_at, directory)
        if id_ is None:
            return None
        if lock := await wait_for_lock(lambda: self._folders.enter(id_)):
            return lock
        raise InvalidRequest(f"worktree {id_} is in use: another clinvk applies or discards it", "workdir")

    async def _remove(self, worktree: Worktree, with_commits: bool = False) -> None:
        """Remove a worktree, which the caller holds; keep a branch with commits of its own unless `with_commits`."""
        await asyncio.to_thread(self._folders.begin_removal, worktree.id, with_commits)
        await asyncio.to_thread(remove_tree, Path(worktree.root))
        if await asyncio.to_thread(os.path.isfile, os.path.join(worktree.common, "HEAD")):
            async with self._exclusive():
                await registration.unregister(self._git(worktree.common), worktree, with_commits)
        await asyncio.to_thread(remove_tree, Path(worktree.folder))

    async def _exclude_agents(self, id_: str, timeout_s: float | None = None) -> FileLock | None:
        """Keep later agents out of a worktree, or return None if an agent is at work there until the timeout."""
        return await wait_for_lock(lambda: self._folders.exclude(id_), timeout_s or _EXIT_TIMEOUT_S)

    @asynccontextmanager
    async def _exclusive(self) -> AsyncGenerator[None]:
        """Lock adding and removing worktrees, since git fails if another worktree is incomplete.

        Raises:
            ClinvkError: another clinvk has the lock for too long.
        """
        async with self._changing, self._locked(".lock", "changing worktrees", CHANGE_TIMEOUT_S):
            yield

    @asynccontextmanager
    async def _locked(self, name: str, activity: str, timeout_s: float) -> AsyncGenerator[None]:
        lock = await wait_for_lock(lambda: self._folders.lock_home(name), timeout_s)
        if lock is None:
            raise ClinvkError(f"another clinvk has been {activity} for {timeout_s:g} s")
        with lock:
            yield

    @asynccontextmanager
    async def _difference(self, worktree: Worktree, base: str = "", **variables: str) -> AsyncGenerator[TreeDiff]:
        """Compare a worktree as `difference` does. After a timeout of git, fail at once.

        Raises:
            ClinvkError: git failed, or the repository does not know the worktree any more.
        """
        if worktree.id in self._timed_out:
            raise ClinvkError(self._timed_out[worktree.id])
        admin = await asyncio.to_thread(registration.registered, worktree)
        if admin is None or not await asyncio.to_thread(os.path.isdir, worktree.root):
            raise ClinvkError(f"{worktree.repository} knows no worktree {worktree.root!r} any more")
        try:
            async with difference(self._git(worktree.root), worktree, admin, base, **variables) as diff:
                yield diff
        except GitTimedOut as exc:
            self._timed_out[worktree.id] = exc.message
            raise

    def _git(self, directory: str) -> Git:
        return Git(self._spawner, self._environ, directory)


async def wait_for_lock(acquire: Callable[[], FileLock | None], timeout_s: float | None = None) -> FileLock | None:
    """Take a lock as soon as possible, or return None after a timeout of 5 seconds by default."""
    deadline = time.monotonic() + (_LOCK_TIMEOUT_S if timeout_s is None else timeout_s)
    while True:
        lock = await asyncio.to_thread(acquire)
        if lock or time.monotonic() > deadline:
            return lock
        await asyncio.sleep(_RETRY_AFTER_S)


async def run_check(
    spawner: Spawner, command: str, directory: str, environ: Mapping[str, str], timeout_s: float
) -> Check:
    """Run a shell command, then end all processes of the command. After a timeout, the exit code is None.

    Raises:
        InvalidRequest: the directory cannot be entered, or the command is too long.
    """
    changed = WakeUp()
    # stderr joins stdout before the shell parses the command, so that syntax errors stand in their place.
    argv = ("/bin/sh", "-c", 'exec 2>&1; exec /bin/sh -c "$0"', command)
    process = spawner.spawn(argv, environment(environ), directory, changed.set, raw=True)
    output, size, is_draining = bytearray(), 0, False
    try:
        process.write(b"", close=True)
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s) as limit:
                while process.exit_code is None or not process.at_eof:
                    if process.exit_code is not None and not is_draining:
                        is_draining = True
                        limit.reschedule(asyncio.get_running_loop().time() + _DRAIN_S)
                    await changed.wait()
                    for chunk in process.take():
                        size += len(chunk)
                        output = (output + chunk)[-CHECK_OUTPUT_BYTES:]
        exit_code = process.exit_code
    finally:
        await spawner.sweep(process)
    text, cut = output.decode(errors="replace"), size - len(output)
    if cut:
        text = f"({cut} bytes before this left out)\n{text}"
    return Check(passed=exit_code == 0, exit_code=exit_code, output=text)
