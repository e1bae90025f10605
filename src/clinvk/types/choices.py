"""The values of options that allow only certain words: modes, states and formats.

The parser of the command line reads these types, and is faster without the structs that use them.
"""

from typing import Literal

ApprovalMode = Literal["default", "auto", "ask", "none", "always"]
APPROVAL_MODES: tuple[ApprovalMode, ...] = ("default", "auto", "ask", "none", "always")

SandboxMode = Literal["default", "read-only", "workspace", "full"]
SANDBOX_MODES: tuple[SandboxMode, ...] = ("default", "read-only", "workspace", "full")

Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
EFFORTS: tuple[Effort, ...] = ("none", "minimal", "low", "medium", "high", "xhigh", "max")

OnBudget = Literal["stop", "ask"]
"""What a run does that has reached its budget: it ends, or asks whether to continue with as much again."""

Isolation = Literal["none", "worktree"]
"""Where an agent works: directly in its directory, or in a git worktree of the directory's repository."""

OnBusy = Literal["reject", "queue", "steer"]
"""What a prompt does if its session has a run in progress."""

OnLimit = Literal["fail", "wait"]
"""What a run in the background does if the limit of its agent is used up: it fails, or waits for the reset."""

OutputFormat = Literal["auto", "text", "json", "stream-json"]

RunState = Literal["queued", "running", "waiting", "finished", "failed", "cancelled", "interrupted"]

UNDER_WAY: tuple[RunState, ...] = ("queued", "running", "waiting")
"""The states of a run that has not ended."""

SessionStatus = Literal["active", "completed", "error", "paused"]

_STATE_WORDS = {
    **{"finished": "done", "completed": "done", "error": "failed"},
    **{"active": "running", "paused": "cancelled"},
}


def state_word(state: str) -> str:
    """Return the word that people read for the state of a run or the status of a session, as in the console."""
    return _STATE_WORDS.get(state, state)
