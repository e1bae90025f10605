"""Rules for requests: permission modes, the agents' flags, and how deep agents may call agents.

Pure: settings and paths are arguments. All rules apply to requests over HTTP, which other people may send; only the
depth applies to the command line, which belongs to the user.
"""

import re
from collections.abc import Mapping
from typing import TypeVar

from clinvk.types.choices import ApprovalMode, SandboxMode
from clinvk.types.errors import BeyondPolicy, InvalidRequest
from clinvk.types.request import RunRequest

Mode = TypeVar("Mode", bound=str)

APPROVAL: tuple[ApprovalMode, ...] = ("always", "default", "auto", "ask", "none")
"""Approval modes, the strictest first."""

SANDBOX: tuple[SandboxMode, ...] = ("read-only", "workspace", "default", "full")
"""Sandbox modes, the strictest first. `default` is the choice of the agent's CLI, a weaker promise than a sandbox."""


def modes_up_to(order: tuple[Mode, ...], maximum: Mode) -> tuple[Mode, ...]:
    """Return the modes that allow an agent no more than `maximum`, which is the last of the result."""
    return order[: order.index(maximum) + 1]


def permission_rank(approval: ApprovalMode | None, sandbox: SandboxMode | None) -> SandboxMode:
    """Return the sandbox mode that two modes amount to.

    Without a sandbox, an agent can do anything if it acts without asking, or if the client allows what it asks.
    """
    if approval in ("ask", "none") and sandbox in ("default", None):
        return "full"
    return sandbox or "default"


Flags = Mapping[str, str | None]
"""The flags of a backend, and the pattern that must match the whole value of a flag; None means no value.

A flag may be listed if no value of the flag loosens approval or sandbox, leads to a directory, chooses a model, loads
settings, or reads or writes a file.
"""


def check_listed(extra: tuple[str, ...], flags: Flags) -> tuple[str, ...]:
    """Return the flags of a request in one spelling: `=` joins the value to a long flag.

    Raises:
        BeyondPolicy: a request may not use the flag or the value.
    """
    found: list[str] = []
    rest = iter(enumerate(extra))
    for index, argument in rest:
        flag, equals, value = argument.partition("=")
        if flag not in flags:
            have = ", ".join(flags) or "none for this backend"
            raise _refusal(index, f"{argument!r} is not one that a request may send; allowed: {have}")
        pattern = flags[flag]
        if pattern is None:
            if equals:
                raise _refusal(index, f"{flag!r} takes no value, got {argument!r}")
            found.append(flag)
            continue
        if not equals:
            index, value = next(rest, (index, ""))
        if not re.fullmatch(pattern, value):
            raise _refusal(index, f"{flag!r} must have a value that matches {pattern}, got {value!r}")
        found += [f"{flag}={value}"] if flag.startswith("--") else [flag, value]
    return tuple(found)


def _refusal(index: int, why: str) -> BeyondPolicy:
    return BeyondPolicy(f"extra flag {why}", f"extra[{index}]")


DEPTH_VARIABLE = "CLINVK_DEPTH"
"""Environment variable of an agent: the number of nested agents around the processes that the agent starts."""


def nesting_depth(environ: Mapping[str, str]) -> int:
    """Return the number of agents around this clinvk; an invalid value, not set by clinvk, counts as 0."""
    value = environ.get(DEPTH_VARIABLE, "")
    return int(value) if value.isascii() and value.isdigit() and len(value) < 10 else 0


def check_nesting_depth(depth: int, maximum: int) -> None:
    """Refuse to run an agent on behalf of an agent if `depth` agents are around the latter.

    Raises:
        InvalidRequest: the depth is above `maximum`.
    """
    if depth > maximum:
        raise InvalidRequest(
            f"this run was requested by an agent that clinvk runs, {depth} deep ({DEPTH_VARIABLE}); "
            f"unified_flags.max_depth allows {maximum}"
        )


def may_edit(request: RunRequest) -> bool:
    """Return whether an agent may change files without asking each time."""
    if request.sandbox_mode == "read-only":
        return False
    return request.approval_mode in ("auto", "none") or request.sandbox_mode in ("workspace", "full")
