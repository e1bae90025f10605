"""The approval and sandbox words by how much they let an agent do."""

from typing import TypeVar

from clinvk.request import ApprovalMode, SandboxMode

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
