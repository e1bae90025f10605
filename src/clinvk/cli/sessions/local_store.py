"""The store of this machine as the command line uses it, and what it says of ids that name no session or run."""

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
"""A limit that nothing reaches."""

_DAMAGED_TOLD = 20

_T = TypeVar("_T")


@asynccontextmanager
async def opened(environ: Mapping[str, str], notes: Notes | None = None) -> AsyncGenerator[SessionStore]:
    """Open the store.

    Args:
        environ: says where the clinvk home is.
        notes: gets what was imported from an earlier store; None imports nothing.

    Raises:
        ConfigError: there is no home directory.
    """
    async with SqliteStore(home(environ)) as store:
        if notes:
            await _import(store, notes)
        yield store


async def _import(store: SqliteStore, notes: Notes) -> None:
    """Bring in what an earlier clinvk has left, and say so."""
    imported = await store.import_earlier()
    if imported.count:
        sessions = "session" if imported.count == 1 else "sessions"
        notes.say(f"imported {imported.count:,} {sessions} of an earlier clinvk; its files are as they were")
    for damaged in imported.damaged[:_DAMAGED_TOLD]:
        notes.error(f"not imported: {damaged.file}: {damaged.reason}")
    if (more := len(imported.damaged) - _DAMAGED_TOLD) > 0:
        notes.error(f"not imported: {more:,} more damaged files in {imported.damaged[0].file.parent}")


async def found(store: SessionStore, reference: str) -> Session:
    """Give the session that a word of the command line stands for.

    Raises:
        SessionNotFound: there is none, or the word cannot be an id.
        AmbiguousId: there are several; lists them.
    """
    return await _named(store.session(reference), "sessions")


async def found_run(store: SessionStore, reference: str) -> RunRecord:
    """Give the run that a word of the command line stands for.

    Raises:
        RunNotFound: there is none, or the word cannot be an id.
        AmbiguousId: there are several; lists them.
    """
    return await _named(store.run(reference), "runs")


async def _named(wanted: Awaitable[_T], group: str) -> _T:
    """Give what was looked for; where it cannot be told, say what helps in this group of commands."""
    try:
        return await wanted
    except (SessionNotFound, RunNotFound) as exc:
        raise type(exc)(f"{exc.message}; clinvk {group} list shows them") from exc
    except AmbiguousId as exc:
        raise AmbiguousId(f"{exc.message}; give more digits", exc.candidates) from exc


def real_directory(workdir: str | None) -> str:
    """Give the directory of `--workdir`, or the present one, as sessions are kept: without symbolic links.

    Raises:
        InvalidRequest: it is none.
    """
    return os.path.realpath(directory("." if workdir is None else workdir, "--workdir"))


def has_directory(session: Session) -> bool:
    """Say whether the directory that a session's conversation is bound to is there."""
    return not session.working_dir or os.path.isdir(session.working_dir)
