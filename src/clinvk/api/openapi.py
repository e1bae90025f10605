"""The OpenAPI 3.1 document, derived from the types that the server itself reads and writes."""

from collections.abc import Iterable
from inspect import cleandoc

import msgspec

from clinvk import __version__
from clinvk.api.meta import Alive, BackendList, Health
from clinvk.dialects import unified
from clinvk.dialects.base import BodyTooLarge, BodyTooSlow, MethodNotAllowed, NoSuchPath, WrongMediaType
from clinvk.dialects.rest import KINDS, Problem, PromptAnswer, PromptBody, Rest
from clinvk.errors import (
    AgentFailed,
    BackendUnavailable,
    ClinvkError,
    InvalidRequest,
    QueueFull,
    SessionNotFound,
    ShuttingDown,
    Unsupported,
)

Json = dict[str, "Json"] | list["Json"] | str | int | float | bool | None

_PROBLEMS = (
    InvalidRequest,
    NoSuchPath,
    BackendUnavailable,
    SessionNotFound,
    MethodNotAllowed,
    BodyTooSlow,
    BodyTooLarge,
    WrongMediaType,
    Unsupported,
    ClinvkError,
    AgentFailed,
    QueueFull,
    ShuttingDown,
)
_OF_A_PROMPT = tuple(kind for kind in _PROBLEMS if kind not in (NoSuchPath, MethodNotAllowed))
_RETRIED = (QueueFull, ShuttingDown)


def document() -> bytes:
    """Give the whole document as JSON."""
    types = [PromptBody, PromptAnswer, unified.Line, Problem, BackendList, Health, Alive]
    schemas, components = msgspec.json.schema_components(
        types, schema_hook=_anything, ref_template="#/components/schemas/{name}"
    )
    prompt, answer, event, problem, backends, health, alive = schemas
    components["Event"] = {"description": "One line of a stream.", **event}
    return msgspec.json.encode(
        {
            "openapi": "3.1.0",
            "info": {
                "title": "clinvk",
                "version": __version__,
                "summary": "Coding agents behind one API",
                "description": "Runs the agent CLIs of this machine (Claude Code, Codex, Gemini CLI).",
                "license": {"name": "MIT", "identifier": "MIT"},
            },
            "servers": [{"url": "/"}],
            "tags": [
                {"name": "Prompts", "description": "Run agents."},
                {"name": "Server", "description": "What the server can do, and how it is."},
            ],
            "paths": {
                "/api/v1/prompt": {"post": _prompt(prompt, answer, problem)},
                "/api/v1/backends": {
                    "get": _get("listBackends", "List the agent CLIs", _json("All backends.", backends), problem)
                },
                "/health": {"get": _health("health", "Tell how the server is", health, "Sessions cannot be kept.")},
                "/health/ready": {
                    "get": _health("ready", "Tell whether prompts should be sent here", health, "They should not.")
                },
                "/health/live": {"get": _get("live", "Tell that the process answers", _json("It does.", alive), None)},
                "/openapi.json": {
                    "get": _get("openapi", "Get this document", _json("This document.", {"type": "object"}), problem)
                },
                "/docs": {"get": _get("docs", "Show this document as a page", _page(), problem)},
            },
            "components": {"schemas": {name: _tidied(schema) for name, schema in components.items()}},
            "x-problems": [_explained(kind) for kind in _PROBLEMS],
        }
    )


def _anything(type_: type) -> dict[str, Json]:
    """Give the schema of `object`, which msgspec has none for: any JSON value."""
    if type_ is object:
        return {"description": "Any JSON value."}
    raise NotImplementedError


def _tidied(schema: dict[str, Json]) -> Json:
    """Take the indentation of the source out of a description."""
    text = schema.get("description")
    return {**schema, "description": cleandoc(text)} if isinstance(text, str) else schema


def _prompt(prompt: Json, answer: Json, problem: Json) -> Json:
    minimal: Json = {"backend": "claude", "prompt": "What does this project do?"}
    streamed: Json = {**minimal, "workdir": "/srv/project", "sandbox_mode": "read-only", "output_format": "stream-json"}
    dry: Json = {**minimal, "model": "fast", "dry_run": True}
    return {
        "operationId": "prompt",
        "tags": ["Prompts"],
        "summary": "Run one prompt",
        "description": "Answers when the agent has finished, or event by event as it works "
        "(`output_format: stream-json`, or the header `accept: application/x-ndjson`). "
        "A client that leaves ends its agent.",
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {
                    "schema": prompt,
                    "examples": {
                        "minimal": {"summary": "Only what is needed", "value": minimal},
                        "stream": {"summary": "A stream, nothing written", "value": streamed},
                        "dry_run": {"summary": "Show the command, run nothing", "value": dry},
                    },
                }
            },
        },
        "responses": {
            "200": {
                "description": "The agent was started. Whether it succeeded is told by `exit_code`, "
                "or by the stream's last event.",
                "headers": _headers(),
                "content": {
                    "application/json": {"schema": answer},
                    unified.MEDIA_TYPE: {
                        "schema": {"$ref": "#/components/schemas/Event"},
                        "x-stream": "One event a line. Spaces before an event keep the connection alive.",
                    },
                },
            },
            **_problems(_OF_A_PROMPT, problem),
        },
    }


def _get(operation: str, summary: str, response: dict[str, Json], problem: Json | None) -> Json:
    failures = _problems((ClinvkError, ShuttingDown), problem) if problem else {}
    return {
        "operationId": operation,
        "tags": ["Server"],
        "summary": summary,
        "responses": {"200": response, **failures},
    }


def _health(operation: str, summary: str, health: Json, unwell: str) -> Json:
    return {
        "operationId": operation,
        "tags": ["Server"],
        "summary": summary,
        "responses": {"200": _json("It is.", health), "503": _json(unwell, health)},
    }


def _json(description: str, schema: Json) -> dict[str, Json]:
    return {"description": description, "headers": _headers(), "content": {"application/json": {"schema": schema}}}


def _page() -> dict[str, Json]:
    content: Json = {"text/html": {"schema": {"type": "string"}}}
    return {"description": "The page.", "headers": _headers(), "content": content}


def _headers() -> dict[str, Json]:
    schema: Json = {"type": "string"}
    return {"x-request-id": {"description": "The id sent with the request, or one made for it.", "schema": schema}}


def _problems(kinds: Iterable[type[ClinvkError]], problem: Json) -> dict[str, Json]:
    """Give the error responses by status; kinds that share one are told together."""
    by_status: dict[str, list[type[ClinvkError]]] = {}
    for kind in kinds:
        by_status.setdefault(str(KINDS[kind][0]), []).append(kind)
    return {
        status: {
            "description": " ".join(f"`{kind.code}`: {_sentence(kind)}" for kind in same),
            "headers": _retry_headers() if any(kind in _RETRIED for kind in same) else _headers(),
            "content": {Rest.error_type: {"schema": problem}},
        }
        for status, same in sorted(by_status.items())
    }


def _retry_headers() -> dict[str, Json]:
    return {**_headers(), "retry-after": {"description": "Seconds to wait.", "schema": {"type": "integer"}}}


def _explained(kind: type[ClinvkError]) -> Json:
    status, title = KINDS[kind]
    return {"code": kind.code, "status": status, "title": title, "description": _sentence(kind)}


def _sentence(kind: type[ClinvkError]) -> str:
    """Give the first paragraph of a kind's docstring, which says when it comes."""
    if kind is ClinvkError:
        return "Something failed inside clinvk; its log says what."
    return " ".join((kind.__doc__ or "").split("\n\n")[0].split())
