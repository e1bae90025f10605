"""`clinvk usage`: what runs have used, by day, agent, API key or model."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from clinvk.backends.registry import Backends
from clinvk.cli.parse.flags import UsageFlags
from clinvk.cli.parse.settings import settings_of
from clinvk.cli.sessions.local_store import over_store, text_view
from clinvk.cli.sessions.session_text import Fields
from clinvk.cli.terminal.output import Notes, print_json, print_text
from clinvk.cli.terminal.table import Column
from clinvk.dialects.rest.usage import UsageItem, UsageList, UsageListing, Used, span, summary

_BAR_CELLS = 24
_GROUPS = {"agent": "backend"}
"""The names of groups on the command line that differ from those of the REST API."""


def usage(flags: UsageFlags, environ: Mapping[str, str], notes: Notes, backends: Backends) -> int:
    """Print the usage of the last days.

    Raises:
        ClinvkError: the store cannot be read, or the backend does not exist.
    """
    settings = settings_of(flags, environ, {}, notes, backends)
    today = datetime.now(UTC).date()
    group = _GROUPS.get(flags.by, flags.by)
    asked = UsageListing(
        since=today - timedelta(days=flags.days - 1),
        backend=flags.backend,
        model=flags.model,
        group_by=group,
    )
    period = span(asked, today)
    used = summary(over_store(environ, notes, lambda store: store.usage(period.since)), asked, period)
    if flags.wants_json:
        print_json(used)
    elif used.usage:
        view = text_view(settings, environ)
        print_text("\n".join(view.table(_columns(used, group, flags.by, has_bars=view.most is not None), used.usage)))
        notes.info(f"since {used.since}: {_sum(used.total)}")
    else:
        notes.info(f"no runs since {used.since}")
    return 0


def _columns(used: UsageList, group: str, title: str, has_bars: bool) -> Fields[UsageItem]:
    most = max(item.token_usage.total_tokens for item in used.usage)
    bars: Fields[UsageItem] = (
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


def _sum(used: Used) -> str:
    cost = "" if used.cost_usd is None else f", ${used.cost_usd:.2f} as far as agents report their cost"
    return f"{used.runs:,} {'run' if used.runs == 1 else 'runs'}, {used.token_usage.total_tokens:,} tokens{cost}"
