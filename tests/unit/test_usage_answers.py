"""The answers of `GET /api/v1/usage`."""

from datetime import date

from clinvk.dialects.rest.usage import UsageList, UsageListing, span, summary
from clinvk.types.events import Usage
from clinvk.types.record import UsageOfDay


def usage_list(group_by: str, **costs: float) -> UsageList:
    """Return the usage of a day with these costs."""
    asked = UsageListing(group_by=group_by)
    rows = [
        UsageOfDay(day="2026-11-25", key_name="", backend=name, model="", runs=1, usage=Usage(5, 2), cost_usd=cost)
        for name, cost in costs.items()
    ]
    return summary(rows, asked, span(asked, date(2026, 11, 25)))


def test_group_without_reported_costs_has_no_cost() -> None:
    costs = usage_list("backend", claude=0.5, codex=0.0)
    assert {item.backend: item.cost_usd for item in costs.usage} == {"claude": 0.5, "codex": None}
    assert costs.total.cost_usd == 0.5


def test_total_without_reported_costs_has_no_cost() -> None:
    assert usage_list("backend", codex=0.0, gemini=0.0).total.cost_usd is None
    assert usage_list("backend").total.cost_usd is None


def test_group_of_several_agents_sums_the_reported_costs() -> None:
    (item,) = usage_list("day", claude=0.25, codex=0.0).usage
    assert item.cost_usd == 0.25
