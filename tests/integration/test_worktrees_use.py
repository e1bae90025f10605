"""A worktree stays in use while agents of later runs work in it."""

import asyncio
import errno
import fcntl
import os
import threading
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager, nullcontext
from pathlib import Path

import pytest
from msgspec.structs import replace

from clinvk.config.model import Settings, complete
from clinvk.file_locks import FileLock
from clinvk.orchestrate.live import Orchestrations
from clinvk.runtime.local import LocalRuns
from clinvk.runtime.run.task import RunTask
from clinvk.runtime.worktrees import registration
from clinvk.runtime.worktrees.folders import Worktree, WorktreeFolders, remove_tree
from clinvk.runtime.worktrees.kept_worktrees import KeptWorktrees
from clinvk.runtime.worktrees.worktrees import Worktrees
from clinvk.store.memory import MemoryStore
from clinvk.types.errors import ClinvkError, InvalidRequest
from clinvk.types.orchestration import Chain, Part
from clinvk.types.request import RunRequest
from integration.pool_server import WARM
from integration.worktree_home import another, changed, home, left_over
from lasting_backend import Lasting
from polling import until
from repositories import Repository
from shell_backend import DONE, TEXT, Shell

WAITS = "touch begun; while [ ! -e go ]; do sleep 0.02; done; rm begun go; touch done\n" + TEXT + DONE
"""Works from when `begun` is there until `go` is."""


@pytest.fixture(autouse=True)
def refusing_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is at work is not waited for as long as for a user."""
    monkeypatch.setattr("clinvk.runtime.worktrees.worktrees._EXIT_TIMEOUT_S", 0.3)


@asynccontextmanager
async def running(runs: LocalRuns, directory: str | Path, script: str = WAITS) -> AsyncGenerator[RunTask]:
    """Run an agent in a directory, and wait until it is at work; at the end it is done and gone."""
    async with runs.run(RunRequest(prompt=script, backend="shell", workdir=str(directory))) as run:
        await until(lambda: Path(directory, "begun").exists())
        yield run
        Path(directory, "go").touch()
        await run.log.result()
        await runs.cancel(run.id)  # it has ended: this waits until its agent is gone


def local(repository: Repository) -> LocalRuns:
    """The runs of the repository's user."""
    return LocalRuns(Settings(), MemoryStore(), repository.env, {"shell": Shell()})


async def states(worktrees: KeptWorktrees) -> Sequence[str]:
    """Return the states of all."""
    return [item.state for item in await worktrees.list()]


async def check_in_use(worktrees: KeptWorktrees, own: str) -> None:
    """See that a worktree is listed as in use, and stays."""
    assert await states(worktrees) == ["in use"]
    for change in (worktrees.apply, worktrees.discard):
        with pytest.raises(InvalidRequest, match="is in use: its agent is at work"):
            await change(own)


@pytest.mark.parametrize("inside", ["", "inner"])
async def test_kept_worktree_is_in_use_while_an_agent_works_there(
    repository: Repository, worktrees: KeptWorktrees, inside: str
) -> None:
    kept = await changed(worktrees, repository)
    async with local(repository) as runs:
        async with running(runs, Path(kept.root, inside)):
            await check_in_use(worktrees, kept.id)
        assert await states(worktrees) == ["changed"]
        await worktrees.apply(kept.id)
    assert left_over(repository) == []
    assert Path(repository.path, inside, "done").exists()


async def test_worktree_is_in_use_until_the_last_agent_exits(repository: Repository, worktrees: KeptWorktrees) -> None:
    kept = await changed(worktrees, repository)
    async with local(repository) as runs, local(repository) as others:
        async with running(runs, kept.root):
            async with running(others, Path(kept.root, "inner")):
                await check_in_use(worktrees, kept.id)
            await check_in_use(worktrees, kept.id)
        assert await states(worktrees) == ["changed"]
    assert sorted(os.listdir(home(repository) / "worktrees" / kept.id)) == [
        *("index", "kept", "lock", "project", "work", "worktree.json")
    ]


async def test_cancelled_run_unlocks_the_worktree(repository: Repository, worktrees: KeptWorktrees) -> None:
    kept = await changed(worktrees, repository)
    async with local(repository) as runs:
        async with runs.run(RunRequest(prompt=WAITS, backend="shell", workdir=kept.root)) as run:
            await until(lambda: Path(kept.root, "begun").exists())
            await runs.cancel(run.id)
        await worktrees.discard(kept.id)
    assert left_over(repository) == []


async def test_discard_waits_for_an_agent_that_exits_soon(
    repository: Repository, worktrees: KeptWorktrees, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("_LOCK_TIMEOUT_S", "_EXIT_TIMEOUT_S"):
        monkeypatch.setattr(f"clinvk.runtime.worktrees.worktrees.{name}", 20.0)
    kept = await changed(worktrees, repository)
    request = RunRequest(prompt=f"{TEXT}{DONE}exec >&-; sleep 0.5", backend="shell", workdir=kept.root)
    async with local(repository) as runs, runs.run(request) as run:
        await run.log.result()
        await worktrees.discard(kept.id)
    assert left_over(repository) == []


async def test_later_step_of_a_chain_locks_the_worktree(repository: Repository, worktrees: KeptWorktrees) -> None:
    first = RunRequest(prompt=f"echo two >a.txt\n{DONE}", backend="shell", workdir=str(repository.path))
    second = RunRequest(prompt=WAITS, backend="shell")
    chain = Chain(parts=(Part(request=first, isolation="worktree"), Part(request=second, follows=True)))

    async def admit(request: RunRequest) -> RunRequest:
        return complete(request, Settings())

    async def check(worktree: Path) -> None:
        await check_in_use(worktrees, worktree.parent.name)

    async with local(repository) as runs:
        some = Orchestrations(runs, MemoryStore(), runs.spawner, repository.env)
        plan = await some.admit(chain, admit, lambda _: None)
        async with some.start(plan, plan) as one:
            driving = asyncio.create_task(one.drive())
            begun = (home(repository) / "worktrees").glob
            await until(lambda: list(begun("*/project/begun")))
            (worktree,) = [path.parent for path in begun("*/project/begun")]
            await check(worktree)
            (worktree / "go").touch()
            summary = await driving
        assert (summary.completed, summary.failed) == (2, 0)
        assert await states(worktrees) == ["changed"]
        await worktrees.apply(worktree.parent.name)
    assert left_over(repository) == []


async def test_idle_warm_process_does_not_lock_the_worktree(
    repository: Repository, worktrees: KeptWorktrees, tmp_path: Path
) -> None:
    kept = await changed(worktrees, repository)
    settings = Settings(warm=replace(WARM, kept_backends=("lasting",)))
    runs = LocalRuns(settings, MemoryStore(), repository.env, {"lasting": Lasting(tmp_path)}, keeps_warm=True)
    async with runs:
        async with runs.run(RunRequest(prompt="hello", backend="lasting", workdir=kept.root)) as run:
            await run.log.result()
        assert runs.pool
        assert runs.pool.stats.processes == 1
        assert await states(worktrees) == ["changed"]
        await worktrees.discard(kept.id)
    assert left_over(repository) == []


async def test_leave_keeps_a_worktree_that_another_agent_uses(repository: Repository, worktrees: KeptWorktrees) -> None:
    async with local(repository) as runs:
        worktree = await worktrees.make(str(repository.path), "agent")
        async with running(runs, worktree.root):
            Path(worktree.root, "begun").rename(Path(worktree.root, "..", "begun"))
            assert not (await worktrees.outcome(worktree)).kept
            await worktrees.leave(worktree)
            await check_in_use(another(repository), worktree.id)
            Path(worktree.root, "..", "begun").rename(Path(worktree.root, "begun"))
        assert await states(worktrees) == ["changed"]


async def test_agent_in_a_worktree_left_by_a_dead_clinvk_locks_it(
    repository: Repository, worktrees: KeptWorktrees
) -> None:
    """Nothing was changed in the worktree, so a list would remove it."""
    worktree = await changed(worktrees, repository)
    Path(worktree.root, "a.txt").write_text("one\n")
    (home(repository) / "worktrees" / worktree.id / "kept").unlink()
    async with local(repository) as runs:
        async with running(runs, worktree.root):
            await check_in_use(worktrees, worktree.id)
        assert await states(worktrees) == ["changed"]


async def test_lock_file_of_a_killed_clinvk_locks_nothing(repository: Repository, worktrees: KeptWorktrees) -> None:
    kept = await changed(worktrees, repository)
    (home(repository) / "worktrees" / kept.id / "work").touch()
    assert await states(worktrees) == ["changed"]
    await worktrees.discard(kept.id)
    assert left_over(repository) == []


async def test_run_in_a_removed_or_locked_worktree_is_refused(
    repository: Repository, worktrees: KeptWorktrees, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> None:
        raise ClinvkError("not now")

    monkeypatch.setattr("clinvk.runtime.worktrees.worktrees._LOCK_TIMEOUT_S", 0.3)
    folders = WorktreeFolders(home(repository))
    removed, busy = await changed(worktrees, repository), await changed(worktrees, repository)
    with monkeypatch.context() as patched:
        patched.setattr("clinvk.runtime.worktrees.worktrees.remove_tree", refuse)
        with pytest.raises(ClinvkError, match="not now"):
            await worktrees.discard(removed.id)
    lock = await asyncio.to_thread(folders.exclude, busy.id)
    assert lock is not None
    with lock:
        async with local(repository) as runs:
            for worktree, why in ((removed, "is being removed"), (busy, "is in use: another clinvk")):
                request = RunRequest(prompt="touch ran", backend="shell", workdir=worktree.root)
                async with runs.run(request) as run:
                    result = await run.log.result()
                assert result.error
                assert result.error.code == InvalidRequest.code
                assert result.error.message.startswith(f"worktree {worktree.id} {why}")
                assert isinstance(run.refusal, InvalidRequest)
                assert run.refusal.field == "workdir"
                assert not Path(worktree.root, "ran").exists()


async def test_run_during_a_removal_is_refused_at_once(
    repository: Repository, worktrees: KeptWorktrees, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clinvk.runtime.worktrees.worktrees._LOCK_TIMEOUT_S", 600.0)
    begun, go = threading.Event(), threading.Event()

    def slowly(path: Path) -> None:
        begun.set()
        go.wait(30)
        remove_tree(path)

    kept = await changed(worktrees, repository)
    monkeypatch.setattr("clinvk.runtime.worktrees.worktrees.remove_tree", slowly)
    discarding = asyncio.create_task(worktrees.discard(kept.id))
    try:
        await until(begun.is_set)
        request = RunRequest(prompt="touch ran", backend="shell", workdir=kept.root)
        async with local(repository) as runs, runs.run(request) as run:
            result = await run.log.result()
        assert result.error
        assert result.error.message.startswith(f"worktree {kept.id} is being removed")
    finally:
        go.set()
        await discarding
    assert left_over(repository) == []


async def test_enter_is_refused_if_the_removal_begins_meanwhile(
    repository: Repository, worktrees: KeptWorktrees, monkeypatch: pytest.MonkeyPatch
) -> None:
    worktree = await worktrees.make(str(repository.path), "agent")
    folders, is_ready, looks = WorktreeFolders(home(repository)), WorktreeFolders.is_ready, [True, False]

    def ready_once(self: WorktreeFolders, own: str) -> bool:
        return is_ready(self, own) and looks.pop(0)

    with monkeypatch.context() as patched:
        patched.setattr(WorktreeFolders, "is_ready", ready_once)
        with pytest.raises(InvalidRequest, match="is being removed"):
            await asyncio.to_thread(folders.enter, worktree.id)
    await worktrees.leave(worktree)
    assert left_over(repository) == []


LOOK = (registration, "registered")
"""Where a look at a worktree begins: whoever looks is told where git has it."""

REMOVAL = (WorktreeFolders, "begin_removal")


def entering(
    home: Path, own: str, monkeypatch: pytest.MonkeyPatch, step: tuple[object, str]
) -> Sequence[InvalidRequest | FileLock | None]:
    """Try to enter a worktree right before a step; return a list that receives the outcome."""
    came: list[InvalidRequest | FileLock | None] = []
    before: Callable[..., object] = getattr(*step)

    def entered(*arguments: object) -> object:
        try:
            came.append(WorktreeFolders(home).enter(own))
        except InvalidRequest as exc:
            came.append(exc)
        return before(*arguments)

    monkeypatch.setattr(*step, entered)
    return came


@pytest.mark.parametrize("step", [LOOK, REMOVAL], ids=["look", "removal"])
async def test_no_agent_enters_during_leave(
    repository: Repository, worktrees: KeptWorktrees, monkeypatch: pytest.MonkeyPatch, step: tuple[object, str]
) -> None:
    worktree = await worktrees.make(str(repository.path), "agent")
    came = entering(home(repository), worktree.id, monkeypatch, step)
    await worktrees.leave(worktree)
    assert came[0] is None
    assert left_over(repository) == []


@pytest.mark.parametrize(("step", "by"), [(LOOK, "apply"), *((REMOVAL, by) for by in ("apply", "discard", "list"))])
async def test_no_agent_enters_while_another_clinvk_applies_or_removes(
    repository: Repository, worktrees: KeptWorktrees, monkeypatch: pytest.MonkeyPatch, step: tuple[object, str], by: str
) -> None:
    worktree = await changed(worktrees, repository)
    if by == "list":
        Path(worktree.root, "a.txt").write_text("one\n")
    (home(repository) / "worktrees" / worktree.id / "kept").unlink()
    came = entering(home(repository), worktree.id, monkeypatch, step)
    await getattr(worktrees, by)(*([] if by == "list" else [worktree.id]))
    assert came[0] is None
    assert left_over(repository) == []


async def test_worktree_of_a_dead_clinvk_reports_another_clinvk_that_applies(
    repository: Repository, worktrees: KeptWorktrees, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clinvk.runtime.worktrees.worktrees._LOCK_TIMEOUT_S", 0.1)
    worktree = await changed(worktrees, repository)
    (home(repository) / "worktrees" / worktree.id / "kept").unlink()
    registered = registration.registered

    def meanwhile(worktree: Worktree) -> Path | None:
        with pytest.raises(InvalidRequest, match="is in use: another clinvk lists, applies or discards it"):
            asyncio.run(another(repository).discard(worktree.id))
        return registered(worktree)

    monkeypatch.setattr(registration, "registered", meanwhile)
    await worktrees.apply(worktree.id, dry_run=True)


async def test_list_keeps_changes_made_after_its_first_look(
    repository: Repository, worktrees: KeptWorktrees, monkeypatch: pytest.MonkeyPatch
) -> None:
    worktree = await changed(worktrees, repository)
    Path(worktree.root, "a.txt").write_text("one\n")
    (home(repository) / "worktrees" / worktree.id / "kept").unlink()
    hold = WorktreeFolders.hold

    def meanwhile(self: WorktreeFolders, own: str) -> FileLock | None:
        with self.enter(own) or nullcontext() as entered:
            assert entered
            Path(worktree.root, "new").touch()
        return hold(self, own)

    monkeypatch.setattr(WorktreeFolders, "hold", meanwhile)
    assert await states(worktrees) == ["changed"]


async def test_enter_fails_if_another_clinvk_takes_the_lock_first(
    repository: Repository, worktrees: KeptWorktrees, monkeypatch: pytest.MonkeyPatch
) -> None:
    worktree = await changed(worktrees, repository)
    (home(repository) / "worktrees" / worktree.id / "kept").unlink()
    folders, flock = WorktreeFolders(home(repository)), fcntl.flock
    taken: list[FileLock | None] = []

    def excluded_before(lock: int, how: int) -> None:
        if how & fcntl.LOCK_SH:
            taken.append(folders.exclude(worktree.id))
        flock(lock, how)

    monkeypatch.setattr(fcntl, "flock", excluded_before)
    assert await asyncio.to_thread(folders.enter, worktree.id) is None
    assert taken[0] is not None


async def test_failed_lock_leaves_no_descriptor_open(
    repository: Repository, worktrees: KeptWorktrees, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = await changed(worktrees, repository)
    folders, flock, descriptors = WorktreeFolders(home(repository)), fcntl.flock, list[int]()

    def fails(lock: int, how: int) -> None:
        if how & fcntl.LOCK_SH:
            descriptors.append(lock)
            raise OSError(errno.ENOLCK, "No locks available")
        flock(lock, how)

    monkeypatch.setattr(fcntl, "flock", fails)
    with pytest.raises(ClinvkError, match=f"cannot lock .*{kept.id}/work.: No locks available"):
        await asyncio.to_thread(folders.enter, kept.id)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptors[0])


async def test_lock_that_cannot_be_opened_counts_as_in_use(repository: Repository, worktrees: KeptWorktrees) -> None:
    """For example the lock of another user."""
    kept = await changed(worktrees, repository)
    lock = home(repository) / "worktrees" / kept.id / "work"
    lock.unlink()
    lock.symlink_to("work")
    await check_in_use(worktrees, kept.id)


async def test_leave_keeps_changes_made_after_the_outcome(repository: Repository, worktrees: KeptWorktrees) -> None:
    worktree = await worktrees.make(str(repository.path), "agent")
    assert not (await worktrees.outcome(worktree)).kept
    async with another(repository).used(worktree.root):
        Path(worktree.root, "new").touch()
    await worktrees.leave(worktree)
    assert await states(worktrees) == ["changed"]


async def test_run_cancelled_while_waiting_for_the_worktree_starts_no_agent(
    repository: Repository, worktrees: KeptWorktrees, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits, enter = threading.Event(), WorktreeFolders.enter

    def entered(self: WorktreeFolders, own: str) -> FileLock | None:
        waits.set()
        return enter(self, own)

    kept = await changed(worktrees, repository)
    lock = await asyncio.to_thread(WorktreeFolders(home(repository)).exclude, kept.id)
    assert lock is not None
    monkeypatch.setattr(WorktreeFolders, "enter", entered)
    request = RunRequest(prompt="touch ran", backend="shell", workdir=kept.root)
    async with local(repository) as runs, runs.run(request) as run:
        await until(waits.is_set)
        cancelling = asyncio.create_task(runs.cancel(run.id))
        await asyncio.sleep(0)
        lock.close()
        await cancelling
        assert (run.state, run.started_at) == ("cancelled", None)
    assert await states(worktrees) == ["changed"]


async def test_discard_removes_none_if_one_is_in_use(repository: Repository, worktrees: KeptWorktrees) -> None:
    made = sorted([(await changed(worktrees, repository)).id for _ in range(3)])
    async with worktrees.used(str(home(repository) / "worktrees" / made[1])):
        with pytest.raises(InvalidRequest, match=f"worktree {made[1]} is in use: its agent is at work"):
            await worktrees.discard(*made)
        assert sorted(item.id for item in await worktrees.list()) == made
    await worktrees.discard(*made, dry_run=True)
    assert sorted(item.id for item in await worktrees.list()) == made
    await worktrees.discard(*made, made[0])
    assert left_over(repository) == []


async def test_directories_outside_of_worktrees_are_not_examined(
    repository: Repository, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def looked(self: Worktrees, directory: str) -> None:
        raise AssertionError(directory)

    monkeypatch.setattr(Worktrees, "used", looked)
    async with local(repository) as runs:
        for directory in (str(repository.path), str(tmp_path), None):
            async with runs.run(RunRequest(prompt=DONE, backend="shell", workdir=directory)) as run:
                assert not (await run.log.result()).error


async def test_worktrees_of_another_home_are_not_locked(repository: Repository, tmp_path: Path) -> None:
    foreign = tmp_path / "worktrees" / "agent-1" / "project"
    own = home(repository) / "worktrees" / "notes"
    for directory in (foreign, own):
        directory.mkdir(parents=True)
    async with local(repository) as runs:
        for directory in (foreign, own, own.parent):
            async with runs.run(RunRequest(prompt=DONE, backend="shell", workdir=str(directory))) as run:
                assert not (await run.log.result()).error
            assert not list(directory.glob("**/work"))


async def test_home_behind_a_symbolic_link(repository: Repository, worktrees: KeptWorktrees, tmp_path: Path) -> None:
    kept = await changed(worktrees, repository)
    (tmp_path / "link").symlink_to(repository.home)
    environ = {**repository.env, "HOME": str(tmp_path / "link")}
    async with LocalRuns(Settings(), MemoryStore(), environ, {"shell": Shell()}) as runs, running(runs, kept.root):
        await check_in_use(worktrees, kept.id)


@pytest.mark.parametrize("lock", ["lock_home", "enter"])
async def test_lock_taken_after_a_cancellation_is_released(
    repository: Repository, worktrees: KeptWorktrees, monkeypatch: pytest.MonkeyPatch, lock: str
) -> None:
    worktree = await changed(worktrees, repository)
    asked, may_go_on, take = threading.Event(), threading.Event(), getattr(WorktreeFolders, lock)

    def late(self: WorktreeFolders, *of: str) -> FileLock | None:
        asked.set()
        may_go_on.wait(20)
        return take(self, *of)

    async def wait_for_it() -> None:
        if lock == "enter":
            await worktrees.used(worktree.path).__aenter__()
        else:
            await worktrees.make(str(repository.path), "agent")

    with monkeypatch.context() as patched:
        patched.setattr(WorktreeFolders, lock, late)
        waiting = asyncio.create_task(wait_for_it())
        await until(asked.is_set)
        waiting.cancel()
        await asyncio.wait([waiting], timeout=0.1)
        may_go_on.set()
        await asyncio.wait([waiting])
        assert waiting.cancelled()
    async with asyncio.timeout(30):
        await worktrees.discard(worktree.id)
    assert left_over(repository) == []
