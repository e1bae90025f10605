"""clinvk's record of a conversation with one backend."""

import re
from collections.abc import Collection, Iterable

import msgspec

from clinvk.types.choices import SessionStatus
from clinvk.types.errors import InvalidRequest
from clinvk.types.events import Usage

MAX_TITLE_CHARS = 500
MAX_TAG_CHARS = 100
MAX_TAGS = 100

_SHOWN = r"[^\x00-\x1f\x7f-\x9f\u2028\u2029\s]"
TAG_PATTERN = rf"^\s*{_SHOWN}([^\x00-\x1f\x7f-\x9f\u2028\u2029]*{_SHOWN})?\s*$"
"""One line without control characters, and not blank."""
TITLE_PATTERN = r"^[^\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f]*$"
"""No control characters except line ends and other gaps, which become spaces."""
_SURROGATE = re.compile("[\ud800-\udfff]")
"""A byte of a command's argument that is not valid UTF-8. JSON has none."""


class Session(msgspec.Struct, frozen=True, kw_only=True):
    """A conversation with a backend, open to further turns.

    Attributes:
        id: 32 hex digits.
        created_at, last_used: seconds since the epoch, UTC.
        working_dir: absolute path; empty means the directory of the clinvk process that started the session.
        backend_session_id: the CLI's resume handle; None until the agent reports the handle.
        token_usage: the sum over all turns.
        counted: the tokens that the agent has counted in its conversation, including a fork's parent.
        forks_parent: the first run branches off the parent's conversation; until then the handle is the parent's.
        turn_count: the number of prompts run in the session.
        node: the node of the cluster with the agent's files of the conversation; empty on a machine without a cluster.
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
    node: str = ""


class Resume(msgspec.Struct, frozen=True):
    """The data a backend needs to continue a conversation: the CLI's handle, and the tokens used so far.

    `used` exists because Codex reports the totals of the whole thread. With `fork` the run branches off, and the
    conversation behind the handle stays unchanged.
    """

    handle: str
    used: Usage = Usage()
    fork: bool = False


def valid_title(text: str) -> str:
    """Return a text as a title: one line, each gap replaced by one space. An empty result means no title.

    Raises:
        InvalidRequest: the text is too long, or has control characters.
    """
    title = " ".join(text.split())
    if len(title) > MAX_TITLE_CHARS:
        raise InvalidRequest(f"the title has {len(title)} characters; at most {MAX_TITLE_CHARS} are allowed", "title")
    if not re.search(TITLE_PATTERN, title) or _SURROGATE.search(title):
        raise InvalidRequest(f"{title!r} cannot be a title: it has control characters", "title")
    return title


def valid_tag(text: str) -> str:
    """Return a text as a tag, without surrounding whitespace.

    Raises:
        InvalidRequest: the text is empty, too long, or has control characters.
    """
    tag = text.strip()
    if len(tag) > MAX_TAG_CHARS or not re.search(TAG_PATTERN, tag) or _SURROGATE.search(tag):
        raise InvalidRequest(f"{text!r} cannot be a tag: it is 1 to {MAX_TAG_CHARS} characters on one line", "tags")
    return tag


def with_tags(tags: Collection[str], add: Iterable[str], remove: Iterable[str]) -> tuple[str, ...]:
    """Return the tags after appending `add` and then dropping `remove`.

    Raises:
        InvalidRequest: the result exceeds both `MAX_TAGS` and the previous number of tags.
    """
    gone = frozenset(remove)
    changed = tuple(tag for tag in dict.fromkeys((*tags, *add)) if tag not in gone)
    if len(changed) > max(MAX_TAGS, len(tags)):
        raise InvalidRequest(f"a session can have {MAX_TAGS} tags, not {len(changed)}", "tags")
    return changed
