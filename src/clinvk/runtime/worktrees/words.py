"""What is said of worktrees."""

from typing import Literal

import msgspec

Change = Literal["added", "modified", "deleted", "type-changed"]
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


class ChangedFile(msgspec.Struct, frozen=True):
    """A file that is not as it was; `path` begins at the top of the repository."""

    path: str
    change: Change


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What an agent did in its worktree.

    Attributes:
        diff: the patch from the base, for `git apply`: text that is no UTF-8 has signs in its place.
        diff_bytes: the size of the whole patch.
        is_cut: `diff` is the beginning only.
        files: what was added, changed and deleted; new files count, ignored ones do not.
        branch: the branch of the worktree.
        kept: whether the worktree stays: it does where something was changed.
        warnings: what could not be looked at.
    """

    diff: str
    diff_bytes: int
    is_cut: bool
    files: tuple[ChangedFile, ...]
    branch: str
    kept: bool
    warnings: tuple[str, ...] = ()


class Listed(msgspec.Struct, frozen=True, kw_only=True):
    """A worktree that is there.

    Attributes:
        made_at: in seconds since 1970.
        state: `in use` is one whose agent is at work, `broken` one that cannot be looked at: `problem` says why.
        files: as in `Outcome`; none while it is in use.
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
