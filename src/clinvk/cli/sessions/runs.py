"""`clinvk runs list`, `show` and `cancel`, `clinvk usage`, and runs as text."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence, Sized
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec.structs import replace

from clinvk.cli.parse.flags import JsonFlags, RunsFlags, UsageFlags
from clinvk.cli.parse.settings import CommandContext
from clinvk.cli.sessions import session_text as text
from clinvk.cli.sessions.answers import print_answer, text_view
from clinvk.cli.sessions.local_store import ALL, directory_filter, find, over_store, real_directory
from clinvk.cli.terminal.output import date_and_time, print_json, print_text, printable
from clinvk.cli.terminal.table import Column, one_line
from clinvk.dialects.dialect import copy_as
from clinvk.dialects.rest import views
from clinvk.store.protocol import RunQuery, SessionStore
from clinvk.types.choices import UNDER_WAY, state_word
from clinvk.types.errors import ClinvkError, InvalidRequest, RunNotFound
from clinvk.types.events import Event, ToolCall, ToolResult, Usage
from clinvk.types.prompt_xml import without_context
from clinvk.types.record import LimitWindow, RunRecord, UsageOfDay
from clinvk.types.request import PartPosition
from clinvk.types.text import last_line, on_one_line, without_sequences
from clinvk.types.tool_text import tool_text

if TYPE_CHECKING:
    from clinvk.dialects.rest.usage import UsageItem, UsageList, Used

_PARTS_OF = {"parallel": ("task", "tasks"), "chain": ("step", "steps"), "compare": ("backend", "backends")}
"""The name of a part, and the field of the request that has the parts or their number."""


def runs_table(runs: Sequence[RunRecord], view: text.TextView) -> list[str]:
    """Return a table of runs, the head first."""
    fields: text.Fields[RunRecord] = (
        (Column("ID"), lambda run: text.short_id(run.id)),
        (text.BACKEND, _backend),
        (text.STATE, lambda run: state_word(run.state)),
        (text.CREATED, lambda run: view.ago(run.created_at)),
        text.RUN_COSTS[0],
        *text.node_field(runs),
        (text.DIRECTORY, lambda run: view.place(run.workdir)),
        (text.TOKENS, lambda run: text.short_tokens(run.usage) if run.usage else ""),
        (text.COST, lambda run: text.cost_text(run.cost_usd)),
        (text.PROMPT, lambda run: view.title(run_summary(run))),
    )
    return view.table(fields, runs)


def run_summary(run: RunRecord) -> str:
    """Return the prompt of a run, or the number of its parts, on one line."""
    if run.prompt or run.kind == "prompt":
        return one_line(without_context(run.prompt)) or "(ephemeral)" * bool(run.request.get("ephemeral"))
    word, field = _PARTS_OF[run.kind]
    parts = run.request.get(field)
    number = len(parts) if isinstance(parts, Sized) else parts
    return f"{number} {word}{'' if number == 1 else 's'}"


def run_details(run: RunRecord, view: text.TextView) -> list[str]:
    """Return the fields of a run except its prompt, answer and parts, one per line."""
    usage = run.usage or Usage()
    return text.named_lines(
        {
            "id": text.short_id(run.id),
            "backend": text.with_model(_backend(run), run.model),
            "about": "" if run.prompt else run_summary(run),
            "state": f"{run.state} until {view.when(run.waits_until)}" if run.waits_until else state_word(run.state),
            "fallback": "; ".join(f"{each.backend}: {without_sequences(each.error)}" for each in run.fallback),
            "error": without_sequences(run.error_message or ""),
            "error code": run.error_code or "",
            "exit code": str(run.exit_code) if run.exit_code else "",
            "stop reason": run.stop_reason if run.stop_reason and run.stop_reason != "end_turn" else "",
            "session": text.short_id(run.session_id or ""),
            "part of": text.short_id(run.parent_id or ""),
            "name": run.part.name if run.part else "",
            "directory": view.directory(run.workdir),
            "created": view.when(run.created_at),
            "duration": text.duration_of(run),
            "tokens": text.tokens(usage) if usage != Usage() else "",
            "cost": f"${run.cost_usd:.4f}" if run.cost_usd is not None else "",
            "API key": run.key_name,
            "node": run.node,
        }
    )


def parts_table(whole: RunRecord, runs: Sequence[RunRecord], view: text.TextView) -> list[str]:
    """Return a table of the parts of a run, in their order, counted from 1."""
    fields: text.Fields[RunRecord] = (
        (text.part_number(whole.kind), lambda run: str(_place(run).index + 1)),
        (Column("ID"), lambda run: text.short_id(run.id)),
        (text.BACKEND, _backend),
        (text.STATE, lambda run: state_word(run.state)),
        *text.RUN_COSTS,
        (text.PROMPT, lambda run: view.title(": ".join(filter(None, (_place(run).name, without_context(run.prompt)))))),
    )
    return view.table(fields, _in_order(runs))


def part_label(whole: RunRecord, run: RunRecord) -> str:
    """Return a short name for a part of a run, e.g. `step 2 claude review`."""
    place = _place(run)
    return one_line(text.part_name(whole.kind, place.index, run.backend, place.name))


def run_transcript(
    run: RunRecord, parts: Sequence[RunRecord], view: text.TextView, did: Sequence[str] = ()
) -> Iterator[str]:
    """Yield the prompt, the actions, the answers of the parts, and the answer of a run, below headings, for stdout.

    The answer of a chain is the answer of its last step, so it is not repeated below the answers of the parts.
    """
    answer = "" if parts and run.kind == "chain" else text.answer(run, run.output, view)
    answers = ((part_label(run, part), _said(part, view)) for part in _in_order(parts))
    before = (("prompt", printable(run.prompt)), ("actions", "\n".join(did)))
    for head, content in (*before, *answers, ("answer", answer)):
        yield from text.section(head, content)


def _said(part: RunRecord, view: text.TextView) -> str:
    """Return the answer of a part, and its error if it failed."""
    error = part.error_message and f"({text.failure(part.state, part.error_message)})"
    return "\n".join(filter(None, (text.answer(part, part.output, view), error)))


def _in_order(parts: Iterable[RunRecord]) -> list[RunRecord]:
    return sorted(parts, key=lambda run: (_place(run).index, run.created_at))


def _place(run: RunRecord) -> PartPosition:
    return run.part or PartPosition("", 0)


def _backend(run: RunRecord) -> str:
    return one_line(run.backend or run.kind)


_PAGE = 500


def list_all(flags: RunsFlags, context: CommandContext) -> int:
    """Print the runs that match the flags.

    Raises:
        ClinvkError: the runs cannot be read, or the backend or directory does not exist.
    """
    where = directory_filter(flags, flags.here)
    most = flags.limit + 1 if flags.limit else ALL

    async def listed(store: SessionStore) -> list[RunRecord]:
        """Return the runs that match the flags, and one more if more exist."""
        found: list[RunRecord] = []
        query = RunQuery(backend=flags.backend, state=flags.state, limit=min(_PAGE, most))
        async for run in _newest(store, query):
            if (flags.parts or run.parent_id is None) and where in (None, run.workdir):
                found.append(run)
            if len(found) == most:
                break
        return found

    found = over_store(context, listed)
    runs = found[: flags.limit or None]
    has_more = len(found) > len(runs)
    remark = f"the newest {len(runs)}; --limit 0 shows all" if has_more else ""
    if not runs:
        remark = "no runs match" if flags.backend or flags.state or where else "no runs yet"

    def answer() -> dict[str, object]:
        return {"runs": [*map(views.run_item, runs)], "has_more": has_more}

    return print_answer(flags, context, answer, lambda view: runs_table(runs, view), remark)


async def _newest(store: SessionStore, query: RunQuery) -> AsyncIterator[RunRecord]:
    """Yield runs, the newest first, page by page: a list may skip thousands of parts."""
    seen: set[str] = set()
    while True:
        page = await store.runs(query)
        for run in page.items:
            if run.id not in seen:  # a run that started meanwhile has shifted the pages
                seen.add(run.id)
                yield run
        query = replace(query, limit=_PAGE, offset=query.offset + query.limit)
        if query.offset >= page.total:
            return


_CANCEL_TIMEOUT_S = 20.0
_POLL_S = 0.1


def cancel(flags: JsonFlags, context: CommandContext) -> int:
    """Cancel a run of the server or of another command, and wait for its end.

    Raises:
        RunNotFound, AmbiguousId: the ID names no run, or several.
        ClinvkError: the run has ended, or cannot be cancelled from here; the message says who runs it.
    """
    from clinvk.remote.socket_client import cancel_on_server  # an import that lists do not need

    async def ended(store: SessionStore) -> RunRecord:
        run = await find(store.run(flags.words[0]))
        if run.state not in UNDER_WAY:
            raise InvalidRequest(f"run {text.short_id(run.id)} has already ended: {state_word(run.state)}")
        if flags.dry_run:
            return run
        if not await cancel_on_server(context.environ, run.id):
            _interrupt(run, await store.pid_of(run.id))
        deadline = time.monotonic() + _CANCEL_TIMEOUT_S
        while run.state in UNDER_WAY and time.monotonic() < deadline:
            await asyncio.sleep(_POLL_S)
            run = await store.run(run.id)
        if run.state in UNDER_WAY:
            raise ClinvkError(f"run {text.short_id(run.id)} has not ended within {_CANCEL_TIMEOUT_S:g} s")
        return run

    run = over_store(context, ended)
    state = "would cancel" if flags.dry_run else state_word(run.state)
    line = f"{state} {text.short_id(run.id)}  {run_summary(run)}".rstrip()
    return print_answer(flags, context, lambda: views.run_view(run), lambda _: [line])


def _interrupt(run: RunRecord, pid: int | None) -> None:
    """Send SIGTERM to the command that runs a prompt or several agents.

    Raises:
        ClinvkError: the process of the run is unknown, runs other things too, or belongs to another user.
    """
    short = text.short_id(run.id)
    if run.parent_id:
        raise ClinvkError(f"run {short} is part of run {text.short_id(run.parent_id)}; cancel that one")
    if pid is None:
        raise ClinvkError(f"run {short} belongs to another clinvk process of this home, which is unknown here")
    try:
        if b"serve" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"):  # its other runs must not end
            raise ClinvkError(f"run {short} belongs to another server (pid {pid}); cancel it over HTTP there")
        os.kill(pid, signal.SIGTERM)
    except OSError as exc:
        raise ClinvkError(f"run {short} belongs to process {pid}, which cannot be stopped: {exc.strerror}") from exc


def show(flags: JsonFlags, context: CommandContext) -> int:
    """Print a run with the prompt, the parts, and all answers; without an ID the last run.

    Raises:
        RunNotFound, AmbiguousId: the ID names no run, or several.
    """
    here = "" if flags.words else real_directory(None)

    async def read(store: SessionStore) -> tuple[RunRecord, Sequence[RunRecord], list[str]]:
        run = await (find(store.run(flags.words[0])) if flags.words else _last(store, here))
        parts = (await store.runs(RunQuery(parent_id=run.id, limit=ALL))).items
        return run, parts, _actions([logged.event for logged in await store.events(run.id)])

    run, parts, did = over_store(context, read)
    return print_answer(
        flags, context, lambda: views.run_view(run, parts, len(parts)), lambda view: run_text(run, parts, view, did)
    )


def _actions(events: Sequence[Event]) -> list[str]:
    """Return the tool calls of a run, one per line, with the last line that a failed tool printed."""
    failed = {event.id: last_line(event.output) for event in events if isinstance(event, ToolResult) and event.is_error}

    def shown(call: ToolCall) -> str:
        printed = on_one_line(without_sequences(failed.get(call.id, "")))
        reason = f" (failed{printed and ': '}{printed})" if call.id in failed else ""
        return f"{tool_text(call)}{reason}"

    return [shown(event) for event in events if isinstance(event, ToolCall)]


async def _last(store: SessionStore, here: str) -> RunRecord:
    """Return the last run of the directory `here`, or else of the home; a part of a run does not count."""
    last: RunRecord | None = None
    async for run in _newest(store, RunQuery(limit=_PAGE)):
        if run.parent_id is None:
            last = last or run
            if run.workdir == here:
                return run
    if last is None:
        raise RunNotFound("no runs yet")
    return last


def run_text(run: RunRecord, parts: Sequence[RunRecord], view: text.TextView, did: Sequence[str] = ()) -> list[str]:
    """Return a run with its prompt, its parts, the actions of the agent and all answers, for stdout."""
    table = ["", *parts_table(run, parts, view)] if parts else []
    return [*run_details(run, view), *table, *run_transcript(run, parts, view, did)]


_BAR_CELLS = 24


def usage(flags: UsageFlags, context: CommandContext) -> int:
    """Print the usage of the last days, and the limits of the accounts.

    Raises:
        ClinvkError: the store cannot be read, or the backend does not exist.
    """
    from clinvk.dialects.rest import usage as rest  # no other command waits for the import

    today = datetime.now(UTC).date()
    group = "backend" if flags.by == "agent" else flags.by
    listing = rest.UsageListing(
        since=today - timedelta(days=flags.days - 1), backend=flags.backend, model=flags.model, group_by=group
    )
    period = rest.span(listing, today)

    async def read(store: SessionStore) -> tuple[list[UsageOfDay], list[LimitWindow]]:
        return await store.usage(period.since), await store.limits()

    rows, limits = over_store(context, read)
    used = rest.summary(rows, listing, period)
    limits = [window for window in limits if flags.backend in (None, window.backend)]
    if flags.wants_json:
        print_json(copy_as(rest.UsageAndLimits, used, limits=[*map(rest.limit_view, limits)]))
        return 0
    view = text_view(context)
    if used.usage:
        fields = _usage_columns(used, group, flags.by, has_bars=view.most is not None)
        print_text("\n".join(view.table(fields, used.usage)))
        context.notes.info(f"since {used.since}: {_usage_total(used.total)}")
    else:
        context.notes.info(f"no runs since {used.since}")
    if limits:
        print_text("\n".join(["", *limits_table(limits, view)]))
    return 0


def limits_table(limits: Sequence[LimitWindow], view: text.TextView) -> list[str]:
    """Return a table of limits, the head first; a bar of full width is a limit used up."""

    def bar(window: LimitWindow) -> str:
        cells = min(_BAR_CELLS, -int(-(window.used_percent or 0) * _BAR_CELLS // 100))
        return "█" * cells + "░" * (_BAR_CELLS - cells)

    bars: text.Fields[LimitWindow] = ((Column("", is_spare=True), bar),)
    return view.table(
        (
            (Column("LIMIT"), lambda window: f"{window.backend} {window.window}"),
            (
                Column("USED", to_right=True),
                lambda window: "" if window.used_percent is None else f"{window.used_percent:.0f} %",
            ),
            (Column("RESETS"), lambda window: date_and_time(window.resets_at)),
            (text.STATE, lambda window: window.status),
            *(bars if view.most is not None else ()),
        ),
        limits,
    )


def _usage_columns(used: "UsageList", group: str, title: str, has_bars: bool) -> "text.Fields[UsageItem]":
    most = max(item.token_usage.total_tokens for item in used.usage)
    bars: text.Fields[UsageItem] = (
        (Column("", is_spare=True), lambda item: "█" * -(-item.token_usage.total_tokens * _BAR_CELLS // max(1, most))),
    )
    return (
        (Column(title.upper()), lambda item: getattr(item, group) or "(none)"),
        (Column("RUNS", to_right=True), lambda item: f"{item.runs:,}"),
        (Column("IN", to_right=True), lambda item: f"{item.token_usage.input_tokens:,}"),
        (Column("OUT", to_right=True), lambda item: f"{item.token_usage.output_tokens:,}"),
        (Column("COST", to_right=True), lambda item: "" if item.cost_usd is None else f"${item.cost_usd:.2f}"),
        *(bars if has_bars else ()),
    )


def _usage_total(used: "Used") -> str:
    cost = "" if used.cost_usd is None else f", ${used.cost_usd:.2f} as far as agents report their cost"
    return f"{used.runs:,} {'run' if used.runs == 1 else 'runs'}, {used.token_usage.total_tokens:,} tokens{cost}"
