"""Our record of a conversation with one backend."""

from typing import Literal

import msgspec

from clinvk.events import Usage

SessionStatus = Literal["active", "completed", "error", "paused"]
SESSION_STATUSES: tuple[SessionStatus, ...] = ("active", "completed", "error", "paused")


class Session(msgspec.Struct, frozen=True, kw_only=True):
    """A conversation that can be continued.

    Attributes:
        id: 32 hex digits.
        created_at, last_used: seconds since the epoch, UTC.
        working_dir: absolute; empty is the directory of the clinvk that started it.
        backend_session_id: the CLI's own resume handle; None until the agent told it.
        token_usage: the sum over all turns.
        counted: the tokens that the agent has counted in its conversation, those of a fork's parent included.
        forks_parent: its first run branches off the conversation of its parent, whose handle it has until then.
        turn_count: prompts that were run in it.
    """

    id: str
    backend: str
    created_at: float
    last_used: float
    working_dir: str
    initial_prompt: str
    backend_session_id: str | None = None
    model: str | None = None
    status: SessionStatus = "active"
    turn_count: int = 0
    token_usage: Usage = Usage()
    counted: Usage = Usage()
    tags: tuple[str, ...] = ()
    title: str = ""
    parent_id: str | None = None
    forks_parent: bool = False
    error_message: str | None = None
    metadata: dict[str, object] = {}


class Resume(msgspec.Struct, frozen=True):
    """What a backend needs to continue a conversation: its CLI's handle, and the tokens used in it so far.

    `used` is there because Codex reports the totals of the whole thread. With `fork` the conversation branches off:
    what the handle stands for stays as it is.
    """

    handle: str
    used: Usage = Usage()
    fork: bool = False
