"""The checks of `clinvk doctor` as lines for people and as JSON, and the check of warm agents."""

from collections.abc import Iterator
from itertools import groupby
from typing import Literal

import msgspec

from clinvk.backends.registry import BACKENDS
from clinvk.cli.terminal.output import on_one_line, without_sequences
from clinvk.config.model import Settings
from clinvk.runtime.process import resource_limits

Status = Literal["ok", "warning", "problem", "skipped"]

_COLORS = {"ok": "\x1b[32m", "warning": "\x1b[33m", "problem": "\x1b[31m", "skipped": "\x1b[2m"}
_PLAIN = "\x1b[0m"
_NAME_COLUMN = 10


class Check(msgspec.Struct, frozen=True):
    """The result of a check. A problem stops clinvk or an agent; a warning does not."""

    section: str
    name: str
    status: Status
    message: str


class Report(msgspec.Struct, frozen=True):
    """All checks. `agents` are the usable agents; `usable` means that one exists and nothing stops clinvk."""

    usable: bool
    version: str
    agents: tuple[str, ...]
    checks: tuple[Check, ...]


def lines(report: Report, obstacle: str, color: bool) -> Iterator[str]:
    """Yield the report for people, section by section; `obstacle` is the reason why clinvk itself cannot run."""
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


def warm_agents_check(settings: Settings, backend: str) -> bool:
    """Return whether the server keeps warm processes of a backend."""
    return not _why_not(settings) and backend in settings.warm.kept_backends


def check(settings: Settings) -> Check:
    """Report the backends with warm processes, or why no backend has any."""
    if why := _why_not(settings):
        return Check("settings", "warm", "skipped", f"each prompt starts its agent: {why}")
    warm = settings.warm
    others = [name for name in BACKENDS if name not in warm.kept_backends]
    memory = f", of {warm.max_memory_mb} MB together" if warm.max_memory_mb else ""
    message = f"clinvk serve keeps processes of {', '.join(warm.kept_backends)}: at most {warm.max_processes}{memory}"
    if others:
        message += f"; not of {', '.join(others)} (warm.kept_backends)"
    return Check("settings", "warm", "ok", message)


def check_prestart(settings: Settings) -> Check | None:
    """Report agents that are never prestarted although the settings ask for it; return None if there are none."""
    names = settings.warm.never_started
    if _why_not(settings) or not names:
        return None
    about = f"warm.prestart starts none of {', '.join(names)}: not in warm.kept_backends"
    return Check("settings", "warm", "warning", about)


def _why_not(settings: Settings) -> str:
    if not settings.warm.enabled:
        return "warm.enabled: false"
    if resource_limits.are_per_process(settings.agents):
        return "limits as agents.max_memory_mb are of each run"
    if not settings.warm.max_processes:
        return "warm.max_processes: 0"
    return "" if settings.warm.kept_backends else "warm.kept_backends: []"
