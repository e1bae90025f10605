"""The displayed content of a worktree: the patch belongs to the caller, and blocks nobody."""

from pathlib import Path

import pytest

from clinvk.runtime.worktrees.kept_worktrees import KeptWorktrees, State
from clinvk.types.errors import WorktreeNotFound
from clinvk.types.orchestration import ChangedFile
from integration.worktree_home import another, changed, home, left_over, with_git
from repositories import Repository


async def test_show_leaves_no_temporary_files(repository: Repository, worktrees: KeptWorktrees) -> None:
    own = (await changed(worktrees, repository)).id
    listed = await worktrees.show(own)
    assert listed.patch is not None
    assert (listed.id, listed.state, listed.files) == (own, "changed", (ChangedFile("a.txt", "modified"),))
    assert [*(home(repository) / "worktrees" / own).glob("look-*")] == []
    assert listed.patch.endswith(b"\n-one\n+two\n")


async def test_show_removes_an_unchanged_worktree_of_a_dead_clinvk(
    repository: Repository, worktrees: KeptWorktrees
) -> None:
    dead = another(repository)
    own = (await dead.make(str(repository.path), "agent")).id
    dead._held.pop(own).close()  # pyright: ignore[reportPrivateUsage] - as the death of the process does
    with pytest.raises(WorktreeNotFound, match=f"no worktree '{own}'"):
        await worktrees.show(own)
    assert left_over(repository) == []


@pytest.mark.parametrize(
    ("content", "state", "files"),
    [("two\n", "changed", (ChangedFile("a.txt", "modified"),)), ("one\n", "unchanged", ())],
    ids=["changed", "unchanged"],
)
async def test_show_lists_files_if_git_makes_no_patch(
    repository: Repository, content: str, state: State, files: tuple[ChangedFile, ...]
) -> None:
    worktrees = with_git(repository, 'case " $* " in *" --output="*) echo fatal: too big >&2; exit 128;; esac')
    worktree = await changed(worktrees, repository)
    Path(worktree.root, "a.txt").write_text(content)
    listed = await worktrees.show(worktree.id)
    assert (listed.state, listed.files, listed.patch) == (state, files, None)
    assert listed.problem == "there is no diff: git diff-index failed: too big"
    assert [(item.state, item.files) for item in await worktrees.list()] == [(state, files)]
