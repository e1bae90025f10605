"""Applying the changes of a worktree while other programs write to the same files."""

import asyncio
from pathlib import Path

import pytest

from clinvk.runtime.worktrees.folders import WorktreeFolders
from clinvk.types.errors import ClinvkError, InvalidRequest
from integration.worktree_home import another, changed, home, left_over, with_git
from repositories import Repository


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    """A repository with one commit."""
    repository = Repository(tmp_path / "project", tmp_path / "home")
    repository.commit(**{"a.txt": "one\n", "b.txt": "one\n", "inner/c.txt": "one\n"})
    return repository


async def test_apply_keeps_what_the_user_saves_meanwhile(repository: Repository) -> None:
    """The user saves right before git writes the files."""
    saves = f'case " $* " in *" apply "*--check*) ;; *" -C {repository.path} "*" apply "*) cd {repository.path}; '
    worktrees = with_git(repository, f"{saves}echo mine >a.txt;; esac")
    worktree = await changed(worktrees, repository, **{"a.txt": "two\n", "b.txt": "two\n", "new": "new\n"})
    with pytest.raises(InvalidRequest, match=r"does not fit .*nothing was changed: .*a\.txt: patch does not apply"):
        await worktrees.apply(worktree.id)
    assert repository.files() == {"a.txt": b"mine\n", "b.txt": b"one\n", "inner/c.txt": b"one\n"}
    assert [item.id for item in await worktrees.list()] == [worktree.id]


async def test_two_applies_wait_for_each_other(repository: Repository) -> None:
    for _ in range(3):
        worktrees = [another(repository), another(repository)]
        made = [
            await changed(each, repository, **dict.fromkeys(["a.txt", "b.txt", word], f"{word}\n"))
            for each, word in zip(worktrees, ("two", "three"), strict=True)
        ]
        done = await asyncio.gather(
            *(each.apply(worktree.id) for each, worktree in zip(worktrees, made, strict=True)), return_exceptions=True
        )
        (lost,) = [number for number, result in enumerate(done) if isinstance(result, InvalidRequest)]
        word = ("two", "three")[1 - lost]
        content = f"{word}\n".encode()
        assert repository.files() == {"a.txt": content, "b.txt": content, "inner/c.txt": b"one\n", word: content}
        await worktrees[0].discard(made[lost].id)
        repository.git("checkout", "--quiet", ".")
        repository.git("clean", "-d", "--force", "--quiet")
    assert left_over(repository) == []


async def test_apply_reports_another_apply_that_takes_too_long(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clinvk.runtime.worktrees.kept_worktrees._APPLY_FREE_TIMEOUT_S", 0.1)
    worktrees = another(repository)
    worktree = await changed(worktrees, repository)
    folders = WorktreeFolders(home(repository))
    lock = await asyncio.to_thread(folders.lock_home, ".apply")
    assert lock is not None
    with pytest.raises(ClinvkError, match=r"another clinvk has been applying changes for 0\.1 s"):
        await worktrees.apply(worktree.id)
    lock.close()
    assert (await worktrees.apply(worktree.id)).removed
