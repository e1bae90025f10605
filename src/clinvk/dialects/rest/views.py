"""Sessions and runs in the form of the REST API, and the parameters of the lists."""

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Annotated, Literal

import msgspec
from msgspec import Meta
from msgspec.structs import replace

from clinvk.dialects import json_bodies
from clinvk.dialects.dialect import copy_as
from clinvk.types import record
from clinvk.types.choices import RunState, SessionStatus
from clinvk.types.events import PlanStep, StopReason, Usage
from clinvk.types.request import FailedAgent

LISTED_CHARS = 1000
"""Maximum length of a prompt in a list."""

SHOWN_PARTS = 1000
"""Maximum number of parts in the view of an orchestration; the list of runs has all parts."""

Title = Annotated[str, Meta(max_length=record.MAX_TITLE_CHARS, extra_json_schema={"pattern": record.TITLE_PATTERN})]
_Tag = Annotated[
    str, Meta(min_length=1, max_length=record.MAX_TAG_CHARS, extra_json_schema={"pattern": record.TAG_PATTERN})
]
Tags = Annotated[list[_Tag], Meta(max_length=record.MAX_TAGS)]

_SearchText = Annotated[str, Meta(max_length=1000)]
_SEARCH = "Filter by words in a turn, the last of which may be a beginning, or by a part of the title; ignores case."
_Limit = Annotated[int, Meta(ge=1, le=1000, description="Maximum number of items.")]
_Offset = Annotated[int, Meta(ge=0, le=2_147_483_647, description="Number of items to skip.")]
QueuePosition = (
    Annotated[int, Meta(description="Position in the server's queue; absent unless the run is queued.")]
    | msgspec.UnsetType
)
Node = Annotated[str, Meta(description="The node of the cluster; absent without a cluster.")] | msgspec.UnsetType
Time = Annotated[str, Meta(description="RFC 3339, UTC, milliseconds.", examples=["2026-11-25T14:09:11.042Z"])]


class MatchView(msgspec.Struct, frozen=True):
    """The newest turn of a session with the words of a search."""

    run_id: str
    text: Annotated[str, Meta(description="The text around the words, on one line.")]


class SessionView(msgspec.Struct, frozen=True, kw_only=True):
    """A conversation with one backend."""

    id: Annotated[str, Meta(description="32 hex digits.")]
    backend: str
    created_at: Time
    last_used: Time
    working_dir: Annotated[str, Meta(description="The agent's working directory.")]
    project: Annotated[
        str, Meta(description="The directory that the user chose: `working_dir`, unless the session has a worktree.")
    ]
    worktree: Annotated[
        str | None,
        Meta(description="The id of the worktree that the agent works in. The worktree may have been removed."),
    ]
    backend_session_id: Annotated[str | None, Meta(description="The agent CLI's session id; null until reported.")]
    model: str | None
    initial_prompt: Annotated[str, Meta(description=f"In a list the first {LISTED_CHARS} characters.")]
    status: Annotated[
        SessionStatus,
        Meta(description="active: a run is in progress. Else the ending of the last run; paused means cancelled."),
    ]
    turn_count: Annotated[int, Meta(description="Number of prompts.")]
    token_usage: Annotated[Usage, Meta(description="Sum over all turns.")]
    cost_usd: Annotated[
        float | msgspec.UnsetType | None,
        Meta(description="Sum over the turns of known cost; null if none is known."),
    ] = msgspec.UNSET
    tags: tuple[str, ...]
    title: str
    archived: Annotated[bool, Meta(description="Lists leave the session out; the next prompt ends that.")]
    parent_id: Annotated[str | None, Meta(description="The session from which this session was forked.")]
    error_message: Annotated[str | None, Meta(description="The error of the last run.")]
    metadata: dict[str, object]
    node: Node = msgspec.UNSET
    match: Annotated[
        MatchView | msgspec.UnsetType | None,
        Meta(description="In a list: where a search found the session; null if in the title, and without a search."),
    ] = msgspec.UNSET


class SessionList(msgspec.Struct, frozen=True, kw_only=True):
    """Sessions, newest first."""

    sessions: list[SessionView]
    total: Annotated[int, Meta(description="Number of all items that match the filter.")]
    limit: int
    offset: int


class SessionListing(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The parameters of a list of sessions."""

    backend: Annotated[str | None, Meta(description="Filter by backend.")] = None
    status: Annotated[SessionStatus | None, Meta(description="Filter by status.")] = None
    tag: Annotated[str | None, Meta(description="Filter by tag.")] = None
    project: Annotated[str | None, Meta(description="Filter by the directory that the user chose.")] = None
    archived: Annotated[bool, Meta(description="List only archived sessions, which other lists leave out.")] = False
    search: Annotated[_SearchText | None, Meta(description=_SEARCH)] = None
    text: Annotated[_SearchText | None, Meta(description="An earlier name of `search`.")] = msgspec.field(
        name="q", default=None
    )
    limit: _Limit = 100
    offset: _Offset = 0


class Project(msgspec.Struct, frozen=True, kw_only=True):
    """A directory in which sessions work."""

    directory: Annotated[str, Meta(description="The `project` of the sessions.")]
    name: Annotated[str, Meta(description="The last part of the path.")]
    branch: Annotated[str | None, Meta(description="The git branch; null without a branch, and in a cluster.")]
    sessions: Annotated[int, Meta(description="Number of sessions that are not archived.")]
    updated_at: Annotated[Time, Meta(description="When a session was last used.")]


class ProjectList(msgspec.Struct, frozen=True, kw_only=True):
    """Projects, the last used first."""

    projects: list[Project]


class SessionPatch(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """New title, tags and place of a session. A missing or null field stays unchanged."""

    title: Annotated[Title | None, Meta(description="One line; an empty text removes the title.")] = None
    tags: Annotated[Tags | None, Meta(description="All tags; replaces the present tags.")] = None
    archived: Annotated[bool | None, Meta(description="Whether lists leave the session out.")] = None


class Deleted(msgspec.Struct, frozen=True, kw_only=True):
    """A deleted session; its runs are deleted as well."""

    deleted: Literal[True] = True
    id: str
    worktree: Annotated[str | None, Meta(description="The id of the session's worktree, which stays.")] = None


class SessionIds(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The sessions to delete."""

    ids: Annotated[list[str], Meta(min_length=1, max_length=1000, description="Ids or unique prefixes.")]


class DeletionError(msgspec.Struct, frozen=True):
    """Why a session was not deleted."""

    id: str
    detail: str


class DeletedSessions(msgspec.Struct, frozen=True, kw_only=True):
    """The deleted sessions, and those that could not be deleted."""

    deleted: list[str]
    errors: list[DeletionError]
    worktrees: Annotated[list[str], Meta(description="The ids of the sessions' worktrees, which stay.")]


class TurnMessage(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A prompt, or an answer; a prompt that an agent receives while it works divides the answer."""

    role: Literal["user", "assistant"]
    text: str
    time: Time
    run_id: str
    usage: Annotated[Usage | None, Meta(description="Tokens of the turn, with the answer; absent if unknown.")] = None
    error: Annotated[str | None, Meta(description="The error of the turn.")] = None


class MessageList(msgspec.Struct, frozen=True, kw_only=True):
    """The conversation, in the order of the turns; `limit` and `offset` count turns from the last."""

    session_id: str
    messages: list[TurnMessage]
    total: Annotated[int, Meta(description="Number of turns; a turn is a run with its prompts and answers.")]
    limit: int
    offset: int


class MessageListing(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The parameters of a list of messages."""

    limit: Annotated[int, Meta(ge=1, le=1000, description="Maximum number of turns.")] = 100
    offset: Annotated[int, Meta(ge=0, le=2_147_483_647, description="Number of newest turns to skip.")] = 0


class RunItem(msgspec.Struct, frozen=True, kw_only=True):
    """A run in a list."""

    id: Annotated[str, Meta(description="32 hex digits.")]
    state: Annotated[RunState, Meta(description="interrupted: clinvk died during the run.")]
    kind: Annotated[record.RunKind, Meta(description="A prompt or an orchestration.")]
    backend: Annotated[str, Meta(description="Empty for an orchestration.")]
    session_id: Annotated[str | None, Meta(description="The session of the run; null if none is stored.")]
    parent_id: Annotated[str | None, Meta(description="The orchestration of which the run is a part.")]
    index: Annotated[int | None, Meta(description="Index of the part, from 0; the judge is last.")]
    name: Annotated[str | None, Meta(description="The caller's name for the part.")]
    prompt: Annotated[str, Meta(description=f"In a list the first {LISTED_CHARS} characters; empty if ephemeral.")]
    workdir: str
    model: str | None
    created_at: Time
    started_at: Annotated[Time | None, Meta(description="Start of the agent; null while queued.")]
    waits_until: Annotated[Time | None, Meta(description="Reset of the limit for which the run waits.")]
    fallback: Annotated[tuple[FailedAgent, ...], Meta(description="The agents that could not take the prompt.")]
    ended_at: Annotated[Time | None, Meta(description="Null while queued or running.")]
    exit_code: Annotated[int | None, Meta(description="0 means success; null until the run has ended.")]
    error: Annotated[str | None, Meta(description="The error of a failed run.")]
    error_code: Annotated[str | None, Meta(description="The code of the error, e.g. agent_rate_limited.")]
    stop_reason: StopReason | None
    token_usage: Annotated[Usage, Meta(description="Tokens of this run; zeros if unknown.")]
    cost_usd: float | None
    node: Node = msgspec.UNSET


class SteeringView(msgspec.Struct, frozen=True):
    """A steering prompt that the agent received within its turn."""

    text: str
    time: Time


class RunView(RunItem, frozen=True, kw_only=True):
    """A run with its outcome."""

    queue_position: QueuePosition = msgspec.UNSET
    activity: (
        Annotated[str, Meta(description="What the agent does; absent unless the run is in progress.")]
        | msgspec.UnsetType
    ) = msgspec.UNSET
    plan: (
        Annotated[tuple[PlanStep, ...], Meta(description="The agent's plan; absent unless the run is in progress.")]
        | msgspec.UnsetType
    ) = msgspec.UNSET
    output: Annotated[str, Meta(description="The answer; empty until the run has ended, and if ephemeral.")]
    request: Annotated[dict[str, object], Meta(description="The other request fields, with settings applied.")]
    steering: Annotated[list[SteeringView], Meta(description="Further prompts that the agent received.")]
    total_runs: Annotated[int, Meta(description="Number of parts that have started; 0 for a prompt.")]
    runs: Annotated[list[RunItem], Meta(description=f"The parts in order, at most {SHOWN_PARTS}.")]


class RunList(msgspec.Struct, frozen=True, kw_only=True):
    """Runs, newest first; those of a session in the order of their turns, the last turn first."""

    runs: list[RunItem]
    total: Annotated[int, Meta(description="Number of all items that match the filter.")]
    limit: int
    offset: int


class RunListing(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The parameters of a list of runs."""

    session_id: Annotated[str | None, Meta(description="Filter by session: id or unique prefix.")] = None
    parent_id: Annotated[str | None, Meta(description="Filter by orchestration: id or unique prefix.")] = None
    backend: Annotated[str | None, Meta(description="Filter by backend.")] = None
    state: Annotated[RunState | None, Meta(description="Filter by state.")] = None
    limit: _Limit = 100
    offset: _Offset = 0


class Following(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The parameters of the events of a run."""

    after: Annotated[
        int,
        Meta(
            ge=0,
            le=2_147_483_647,
            description="Number of the event after which to start; the header `last-event-id` takes precedence.",
        ),
    ] = 0


MAX_FOLLOWED_RUNS = 100

_Position = Annotated[str, Meta(pattern="^[0-9a-f]{4,32}(:[0-9]{1,9})?$")]


class LiveFollowing(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The parameters of the live events."""

    run: Annotated[
        tuple[_Position, ...],
        Meta(
            max_length=MAX_FOLLOWED_RUNS,
            description="Send the events of this run too: its id, or `ID:SEQUENCE` for those after an event.",
        ),
    ] = ()


_patches = msgspec.json.Decoder(SessionPatch)
_session_ids = msgspec.json.Decoder(SessionIds)


def session_view(session: record.Session) -> SessionView:
    """Return the view of a session."""
    return copy_as(
        SessionView,
        session,
        created_at=time(session.created_at),
        last_used=time(session.last_used),
        node=session.node or msgspec.UNSET,
    )


def session_item(
    session: record.Session, costs: Mapping[str, float], matches: Mapping[str, tuple[str, str]] = {}
) -> SessionView:
    """Return the view of a session in a list, with its cost and match among those of the list."""
    view = session_view(replace(session, initial_prompt=session.initial_prompt[:LISTED_CHARS]))
    match = matches.get(session.id)
    return replace(view, cost_usd=costs.get(session.id), match=match and MatchView(*match))


def run_item(run: record.RunRecord) -> RunItem:
    """Return the view of a run in a list."""
    part = run.part
    return copy_as(
        RunItem,
        run,
        index=part.index if part else None,
        name=(part.name or None) if part else None,
        prompt=run.prompt[:LISTED_CHARS],
        created_at=time(run.created_at),
        started_at=_time(run.started_at),
        waits_until=_time(run.waits_until),
        ended_at=_time(run.ended_at),
        exit_code=_exit_code(run),
        error=run.error_message,
        token_usage=run.usage or Usage(),
        node=run.node or msgspec.UNSET,
    )


def _exit_code(run: record.RunRecord) -> int | None:
    """Return the exit code that the client received: 1 for a failed run if the agent's code is missing or 0."""
    if run.ended_at is None or run.state == "finished":
        return run.exit_code
    return run.exit_code or 1


def run_view(run: record.RunRecord, parts: Iterable[record.RunRecord] = (), total: int = 0) -> RunView:
    """Return the view of a run with the given parts, out of `total` parts."""
    shown = sorted(map(run_item, parts), key=lambda item: (item.index or 0, item.created_at))
    return copy_as(
        RunView,
        run_item(run),
        prompt=run.prompt,
        output=run.output,
        request=run.request,
        steering=[SteeringView(prompt.text, time(prompt.at)) for prompt in run.steering],
        total_runs=total,
        runs=shown,
    )


def messages(runs: Iterable[record.RunRecord]) -> Iterator[TurnMessage]:
    """Yield the prompts and answers of runs. A run in progress has no answer yet.

    The last piece of an answer has the usage and the error of the run.
    """
    for run in runs:
        parts = [
            TurnMessage(role=part.role, text=part.text, time=time(part.at), run_id=run.id)
            for part in record.run_messages(run)
        ]
        if run.ended_at is not None:
            parts[-1] = replace(parts[-1], usage=run.usage, error=run.error_message)
        yield from parts


def patch(body: bytes) -> SessionPatch:
    """Parse the changes of a session.

    Raises:
        InvalidRequest: names the field.
    """
    changes = json_bodies.decode(body, _patches)
    return replace(
        changes,
        title=None if changes.title is None else record.valid_title(changes.title),
        tags=None if changes.tags is None else [record.valid_tag(tag) for tag in changes.tags],
    )


def session_ids(body: bytes) -> list[str]:
    """Parse the sessions to delete, each once. Raises `InvalidRequest`, which names the field."""
    return [*dict.fromkeys(json_bodies.decode(body, _session_ids).ids)]


def time(at: float) -> str:
    """Format seconds since the epoch as RFC 3339, UTC, milliseconds."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _time(at: float | None) -> str | None:
    return None if at is None else time(at)
