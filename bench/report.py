"""Figures, their limits and peers, and their table."""

from collections.abc import Iterable, Sequence
from statistics import median
from typing import Literal

import msgspec

Kind = Literal["at most", "added", "ratio", "share"]


class Budget(msgspec.Struct, frozen=True):
    """The limit of a figure.

    `at most` bounds the figure itself, `added` what it is over its peer, `ratio` is the least share of its peer, and
    `share` the greatest.
    """

    kind: Kind
    bound: float


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """A measurement of several rounds, and its limit or peer measured in the same rounds.

    `budget` is None where there is nothing to keep to: such a figure is there to be compared. `nodes` is the size of
    the cluster of a figure that is one of a series.
    """

    name: str
    nodes: int | None = None
    unit: str
    ours: list[float]
    peer_name: str
    peer: list[float]
    budget: Budget | None = None

    @property
    def ratio(self) -> float:
        """The middle one of the rounds' ratios to the peer."""
        return median(a / b for a, b in zip(self.ours, self.peer, strict=True))

    @property
    def added(self) -> float:
        """The middle one of the rounds' differences to the peer."""
        return median(a - b for a, b in zip(self.ours, self.peer, strict=True))

    @property
    def kept(self) -> bool | None:
        """Whether the budget is met; None without a budget."""
        match self.budget:
            case None:
                return None
            case Budget(kind="at most", bound=bound):
                return median(self.ours) <= bound
            case Budget(kind="added", bound=bound):
                return self.added <= bound
            case Budget(kind="share", bound=bound):
                return self.ratio <= bound
            case Budget(bound=bound):
                return self.ratio >= bound


def table(figures: Sequence[Figure]) -> str:
    """Render the figures as aligned plain text."""
    head = ("figure", "measured (from to)", "limit or peer (from to)", "ratio", "added", "budget", "")
    return _aligned([head, *(_row(figure) for figure in figures)])


def _row(figure: Figure) -> tuple[str, ...]:
    peer = f"{_spread(figure.peer, figure.unit)} {figure.peer_name}"
    added = "" if figure.budget and figure.budget.kind == "ratio" else f"{_number(figure.added)} {figure.unit}"
    verdict = {None: "", True: "ok", False: "over"}[figure.kept]
    ours = _spread(figure.ours, figure.unit)
    name = f"{figure.name}, nodes: {figure.nodes}" if figure.nodes else figure.name
    return name, ours, peer, f"{figure.ratio:.2f}", added, _words(figure), verdict


def _words(figure: Figure) -> str:
    match figure.budget:
        case None:
            return ""
        case Budget(kind="ratio", bound=bound):
            return f"ratio ≥ {bound:g}"
        case Budget(kind="share", bound=bound):
            return f"ratio ≤ {bound:g}"
        case Budget(kind="added", bound=bound):
            return f"added ≤ {bound:g} {figure.unit}"
        case Budget(bound=bound):
            return f"≤ {bound:g} {figure.unit}"


def _spread(values: Sequence[float], unit: str) -> str:
    return f"{_number(median(values))} {unit} ({_number(min(values))} {_number(max(values))})"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _aligned(rows: Iterable[Sequence[str]]) -> str:
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
