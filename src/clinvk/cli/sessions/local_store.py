"""Open the store of this machine, and look up sessions and runs by ID."""

import os
from collections.abc import AsyncGenerator, Awaitable, Mapping
from contextlib import asynccontextmanager
from typing import TypeVar

from clinvk.cli.parse.settings import directory
from clinvk.cli.terminal.output import Notes
from clinvk.config.load import home
from clinvk.store.protocol import SessionStore
from clinvk.store.sqlite.sqlite import SqliteStore
from clinvk.types.errors import AmbiguousId, RunNotFound, SessionNotFound
from clinvk.types.record import RunRecord
from clinvk.types.session import Session

ALL = 2**31 - 1
"""A limit that no store reaches."""

_MAX_DAMAGED_SHOWN = 20

_T = TypeVar("_T")


@asynccontextmanager
async def opened(environ: Mapping[str, str], notes: Notes | None = None) -> AsyncGenerator[SessionStore]:
    """Open the store.

    Args:
        environ: names the clinvk home.
        notes: reports an import from an earlier store; None imports nothing.

    Raises:
        ConfigError: the user has no home directory.
    """
    async with SqliteStore(home(environ)) as store:
        if notes:
            await _import(store, notes)
        yield store


async def _import(store: SqliteStore, notes: Notes) -> None:
    """Import the sessions of an earlier clinvk, and report the import."""
    imported = await store.import_earlier()
    if imported.count:
        sessions = "session" if imported.count == 1 else "sessions"
        notes.say(f"imported {imported.count:,} {sessions} of an earlier clinvk; its files are as they were")
    for damaged in imported.damaged[:_MAX_DAMAGED_SHOWN]:
        notes.error(f"not imported: {damaged.file}: {damaged.reason}")
    if (more := len(imported.damaged) - _MAX_DAMAGED_SHOWN) > 0:
        notes.error(f"not imported: {more:,} more damaged files in {imported.damaged[0].file.parent}")


async def found(store: SessionStore, reference: str) -> Session:
    """Return the session of an ID or its first digits.

    Raises:
        SessionNotFound: no session has the ID, or the text cannot be an ID.
        AmbiguousId: several sessions match; the error lists them.
    """
    return await _looked_up(store.session(reference), "sessions")


async def found_run(store: SessionStore, reference: str) -> RunRecord:
    """Return the run of an ID or its first digits.

    Raises:
        RunNotFound: no run has the ID, or the text cannot be an ID.
        AmbiguousId: several runs match; the error lists them.
    """
    return await _looked_up(store.run(reference), "runs")


async def _looked_up(wanted: Awaitable[_T], group: str) -> _T:
    """Return the record; add the command that lists the group's records to an error."""
    try:
        return await wanted
    except (SessionNotFound, RunNotFound) as exc:
        raise type(exc)(f"{exc.message}; clinvk {group} list shows them") from exc
    except AmbiguousId as exc:
        raise AmbiguousId(f"{exc.message}; give more digits", exc.candidates) from exc


def real_directory(workdir: str | None) -> str:
    """Return the directory of `--workdir`, or the current one, without symbolic links, as sessions store directories.

    Raises:
        InvalidRequest: the path is not a directory.
    """
    return os.path.realpath(directory("." if workdir is None else workdir, "--workdir"))


def has_directory(session: Session) -> bool:
    """Return whether the directory of a session exists."""
    return not session.working_dir or os.path.isdir(session.working_dir)
