"""All endpoints of the server, in the order of the OpenAPI document. To add an endpoint, add a row."""

from collections.abc import Mapping
from functools import partial

import msgspec
from starlette.types import ASGIApp

from clinvk.api.console.files import CONSOLE_PATH, console, send_file
from clinvk.api.endpoints import files, health, interactions, login, push, runs, sessions, worktrees
from clinvk.api.endpoints.prompts import PromptEndpoint
from clinvk.api.endpoints.runs import LiveEventsEndpoint, RunEventsEndpoint
from clinvk.api.endpoints.services import Services
from clinvk.api.http.middleware import REST
from clinvk.api.openapi import endpoint as doc
from clinvk.api.openapi.endpoint import Endpoint, Json, Operation, Returns, Route, examples, header, json_endpoint
from clinvk.api.openapi.model_endpoints import MODEL_APIS
from clinvk.api.push.messages import PushSubscription
from clinvk.dialects import sse
from clinvk.dialects.rest import batch_answers, batch_bodies, bodies, rest, unified, views
from clinvk.dialects.rest import interactions as interaction_views
from clinvk.types import errors
from clinvk.types.orchestration import Kind

METRICS_PATH = "/metrics"

_SESSION = (errors.SessionNotFound, errors.AmbiguousId, *doc.STORED)
_FORK = (errors.ForeignOrigin, errors.NotResumable, errors.BackendUnavailable, errors.Unsupported)
_RUN = (errors.RunNotFound, errors.AmbiguousId, *doc.STORED)
_PROMPT = (*doc.ANY_PROMPT, errors.AmbiguousId, errors.NotResumable, errors.Unsupported)
_WORKTREE = (errors.InvalidRequest, errors.WorktreeNotFound, *doc.STORED)
_CHANGE_WORKTREE = (*_WORKTREE, *doc.POLICY, errors.ForeignOrigin, errors.BeyondPolicy)
_DIRECTORY = (errors.InvalidRequest, errors.DirectoryNotAllowed, *doc.GUARDED)
_CANCEL = (*_RUN, errors.ForeignOrigin, errors.NotCancellable)

_INTERACTION = (errors.InteractionNotFound, errors.AmbiguousId, *doc.STORED)
_ANSWER = (
    *(*_INTERACTION, *doc.BODY, errors.ForeignOrigin, errors.BeyondPolicy),
    *(errors.AgentCannotAnswer, errors.InteractionAnswered, errors.InteractionEnded),
)

_LOCATION = {"location": "The URL of the resource."}
_TEXT: Json = {"schema": {"type": "string"}}

# --- prompts -------------------------------------------------------------------------------------------------------

_MINIMAL: dict[str, Json] = {"backend": "claude", "prompt": "What does this project do?"}
_READ_ONLY: Json = {**_MINIMAL, "sandbox_mode": "read-only", "output_format": "stream-json"}
_NDJSON: Json = {"schema": doc.EVENT, "x-stream": "One event a line. Spaces before an event keep the connection alive."}
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
    line: Json = {"anyOf": [doc.EVENT, doc.ref(last)]}
    result = Returns(
        "All parts ended or were skipped. The `exit_code` of each part is its outcome.",
        answer,
        {"x-clinvk-run-id": "The id of the run that contains the parts; absent in a dry run."},
        {
            unified.MEDIA_TYPE: {"schema": line, "x-stream": "One event a line, of all runs as they happen."},
            sse.MEDIA_TYPE: {
                "schema": doc.sse_event(line),
                "x-stream": "The same as server-sent events, without `id`.",
            },
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
        Route("POST", f"/api/v1/{kind}", partial(_batch_app, kind), "batch"),
        Operation(
            kind, summary, answers, (*_PROMPT, *more), description, headers=(_PREFER,), body=body, examples=bodies
        ),
    )


_PROMPTS = (
    Endpoint(
        Route("POST", "/api/v1/prompt", partial(PromptEndpoint, REST), "prompt"),
        Operation(
            "prompt",
            "Run one prompt",
            {
                200: Returns(
                    "The agent started. `exit_code`, or the stream's last event, is the outcome.",
                    rest.PromptAnswer,
                    content={unified.MEDIA_TYPE: _NDJSON},
                ),
                202: _ACCEPTED._replace(description="The run continues in the background, or was `steered`."),
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
        batch_bodies.ParallelBody,
        examples("tasks", "Two tasks", {"tasks": [_PRIME, _ANOTHER], "max_parallel": 2}),
        batch_answers.ParallelAnswer,
        batch_answers.ParallelSummary,
    ),
    _batch(
        "chain",
        "Run steps in order, each with the earlier answers",
        batch_bodies.ChainBody,
        examples("steps", "Two steps", {"steps": [_PRIME, _USES_PREVIOUS]}),
        batch_answers.ChainAnswer,
        batch_answers.ChainSummary,
        errors.RunNotFound,
    ),
    _batch(
        "compare",
        "Run one prompt with several backends, side by side",
        batch_bodies.CompareBody,
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
    pattern="^[0-9]*$",
)
_SSE: Json = {"schema": doc.sse_event(doc.EVENT), "x-stream": "Server-sent events. Comments keep the connection alive."}
_LINES: Json = {"schema": doc.EVENT, "x-stream": "One event a line, when the header `accept` asks for it."}
_EVENT_RESPONSES = {
    200: Returns("The events, to the run's end.", content={sse.MEDIA_TYPE: _SSE, unified.MEDIA_TYPE: _LINES}),
    204: Returns("The run has ended, and nothing comes after this event."),
}
_RUN_EVENT: Json = {
    "type": "object",
    "required": ["run"],
    "properties": {"run": {"type": "string"}, "event": doc.EVENT, "problem": doc.ref(rest.Problem)},
}
_CHANGED: Json = {"anyOf": [doc.ref(views.RunItem), doc.ref(interaction_views.InteractionView), _RUN_EVENT]}
_LIVE_EVENT: Json = {"schema": doc.sse_event(_CHANGED), "x-stream": "Named events; `reset` has an empty object."}
_LIVE = Returns("The changes, until the server stops.", content={sse.MEDIA_TYPE: _LIVE_EVENT}, also=(views.RunItem,))


def _live_events(services: Services) -> ASGIApp:
    return LiveEventsEndpoint(services, RunEventsEndpoint(services))


_SESSIONS_AND_RUNS = (
    json_endpoint("GET", "/api/v1/sessions", sessions.list_sessions, doc.STORED),
    json_endpoint("GET", "/api/v1/projects", sessions.list_projects, doc.STORED),
    json_endpoint(
        "POST",
        "/api/v1/sessions/delete",
        sessions.delete_sessions,
        (*doc.STORED, *doc.BODY, errors.ForeignOrigin),
        body=views.SessionIds,
        examples=examples("two", "Two sessions", {"ids": ["3f9c", "0d3a"]}),
    ),
    json_endpoint("GET", "/api/v1/sessions/{id}", sessions.get_session, _SESSION),
    json_endpoint(
        "PATCH",
        "/api/v1/sessions/{id}",
        sessions.describe_session,
        (*_SESSION, *doc.POLICY, *doc.BODY),
        body=views.SessionPatch,
        examples=examples("title", "A title and tags", {"title": "Parser", "tags": ["a"]}),
    ),
    json_endpoint(
        "DELETE", "/api/v1/sessions/{id}", sessions.delete_session, (*_SESSION, *doc.POLICY, errors.SessionBusy)
    ),
    json_endpoint("GET", "/api/v1/sessions/{id}/messages", sessions.list_messages, _SESSION),
    json_endpoint(
        "GET",
        "/api/v1/sessions/{id}/changes",
        worktrees.get_changes,
        (*_SESSION, *doc.POLICY, errors.WorktreeNotFound, errors.ResourcesExhausted),
        owner="session",
    ),
    json_endpoint(
        "POST",
        "/api/v1/sessions/{id}/fork",
        sessions.fork_session,
        (*_SESSION, *doc.POLICY, *_FORK),
        returns={201: Returns("The new session; the other one stays as it is.", views.SessionView, _LOCATION)},
    ),
    json_endpoint("GET", "/api/v1/runs", runs.list_runs, _SESSION),
    json_endpoint("GET", "/api/v1/runs/{id}", runs.get_run, _RUN, owner="run"),
    Endpoint(
        Route("GET", "/api/v1/runs/{id}/events", RunEventsEndpoint, "run"),
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
    json_endpoint("POST", "/api/v1/runs/{id}/cancel", runs.cancel_run, _CANCEL, owner="run"),
    Endpoint(
        Route("GET", "/api/v1/events", _live_events, "events"),
        Operation(
            "followServer",
            "Follow all runs and interactions of this server",
            _LIVE,
            (errors.InvalidRequest, *doc.GUARDED),
            "The event `run` has a run whose state or model has changed, `interaction` an interaction that was "
            "requested or resolved. The event `reset` begins the stream, and replaces events that are lost: load the "
            "lists again. The header `last-event-id` continues a stream. The event `run_event` has an `event` of a "
            "`run` that the query names, `run_error` the `problem` of a `run` whose events cannot be sent.",
            query=views.LiveFollowing,
            headers=(_LAST_EVENT_ID,),
        ),
    ),
    json_endpoint("GET", "/api/v1/worktrees", worktrees.list_worktrees, doc.GUARDED, owner="worktrees"),
    json_endpoint("GET", "/api/v1/worktrees/{id}", worktrees.get_worktree, _WORKTREE, owner="worktree"),
    json_endpoint("POST", "/api/v1/worktrees/{id}/apply", worktrees.apply_worktree, _CHANGE_WORKTREE, owner="worktree"),
    json_endpoint(
        "POST",
        "/api/v1/worktrees/{id}/commit",
        worktrees.commit_worktree,
        (*_CHANGE_WORKTREE, *doc.BODY),
        body=worktrees.CommitBody,
        examples=examples("message", "A message", {"message": "Fix the failing test"}),
        owner="worktree",
    ),
    json_endpoint(
        "POST",
        "/api/v1/worktrees/{id}/message",
        worktrees.propose_message,
        (*_CHANGE_WORKTREE, *_PROMPT, errors.AgentFailed),
        owner="worktree",
    ),
    json_endpoint("DELETE", "/api/v1/worktrees/{id}", worktrees.discard_worktree, _CHANGE_WORKTREE, owner="worktree"),
    json_endpoint("GET", "/api/v1/files", files.list_files, _DIRECTORY),
    json_endpoint("GET", "/api/v1/directories", files.list_directories, _DIRECTORY),
    json_endpoint("GET", "/api/v1/interactions", interactions.list_interactions, (*_SESSION, errors.RunNotFound)),
    json_endpoint("GET", "/api/v1/interactions/{id}", interactions.get_interaction, _INTERACTION),
    json_endpoint(
        "POST",
        "/api/v1/interactions/{id}/answer",
        interactions.answer_interaction,
        _ANSWER,
        body=interaction_views.AnswerBody,
        examples=examples("allow", "Allow the action", {"choice": "allow"}),
    ),
)

# --- the server ----------------------------------------------------------------------------------------------------


def _console(_: Services) -> ASGIApp:
    return console


def _docs(name: str, _: Services) -> ASGIApp:
    return partial(send_file, name)


def _root(services: Services) -> ASGIApp:
    return console if services.settings.server.console else _docs("docs.html", services)


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
_PUSH = (errors.ForeignOrigin, *doc.GUARDED)
_SUBSCRIPTION: dict[str, Json] = {
    "endpoint": "https://fcm.googleapis.com/fcm/send/ID",
    "p256dh": "BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcxaOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiw4",
    "auth": "BTBZMqHH6r4Tts7J_aSIgg",
    "quiet": [1260, 360],
}
_SERVER = (
    json_endpoint("GET", "/api/v1/backends", health.list_backends, doc.GUARDED),
    json_endpoint("GET", "/api/v1/nodes", health.list_nodes, doc.GUARDED),
    json_endpoint("GET", "/api/v1/usage", runs.list_usage, doc.STORED),
    json_endpoint("GET", "/api/v1/me", login.get_me, doc.OPEN),
    json_endpoint(
        "POST",
        "/api/v1/login",
        login.log_in,
        (errors.InvalidRequest, errors.ForeignOrigin, *doc.BODY, *doc.GUARDED),
        returns=Returns("The client is logged in.", login.Me, _COOKIE),
        body=login.LoginBody,
        examples=examples("key", "With an API key", {"key": "clinvk_..."}),
    ),
    json_endpoint(
        "POST",
        "/api/v1/logout",
        login.log_out,
        (errors.ForeignOrigin, *doc.GUARDED),
        returns={204: Returns("The login has ended.", headers=_COOKIE)},
    ),
    json_endpoint("GET", "/api/v1/limits", runs.list_limits, doc.STORED),
    json_endpoint("GET", "/api/v1/push", push.get_push_key, (errors.NoSuchPath, *doc.GUARDED)),
    json_endpoint(
        "POST",
        "/api/v1/push",
        push.subscribe,
        (errors.NoSuchPath, errors.InvalidRequest, errors.ForeignOrigin, *doc.BODY, *doc.GUARDED),
        body=PushSubscription,
        examples=examples("browser", "A browser with quiet hours", _SUBSCRIPTION),
    ),
    json_endpoint("DELETE", "/api/v1/push/{id}", push.unsubscribe, _PUSH, returns={204: Returns("Removed.")}),
    json_endpoint("POST", "/api/v1/push/{id}/test", push.test_push, (errors.NoSuchPath, *_PUSH)),
    json_endpoint("GET", METRICS_PATH, health.metrics, (errors.NoSuchPath, *doc.GUARDED), returns=_METRICS),
    json_endpoint("GET", "/health", health.health, (errors.HostRefused, errors.RateLimited), returns=_HEALTH),
    json_endpoint("GET", "/health/ready", health.ready, (errors.HostRefused,), returns=_READY),
    json_endpoint("GET", "/health/live", health.live, (errors.HostRefused,)),
    Endpoint(
        Route("GET", "/openapi.json", doc.openapi_document),
        Operation("openapi", "Get this document", _DOCUMENT, doc.OPEN),
    ),
    Endpoint(Route("GET", "/docs", partial(_docs, "docs.html")), Operation("docs", _SHOW_PAGE, _PAGE, doc.OPEN)),
    Endpoint(Route("GET", "/", _root), Operation("root", _SHOW_CONSOLE, _PAGE, doc.OPEN)),
    Endpoint(Route("GET", CONSOLE_PATH, _console)),
    *(Endpoint(Route("GET", f"/docs/{name}", partial(_docs, name))) for name in ("console.css", "docs.css", "docs.js")),
)

ENDPOINTS = (*_PROMPTS, *_SESSIONS_AND_RUNS, *MODEL_APIS, *_SERVER)
