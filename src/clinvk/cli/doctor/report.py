"""What was found: each check with its mark, as lines for people and as JSON for programs."""

from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Literal

import msgspec

from clinvk import __version__
from clinvk.cli.output import on_one_line

Status = Literal["ok", "warning", "problem", "skipped"]

_COLORS = {"ok": "\x1b[32m", "warning": "\x1b[33m", "problem": "\x1b[31m", "skipped": "\x1b[2m"}
_PLAIN = "\x1b[0m"
_NAME_COLUMN = 10


class Check(msgspec.Struct, frozen=True):
    """One thing that was looked at. A problem stops clinvk or an agent; a warning is worth knowing."""

    section: str
    name: str
    status: Status
    message: str


class Report(msgspec.Struct, frozen=True):
    """All that was found. `agents` are those that can be used; `usable` says that one can, with these settings."""

    usable: bool
    version: str
    agents: tuple[str, ...]
    checks: tuple[Check, ...]


def report(checks: Iterable[Check], agents: Iterable[str], valid: bool) -> Report:
    """Put together what was found; `valid` says whether the settings are."""
    agents = tuple(agents)
    return Report(bool(agents) and valid, __version__, agents, tuple(checks))


def lines(report: Report, color: bool) -> Iterator[str]:
    """Give the report for people, section by section."""
    for section, checks in groupby(report.checks, lambda check: check.section):
        yield section
        yield from (_line(check, color) for check in checks)
    if report.usable:
        yield f"usable: {', '.join(report.agents)}"
    elif report.agents:
        yield f"not usable: the settings are invalid (agents: {', '.join(report.agents)})"
    else:
        yield "not usable: no agent can be used"


def _line(check: Check, color: bool) -> str:
    mark = f"{check.status:<8}"
    mark = f"{_COLORS[check.status]}{mark}{_PLAIN}" if color else mark
    return f"  {mark} {check.name:<{_NAME_COLUMN}} {on_one_line(check.message)}"
