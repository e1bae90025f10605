"""What is said of worktrees."""

from collections.abc import Callable, Sequence
from typing import Literal

import msgspec

from clinvk.types.orchestration import ChangedFile

Judge = Callable[[str], Sequence[str]]
"""Raises if no files of a worktree may come from a directory; returns the directories below it that are blocked."""

State = Literal["in use", "changed", "unchanged", "broken"]


class Worktree(msgspec.Struct, frozen=True, kw_only=True):
    """A tree of files of its own for one agent.

    Attributes:
        id: names it; a part of the branch and of the path.
        path: where the agent works: the same sub-directory that it was made from.
        root: the top of the tree.
        branch: the branch that is checked out in it.
        base: the commit that it began with.
        repository: the top of the tree that it was made from.
        warnings: what is in that tree and not in this one.
    """

    id: str
    path: str
    root: str
    branch: str
    base: str
    repository: str
    warnings: tuple[str, ...] = ()


class Listed(msgspec.Struct, frozen=True, kw_only=True):
    """A worktree that is there.

    Attributes:
        made_at: in seconds since 1970.
        state: `in use` is one whose agent is at work, `broken` one that cannot be looked at: `problem` says why.
        files: as in `Change`; none while it is in use.
    """

    id: str
    repository: str
    path: str
    branch: str
    base: str
    made_at: float
    state: State
    files: tuple[ChangedFile, ...] = ()
    problem: str = ""


class Applied(msgspec.Struct, frozen=True, kw_only=True):
    """What was brought into the tree that a worktree was made from.

    Attributes:
        removed: whether the worktree is gone.
        warnings: what in the worktree could not be looked at: then it stays.
    """

    id: str
    repository: str
    files: tuple[ChangedFile, ...]
    removed: bool
    warnings: tuple[str, ...] = ()
