"""What was found: each check with its mark, as lines for people and as JSON for programs."""

from collections.abc import Iterator
from itertools import groupby
from typing import Literal

import msgspec

from clinvk.cli.output import on_one_line, without_sequences

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
    """All that was found. `agents` are those that can be used; `usable` says that one can, and nothing stops clinvk."""

    usable: bool
    version: str
    agents: tuple[str, ...]
    checks: tuple[Check, ...]


def lines(report: Report, obstacle: str, color: bool) -> Iterator[str]:
    """Give the report for people, section by section; `obstacle` is what stops clinvk itself."""
    for section, checks in groupby(report.checks, lambda check: check.section):
        yield section
        yield from (_line(check, color) for check in checks)
    if report.usable:
        yield f"usable: {', '.join(report.agents)}"
    elif report.agents:
        yield f"not usable: {obstacle} (agents: {', '.join(report.agents)})"
    else:
        yield "not usable: no agent can be used"


def _line(check: Check, color: bool) -> str:
    mark = f"{check.status:<8}"
    mark = f"{_COLORS[check.status]}{mark}{_PLAIN}" if color else mark
    return f"  {mark} {check.name:<{_NAME_COLUMN}} {on_one_line(without_sequences(check.message))}"
