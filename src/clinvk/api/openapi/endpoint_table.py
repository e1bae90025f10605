"""Every endpoint of the server, in the order of the OpenAPI document. To add an endpoint, add a row."""

from collections.abc import Mapping
from functools import partial
from typing import Literal

import msgspec
from starlette.types import ASGIApp

from clinvk.api.console.files import CONSOLE_PATH, console
from clinvk.api.endpoints import health, interactions, login, models, responses, runs, sessions, worktrees
from clinvk.api.endpoints.live import LiveEventsEndpoint
from clinvk.api.endpoints.prompts import PromptEndpoint
from clinvk.api.endpoints.runs import RunEventsEndpoint
from clinvk.api.endpoints.services import Services
from clinvk.api.http.middleware import ANTHROPIC, OPENAI, REST
from clinvk.api.openapi.endpoint import (
    EVENT,
    GUARDED,
    OPEN,
    STORED,
    Answers,
    Endpoint,
    ErrorDocs,
    Handler,
    Json,
    Operation,
    Returns,
    Route,
    docs_file,
    examples,
    header,
    json_app,
    openapi_document,
    ref,
    sse_event,
)
from clinvk.dialects import anthropic, dialect, sse, vendor
from clinvk.dialects.anthropic import body as anthropic_body
from clinvk.dialects.anthropic import message as anthropic_message
from clinvk.dialects.openai import chat_bodies, completions
from clinvk.dialects.openai.completions import OpenAICompletions
from clinvk.dialects.openai.responses import OpenAIResponses, response_object
from clinvk.dialects.openai.responses import body as response_body
from clinvk.dialects.rest import batch_answers, bodies, rest, unified, views
from clinvk.dialects.rest import interactions as interaction_views
from clinvk.types import errors
from clinvk.types.choices import APPROVAL_MODES, SANDBOX_MODES
from clinvk.types.orchestration import Kind

METRICS_PATH = "/metrics"

_POLICY: ErrorDocs = (dialect.DirectoryNotAllowed, dialect.BackendNotAllowed)
_BODY: ErrorDocs = (dialect.BodyTooSlow, dialect.BodyTooLarge, dialect.WrongMediaType)
_SESSION: ErrorDocs = (errors.SessionNotFound, errors.AmbiguousId, *STORED)
_FORK: ErrorDocs = (dialect.ForeignOrigin, errors.NotResumable, errors.BackendUnavailable, errors.Unsupported)
_RUN: ErrorDocs = (errors.RunNotFound, errors.AmbiguousId, *STORED)
_ANY_PROMPT: ErrorDocs = (
    *(*STORED, *_BODY, *_POLICY),
    *(dialect.ForeignOrigin, dialect.BeyondPolicy, dialect.BudgetSpent),
    *(errors.BackendUnavailable, errors.SessionNotFound, errors.SessionBusy),
    *(errors.AgentFailed, errors.ResourcesExhausted, errors.QueueFull),
)
_PROMPT: ErrorDocs = (*_ANY_PROMPT, errors.AmbiguousId, errors.NotResumable, errors.Unsupported)
_MODEL_PROMPT: ErrorDocs = (
    *(*_ANY_PROMPT, errors.ModelNotFound, errors.TimedOut),
    *(errors.AgentRejected, errors.AgentUnauthenticated, errors.AgentUnpaid),
    *(errors.AgentRateLimited, errors.AgentOverloaded),
)
_RESPONSE: ErrorDocs = (errors.RunNotFound, *STORED)
_MODEL: ErrorDocs = (errors.ModelNotFound, *GUARDED)
_WORKTREE: ErrorDocs = (errors.InvalidRequest, *STORED)
_CHANGE_WORKTREE: ErrorDocs = (*_WORKTREE, *_POLICY, dialect.ForeignOrigin, dialect.BeyondPolicy)
_CANCEL: ErrorDocs = (*_RUN, dialect.ForeignOrigin, dialect.NotCancellable)

_INTERACTION: ErrorDocs = (errors.InteractionNotFound, errors.AmbiguousId, *STORED)
_ANSWER: ErrorDocs = (
    *(*_INTERACTION, *_BODY, dialect.ForeignOrigin, dialect.BeyondPolicy),
    *(errors.InteractionAnswered, errors.InteractionEnded),
)

_LOCATION = {"location": "The URL of the resource."}
_TEXT: Json = {"schema": {"type": "string"}}


def _method(
    method: Literal["GET", "POST", "PATCH", "DELETE"],
    path: str,
    handler: Handler,
    refusals: ErrorDocs,
    *,
    returns: Answers | None = None,
    query: type[msgspec.Struct] | None = None,
    body: type[msgspec.Struct] | None = None,
    examples: Mapping[str, Json] = {},
) -> Endpoint:
    """Return the endpoint of a handler, described by the name, the docstring and the types of the handler."""
    first, *others = handler.__name__.split("_")
    name = first + "".join(map(str.capitalize, others))
    summary, _, description = (handler.__doc__ or "").removesuffix(".").partition(". ")
    types = handler.__annotations__
    operation = Operation(
        name,
        summary,
        returns or types["return"],
        refusals,
        description and f"{description}.",
        query or types.get("query"),
        body=body,
        examples=examples,
    )
    return Endpoint(Route(method, path, partial(json_app, handler)), operation)


# --- prompts -------------------------------------------------------------------------------------------------------

_MINIMAL: dict[str, Json] = {"backend": "claude", "prompt": "What does this project do?"}
_READ_ONLY: Json = {**_MINIMAL, "sandbox_mode": "read-only", "output_format": "stream-json"}
_NDJSON: Json = {"schema": EVENT, "x-stream": "One event a line. Spaces before an event keep the connection alive."}
_PRIME: Json = {"backend": "claude", "prompt": "Name a prime."}
_ANOTHER: Json = {"backend": "codex", "prompt": "Name another."}
_USES_PREVIOUS: Json = {"backend": "codex", "prompt": "Is this one: {{previous}}?"}
_BOTH: dict[str, Json] = {"backends": ["claude", "codex"]}
_COMPARE_WITH_JUDGE: Json = {"prompt": "Name a prime.", **_BOTH, "judge": {"backend": "claude"}}


def _batch_app(kind: Kind, services: Services) -> ASGIApp:
    from clinvk.api.endpoints.batch import BatchEndpoint  # imported late: a megabyte that few servers need

    return BatchEndpoint(kind, services)


_PREFER = header("prefer", "`respond-async`: with `detach`, answer 202 at once.")
_ACCEPTED = Returns("The run continues in the background.", rest.Accepted, _LOCATION)


def _batch(
    kind: Kind,
    summary: str,
    body: type[msgspec.Struct],
    bodies: Mapping[str, Json],
    answer: type[msgspec.Struct],
    last: type[msgspec.Struct],
    *more: type[errors.ClinvkError],
) -> Endpoint:
    """Return the endpoint for several agents of one kind; `last` is the last line of the stream."""
    line: Json = {"anyOf": [EVENT, ref(last)]}
    result = Returns(
        "All parts ended or were skipped. The `exit_code` of each part is its outcome.",
        answer,
        {"x-clinvk-run-id": "The id of the run that contains the parts; absent in a dry run."},
        {
            unified.MEDIA_TYPE: {"schema": line, "x-stream": "One event a line, of all runs as they happen."},
            sse.MEDIA_TYPE: {"schema": sse_event(line), "x-stream": "The same as server-sent events, without `id`."},
        },
        (last,),
    )
    description = (
        "If one part cannot run, the whole request is refused before anything runs. The header `accept` selects a "
        "stream; its last event is the answer. A client that disconnects stops all agents, except with `detach`, which "
        "makes no stream."
    )
    answers = {200: result, 202: _ACCEPTED}
    return Endpoint(
        Route("POST", f"/api/v1/{kind}", partial(_batch_app, kind)),
        Operation(
            kind, summary, answers, (*_PROMPT, *more), description, headers=(_PREFER,), body=body, examples=bodies
        ),
    )


_PROMPTS = (
    Endpoint(
        Route("POST", "/api/v1/prompt", partial(PromptEndpoint, REST)),
        Operation(
            "prompt",
            "Run one prompt",
            {
                200: Returns(
                    "The agent started. `exit_code`, or the stream's last event, is the outcome.",
                    rest.PromptAnswer,
                    content={unified.MEDIA_TYPE: _NDJSON},
                ),
                202: _ACCEPTED,
            },
            _PROMPT,
            "Answers when the agent has finished, or event by event as it works "
            "(`output_format: stream-json`, or the header `accept: application/x-ndjson`). "
            "A client that disconnects stops its agent, except with `detach`.",
            headers=(_PREFER,),
            body=bodies.PromptBody,
            examples={
                **examples("minimal", "Required fields only", _MINIMAL),
                **examples("stream", "Stream events in a read-only sandbox", _READ_ONLY),
                **examples("detach", "Run in the background", {**_MINIMAL, "detach": True}),
                **examples("dry_run", "Show the command, run nothing", {**_MINIMAL, "model": "fast", "dry_run": True}),
            },
        ),
    ),
    _batch(
        "parallel",
        "Run tasks at the same time",
        bodies.ParallelBody,
        examples("tasks", "Two tasks", {"tasks": [_PRIME, _ANOTHER], "max_parallel": 2}),
        batch_answers.ParallelAnswer,
        batch_answers.ParallelSummary,
    ),
    _batch(
        "chain",
        "Run steps in order, each with the earlier answers",
        bodies.ChainBody,
        examples("steps", "Two steps", {"steps": [_PRIME, _USES_PREVIOUS]}),
        batch_answers.ChainAnswer,
        batch_answers.ChainSummary,
        errors.RunNotFound,
    ),
    _batch(
        "compare",
        "Run one prompt with several backends, side by side",
        bodies.CompareBody,
        {
            **examples("minimal", "Two answers", {"prompt": "hello", **_BOTH}),
            **examples("judged", "Two answers, compared by a third agent", _COMPARE_WITH_JUDGE),
        },
        batch_answers.CompareAnswer,
        batch_answers.CompareSummary,
    ),
)

# --- sessions and runs ---------------------------------------------------------------------------------------------

_LAST_EVENT_ID = header(
    "last-event-id",
    "Return only later events. Browsers send this header when they reconnect.",
    type="integer",
    minimum=0,
)
_SSE: Json = {"schema": sse_event(EVENT), "x-stream": "Server-sent events. Comments keep the connection alive."}
_LINES: Json = {"schema": EVENT, "x-stream": "One event a line, when the header `accept` asks for it."}
_EVENT_RESPONSES = {
    200: Returns("The events, to the run's end.", content={sse.MEDIA_TYPE: _SSE, unified.MEDIA_TYPE: _LINES}),
    204: Returns("The run has ended, and nothing comes after this event."),
}
_CHANGED: Json = {"anyOf": [ref(views.RunItem), ref(interaction_views.InteractionView)]}
_LIVE_EVENT: Json = {"schema": sse_event(_CHANGED), "x-stream": "Named events; `reset` has an empty object."}
_LIVE = Returns("The changes, until the server stops.", content={sse.MEDIA_TYPE: _LIVE_EVENT}, also=(views.RunItem,))
_SESSIONS_AND_RUNS = (
    _method("GET", "/api/v1/sessions", sessions.list_sessions, STORED),
    _method("GET", "/api/v1/sessions/{id}", sessions.get_session, _SESSION),
    _method(
        "PATCH",
        "/api/v1/sessions/{id}",
        sessions.describe_session,
        (*_SESSION, *_POLICY, *_BODY),
        body=views.SessionPatch,
        examples=examples("title", "A title and tags", {"title": "Parser", "tags": ["a"]}),
    ),
    _method("DELETE", "/api/v1/sessions/{id}", sessions.delete_session, (*_SESSION, *_POLICY, errors.SessionBusy)),
    _method("GET", "/api/v1/sessions/{id}/messages", sessions.list_messages, _SESSION),
    _method(
        "POST",
        "/api/v1/sessions/{id}/fork",
        sessions.fork_session,
        (*_SESSION, *_POLICY, *_FORK),
        returns={201: Returns("The new session; the other one stays as it is.", views.SessionView, _LOCATION)},
    ),
    _method("GET", "/api/v1/runs", runs.list_runs, _SESSION),
    _method("GET", "/api/v1/runs/{id}", runs.get_run, _RUN),
    Endpoint(
        Route("GET", "/api/v1/runs/{id}/events", RunEventsEndpoint),
        Operation(
            "followRun",
            "Read the events of a run, and follow it while it runs",
            _EVENT_RESPONSES,
            _RUN,
            "Disconnecting does not stop the run.",
            query=views.Following,
            headers=(_LAST_EVENT_ID,),
        ),
    ),
    _method("POST", "/api/v1/runs/{id}/cancel", runs.cancel_run, _CANCEL),
    Endpoint(
        Route("GET", "/api/v1/events", LiveEventsEndpoint),
        Operation(
            "followServer",
            "Follow all runs and interactions of this server",
            _LIVE,
            (errors.InvalidRequest, *GUARDED),
            "The event `run` has a run whose state or model has changed, `interaction` an interaction that was "
            "requested or resolved. The event `reset` begins the stream, and replaces events that are lost: load the "
            "lists again. The header `last-event-id` continues a stream.",
            headers=(_LAST_EVENT_ID,),
        ),
    ),
    _method("GET", "/api/v1/worktrees", worktrees.list_worktrees, GUARDED),
    _method("GET", "/api/v1/worktrees/{id}", worktrees.get_worktree, _WORKTREE),
    _method("POST", "/api/v1/worktrees/{id}/apply", worktrees.apply_worktree, _CHANGE_WORKTREE),
    _method("DELETE", "/api/v1/worktrees/{id}", worktrees.discard_worktree, _CHANGE_WORKTREE),
    _method("GET", "/api/v1/interactions", interactions.list_interactions, (*_SESSION, errors.RunNotFound)),
    _method("GET", "/api/v1/interactions/{id}", interactions.get_interaction, _INTERACTION),
    _method(
        "POST",
        "/api/v1/interactions/{id}/answer",
        interactions.answer_interaction,
        _ANSWER,
        body=interaction_views.AnswerBody,
        examples=examples("allow", "Allow the action", {"choice": "allow"}),
    ),
)

# --- the model APIs ------------------------------------------------------------------------------------------------

_REQUEST_HEADERS = (
    header(vendor.SESSION, f"The session to continue with the last turn alone; `{vendor.NEW_SESSION}` begins one."),
    header(vendor.WORKDIR, "Absolute path of an existing directory that the agent works in.", pattern="^(/.*)?$"),
    header(vendor.APPROVAL, "auto: edits without asking; none: acts without asking.", enum=["", *APPROVAL_MODES]),
    header(vendor.SANDBOX, "read-only: writes nothing; workspace: in its directories only.", enum=["", *SANDBOX_MODES]),
    header(vendor.EVENTS, "`true`: the agent's tool calls appear as thinking.", enum=[*vendor.FLAGS]),
    header(vendor.TOOLS, "Whose tools the model may call.", enum=["", *dialect.TOOLS_MODES]),
)
_RESPONSE_HEADERS = {
    "x-clinvk-run-id": "The run id.",
    "x-clinvk-session-id": "The session id, if the run belongs to a session.",
    "x-clinvk-ignored": "Fields of the body that have no effect, such as `tools`.",
}
_EVENTS: Json = {"schema": {"type": "string"}, "x-stream": "Server-sent events, with `stream: true`."}
_QUESTION: dict[str, Json] = {"messages": [{"role": "user", "content": "What does this project do?"}]}


def _minimal(fields: Mapping[str, Json]) -> Mapping[str, Json]:
    return examples("minimal", "Required fields only", {"model": "claude", **fields})


def _model_run(
    route: Route,
    name: str,
    summary: str,
    body: type[msgspec.Struct],
    fields: Mapping[str, Json],
    answer: type[msgspec.Struct],
    *more: type[errors.ClinvkError],
) -> Endpoint:
    """Return the endpoint of a model API; `fields` are the body of an example."""
    returns = Returns("The agent has answered.", answer, _RESPONSE_HEADERS, {sse.MEDIA_TYPE: _EVENTS})
    refusals = (*more, *_MODEL_PROMPT)
    return Endpoint(
        route,
        Operation(name, summary, returns, refusals, headers=_REQUEST_HEADERS, body=body, examples=_minimal(fields)),
    )


def _responses_app(services: Services) -> ASGIApp:
    return PromptEndpoint(OpenAIResponses(), services, expand_references=responses.expand_references)


_MODEL_APIS = (
    _model_run(
        Route("POST", "/openai/v1/chat/completions", partial(PromptEndpoint, OPENAI)),
        "chatCompletion",
        "Answer a conversation",
        chat_bodies.ChatBody,
        _QUESTION,
        chat_bodies.ChatAnswer,
    ),
    _model_run(
        Route("POST", "/openai/v1/responses", _responses_app),
        "createResponse",
        "Answer a conversation, or continue one",
        response_body.ResponseBody,
        {"input": "What does this project do?"},
        response_object.Response,
        dialect.PreviousNotFound,
    ),
    _model_run(
        Route("POST", "/openai/v1/completions", partial(PromptEndpoint, OpenAICompletions())),
        "completion",
        "Answer a text",
        completions.CompletionBody,
        {"prompt": "What does this project do?"},
        completions.CompletionAnswer,
    ),
    _method("GET", "/openai/v1/responses/{id}", responses.get_response, _RESPONSE),
    _method("POST", "/openai/v1/responses/{id}/cancel", responses.cancel_response, (*_RESPONSE, dialect.ForeignOrigin)),
    _method("GET", "/openai/v1/models", models.list_models, GUARDED),
    _method("GET", "/openai/v1/models/{id:path}", models.get_model, _MODEL),
    _model_run(
        Route("POST", "/anthropic/v1/messages", partial(PromptEndpoint, ANTHROPIC)),
        "createMessage",
        "Answer a conversation",
        anthropic_body.MessagesBody,
        {**_QUESTION, "max_tokens": 1024},
        anthropic_message.Message,
    ),
    _method(
        "POST",
        "/anthropic/v1/messages/count_tokens",
        models.count_tokens,
        (errors.InvalidRequest, *_BODY, *GUARDED),
        body=anthropic_body.MessagesBody,
        examples=_minimal(_QUESTION),
    ),
    _method(
        "GET",
        "/anthropic/v1/models",
        models.list_anthropic_models,
        (errors.InvalidRequest, *GUARDED),
        query=anthropic.ModelListing,
    ),
    _method("GET", "/anthropic/v1/models/{id:path}", models.get_anthropic_model, _MODEL),
    Endpoint(Route("GET", "/v1/models", partial(json_app, models.list_models_of_either))),
    Endpoint(Route("GET", "/v1/models/{id:path}", partial(json_app, models.get_model_of_either))),
)

# --- the server ----------------------------------------------------------------------------------------------------


def _console(_: Services) -> ASGIApp:
    return console


def _root(services: Services) -> ASGIApp:
    return console if services.settings.server.console else docs_file("docs.html", services)


_COOKIE = {"set-cookie": "The cookie of the login: `HttpOnly`, `SameSite=Strict`, and `Secure` over TLS."}
_SHOW_PAGE = "Show this document as a page"
_SHOW_CONSOLE = "Open the console, or this document as a page if the console is off"
_PAGE = Returns("The page.", content={"text/html": _TEXT})
_METRICS = Returns("All metrics.", content={"text/plain": _TEXT})
_DOCUMENT = Returns("This document.", content={"application/json": {"schema": {"type": "object"}}})
_HEALTH = {
    200: Returns("The server is ok, or degraded.", health.Health),
    503: Returns("Sessions cannot be kept.", health.Health),
}
_READY = {200: Returns("Send prompts here.", health.Health), 503: Returns("Send no prompts here.", health.Health)}
_SERVER = (
    _method("GET", "/api/v1/backends", health.list_backends, GUARDED),
    _method("GET", "/api/v1/usage", runs.list_usage, STORED),
    _method("GET", "/api/v1/me", login.get_me, OPEN),
    _method(
        "POST",
        "/api/v1/login",
        login.log_in,
        (errors.InvalidRequest, dialect.ForeignOrigin, *_BODY, *GUARDED),
        returns=Returns("The client is logged in.", login.Me, _COOKIE),
        body=login.LoginBody,
        examples=examples("key", "With an API key", {"key": "clinvk_..."}),
    ),
    _method(
        "POST",
        "/api/v1/logout",
        login.log_out,
        (dialect.ForeignOrigin, *GUARDED),
        returns={204: Returns("The login has ended.", headers=_COOKIE)},
    ),
    _method("GET", "/api/v1/limits", runs.list_limits, STORED),
    _method("GET", METRICS_PATH, health.metrics, (dialect.NoSuchPath, *GUARDED), returns=_METRICS),
    _method("GET", "/health", health.health, (), returns=_HEALTH),
    _method("GET", "/health/ready", health.ready, (), returns=_READY),
    _method("GET", "/health/live", health.live, ()),
    Endpoint(
        Route("GET", "/openapi.json", openapi_document), Operation("openapi", "Get this document", _DOCUMENT, OPEN)
    ),
    Endpoint(Route("GET", "/docs", partial(docs_file, "docs.html")), Operation("docs", _SHOW_PAGE, _PAGE, OPEN)),
    Endpoint(Route("GET", "/", _root), Operation("root", _SHOW_CONSOLE, _PAGE, OPEN)),
    Endpoint(Route("GET", CONSOLE_PATH, _console)),
    *(Endpoint(Route("GET", f"/docs/{name}", partial(docs_file, name))) for name in ("docs.css", "docs.js")),
)

ENDPOINTS = (*_PROMPTS, *_SESSIONS_AND_RUNS, *_MODEL_APIS, *_SERVER)
