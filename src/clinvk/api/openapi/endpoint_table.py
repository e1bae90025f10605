"""Every endpoint of the server, in the order of the OpenAPI document. To add an endpoint, add a row."""

from collections.abc import Callable

import msgspec
from starlette.types import ASGIApp

from clinvk.api.endpoints import health
from clinvk.api.openapi.endpoint import (
    EVENT,
    GUARDED,
    OPEN,
    STORED,
    Body,
    Endpoint,
    Errors,
    Handlers,
    Json,
    Operation,
    Returns,
    Route,
    header,
    ref,
    sse_event,
)
from clinvk.dialects import anthropic, dialect, sse, vendor
from clinvk.dialects.anthropic import body as anthropic_body
from clinvk.dialects.anthropic import message as anthropic_message
from clinvk.dialects.anthropic import models as anthropic_models
from clinvk.dialects.openai import chat_bodies, completions
from clinvk.dialects.openai import models as openai_models
from clinvk.dialects.openai.responses import body as response_body
from clinvk.dialects.openai.responses.response_object import Response
from clinvk.dialects.rest import batch_answers, bodies, rest, unified, usage, views
from clinvk.types import errors
from clinvk.types.orchestration import Kind
from clinvk.types.request import APPROVAL_MODES, SANDBOX_MODES

METRICS_PATH = "/metrics"

_POLICY: Errors = (dialect.DirectoryNotAllowed, dialect.BackendNotAllowed)
_BODY: Errors = (dialect.BodyTooSlow, dialect.BodyTooLarge, dialect.WrongMediaType)
_SESSION: Errors = (errors.SessionNotFound, errors.AmbiguousId, *STORED)
_FORK: Errors = (dialect.ForeignOrigin, errors.NotResumable, errors.BackendUnavailable, errors.Unsupported)
_RUN: Errors = (errors.RunNotFound, errors.AmbiguousId, *STORED)
_ANY_PROMPT: Errors = (
    *(*STORED, *_BODY, *_POLICY),
    *(dialect.ForeignOrigin, dialect.BeyondPolicy, dialect.BudgetSpent),
    *(errors.BackendUnavailable, errors.SessionNotFound, errors.SessionBusy),
    *(errors.AgentFailed, errors.ResourcesExhausted, errors.QueueFull),
)
_PROMPT: Errors = (*_ANY_PROMPT, errors.AmbiguousId, errors.NotResumable, errors.Unsupported)
_MODEL_PROMPT: Errors = (
    *(*_ANY_PROMPT, errors.ModelNotFound, errors.TimedOut),
    *(errors.AgentRejected, errors.AgentUnauthenticated, errors.AgentUnpaid),
    *(errors.AgentRateLimited, errors.AgentOverloaded),
)
_RESPONSE: Errors = (errors.RunNotFound, *STORED)
_MODEL: Errors = (errors.ModelNotFound, *GUARDED)

_LOCATION = {"location": "Where it is to be found."}
_SESSION_SHOWN = {200: Returns("The session.", views.SessionView)}
_RUN_SHOWN = {200: Returns("The run.", views.RunView)}

# --- prompts -------------------------------------------------------------------------------------------------------

_MINIMAL: dict[str, Json] = {"backend": "claude", "prompt": "What does this project do?"}
_PROMPTS = (
    Endpoint(
        Route("POST", "/api/v1/prompt", lambda on: on.prompts),
        Operation(
            "prompt",
            "Run one prompt",
            _PROMPT,
            "Answers when the agent has finished, or event by event as it works "
            "(`output_format: stream-json`, or the header `accept: application/x-ndjson`). "
            "A client that leaves ends its agent, unless it said `detach`.",
            headers=(header("prefer", "`respond-async`: with `detach`, answer 202 at once."),),
            body=Body(
                bodies.PromptBody,
                {
                    "minimal": ("Only what is needed", _MINIMAL),
                    "stream": (
                        "A stream, nothing written",
                        {**_MINIMAL, "sandbox_mode": "read-only", "output_format": "stream-json"},
                    ),
                    "detach": ("Go on without me", {**_MINIMAL, "detach": True}),
                    "dry_run": ("Show the command, run nothing", {**_MINIMAL, "model": "fast", "dry_run": True}),
                },
            ),
        ),
        {
            200: Returns(
                "The agent was started. How it ended is told by `exit_code`, or by the stream's last event.",
                rest.PromptAnswer,
                content={
                    unified.MEDIA_TYPE: {
                        "schema": EVENT,
                        "x-stream": "One event a line. Spaces before an event keep the connection alive.",
                    },
                },
            ),
            202: Returns("The run goes on by itself.", rest.Accepted, _LOCATION),
        },
    ),
)


def _batch(
    kind: Kind,
    summary: str,
    body: Body,
    answer: type[msgspec.Struct],
    last: type[msgspec.Struct],
    *more: type[errors.ClinvkError],
) -> Endpoint:
    """Return the endpoint for several agents of one kind; `last` is the last line of the stream."""
    line: Json = {"anyOf": [EVENT, ref(last)]}
    result = Returns(
        "All have been run, or as many as should be. How each went is told by its `exit_code`.",
        answer,
        {"x-clinvk-run-id": "The run that stands for the whole; absent in a dry run."},
        {
            unified.MEDIA_TYPE: {"schema": line, "x-stream": "One event a line, of all runs as they happen."},
            sse.MEDIA_TYPE: {"schema": sse_event(line), "x-stream": "The same as server-sent events, without `id`."},
        },
        (last,),
    )
    description = (
        "Refused whole, before anything runs, where a part of it cannot be run. The header `accept` asks "
        "for a stream, whose last event is the answer. A client that leaves ends all of its agents."
    )
    return Endpoint(
        Route("POST", f"/api/v1/{kind}", lambda on: on.batch(kind)),
        Operation(kind, summary, (*_PROMPT, *more), description, body=body),
        {200: result},
    )


_PRIME: Json = {"backend": "claude", "prompt": "Name a prime."}
_ANOTHER: Json = {"backend": "codex", "prompt": "Name another."}
_CHECKED: Json = {"backend": "codex", "prompt": "Is this one: {{previous}}?"}
_BOTH: dict[str, Json] = {"backends": ["claude", "codex"]}
_JUDGED: Json = {"prompt": "Name a prime.", **_BOTH, "judge": {"backend": "gemini"}}
_SEVERAL_AGENTS = (
    _batch(
        "parallel",
        "Run tasks at the same time",
        Body(bodies.ParallelBody, {"tasks": ("Two tasks", {"tasks": [_PRIME, _ANOTHER], "max_parallel": 2})}),
        batch_answers.ParallelAnswer,
        batch_answers.ParallelSummary,
    ),
    _batch(
        "chain",
        "Run steps one after the other, each with what those before it answered",
        Body(bodies.ChainBody, {"steps": ("Two steps", {"steps": [_PRIME, _CHECKED]})}),
        batch_answers.ChainAnswer,
        batch_answers.ChainSummary,
        errors.RunNotFound,
    ),
    _batch(
        "compare",
        "Run one prompt with several backends, side by side",
        Body(
            bodies.CompareBody,
            {
                "minimal": ("Two answers", {"prompt": "hello", **_BOTH}),
                "judged": ("Two answers, of which a third agent names the better", _JUDGED),
            },
        ),
        batch_answers.CompareAnswer,
        batch_answers.CompareSummary,
    ),
)

# --- sessions and runs ---------------------------------------------------------------------------------------------

_TITLED: Json = {"title": "Parser", "tags": ["a"]}
_LAST_EVENT_ID = header(
    "last-event-id",
    "Only what comes after this event. A browser sends it when it connects again.",
    type="integer",
    minimum=0,
)
_SESSIONS = (
    Endpoint(
        Route("GET", "/api/v1/sessions", lambda on: on.sessions.all),
        Operation("listSessions", "List sessions, newest first", STORED, query=views.SessionListing),
        {200: Returns("A part of the list.", views.SessionList)},
    ),
    Endpoint(
        Route("GET", "/api/v1/sessions/{id}", lambda on: on.sessions.one),
        Operation("getSession", "Show a session", _SESSION),
        _SESSION_SHOWN,
    ),
    Endpoint(
        Route("PATCH", "/api/v1/sessions/{id}", lambda on: on.sessions.describe),
        Operation(
            "describeSession",
            "Give a session a title and tags",
            (*_SESSION, *_POLICY, *_BODY),
            body=Body(views.SessionPatch, {"title": ("A title and tags", _TITLED)}),
        ),
        _SESSION_SHOWN,
    ),
    Endpoint(
        Route("DELETE", "/api/v1/sessions/{id}", lambda on: on.sessions.delete),
        Operation("deleteSession", "Delete a session with its runs", (*_SESSION, *_POLICY, errors.SessionBusy)),
        {200: Returns("It is gone.", views.Deleted)},
    ),
    Endpoint(
        Route("GET", "/api/v1/sessions/{id}/messages", lambda on: on.sessions.messages),
        Operation("listMessages", "Read a session as a conversation", _SESSION, query=views.MessageListing),
        {200: Returns("Prompts and answers.", views.MessageList)},
    ),
    Endpoint(
        Route("POST", "/api/v1/sessions/{id}/fork", lambda on: on.sessions.fork),
        Operation("forkSession", "Begin a session that goes on from another", (*_SESSION, *_POLICY, *_FORK)),
        {201: Returns("The new session; the other one stays as it is.", views.SessionView, _LOCATION)},
    ),
)
_RUNS = (
    Endpoint(
        Route("GET", "/api/v1/runs", lambda on: on.runs.all),
        Operation("listRuns", "List runs, newest first", _SESSION, query=views.RunListing),
        {200: Returns("A part of the list.", views.RunList)},
    ),
    Endpoint(
        Route("GET", "/api/v1/runs/{id}", lambda on: on.runs.one),
        Operation("getRun", "Show a run, with its parts", _RUN),
        _RUN_SHOWN,
    ),
    Endpoint(
        Route("GET", "/api/v1/runs/{id}/events", lambda on: on.events),
        Operation(
            "followRun",
            "Read the events of a run, and follow it while it runs",
            _RUN,
            "A viewer that leaves does not end the run.",
            query=views.Following,
            headers=(_LAST_EVENT_ID,),
        ),
        {
            200: Returns(
                "The events, to the run's end.",
                content={
                    sse.MEDIA_TYPE: {
                        "schema": sse_event(EVENT),
                        "x-stream": "Server-sent events. Comments keep the connection alive.",
                    },
                    unified.MEDIA_TYPE: {
                        "schema": EVENT,
                        "x-stream": "One event a line, when the header `accept` asks for it.",
                    },
                },
            ),
            204: Returns("The run has ended, and nothing comes after this event."),
        },
    ),
    Endpoint(
        Route("POST", "/api/v1/runs/{id}/cancel", lambda on: on.runs.cancel),
        Operation(
            "cancelRun",
            "End a run that is under way here, with all of its parts",
            (*_RUN, dialect.ForeignOrigin, dialect.NotCancellable),
        ),
        _RUN_SHOWN,
    ),
)

# --- the model APIs ------------------------------------------------------------------------------------------------

_REQUEST_HEADERS = (
    header(vendor.SESSION, f"The session to continue with the last turn alone; `{vendor.NEW_SESSION}` begins one."),
    header(vendor.WORKDIR, "Absolute path of an existing directory that the agent works in.", pattern="^(/.*)?$"),
    header(vendor.APPROVAL, "auto: edits unasked; none: acts unasked.", enum=["", *APPROVAL_MODES]),
    header(vendor.SANDBOX, "read-only: writes nothing; workspace: in its directories only.", enum=["", *SANDBOX_MODES]),
    header(vendor.EVENTS, "`true`: what the agent does with its own tools shows as thinking.", enum=[*vendor.FLAGS]),
)
_RESPONSE_HEADERS = {
    "x-clinvk-run-id": "clinvk's id of this run.",
    "x-clinvk-session-id": "The session that it is a turn of, if it is one.",
    "x-clinvk-ignored": "Fields of the body that have no effect, such as `tools`.",
}


def _model_run(
    vendor_path: str,
    path: str,
    handler: Callable[[Handlers], ASGIApp],
    name: str,
    body: type[msgspec.Struct],
    example: dict[str, Json],
    answer: type[msgspec.Struct],
    summary: str = "Answer a conversation",
    *more: type[errors.ClinvkError],
) -> Endpoint:
    """Return an endpoint that answers as a model would; the alias lacks the vendor's part of the path."""
    stream: Json = {"schema": {"type": "string"}, "x-stream": "Server-sent events, with `stream: true`."}
    minimal = {"minimal": ("Only what is needed", {"model": "claude", **example})}
    return Endpoint(
        Route("POST", vendor_path + path, handler, (path,)),
        Operation(name, summary, (*more, *_MODEL_PROMPT), headers=_REQUEST_HEADERS, body=Body(body, minimal)),
        {200: Returns("The agent has answered.", answer, _RESPONSE_HEADERS, {sse.MEDIA_TYPE: stream})},
    )


_QUESTION: Json = [{"role": "user", "content": "What does it do?"}]
_MODEL_APIS = (
    _model_run(
        "/openai",
        "/v1/chat/completions",
        lambda on: on.chat,
        "chatCompletion",
        chat_bodies.ChatBody,
        {"messages": [{"role": "user", "content": "What does this project do?"}]},
        chat_bodies.ChatAnswer,
    ),
    _model_run(
        "/openai",
        "/v1/responses",
        lambda on: on.new_response,
        "createResponse",
        response_body.ResponseBody,
        {"input": "What does this project do?"},
        Response,
        "Answer a conversation, or go on with one",
        dialect.PreviousNotFound,
    ),
    _model_run(
        "/openai",
        "/v1/completions",
        lambda on: on.completions,
        "completion",
        completions.CompletionBody,
        {"prompt": "What does this project do?"},
        completions.CompletionAnswer,
        "Answer a text",
    ),
    Endpoint(
        Route("GET", "/openai/v1/responses/{id}", lambda on: on.responses.one, ("/v1/responses/{id}",)),
        Operation("getResponse", "Show a response that was stored", _RESPONSE),
        {200: Returns("It is.", Response)},
    ),
    Endpoint(
        Route(
            "POST", "/openai/v1/responses/{id}/cancel", lambda on: on.responses.cancel, ("/v1/responses/{id}/cancel",)
        ),
        Operation("cancelResponse", "End a response that is being made", (*_RESPONSE, dialect.ForeignOrigin)),
        {200: Returns("It is.", Response)},
    ),
    Endpoint(
        Route("GET", "/openai/v1/models", lambda on: on.models.openai_all),
        Operation("listModels", "List the models", GUARDED, headers=()),
        {200: Returns("It is.", openai_models.ModelList)},
    ),
    Endpoint(
        Route("GET", "/openai/v1/models/{id:path}", lambda on: on.models.openai_one),
        Operation("getModel", "Show a model", _MODEL),
        {200: Returns("It is.", openai_models.Model)},
    ),
    _model_run(
        "/anthropic",
        "/v1/messages",
        lambda on: on.messages,
        "createMessage",
        anthropic_body.MessagesBody,
        {"messages": _QUESTION, "max_tokens": 1024},
        anthropic_message.Message,
    ),
    Endpoint(
        Route(
            "POST",
            "/anthropic/v1/messages/count_tokens",
            lambda on: on.counting.estimate,
            ("/v1/messages/count_tokens",),
        ),
        Operation(
            "countTokens",
            "Estimate the tokens of a message",
            (errors.InvalidRequest, *_BODY, *GUARDED),
            body=Body(
                anthropic_body.MessagesBody,
                {"minimal": ("Only what is needed", {"model": "claude", "messages": _QUESTION})},
            ),
        ),
        {200: Returns("About so many; no model is asked.", anthropic.TokenCount)},
    ),
    Endpoint(
        Route("GET", "/anthropic/v1/models", lambda on: on.models.anthropic_all),
        Operation(
            "listAnthropicModels",
            "List the models",
            (errors.InvalidRequest, *GUARDED),
            query=anthropic_models.ModelListing,
        ),
        {200: Returns("A part of the list.", anthropic_models.ModelPage)},
    ),
    Endpoint(
        Route("GET", "/anthropic/v1/models/{id:path}", lambda on: on.models.anthropic_one),
        Operation("getAnthropicModel", "Show a model", _MODEL),
        {200: Returns("It is.", anthropic_models.Model)},
    ),
    Endpoint(Route("GET", "/v1/models", lambda on: on.models.any_all)),
    Endpoint(Route("GET", "/v1/models/{id:path}", lambda on: on.models.any_one)),
)

# --- the server ----------------------------------------------------------------------------------------------------

_PAGE = {200: Returns("The page.", content={"text/html": {"schema": {"type": "string"}}})}
_METRICS = Returns("All metrics.", content={"text/plain": {"schema": {"type": "string"}}})
_DOCUMENT = Returns("This document.", content={"application/json": {"schema": {"type": "object"}}})
_SERVER = (
    Endpoint(
        Route("GET", "/api/v1/backends", lambda on: on.status.backends),
        Operation("listBackends", "List the agent CLIs", GUARDED),
        {200: Returns("All backends.", health.BackendList)},
    ),
    Endpoint(
        Route("GET", "/api/v1/usage", lambda on: on.usage.all),
        Operation(
            "listUsage",
            "Tell what runs have used, by day, key, backend and model",
            STORED,
            "What runs have used is told also when they have been deleted.",
            query=usage.UsageListing,
        ),
        {200: Returns("Sums of the runs that have ended.", usage.UsageList)},
    ),
    Endpoint(
        Route("GET", METRICS_PATH, lambda on: on.metrics),
        Operation(
            "metrics",
            "Give metrics in the text format of Prometheus",
            (dialect.NoSuchPath, *GUARDED),
            "There only with the setting `server.metrics_enabled`.",
        ),
        {200: _METRICS},
    ),
    Endpoint(
        Route("GET", "/health", lambda on: on.status.health),
        Operation("health", "Tell how the server is"),
        {200: Returns("It is.", health.Health), 503: Returns("Sessions cannot be kept.", health.Health)},
    ),
    Endpoint(
        Route("GET", "/health/ready", lambda on: on.status.ready),
        Operation("ready", "Tell whether prompts should be sent here"),
        {200: Returns("It is.", health.Health), 503: Returns("They should not.", health.Health)},
    ),
    Endpoint(
        Route("GET", "/health/live", lambda on: on.status.live),
        Operation("live", "Tell that the process answers"),
        {200: Returns("It does.", health.Alive)},
    ),
    Endpoint(
        Route("GET", "/openapi.json", lambda on: on.docs.openapi),
        Operation("openapi", "Get this document", OPEN),
        {200: _DOCUMENT},
    ),
    Endpoint(
        Route("GET", "/docs", lambda on: on.docs.page), Operation("docs", "Show this document as a page", OPEN), _PAGE
    ),
    Endpoint(Route("GET", "/", lambda on: on.docs.page), Operation("root", "Show the same page", OPEN), _PAGE),
    Endpoint(Route("GET", "/docs/{name}", lambda on: on.docs.asset)),
)

ENDPOINTS = (*_PROMPTS, *_SEVERAL_AGENTS, *_SESSIONS, *_RUNS, *_MODEL_APIS, *_SERVER)
