"""`clinvk worktrees list`, `apply` and `discard`."""

import os
import time
from collections.abc import Mapping, Sequence

import msgspec

from clinvk.cli import exits, signals
from clinvk.cli.asking import agreed
from clinvk.cli.flags import ApplyFlags, DeleteFlags, WorktreesFlags
from clinvk.cli.notes import Notes
from clinvk.cli.output import columns, tell, tell_json
from clinvk.cli.sessions_store import real_directory
from clinvk.cli.sessions_text import directory, home_of
from clinvk.cli.settings import settings_of
from clinvk.cli.table import Column, one_line, table
from clinvk.cli.times import ago
from clinvk.config.loading import home
from clinvk.dialects import records
from clinvk.plan import ChangedFile
from clinvk.runtime import marks
from clinvk.runtime.process import Spawner
from clinvk.runtime.worktrees import Listed, State, Worktrees

_REPOSITORY_LEAST = 12
_FILES_NAMED = 20
_COLUMNS = (
    Column("ID"),
    Column("STATE"),
    Column("FILES", to_right=True),
    Column("MADE", is_spare=True),
    Column("REPOSITORY", _REPOSITORY_LEAST, from_left=True),
)


class WorktreeItem(msgspec.Struct, frozen=True, kw_only=True):
    """A worktree that is there. `problem` is what keeps clinvk from looking at all of it, or null."""

    id: str
    state: State
    repository: str
    path: str
    branch: str
    base: str
    made_at: str
    files: tuple[ChangedFile, ...]
    problem: str | None


class WorktreeList(msgspec.Struct, frozen=True):
    """The worktrees that are there, the oldest first."""

    worktrees: list[WorktreeItem]


class AppliedWorktree(msgspec.Struct, frozen=True, kw_only=True):
    """What was brought into the tree of a repository; `removed` is whether the worktree is gone."""

    id: str
    repository: str
    files: tuple[ChangedFile, ...]
    removed: bool
    dry_run: bool


class Discarded(msgspec.Struct, frozen=True):
    """The worktrees that were removed."""

    discarded: list[str]
    dry_run: bool


def list_all(flags: WorktreesFlags, environ: Mapping[str, str], notes: Notes) -> int:
    """Print the worktrees that are there.

    Raises:
        InvalidRequest: `--here` and there is no repository.
    """
    settings_of(flags, environ, {}, notes)
    where = real_directory(flags.workdir) if flags.here or flags.workdir is not None else None
    found = signals.run(_worktrees(environ).list(where))
    if flags.wants_json:
        tell_json(WorktreeList([_item(listed) for listed in found]))
        return 0
    if found:
        tell("\n".join(_listing(found, time.time(), home_of(environ.get("HOME")), columns())))
    else:
        notes.say("no worktrees" if where else "no worktrees: an agent gets one where isolation: worktree is asked for")
    for listed in found:
        if listed.problem:
            notes.error(f"{listed.id}: {listed.problem}")
    return 0


def apply(flags: ApplyFlags, environ: Mapping[str, str], notes: Notes) -> int:
    """Bring the changes of a worktree into the tree that it was made from.

    Raises:
        InvalidRequest: there is no such worktree, it is in use, unchanged, applied already, or does not fit.
    """
    settings_of(flags, environ, {}, notes)
    worktrees = _worktrees(environ)

    async def applied() -> AppliedWorktree:
        own = await worktrees.find(flags.words[0])
        done = await worktrees.apply(own, flags.keep, flags.dry_run, _here())
        for warning in done.warnings:
            notes.error(f"{done.id} stays: {warning}")
        return AppliedWorktree(
            id=done.id, repository=done.repository, files=done.files, removed=done.removed, dry_run=flags.dry_run
        )

    done = signals.run(applied())
    if flags.wants_json:
        tell_json(done)
    else:
        verb = "would apply" if flags.dry_run else "applied"
        place = directory(done.repository, home_of(environ.get("HOME")))
        tell("\n".join([f"{verb} {done.id} to {place}, uncommitted", *_named(done.files)]))
    return 0


def discard(flags: DeleteFlags, environ: Mapping[str, str], notes: Notes) -> int:
    """Remove worktrees with all that was done in them; on a terminal it asks.

    Raises:
        InvalidRequest: a word stands for no worktree, one is in use, or nobody can be asked; none was removed.
    """
    settings_of(flags, environ, {}, notes)

    async def wanted() -> list[str]:
        return list(dict.fromkeys([await _worktrees(environ).find(word) for word in flags.words]))

    ids = signals.run(wanted())
    signals.run(_worktrees(environ).discard(*ids, dry_run=True))  # nobody is asked in vain
    if not (flags.yes or flags.dry_run) and not agreed("discard", _counted(ids, environ), "worktrees"):
        notes.say("nothing was discarded")
        return exits.CANCELLED

    if not flags.dry_run:
        signals.run(_worktrees(environ).discard(*ids))
    if flags.wants_json:
        tell_json(Discarded(ids, flags.dry_run))
    else:
        tell("\n".join(f"{'would discard' if flags.dry_run else 'discarded'} {own}" for own in ids))
    return 0


def _worktrees(environ: Mapping[str, str]) -> Worktrees:
    return Worktrees(Spawner(marks.choose()), home(environ), environ)


def _here() -> str | None:
    """Give the directory of the process itself; None where it is gone."""
    try:
        return os.getcwd()
    except FileNotFoundError:
        return None


def _item(listed: Listed) -> WorktreeItem:
    return WorktreeItem(
        id=listed.id,
        state=listed.state,
        repository=listed.repository,
        path=listed.path,
        branch=listed.branch,
        base=listed.base,
        made_at=records.time(listed.made_at),
        files=listed.files,
        problem=listed.problem or None,
    )


def _listing(found: Sequence[Listed], now: float, user: str | None, most: int | None) -> list[str]:
    rows = [
        (
            listed.id,
            listed.state,
            str(len(listed.files)) if listed.state in ("changed", "unchanged") else "",
            ago(listed.made_at, now),
            directory(listed.repository, user),
        )
        for listed in found
    ]
    return table(_COLUMNS, rows, most)


def _named(files: Sequence[ChangedFile]) -> list[str]:
    lines = [f"  {file.change:<12}  {one_line(file.path)}" for file in files[:_FILES_NAMED]]
    more = len(files) - _FILES_NAMED
    return [*lines, f"  and {more:,} more"] if more > 0 else lines


def _counted(ids: Sequence[str], environ: Mapping[str, str]) -> list[str]:
    numbers = {listed.id: len(listed.files) for listed in signals.run(_worktrees(environ).list())}
    return [f"{own} (changed files: {numbers.get(own, 0)})" for own in ids]
