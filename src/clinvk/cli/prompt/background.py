"""Runs in the background: `--detach` starts them through a server, and `clinvk runs follow` prints what they do."""

import asyncio

import msgspec
from msgspec.structs import replace

from clinvk.cli.parse.flags import Flags
from clinvk.cli.parse.settings import CommandContext
from clinvk.cli.prompt.display import RunDisplay
from clinvk.cli.prompt.interaction_text import outcome
from clinvk.cli.sessions import runs
from clinvk.cli.sessions.answers import text_view
from clinvk.cli.sessions.local_store import ALL, find, open_store
from clinvk.cli.sessions.session_text import duration_of, short_id
from clinvk.cli.terminal import exits, streams
from clinvk.cli.terminal.output import Notes, print_json, print_text
from clinvk.dialects.rest.rest import Accepted
from clinvk.remote.socket_client import ServerDeclined, start_on_server
from clinvk.runtime.runs import poll_events, record_facts
from clinvk.store.protocol import RunQuery, SessionStore
from clinvk.types.choices import UNDER_WAY, state_word
from clinvk.types.errors import ClinvkError, InvalidRequest, QueueFull, ShuttingDown
from clinvk.types.events import Event, InteractionRequested, InteractionResolved, RunFailed, RunFinished
from clinvk.types.interaction_text import waiting_note
from clinvk.types.orchestration import Plan
from clinvk.types.record import RunRecord
from clinvk.types.request import RunRequest
from clinvk.types.run import RunFacts

_POLL_S = 0.2


async def start(work: RunRequest | tuple[Plan, Plan], context: CommandContext, wants_json: bool) -> int:
    """Start a prompt, or a plan and the plan before its admission, in the background, and print the run's id.

    Raises:
        ClinvkError: no server is up, or it does not run this.
    """
    try:
        started = await start_on_server(work, context.settings, context.environ)
    except (ServerDeclined, QueueFull, ShuttingDown) as exc:
        why = f"which does not run this: {exc}" if str(exc) else "and none is running: start one with clinvk serve"
        raise ClinvkError(f"--detach needs the server of this home, {why}") from exc
    report(started, context.notes, wants_json, prints_id=True)
    return 0


def report(facts: RunFacts, notes: Notes, wants_json: bool, prints_id: bool) -> None:
    """Report a run that was started in the background, or that has received the prompt within its turn."""
    position = facts.queue_position
    state = "queued" if position else "running"
    if wants_json:
        print_json(Accepted.of(replace(facts, state=state)))
        return
    if prints_id:
        print_text(facts.run_id)
    what = f"{state}{f' (position {position})' if position else ''} in the background"
    if facts.is_steered:
        what = "steered: the running agent has received the prompt"
    notes.info(f"{what}; to follow: clinvk runs follow {short_id(facts.run_id)}")


def follow(flags: Flags, context: CommandContext) -> int:
    """Print the past events of a run, then new ones until the end; return the exit code of the run.

    Raises:
        RunNotFound, AmbiguousId: the ID names no run, or several; or an ephemeral run has ended.
        InvalidRequest: the run has parts instead of events.
    """
    return streams.run(_follow(flags, context))


async def _follow(flags: Flags, context: CommandContext) -> int:
    async with open_store(context) as store:
        run = await find(store.run(flags.words[0]))
        try:
            if run.kind == "prompt":
                return await _follow_prompt(flags, run, store, context)
            if flags.output_format == "stream-json":
                raise InvalidRequest(f"run {short_id(run.id)} has no events of its own; follow one of its parts")
            run, parts = await _until_parts_end(run, store, context.notes)
        except streams.BrokenStdout:
            return exits.CANCELLED
    print_text("\n".join(runs.run_text(run, parts, text_view(context))))
    return {"finished": 0, "cancelled": exits.CANCELLED}.get(run.state, exits.FAILED)


class _StoredRun:
    """A run from the store, as far as a display depends on it."""

    def __init__(self, run: RunRecord) -> None:
        self.facts = record_facts(run)
        known: dict[str, object] = {"prompt": run.prompt, "backend": run.backend}
        known |= {name: run.request[name] for name in ("approval_mode", "sandbox_mode") if name in run.request}
        known |= {"output_schema": {}} if "output_schema" in run.request else {}
        self.request = msgspec.convert(known, RunRequest)


async def _follow_prompt(flags: Flags, run: RunRecord, store: SessionStore, context: CommandContext) -> int:
    is_stream = flags.output_format == "stream-json"
    output = replace(context.settings.output, format="stream-json" if is_stream else "text")
    display, shown = RunDisplay(output, context.notes, context.environ), _StoredRun(run)
    if run.state == "queued":
        context.notes.info("queued")
    async with display.showing(shown):
        async for batch in poll_events(store, run, _pause):
            for _, at, event in batch:
                if isinstance(event, RunFinished | RunFailed):
                    shown.facts = replace(record_facts(await store.run(run.id)), ended_at=at)
                await display.show(shown, event, at)
                if not is_stream:
                    _note(event, run, context.notes)
    return display.exit_code


async def _pause(_: RunRecord) -> bool:
    """Wait between two reads of the store, and return True."""
    await asyncio.sleep(_POLL_S)
    return True


def _note(event: Event, run: RunRecord, notes: Notes) -> None:
    match event:
        case InteractionRequested(interaction):
            notes.info(waiting_note(interaction, run.backend))
        case InteractionResolved(interaction):
            notes.info(outcome(interaction))
        case _:
            pass


async def _until_parts_end(
    run: RunRecord, store: SessionStore, notes: Notes
) -> tuple[RunRecord, tuple[RunRecord, ...]]:
    """Report each part of a run of several agents as it ends; return the run and its parts after the end."""
    reported: set[str] = set()
    while True:
        run = await store.run(run.id)  # before its parts: they end first
        parts = (await store.runs(RunQuery(parent_id=run.id, limit=ALL))).items
        if run.state not in UNDER_WAY:
            return run, parts
        for part in reversed(parts):
            if part.state not in UNDER_WAY and part.id not in reported:
                reported.add(part.id)
                elapsed = duration_of(part)
                ended = f"{state_word(part.state)} after {elapsed}" if elapsed else state_word(part.state)
                notes.info(f"{runs.part_label(run, part)}: {ended}")
        await asyncio.sleep(_POLL_S)
