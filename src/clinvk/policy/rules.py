"""Rules for requests: permission modes, the agents' own flags, and how deep agents may call agents.

Pure: settings and paths are arguments. Requests over HTTP are held to all of the rules, since others may have sent
them; the command line, which is the user's own, to the depth alone.
"""

import re
from collections.abc import Mapping
from typing import TypeVar

from clinvk.types.errors import InvalidRequest
from clinvk.types.request import ApprovalMode, RunRequest, SandboxMode

Word = TypeVar("Word", bound=str)

APPROVAL: tuple[ApprovalMode, ...] = ("always", "default", "auto", "none")
"""The strictest first."""

SANDBOX: tuple[SandboxMode, ...] = ("read-only", "workspace", "default", "full")
"""The strictest first. `default` is what the agent's CLI does by itself, which promises less than a sandbox does."""


def within(order: tuple[Word, ...], most: Word) -> tuple[Word, ...]:
    """Give the words that let an agent do no more than `most`, which is the last of them."""
    return order[: order.index(most) + 1]


def reach(approval: ApprovalMode | None, sandbox: SandboxMode | None) -> SandboxMode:
    """Give the sandbox word that two words come to: who acts unasked and is in no sandbox can do anything."""
    if approval == "none" and sandbox in ("default", None):
        return "full"
    return sandbox or "default"


Flags = Mapping[str, str | None]
"""The flags of a backend, and the pattern that the whole of a flag's value must match; None takes no value.

A flag may be listed if, with any of its values, it loosens no approval or sandbox, leads to no directory, chooses no
model, loads no settings, and neither writes nor reads a file.
"""


class NotListed(Exception):
    """A flag is not listed, or its value does not fit; `index` is its place, the text says what is wrong."""

    def __init__(self, index: int, why: str) -> None:
        super().__init__(why)
        self.index = index


def listed(extra: tuple[str, ...], flags: Flags) -> tuple[str, ...]:
    """Give the flags of a request in one spelling: a value of a long flag is joined to it by `=`.

    Raises:
        NotListed: one may not be sent.
    """
    found: list[str] = []
    rest = iter(enumerate(extra))
    for index, argument in rest:
        flag, equals, value = argument.partition("=")
        if flag not in flags:
            have = ", ".join(flags) or "none for this backend"
            raise NotListed(index, f"extra flag {argument!r} is not one that a request may send; allowed: {have}")
        pattern = flags[flag]
        if pattern is None:
            if equals:
                raise NotListed(index, f"extra flag {flag!r} takes no value, got {argument!r}")
            found.append(flag)
            continue
        if not equals:
            index, value = next(rest, (index, ""))
        if not re.fullmatch(pattern, value):
            raise NotListed(index, f"extra flag {flag!r} must have a value that matches {pattern}, got {value!r}")
        found += [f"{flag}={value}"] if flag.startswith("--") else [flag, value]
    return tuple(found)


DEPTH_VARIABLE = "CLINVK_DEPTH"
"""In an agent's environment: how many agents are around what it starts, itself included."""


def depth(environ: Mapping[str, str]) -> int:
    """Give how many agents are around this clinvk; one that somebody else has set counts as none."""
    told = environ.get(DEPTH_VARIABLE, "")
    return int(told) if told.isascii() and told.isdigit() and len(told) < 10 else 0


def refuse_depth(environ: Mapping[str, str], most: int) -> None:
    """Refuse to run an agent that an agent asks for, where that goes too deep.

    Raises:
        InvalidRequest: it does.
    """
    around = depth(environ)
    if around > most:
        raise InvalidRequest(
            f"this clinvk was started by an agent that clinvk runs, {around} deep ({DEPTH_VARIABLE}); "
            f"unified_flags.max_depth allows {most}"
        )


def may_edit(request: RunRequest) -> bool:
    """Say whether an agent is let change files without being asked each time."""
    if request.sandbox_mode == "read-only":
        return False
    return request.approval_mode in ("auto", "none") or request.sandbox_mode in ("workspace", "full")
