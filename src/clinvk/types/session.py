"""Our record of a conversation with one backend."""

import re
from collections.abc import Collection, Iterable
from typing import Literal

import msgspec

from clinvk.types.errors import InvalidRequest
from clinvk.types.events import Usage

SessionStatus = Literal["active", "completed", "error", "paused"]
SESSION_STATUSES: tuple[SessionStatus, ...] = ("active", "completed", "error", "paused")

MAX_TITLE_CHARS = 500
MAX_TAG_CHARS = 100
MAX_TAGS = 100

_UNSHOWABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
"""Controls, ends of lines, and what is no Unicode."""

_SHOWN = r"[^\x00-\x1f\x7f-\x9f\u2028\u2029\s]"
TAG_PATTERN = rf"^\s*{_SHOWN}([^\x00-\x1f\x7f-\x9f\u2028\u2029]*{_SHOWN})?\s*$"
"""What `as_tag` takes, as a regular expression for others."""
TITLE_PATTERN = r"^[^\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f]*$"
"""What `as_title` takes: gaps in it, line ends too, are spaces."""


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


def as_title(text: str) -> str:
    """Give a text as a title: on one line, each gap in it one space. An empty one is no title.

    Raises:
        InvalidRequest: it cannot be a title.
    """
    title = " ".join(text.split())
    if len(title) > MAX_TITLE_CHARS:
        raise InvalidRequest(f"the title has {len(title)} characters; at most {MAX_TITLE_CHARS} are allowed", "title")
    if _UNSHOWABLE.search(title):
        raise InvalidRequest(f"{title!r} cannot be a title: it has control characters", "title")
    return title


def as_tag(text: str) -> str:
    """Give a text as a tag, without the space around it.

    Raises:
        InvalidRequest: it cannot be a tag.
    """
    tag = text.strip()
    if not tag or len(tag) > MAX_TAG_CHARS or _UNSHOWABLE.search(tag):
        raise InvalidRequest(f"{text!r} cannot be a tag: it is 1 to {MAX_TAG_CHARS} characters on one line", "tags")
    return tag


def retagged(tags: Collection[str], add: Iterable[str], remove: Iterable[str]) -> tuple[str, ...]:
    """Give tags with some added at the end, and then some taken away.

    Raises:
        InvalidRequest: these are more than a session can have, and than it had.
    """
    gone = frozenset(remove)
    changed = tuple(tag for tag in dict.fromkeys((*tags, *add)) if tag not in gone)
    if len(changed) > max(MAX_TAGS, len(tags)):
        raise InvalidRequest(f"a session can have {MAX_TAGS} tags, not {len(changed)}", "tags")
    return changed
