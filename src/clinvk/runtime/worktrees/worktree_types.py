"""Types for worktrees: origin, location, state and changes."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import msgspec

from clinvk.types.orchestration import ChangedFile

Judge = Callable[[str], Sequence[str]]
"""Raises if no files of a worktree may come from a directory; returns the blocked directories below the directory."""

State = Literal["in use", "changed", "unchanged", "broken"]


class Worktree(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A git worktree for one agent, with separate files and a separate branch.

    The fields without a default are stored in `worktree.json`.

    Attributes:
        repository: top of the tree that the worktree was made from.
        common: the repository's own folder (`.git`), shared by all of its worktrees.
        name: name of the worktree's top folder.
        inside: sub-directory that the agent works in, empty for the top.
        base: commit that the worktree starts from.
        submodules: paths of submodules, which are empty in the worktree.
        made_at: Unix time.
        id: identifier, part of the branch and of the path.
        folder: folder in the clinvk home that holds the worktree and its records.
        warnings: what is in the repository's tree and not in the worktree.
    """

    repository: str
    common: str
    name: str
    inside: str
    base: str
    submodules: tuple[str, ...]
    made_at: float
    id: str = ""
    folder: str = ""
    warnings: tuple[str, ...] = ()

    @property
    def root(self) -> str:
        """The top folder of the worktree."""
        return str(Path(self.folder, self.name))

    @property
    def path(self) -> str:
        """The directory for the agent to work in."""
        return str(Path(self.folder, self.name, self.inside))

    @property
    def branch(self) -> str:
        """The branch of the worktree."""
        return f"clinvk/{self.id}"


class WorktreeListed(Worktree, frozen=True, kw_only=True):
    """A worktree and its state.

    Attributes:
        state: `in use` while an agent works in the worktree; `broken` if git cannot examine it.
        files: changed files, as in `Change`; empty while the worktree is in use.
        problem: why the worktree cannot be examined completely, or empty.
        patch: the changes as a patch for git, if requested; None while in use, or if there is a `problem`.
    """

    state: State
    files: tuple[ChangedFile, ...] = ()
    problem: str = ""
    patch: bytes | None = None


class WorktreeApplied(msgspec.Struct, frozen=True, kw_only=True):
    """The result of applying a worktree's changes.

    Attributes:
        removed: the worktree was removed.
        warnings: what in the worktree could not be examined; the worktree is then kept.
    """

    id: str
    repository: str
    files: tuple[ChangedFile, ...]
    removed: bool
    dry_run: bool
    warnings: tuple[str, ...] = ()
