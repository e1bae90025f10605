"""Removing worktrees, whatever an agent left in them, and however a removal ends."""

import os
import resource
import signal
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from clinvk.runtime.worktrees.folders import Worktree, WorktreeFolders, remove_tree
from clinvk.runtime.worktrees.kept_worktrees import KeptWorktrees
from clinvk.types.errors import ClinvkError, InvalidRequest
from integration.worktree_home import changed, left_over
from repositories import Repository


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    """A repository with one commit."""
    repository = Repository(tmp_path / "project", tmp_path / "home")
    repository.commit(**{"a.txt": "one\n", "inner/b.txt": "one\n", ".gitignore": "*.log\n"})
    return repository


@contextmanager
def no_room() -> Generator[None]:
    """No file gets a byte, as on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)


def make_deep(top: Path, levels: int) -> None:
    """Make folders in folders, and a file in the last."""
    folder = os.open(top, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir("deep", dir_fd=folder)
        inner = os.open("deep", os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = inner
    os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=folder))
    os.close(folder)


def half(path: Path) -> None:
    """Remove some of a worktree and fail, as where clinvk is killed midway."""
    (path / "a.txt").unlink()
    raise ClinvkError("killed")


def test_deep_tree_is_removed_with_few_open_files(tmp_path: Path) -> None:
    top = tmp_path / "top"
    top.mkdir()
    make_deep(top, 2 * sys.getrecursionlimit() + 1000)
    (top / "deep" / "other" / "inner").mkdir(parents=True)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/dev/fd")) + 20, limits[1]))
    try:
        remove_tree(top)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert not top.exists()


def test_removal_does_not_follow_links(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    (outside / "inner").mkdir(parents=True)
    (outside / "inner" / "precious").touch()
    outside.chmod(0o555)
    tree = tmp_path / "tree"
    (tree / "folder").mkdir(parents=True)
    for place in (tree, tree / "folder"):
        (place / "link").symlink_to(outside)
    (tmp_path / "link").symlink_to(outside)
    for path in (tree, tmp_path / "link", tmp_path / "nothing"):
        remove_tree(path)
        assert not os.path.lexists(path)
    assert (outside / "inner" / "precious").exists()
    assert outside.stat().st_mode & 0o777 == 0o555


async def test_failed_leave_is_a_warning(
    repository: Repository, worktrees: KeptWorktrees, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(self: WorktreeFolders, own: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("clinvk.runtime.worktrees.worktrees.remove_tree", half)
    async with worktrees.isolated(str(repository.path), "agent") as removed:
        pass
    monkeypatch.setattr(WorktreeFolders, "keep", full)
    kept = await changed(worktrees, repository)
    assert [record.getMessage() for record in caplog.records] == [
        f"worktree {removed.id} stays: killed",
        f"worktree {kept.id} stays: [Errno 28] No space left on device",
    ]
    assert Path(kept.root, "a.txt").read_text() == "two\n"


async def test_list_finishes_an_interrupted_removal(
    repository: Repository, worktrees: KeptWorktrees, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr("clinvk.runtime.worktrees.worktrees.remove_tree", half)
        async with worktrees.isolated(str(repository.path), "agent") as unchanged:
            pass
        discarded = await changed(worktrees, repository)
        repository.git("commit", "-qam", "mine", cwd=Path(discarded.root))
        with pytest.raises(ClinvkError, match="killed"):
            await worktrees.discard(discarded.id)
        for worktree in (unchanged, discarded):
            with pytest.raises(InvalidRequest, match="is being removed; run clinvk worktrees list to finish"):
                await worktrees.apply(worktree.id)
        patched.setattr("clinvk.runtime.worktrees.worktrees.remove_tree", refuse)
        listed = await worktrees.list()
    assert [(item.state, item.problem) for item in listed] == [("broken", "it cannot be removed: not now")] * 2
    assert await worktrees.list() == []
    assert left_over(repository) == []
    assert repository.git("status", "--porcelain") == ""


def refuse(path: Path) -> None:
    raise ClinvkError("not now")


async def test_list_removes_an_incomplete_worktree(repository: Repository, worktrees: KeptWorktrees) -> None:
    killed = await worktrees.make(str(repository.path), "killed")
    Path(killed.root, "a.txt").unlink()
    (Path(killed.root).parent / "index").unlink()
    kept = await changed(worktrees, repository)
    worktrees._held.pop(killed.id).close()  # pyright: ignore[reportPrivateUsage] - as the death of the process does
    assert [item.id for item in await worktrees.list()] == [kept.id]
    assert repository.worktrees() == [kept.root]


async def test_branch_checked_out_elsewhere_stays(
    repository: Repository, worktrees: KeptWorktrees, tmp_path: Path
) -> None:
    worktree = await worktrees.make(str(repository.path), "agent")
    repository.git("switch", "--quiet", "--create", "feature", cwd=Path(worktree.root))
    repository.git("switch", "--quiet", worktree.branch)
    await worktrees.leave(worktree)
    moved = await changed(worktrees, repository)
    repository.git("worktree", "move", moved.root, str(tmp_path / "mine"))
    assert await worktrees.list() == []
    assert repository.git("rev-parse", "HEAD").strip() == worktree.base
    assert repository.branches() == [*sorted([worktree.branch, moved.branch]), "feature", "main"]


def test_failed_folder_leaves_nothing(tmp_path: Path) -> None:
    folders = WorktreeFolders(tmp_path)
    origin = Worktree(repository="/r", common="/r/.git", name="r", inside="", base="0" * 40, submodules=(), made_at=1.0)
    descriptors = os.listdir("/dev/fd")
    with no_room(), pytest.raises(ClinvkError, match=r"cannot make a worktree in .*: File too large"):
        folders.make("agent", origin)
    assert len(os.listdir("/dev/fd")) == len(descriptors)
    assert os.listdir(folders.path) == []


async def test_directory_name_that_is_not_utf_8_is_refused(repository: Repository, worktrees: KeptWorktrees) -> None:
    odd = os.path.join(os.fsencode(repository.path), b"caf\xe9")
    try:
        os.mkdir(odd)
    except OSError:
        pytest.skip("the file system takes only names that are UTF-8")
    (repository.path / "link").symlink_to(os.fsdecode(odd))
    with pytest.raises(InvalidRequest, match="is not UTF-8: no worktree can be made"):
        await worktrees.make(str(repository.path / "link"), "agent")
    assert left_over(repository) == []
