"""clinvk's records: runs with their requests and outcomes, and sessions, the conversations with one backend each."""

import re
from collections.abc import Collection, Iterable, Iterator, Sized
from typing import Literal, NamedTuple

import msgspec
from msgspec.structs import force_setattr, replace

from clinvk.types.choices import RunState, SessionStatus
from clinvk.types.errors import InvalidRequest
from clinvk.types.events import StopReason, Usage
from clinvk.types.request import FailedAgent, PartPosition

RunKind = Literal["prompt", "parallel", "chain", "compare"]

SCHEMA_FIELD = "output_schema"
"""The name of the answer's schema in error messages."""


class SteeringPrompt(msgspec.Struct, frozen=True):
    """A further prompt that a run has received; `answer_chars` is the length of the answer before the prompt."""

    text: str
    at: float
    answer_chars: int


class RunMessage(NamedTuple):
    """A prompt of a run, or a piece of the answer."""

    role: Literal["user", "assistant"]
    text: str
    at: float


class RunRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A run as the store keeps it; times are in seconds since the epoch.

    Attributes:
        id: 32 hex digits.
        state: `interrupted` means that the clinvk process of the run died.
        request: the request as it was run, without prompt and empty fields; of images the types and sizes.
        output: the answer; if the run broke off, the part received so far.
        error_code: a `ClinvkError.code`.
        steering: the prompts that the agent has received within its turn, in order.
        key_name: the API key of the request; empty if no key was required.
        node: the node of the cluster that runs the run; empty on a machine without a cluster.
    """

    id: str
    backend: str
    prompt: str
    state: RunState
    created_at: float
    session_id: str | None = None
    parent_id: str | None = None
    workdir: str = ""
    model: str | None = None
    request: dict[str, object] = {}
    started_at: float | None = None
    ended_at: float | None = None
    usage: Usage | None = None
    cost_usd: float | None = None
    stop_reason: StopReason | None = None
    exit_code: int | None = None
    error_code: str | None = None
    error_message: str | None = None
    output: str = ""
    steering: tuple[SteeringPrompt, ...] = ()
    key_name: str = ""
    node: str = ""

    @property
    def kind(self) -> RunKind:
        """Return the kind of run: a prompt, or an orchestration, which is the parent of its parts' runs."""
        return msgspec.convert(self.request.get("kind", "prompt"), RunKind)

    @property
    def part(self) -> PartPosition | None:
        """Return the place of the run in an orchestration, or None."""
        return msgspec.convert(self.request.get("part"), PartPosition | None)

    @property
    def fallback(self) -> tuple[FailedAgent, ...]:
        """Return the agents that could not take the prompt."""
        return msgspec.convert(self.request.get("fell_back", ()), tuple[FailedAgent, ...])

    @property
    def handed_over(self) -> "HandOver | None":
        """Return the hand-over with which the run took the session from another agent, or None."""
        return msgspec.convert(self.request.get("handed_over"), HandOver | None)

    @property
    def waits_until(self) -> float | None:
        """Return when the limit resets for which the run waits, or None."""
        return msgspec.convert(self.request.get("waits_until"), float | None)


def run_messages(run: RunRecord) -> Iterator[RunMessage]:
    """Yield the prompts of a run and, once the run has ended, the pieces of the answer between the prompts.

    The last piece may be empty.
    """
    yield RunMessage("user", run.prompt, run.created_at)
    start = 0
    for prompt in run.steering:
        if text := run.output[start : prompt.answer_chars].strip("\n"):
            yield RunMessage("assistant", text, prompt.at)
        yield RunMessage("user", prompt.text, prompt.at)
        start = prompt.answer_chars
    if run.ended_at is not None:
        yield RunMessage("assistant", run.output[start:].lstrip("\n") if start else run.output, run.ended_at)


def recorded_result(message: str, keeps_text: bool) -> str:
    """Return a failure message as the store keeps it; an error about a schema quotes the schema or the answer."""
    what = message.partition(":")[0]
    return message if keeps_text or SCHEMA_FIELD not in what else what


def without_text(whole: RunRecord) -> RunRecord:
    """Return the record of an orchestration without prompts, answers and errors; an error may quote the other two."""
    request = {name: value for name, value in whole.request.items() if name != "check"}
    if isinstance(steps := request.get("steps"), Sized):
        request |= {"steps": len(steps), "input": None}
    return replace(whole, prompt="", output="", error_message=None, request=request)


class UsageOfDay(msgspec.Struct, frozen=True, kw_only=True):
    """Usage of the runs that started on one day, by key, backend and model; `day` is UTC, as `2026-11-25`.

    `key_name` and `model` are empty for runs without a key or a model.
    """

    day: str
    key_name: str
    backend: str
    model: str
    runs: int
    usage: Usage
    cost_usd: float


LimitStatus = Literal["allowed", "warning", "rejected"]


class LimitWindow(msgspec.Struct, frozen=True, kw_only=True):
    """The use of one limit of the user's account, as the agent reports it; times are in seconds since the epoch.

    Attributes:
        window: the length as `5h` or `7d`, and the share of the account that the limit covers, as in `7d_opus`.
        used_percent: None if unknown; above 100 if the vendor allows use beyond the limit.
        status: whether the vendor accepts requests, accepts them near the limit, or rejects them.
        updated_at: when the agent reported the state; 0 until the report is recorded.
    """

    backend: str
    window: str
    used_percent: float | None
    status: LimitStatus
    resets_at: float
    updated_at: float = 0.0


MAX_TITLE_CHARS = 500
MAX_TAG_CHARS = 100
MAX_TAGS = 100

_SHOWN = r"[^\x00-\x1f\x7f-\x9f\u2028\u2029\s]"
TAG_PATTERN = rf"^\s*{_SHOWN}([^\x00-\x1f\x7f-\x9f\u2028\u2029]*{_SHOWN})?\s*$"
"""One line without control characters, and not blank."""
TITLE_PATTERN = r"^[^\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f]*$"
"""No control characters except line ends and other gaps, which become spaces."""
_WORKTREE = re.compile("/worktrees/([a-z0-9-]+-[0-9a-f]{8})/")
_SURROGATE = re.compile("[\ud800-\udfff]")
"""A byte of a command's argument that is not valid UTF-8. JSON has none."""


class Session(msgspec.Struct, frozen=True, kw_only=True):
    """A conversation with a backend, open to further turns.

    Attributes:
        id: 32 hex digits.
        created_at, last_used: seconds since the epoch, UTC.
        working_dir: absolute path; empty means the directory of the clinvk process that started the session.
        project: the directory that the user chose; `working_dir` is then the same, or in a worktree of its repository.
        archived: lists leave the session out; the next run ends that.
        backend_session_id: the CLI's resume handle; None until the agent reports the handle.
        token_usage: the sum over all turns.
        counted: the tokens that the agent has counted in its conversation, including a fork's parent.
        forks_parent: the first run branches off the parent's conversation; until then the handle is the parent's.
        turn_count: the number of prompts that the agent has received in the session.
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
    project: str = ""
    archived: bool = False

    def __post_init__(self) -> None:
        if not self.project:
            force_setattr(self, "project", self.working_dir)

    @property
    def worktree(self) -> str | None:
        """The id of the worktree in which the agent works, or None. The worktree may have been removed."""
        return worktree_of(self.working_dir) if self.project != self.working_dir else None


def worktree_of(directory: str) -> str | None:
    """Return the id of the clinvk worktree that a directory is in by its path, or None."""
    found = _WORKTREE.search(directory)
    return found[1] if found else None


class Resume(msgspec.Struct, frozen=True):
    """The data a backend needs to continue a conversation: the CLI's handle, and the tokens used so far.

    `used` exists because Codex reports the totals of the whole thread. With `fork` the run branches off, and the
    conversation behind the handle stays unchanged.
    """

    handle: str
    used: Usage = Usage()
    fork: bool = False


class HandOver(msgspec.Struct, frozen=True):
    """The hand-over of a session: the agent that has left, and what resumes the agent's conversation.

    The next agent received the last `given` of the `total` messages that it had not seen, and the names of `files`
    changed files.
    """

    backend: str
    resume: Resume
    given: int
    total: int
    files: int

    def note(self, backend: str) -> str:
        """Return what happened, and what was lost, on one line; `backend` is the next agent."""
        given = f"{self.given} of {self.total} messages" if self.given < self.total else f"{self.total} messages"
        return (
            f"{backend} continues the conversation of {self.backend} from {given} and the names of {self.files} "
            "changed files, without thinking, images and the output of tools"
        )


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
