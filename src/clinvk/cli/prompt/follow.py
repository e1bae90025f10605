"""`clinvk runs follow`: print the events of a run of any clinvk process of this home, as they are stored."""

import asyncio
from collections.abc import AsyncIterator, Mapping

from clinvk.backends.registry import Backends
from clinvk.cli.parse.flags import Flags
from clinvk.cli.parse.settings import settings_of
from clinvk.cli.prompt.printers import TextPrinter, exit_code_of_ending
from clinvk.cli.sessions.local_store import find_run, open_store
from clinvk.cli.terminal import exits, streams
from clinvk.cli.terminal.output import Notes
from clinvk.dialects.dialect import Encoder
from clinvk.dialects.rest.unified import UnifiedEncoder
from clinvk.runtime.runs import record_facts
from clinvk.store.protocol import UNDER_WAY, SessionStore
from clinvk.types.errors import InvalidRequest, RunNotFound
from clinvk.types.events import Logged, RunFailed, RunFinished
from clinvk.types.record import RunRecord

_POLL_S = 0.2
_BATCH = 500


def follow(flags: Flags, environ: Mapping[str, str], notes: Notes, backends: Backends) -> int:
    """Print the past events of a run, then new ones until the end; return the exit code of the run.

    Raises:
        RunNotFound, AmbiguousId: the ID names no run, or several.
        InvalidRequest: the run has parts instead of events.
    """
    settings_of(flags, environ, {}, notes, backends)
    return streams.run(_follow(flags, environ, notes))


async def _follow(flags: Flags, environ: Mapping[str, str], notes: Notes) -> int:
    stdout = streams.Stdout(1)
    async with open_store(environ) as store:
        run = await find_run(store, flags.words[0])
        if run.kind != "prompt":
            raise InvalidRequest(f"run {run.id[:8]} has parts: `clinvk runs show {run.id[:8]}` lists them; follow one")
        printer = _printer(flags, run)
        try:
            async for _, at, event in _events(store, run):
                if data := printer.feed(event, at):
                    await stdout.write(data)
                if isinstance(event, RunFailed) and flags.output_format != "stream-json":
                    notes.error(event.message)
                if isinstance(event, RunFinished | RunFailed):
                    return exit_code_of_ending(event)
        except streams.BrokenStdout:
            return exits.CANCELLED
    raise RunNotFound(f"run {run.id!r} has ended, and its events are not stored")


def _printer(flags: Flags, run: RunRecord) -> Encoder:
    if flags.output_format != "stream-json":
        return TextPrinter()
    return UnifiedEncoder(record_facts(run))


async def _events(store: SessionStore, run: RunRecord) -> AsyncIterator[Logged]:
    """Yield the stored events of a run until its end."""
    last = 0
    while True:
        is_under_way = run.state in UNDER_WAY  # read before the events: the run may end in between
        while batch := await store.events(run.id, last, _BATCH):
            last = batch[-1].number
            for entry in batch:
                yield entry
        if not is_under_way:
            return
        await asyncio.sleep(_POLL_S)
        run = await store.run(run.id)
