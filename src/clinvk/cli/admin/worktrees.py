"""`clinvk worktrees list`, `show`, `apply` and `discard`."""

import os
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from typing import BinaryIO

import msgspec
from msgspec.structs import asdict

from clinvk.cli.parse.flags import ApplyFlags, DeleteFlags, WorktreesFlags, WorktreeShowFlags
from clinvk.cli.parse.settings import settings_of
from clinvk.cli.sessions.local_store import ALL, opened, real_directory
from clinvk.cli.sessions.session_text import directory, home_of, opening
from clinvk.cli.terminal import exits, streams
from clinvk.cli.terminal.input import agreed
from clinvk.cli.terminal.output import Notes, columns, has_colors, tell, tell_bytes, tell_json
from clinvk.cli.terminal.table import Column, one_line, readable, table
from clinvk.cli.terminal.times import ago, at_length
from clinvk.config.load import home
from clinvk.dialects.rest import views
from clinvk.runtime.process import process_tags
from clinvk.runtime.process.spawn import Spawner
from clinvk.runtime.worktrees.worktree_types import Listed, State
from clinvk.runtime.worktrees.worktrees import Worktrees
from clinvk.store.protocol import RunQuery, SessionQuery
from clinvk.types.errors import ClinvkError
from clinvk.types.orchestration import ChangedFile
from clinvk.types.record import RunRecord

_REPOSITORY_LEAST = 12
_FILES_NAMED = 20
_PIECE_BYTES = 64 * 1024
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


class ShownWorktree(WorktreeItem, frozen=True, kw_only=True):
    """A worktree with what was done in it.

    `runs` are those of its agents, oldest first, but for ephemeral ones. `diff` is the whole patch, as text, or null
    where there can be none.
    """

    runs: list[views.RunItem]
    diff: str | None


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
    found = streams.run(_worktrees(environ).list(where))
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


def show(flags: WorktreeShowFlags, environ: Mapping[str, str], notes: Notes) -> int:
    """Print what a worktree is, who worked in it, and the diff: elsewhere than on a terminal a patch for git.

    Raises:
        InvalidRequest: there is no such worktree.
        ClinvkError: the diff alone is wanted, and there is none.
    """
    settings = settings_of(flags, environ, {}, notes)

    async def shown() -> tuple[Listed, BinaryIO | None]:
        worktrees = _worktrees(environ)
        return await worktrees.show(await worktrees.find(flags.words[0]))

    listed, patch = streams.run(shown())
    missing = f"{listed.id}: {listed.problem or 'an agent is at work in it: its diff is there when that has ended'}"
    with patch or nullcontext():
        has_head = flags.wants_json or not flags.diff
        if not (has_head or patch):
            raise ClinvkError(missing)
        runs = streams.run(_runs(os.path.realpath(listed.path), environ, notes)) if has_head else []
        if flags.wants_json:
            tell_json(_shown(listed, runs, patch))
            return 0
        if has_head:
            tell("\n".join(_details(listed, runs, time.time(), home_of(environ.get("HOME")), columns())))
        if patch:
            _tell_patch(patch, has_head, settings.output.color and has_colors(1, environ))
    if listed.problem or patch is None:
        notes.error(missing)
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

    done = streams.run(applied())
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

    ids = streams.run(wanted())
    streams.run(_worktrees(environ).discard(*ids, dry_run=True))  # nobody is asked in vain
    if not (flags.yes or flags.dry_run) and not agreed("discard", _counted(ids, environ), "worktrees"):
        notes.say("nothing was discarded")
        return exits.CANCELLED

    if not flags.dry_run:
        streams.run(_worktrees(environ).discard(*ids))
    if flags.wants_json:
        tell_json(Discarded(ids, flags.dry_run))
    else:
        tell("\n".join(f"{'would discard' if flags.dry_run else 'discarded'} {own}" for own in ids))
    return 0


def _worktrees(environ: Mapping[str, str]) -> Worktrees:
    return Worktrees(Spawner(process_tags.choose()), home(environ), environ)


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
        made_at=views.time(listed.made_at),
        files=listed.files,
        problem=listed.problem or None,
    )


def _shown(listed: Listed, runs: Sequence[RunRecord], patch: BinaryIO | None) -> ShownWorktree:
    diff = patch.read().decode(errors="replace") if patch else None
    return ShownWorktree(**asdict(_item(listed)), runs=[views.run_item(run) for run in runs], diff=diff)


async def _runs(directory: str, environ: Mapping[str, str], notes: Notes) -> list[RunRecord]:
    """Give the runs of the sessions of a directory, which has no links in it, oldest first."""
    runs: list[RunRecord] = []
    try:
        async with opened(environ) as store:
            sessions = await store.sessions(SessionQuery(working_dir=directory, limit=ALL))
            for session in sessions.items:
                runs += (await store.runs(RunQuery(session_id=session.id, limit=ALL))).items
    except ClinvkError as exc:
        notes.error(f"who worked there cannot be told: {exc.message}")
    return sorted(runs, key=lambda run: run.created_at)


def _details(
    listed: Listed, runs: Sequence[RunRecord], now: float, user: str | None, most: int | None
) -> Sequence[str]:
    lines = [
        ("id", listed.id),
        ("state", listed.state),
        ("repository", directory(listed.repository, user)),
        ("directory", directory(listed.path, user)),
        ("branch", listed.branch),
        ("base", listed.base),
        ("made", f"{at_length(listed.made_at)} ({ago(listed.made_at, now)})"),
    ]
    for run in runs:
        lines += [
            ("run", f"{run.id} ({run.state})"),
            ("backend", f"{run.backend} ({run.model})" if run.model else run.backend),
            ("session", run.session_id or ""),
            ("prompt", opening(run.prompt, most)),
        ]
    counted = [("files", str(len(listed.files)))] if listed.files else []
    return [*(f"{name:<11}  {one_line(text)}" for name, text in [*lines, *counted]), *map(_named_file, listed.files)]


def _tell_patch(patch: BinaryIO, has_head: bool, is_colored: bool) -> None:
    """Print a patch; `has_head` is whether something stands before it. A terminal gets no more than text."""
    if columns() is None:
        pieces = iter(partial(patch.read, _PIECE_BYTES), b"")
    else:
        lines = (line.decode(errors="replace") for line in patch)
        pieces = (f"{line}\n".encode() for line in readable(lines, is_colored))
    for piece in pieces:
        tell_bytes(b"\n" + piece if has_head else piece)
        has_head = False


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
    lines = [*map(_named_file, files[:_FILES_NAMED])]
    more = len(files) - _FILES_NAMED
    return [*lines, f"  and {more:,} more"] if more > 0 else lines


def _named_file(file: ChangedFile) -> str:
    return f"  {file.change:<12}  {one_line(file.path)}"


def _counted(ids: Sequence[str], environ: Mapping[str, str]) -> list[str]:
    numbers = {listed.id: len(listed.files) for listed in streams.run(_worktrees(environ).list())}
    return [f"{own} (changed files: {numbers.get(own, 0)})" for own in ids]
