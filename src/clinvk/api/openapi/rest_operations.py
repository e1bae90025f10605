"""The REST API, for the OpenAPI document."""

import msgspec

from clinvk.api.openapi.operations import (
    STORED,
    Json,
    Kinds,
    an_event,
    an_sse_event,
    answer,
    body,
    by_id,
    header,
    located,
    merged,
    operation,
    parameters,
    ref,
    success,
)
from clinvk.backends.registry import BACKENDS
from clinvk.dialects import sse
from clinvk.dialects.dialect import (
    BackendNotAllowed,
    BeyondPolicy,
    BodyTooLarge,
    BodyTooSlow,
    BudgetSpent,
    DirectoryNotAllowed,
    ForeignOrigin,
    NotCancellable,
    WrongMediaType,
)
from clinvk.dialects.rest import unified
from clinvk.dialects.rest.batch_answers import (
    ChainAnswer,
    ChainSummary,
    CompareAnswer,
    CompareSummary,
    ParallelAnswer,
    ParallelSummary,
)
from clinvk.dialects.rest.bodies import BackendBody, ChainBody, CompareBody, ParallelBody, PromptBody
from clinvk.dialects.rest.rest import Accepted, Problem, PromptAnswer
from clinvk.dialects.rest.views import (
    Deleted,
    Following,
    MessageList,
    MessageListing,
    RunList,
    RunListing,
    RunView,
    SessionList,
    SessionListing,
    SessionPatch,
    SessionView,
)
from clinvk.types.errors import (
    AgentFailed,
    AmbiguousId,
    BackendUnavailable,
    NotResumable,
    QueueFull,
    ResourcesExhausted,
    RunNotFound,
    SessionBusy,
    SessionNotFound,
    Unsupported,
)

_SESSION: Kinds = (SessionNotFound, AmbiguousId, *STORED)
_CHANGED: Kinds = (*_SESSION, DirectoryNotAllowed, BackendNotAllowed)
_RUN: Kinds = (RunNotFound, AmbiguousId, *STORED)
_BODY: Kinds = (BodyTooSlow, BodyTooLarge, WrongMediaType)
_PROMPT: Kinds = (
    *_SESSION,
    *_BODY,
    ForeignOrigin,
    DirectoryNotAllowed,
    BackendNotAllowed,
    BeyondPolicy,
    BudgetSpent,
    BackendUnavailable,
    SessionBusy,
    NotResumable,
    Unsupported,
    AgentFailed,
    ResourcesExhausted,
    QueueFull,
)

TYPES = (
    PromptBody,
    PromptAnswer,
    ParallelBody,
    ParallelAnswer,
    ParallelSummary,
    ChainBody,
    ChainAnswer,
    ChainSummary,
    CompareBody,
    CompareAnswer,
    CompareSummary,
    Accepted,
    unified.Line,
    SessionList,
    SessionView,
    SessionPatch,
    Deleted,
    MessageList,
    RunList,
    RunView,
    Problem,
)


_BACKENDS: Json = {"enum": [*BACKENDS]}
_NONE: Json = {"type": "null"}
_SOME: Json = {"type": "string", "minLength": 1}
_OF_PROMPT: dict[str, Json] = {
    "properties": {"backend": {"enum": [None, "", *BACKENDS]}},
    "anyOf": [
        {"required": ["backend"], "properties": {"backend": _BACKENDS}},
        {"required": ["session_id"], "properties": {"session_id": _SOME}},
    ],
}

BEYOND_TYPES: dict[str, Json] = {
    "PromptBody": _OF_PROMPT,
    "PartBody": merged(_OF_PROMPT, {"properties": {"detach": {"enum": [None, False]}}}),
    "ChainBody": {
        "anyOf": [
            {"required": ["steps"], "properties": {"steps": {"type": "array"}, "resume_from": {"enum": [None, ""]}}},
            {"required": ["resume_from"], "properties": {"resume_from": _SOME, "steps": _NONE, "input": _NONE}},
        ]
    },
    "CompareBody": {"properties": {"backends": {"items": {"anyOf": [_BACKENDS, ref(BackendBody)]}}}},
    "BackendBody": {"properties": {"backend": _BACKENDS}},
    "JudgeBody": {"properties": {"backend": _BACKENDS}},
}
"""What the server requires of bodies beyond the types of their fields: to be merged into their schemas."""


def paths() -> dict[str, Json]:
    """Give all paths."""
    return {**_prompts(), **_batches(), **_sessions(), **_runs()}


def _prompts() -> dict[str, Json]:
    minimal: Json = {"backend": "claude", "prompt": "What does this project do?"}
    streamed: Json = {**minimal, "sandbox_mode": "read-only", "output_format": "stream-json"}
    dry: Json = {**minimal, "model": "fast", "dry_run": True}
    examples: dict[str, Json] = {
        "minimal": {"summary": "Only what is needed", "value": minimal},
        "stream": {"summary": "A stream, nothing written", "value": streamed},
        "detach": {"summary": "Go on without me", "value": {**minimal, "detach": True}},
        "dry_run": {"summary": "Show the command, run nothing", "value": dry},
    }
    prefer = header("prefer", "`respond-async`: with `detach`, answer 202 at once.")
    answered = success(
        "The agent was started. How it ended is told by `exit_code`, or by the stream's last event.",
        {
            "application/json": {"schema": ref(PromptAnswer)},
            unified.MEDIA_TYPE: {
                "schema": an_event(),
                "x-stream": "One event a line. Spaces before an event keep the connection alive.",
            },
        },
    )
    post = operation(
        "prompt",
        "Prompts",
        "Run one prompt",
        {"200": answered, "202": located(answer("The run goes on by itself.", Accepted))},
        _PROMPT,
        description="Answers when the agent has finished, or event by event as it works "
        "(`output_format: stream-json`, or the header `accept: application/x-ndjson`). "
        "A client that leaves ends its agent, unless it said `detach`.",
        parameters=[prefer],
        requestBody=body(PromptBody, examples, required=True),
    )
    return {"/api/v1/prompt": {"post": post}}


def _batches() -> dict[str, Json]:
    prompts: list[Json] = [
        {"backend": "claude", "prompt": "Name a prime."},
        {"backend": "codex", "prompt": "Name another."},
    ]
    steps: list[Json] = [prompts[0], {"backend": "codex", "prompt": "Is this one: {{previous}}?"}]
    judged: Json = {"prompt": "Name a prime.", "backends": ["claude", "codex"], "judge": {"backend": "gemini"}}
    return {
        "/api/v1/parallel": _batch(
            "parallel",
            "Run tasks at the same time",
            (ParallelBody, ParallelAnswer, ParallelSummary),
            {"tasks": {"summary": "Two tasks", "value": {"tasks": prompts, "max_parallel": 2}}},
        ),
        "/api/v1/chain": _batch(
            "chain",
            "Run steps one after the other, each with what those before it answered",
            (ChainBody, ChainAnswer, ChainSummary),
            {"steps": {"summary": "Two steps", "value": {"steps": steps}}},
        ),
        "/api/v1/compare": _batch(
            "compare",
            "Run one prompt with several backends, side by side",
            (CompareBody, CompareAnswer, CompareSummary),
            {
                "minimal": {"summary": "Two answers", "value": {"prompt": "hello", "backends": ["claude", "codex"]}},
                "judged": {"summary": "Two answers, of which a third agent names the better", "value": judged},
            },
        ),
    }


def _batch(
    name: str,
    summary: str,
    types: tuple[type[msgspec.Struct], type[msgspec.Struct], type[msgspec.Struct]],
    examples: dict[str, Json],
) -> Json:
    asked, told, last = types
    either: Json = {"anyOf": [an_event(), ref(last)]}
    answered = success(
        "All have been run, or as many as should be. How each went is told by its `exit_code`.",
        {
            "application/json": {"schema": ref(told)},
            unified.MEDIA_TYPE: {"schema": either, "x-stream": "One event a line, of all runs as they happen."},
            sse.MEDIA_TYPE: {
                "schema": an_sse_event(either),
                "x-stream": "The same as server-sent events, without `id`.",
            },
        },
        {"x-clinvk-run-id": "The run that stands for the whole; absent in a dry run."},
    )
    post = operation(
        name,
        "Several agents",
        summary,
        {"200": answered},
        (*_PROMPT, RunNotFound) if name == "chain" else _PROMPT,
        description="Refused whole, before anything runs, where a part of it cannot be run. The header `accept` asks "
        "for a stream, whose last event is the answer. A client that leaves ends all of its agents.",
        requestBody=body(asked, examples, required=True),
    )
    return {"post": post}


def _sessions() -> dict[str, Json]:
    tag = "Sessions"
    described: dict[str, Json] = {"title": {"summary": "A title and tags", "value": {"title": "Parser", "tags": ["a"]}}}
    session = by_id("session")
    shown = answer("The session.", SessionView)
    return {
        "/api/v1/sessions": {
            "get": operation(
                "listSessions",
                tag,
                "List sessions, newest first",
                {"200": answer("A part of the list.", SessionList)},
                STORED,
                parameters=parameters(SessionListing),
            )
        },
        "/api/v1/sessions/{id}": {
            "get": operation("getSession", tag, "Show a session", {"200": shown}, _SESSION, parameters=[session]),
            "patch": operation(
                "describeSession",
                tag,
                "Give a session a title and tags",
                {"200": shown},
                (*_CHANGED, *_BODY),
                parameters=[session],
                requestBody=body(SessionPatch, described, required=True),
            ),
            "delete": operation(
                "deleteSession",
                tag,
                "Delete a session with its runs",
                {"200": answer("It is gone.", Deleted)},
                (*_CHANGED, SessionBusy),
                parameters=[session],
            ),
        },
        "/api/v1/sessions/{id}/messages": {
            "get": operation(
                "listMessages",
                tag,
                "Read a session as a conversation",
                {"200": answer("Prompts and answers.", MessageList)},
                _SESSION,
                parameters=[session, *parameters(MessageListing)],
            )
        },
        "/api/v1/sessions/{id}/fork": {
            "post": operation(
                "forkSession",
                tag,
                "Begin a session that goes on from another",
                {"201": located(answer("The new session; the other one stays as it is.", SessionView))},
                (*_CHANGED, ForeignOrigin, NotResumable, BackendUnavailable, Unsupported),
                parameters=[session],
            )
        },
    }


def _runs() -> dict[str, Json]:
    tag = "Runs"
    run = by_id("run")
    shown = answer("The run.", RunView)
    told = "Only what comes after this event. A browser sends it when it connects again."
    last = header("last-event-id", told, type="integer", minimum=0)
    events = success(
        "The events, to the run's end.",
        {
            sse.MEDIA_TYPE: {
                "schema": an_sse_event(an_event()),
                "x-stream": "Server-sent events. Comments keep the connection alive.",
            },
            unified.MEDIA_TYPE: {
                "schema": an_event(),
                "x-stream": "One event a line, when the header `accept` asks for it.",
            },
        },
    )
    return {
        "/api/v1/runs": {
            "get": operation(
                "listRuns",
                tag,
                "List runs, newest first",
                {"200": answer("A part of the list.", RunList)},
                _SESSION,
                parameters=parameters(RunListing),
            )
        },
        "/api/v1/runs/{id}": {
            "get": operation("getRun", tag, "Show a run, with its parts", {"200": shown}, _RUN, parameters=[run]),
        },
        "/api/v1/runs/{id}/events": {
            "get": operation(
                "followRun",
                tag,
                "Read the events of a run, and follow it while it runs",
                {"200": events, "204": success("The run has ended, and nothing comes after this event.")},
                _RUN,
                description="A viewer that leaves does not end the run.",
                parameters=[run, *parameters(Following), last],
            )
        },
        "/api/v1/runs/{id}/cancel": {
            "post": operation(
                "cancelRun",
                tag,
                "End a run that is under way here, with all of its parts",
                {"200": shown},
                (*_RUN, ForeignOrigin, NotCancellable),
                parameters=[run],
            )
        },
    }
