"""`GET /api/v1/usage` and `/limits`: the usage of runs by day, key, backend and model, and the limits of accounts."""

from collections.abc import Iterable, Sequence
from datetime import date
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from clinvk.dialects.dialect import copy_as
from clinvk.dialects.rest.views import Time, time
from clinvk.types.errors import InvalidRequest
from clinvk.types.events import Usage
from clinvk.types.record import LimitStatus, LimitWindow, UsageOfDay

ASPECTS = ("day", "key", "backend", "model")

DAYS = 30
"""Default number of days to report, today included."""

_ASPECT = f"({'|'.join(ASPECTS)})"
_Day = Annotated[str, Meta(examples=["2026-11-25"])]


class UsageListing(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The parameters."""

    since: Annotated[date | None, Meta(description=f"The first day, UTC; default {DAYS - 1} days ago.")] = None
    until: Annotated[date | None, Meta(description="The last day, UTC; default today.")] = None
    key: Annotated[str | None, Meta(description="Filter by the name of the API key.")] = None
    backend: Annotated[str | None, Meta(description="Filter by backend.")] = None
    model: Annotated[str | None, Meta(description="Filter by model.")] = None
    group_by: Annotated[
        str,
        Meta(
            description="Comma-separated aspects to group by: day, key, backend, model.",
            extra_json_schema={"pattern": rf"^\s*{_ASPECT}\s*(,\s*{_ASPECT}\s*)*$"},
        ),
    ] = "day,key,backend,model"


class Used(msgspec.Struct, frozen=True, kw_only=True):
    """The usage of some runs."""

    runs: Annotated[int, Meta(description="Number of ended runs.")]
    token_usage: Usage
    cost_usd: Annotated[float | None, Meta(description="Sum of the reported costs; null if unknown.")]


class UsageItem(Used, frozen=True, kw_only=True):
    """The usage of the runs of a day, key, backend and model; null means all."""

    day: Annotated[_Day | None, Meta(description="The day on which the runs started, UTC.")]
    key: Annotated[str | None, Meta(description="The name of the API key; empty if no key was required.")]
    backend: str | None
    model: Annotated[str | None, Meta(description="Empty if unknown.")]


class UsageList(msgspec.Struct, frozen=True, kw_only=True):
    """The usage of runs, in order of days."""

    since: _Day
    until: _Day
    usage: list[UsageItem]
    total: Used


class LimitView(msgspec.Struct, frozen=True, kw_only=True):
    """The use of one limit of an agent's account, as the agent last reported it."""

    backend: str
    window: Annotated[
        str, Meta(description="The length, and what else defines the limit.", examples=["5h", "7d", "7d_opus"])
    ]
    used_percent: Annotated[float | None, Meta(description="Null if unknown.", examples=[42.5])]
    resets_at: Time
    status: Annotated[LimitStatus, Meta(description="Whether the vendor accepts requests; `warning`: near the limit.")]
    updated_at: Time


class LimitList(msgspec.Struct, frozen=True, kw_only=True):
    """The limits whose windows have not ended."""

    limits: list[LimitView]


class UsageAndLimits(UsageList, frozen=True, kw_only=True):
    """The JSON of `clinvk usage`."""

    limits: list[LimitView]


def limit_view(window: LimitWindow) -> LimitView:
    """Return a limit as the API shows it."""
    return copy_as(LimitView, window, resets_at=time(window.resets_at), updated_at=time(window.updated_at))


class Span(msgspec.Struct, frozen=True):
    """The validated parameters: first and last day (inclusive, as `2026-11-25`), and the aspects to group by."""

    since: str
    until: str
    group_by: frozenset[str]


def span(listing: UsageListing, today: date) -> Span:
    """Validate the parameters.

    Raises:
        InvalidRequest: names the parameter.
    """
    until = listing.until or today
    since = listing.since or date.fromordinal(max(1, min(today, until).toordinal() + 1 - DAYS))
    if since > until:
        raise InvalidRequest(f"since {since} is after until {until}", "since")
    return Span(since.isoformat(), until.isoformat(), _aspects(listing.group_by))


def summary(rows: Iterable[UsageOfDay], listing: UsageListing, span: Span) -> UsageList:
    """Sum the rows that match the parameters, by group."""
    groups: dict[tuple[str | None, ...], list[UsageOfDay]] = {}
    for row in rows:
        if row.day > span.until or listing.backend not in (None, row.backend) or listing.model not in (None, row.model):
            continue
        values = (("day", row.day), ("key", row.key_name), ("backend", row.backend), ("model", row.model))
        group = tuple(value if name in span.group_by else None for name, value in values)
        groups.setdefault(group, []).append(row)
    items = [UsageItem(**dict(zip(ASPECTS, group, strict=True)), **_used(same)) for group, same in groups.items()]
    total = Used(**_used([row for same in groups.values() for row in same]))
    return UsageList(since=span.since, until=span.until, usage=items, total=total)


def _used(rows: Sequence[UsageOfDay]) -> dict[str, Any]:
    """Return the fields of `Used` for rows."""
    cost_usd = round(sum(row.cost_usd for row in rows), 6)
    return {
        "runs": sum(row.runs for row in rows),
        "token_usage": sum((row.usage for row in rows), Usage()),
        "cost_usd": cost_usd or None,
    }


def _aspects(text: str) -> frozenset[str]:
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in ASPECTS:
            raise InvalidRequest(f"group_by has {name!r}; it must be of {', '.join(ASPECTS)}", "group_by")
    return frozenset(names)
