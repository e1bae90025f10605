"""Open the store of this machine, and look up sessions and runs by ID."""

import asyncio
import os
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

from msgspec.structs import replace

from clinvk.cli.parse.flags import Flags
from clinvk.cli.parse.settings import CommandContext, directory
from clinvk.cli.terminal.output import Notes
from clinvk.store import opening
from clinvk.store.protocol import SessionQuery, SessionStore
from clinvk.store.sqlite.sqlite import SqliteStore
from clinvk.types.errors import AmbiguousId, InteractionNotFound, RunNotFound, SessionNotFound
from clinvk.types.record import Session, worktree_of

ALL = 2**31 - 1
"""A limit that no store reaches."""

_MAX_DAMAGED_SHOWN = 20

_T = TypeVar("_T")


@asynccontextmanager
async def open_store(context: CommandContext, imports: bool = False) -> AsyncGenerator[SessionStore]:
    """Open the store; with `imports`, import the sessions of an earlier clinvk.

    Raises:
        ConfigError: the user has no home directory, or the database cannot be used.
    """
    async with opening.open_store(context.settings, context.environ) as store:
        if imports and isinstance(store, SqliteStore):
            await _import(store, context.notes)
        yield store


def over_store(context: CommandContext, work: Callable[[SessionStore], Awaitable[_T]]) -> _T:
    """Open the store, import the sessions of an earlier clinvk, and return the result of the work."""

    async def run() -> _T:
        async with open_store(context, imports=True) as store:
            return await work(store)

    context.load()  # here, since the files would block the event loop
    return asyncio.run(run())


async def _import(store: SqliteStore, notes: Notes) -> None:
    """Import the sessions of an earlier clinvk, and report the import."""
    imported = await store.import_earlier()
    if imported.count:
        sessions = "session" if imported.count == 1 else "sessions"
        notes.info(f"imported {imported.count:,} {sessions} of an earlier clinvk; its files are unchanged")
    for damaged in imported.damaged[:_MAX_DAMAGED_SHOWN]:
        notes.error(f"not imported: {damaged.file}: {damaged.reason}")
    if (more := len(imported.damaged) - _MAX_DAMAGED_SHOWN) > 0:
        notes.error(f"not imported: {more:,} more damaged files in {imported.damaged[0].file.parent}")


_GROUPS = {SessionNotFound: "sessions", RunNotFound: "runs", InteractionNotFound: "approvals"}
"""The group of commands for each kind of record."""


async def find(wanted: Awaitable[_T]) -> _T:
    """Return a record that the store looks up by an ID or its first digits; the errors say how to find the ID.

    Raises:
        SessionNotFound, RunNotFound, InteractionNotFound: no record has the ID, or the text cannot be an ID.
        AmbiguousId: several records match; the error lists them.
    """
    try:
        return await wanted
    except (SessionNotFound, RunNotFound, InteractionNotFound) as exc:
        raise type(exc)(f"{exc.message}; clinvk {_GROUPS[type(exc)]} list shows them") from exc
    except AmbiguousId as exc:
        raise AmbiguousId(f"{exc.message}; give more digits", candidates=exc.candidates) from exc


def real_directory(workdir: str | None) -> str:
    """Return the directory of `--workdir`, or the current one, without symbolic links, as sessions store directories.

    Raises:
        InvalidRequest: the path is not a directory.
    """
    return os.path.realpath(directory("." if workdir is None else workdir, "--workdir"))


def directory_filter(flags: Flags, is_here: bool) -> str | None:
    """Return the directory to which `--workdir` or `--here` narrows a list, or None."""
    return real_directory(flags.workdir) if is_here or flags.workdir is not None else None


def within(query: SessionQuery, directory: str | None) -> SessionQuery:
    """Return the query for the sessions of a project, with those in worktrees, or of one worktree."""
    if directory and worktree_of(directory):
        return replace(query, working_dir=directory)
    return replace(query, project=directory)


def has_directory(session: Session) -> bool:
    """Return whether the directory of a session exists; a worktree is made again."""
    return not session.project or os.path.isdir(session.project)
