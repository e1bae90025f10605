"""Work on worktrees that is cancelled at an awkward moment, or takes too long: what a thread still does then."""

import asyncio
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from clinvk.runtime.worktrees import diff, registration
from clinvk.runtime.worktrees import repository as repositories
from clinvk.runtime.worktrees import worktrees as package
from clinvk.runtime.worktrees.folders import WorktreeFolders
from clinvk.runtime.worktrees.kept_worktrees import KeptWorktrees
from clinvk.types.errors import ClinvkError
from integration.worktree_home import changed, home, left_over, with_git
from polling import until, until_told
from repositories import Repository


class Gate:
    """Blocks a thread from `asked` until `may_go_on`."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.may_go_on = threading.Event()


@contextmanager
def late(of: object, name: str) -> Generator[Gate]:
    """Make a function wait before it begins."""
    gate, function = Gate(), getattr(of, name)

    def waits(*arguments: object) -> object:
        gate.asked.set()
        gate.may_go_on.wait(20)
        return function(*arguments)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(of, name, waits)
        yield gate


async def cancelled_at(gate: Gate, task: "asyncio.Task[object]") -> None:
    """Cancel a task whose thread is held up; let that go on when the task has ended, or waits for it; end both."""
    await until(gate.asked.is_set)
    task.cancel()
    await asyncio.wait([task], timeout=1)
    gate.may_go_on.set()
    await asyncio.wait([task])
    assert task.cancelled()


async def test_cancelled_apply_leaves_no_temporary_files(repository: Repository, worktrees: KeptWorktrees) -> None:
    worktree = await changed(worktrees, repository)
    with late(diff, "_prepare") as gate:
        await cancelled_at(gate, asyncio.create_task(worktrees.apply(worktree.id)))
    assert list((home(repository) / "worktrees" / worktree.id).glob("look-*")) == []
    await worktrees.apply(worktree.id)
    assert left_over(repository) == []


async def test_cancelled_make_leaves_nothing(repository: Repository, worktrees: KeptWorktrees) -> None:
    with late(registration, "_finish_checkout") as gate:
        await cancelled_at(gate, asyncio.create_task(worktrees.make(str(repository.path / "inner"), "agent")))
    assert left_over(repository) == []


@pytest.mark.parametrize("lock", ["share", "hold"])
async def test_cancelled_list_releases_its_locks(repository: Repository, worktrees: KeptWorktrees, lock: str) -> None:
    worktree = await changed(worktrees, repository)
    folder = home(repository) / "worktrees" / worktree.id
    (folder / "index").rename(folder / "removing")
    with late(WorktreeFolders, lock) as gate:
        await cancelled_at(gate, asyncio.create_task(worktrees.list()))
    hold = WorktreeFolders(home(repository)).hold

    async def is_free() -> bool:
        return await asyncio.to_thread(hold, worktree.id) is not None

    await until_told(is_free)


async def test_folder_made_after_the_timeout_is_unlocked(
    repository: Repository, worktrees: KeptWorktrees, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(package, "_CLAIM_TIMEOUT_S", 0.2)
    with late(WorktreeFolders, "make") as gate:
        with pytest.raises(ClinvkError, match=r"making a folder took over 0\.2 s"):
            await worktrees.make(str(repository.path), "agent")
        gate.may_go_on.set()
        await until(lambda: left_over(repository))
    await until_told(lambda: removed_by_the_list(worktrees, repository))


async def removed_by_the_list(worktrees: KeptWorktrees, repository: Repository) -> bool:
    """List the worktrees; return whether nothing is left."""
    assert await worktrees.list() == [] or left_over(repository)
    return left_over(repository) == []


def with_slow(command: str, repository: Repository, does: str = "sleep 60") -> KeptWorktrees:
    """Return worktrees whose git hangs before one command."""
    return with_git(repository, f'case "$PWD $*" in {command}) {does};; esac')


async def test_make_reports_a_timeout_of_git(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(package, "CHANGE_TIMEOUT_S", 0.5)
    worktrees = with_slow('*"worktree add"*', repository)
    with pytest.raises(ClinvkError, match=r"git worktree add took over 0\.5 s"):
        await worktrees.make(str(repository.path), "agent")
    assert left_over(repository) == []


async def test_check_reports_a_timeout_of_restoring(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(package, "REMOVE_TIMEOUT_S", 0.5)
    worktrees = with_slow("*checkout-index*", repository)
    worktree = await worktrees.make(str(repository.path), "agent")
    with pytest.raises(ClinvkError, match=r"putting the files back took over 0\.5 s"):
        await worktrees.check(worktree, "true", 10)


async def test_apply_reports_a_timeout_of_git(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repositories, "_APPLY_TIMEOUT_S", 1.0)
    worktrees = with_slow(f'*--check*) ;; *" -C {repository.path} "*" apply "*', repository)
    worktree = await changed(worktrees, repository)
    with pytest.raises(ClinvkError, match=r"git apply took over 1 s; some files may have been written: .* stash "):
        await worktrees.apply(worktree.id)


async def test_cancelled_apply_finishes_writing(repository: Repository, tmp_path: Path) -> None:
    go, asked = tmp_path / "go", tmp_path / "asked"
    waiting = f"touch {asked}; until [ -e {go} ]; do sleep 0.05; done"
    worktrees = with_slow(f'*--check*) ;; *" -C {repository.path} "*" apply "*', repository, waiting)
    worktree = await changed(worktrees, repository)
    task = asyncio.create_task(worktrees.apply(worktree.id))
    await until(asked.exists)
    task.cancel()
    await asyncio.wait([task], timeout=0.2)
    assert not task.done()
    go.touch()
    await asyncio.wait([task])
    assert task.cancelled()
    assert repository.files()["a.txt"] == b"two\n"
