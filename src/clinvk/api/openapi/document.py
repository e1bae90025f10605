"""The OpenAPI 3.1 document, derived from the types that the server itself reads and writes."""

from inspect import cleandoc

import msgspec

from clinvk import __version__
from clinvk.api.endpoints.health import Alive, BackendList, Health
from clinvk.api.openapi import model_operations, rest_operations
from clinvk.api.openapi.operations import (
    GUARDED,
    OPEN,
    STORED,
    Json,
    answer,
    anything,
    merged,
    operation,
    parameters,
    sentence,
    success,
)
from clinvk.dialects.dialect import NoSuchPath, nearest
from clinvk.dialects.rest import unified
from clinvk.dialects.rest.rest import STATUSES, TITLES
from clinvk.dialects.rest.usage import UsageList, UsageListing
from clinvk.types.errors import ClinvkError, SessionError, TimedOut

SERVER_TYPES = (UsageList, BackendList, Health, Alive)


def server_paths() -> dict[str, Json]:
    """Give all paths."""
    tag = "Server"

    def health(name: str, summary: str, unwell: str) -> Json:
        answers: dict[str, Json] = {"200": answer("It is.", Health), "503": answer(unwell, Health)}
        return {"get": operation(name, tag, summary, answers, ())}

    whole = success("This document.", {"application/json": {"schema": {"type": "object"}}})
    page = success("The page.", {"text/html": {"schema": {"type": "string"}}})
    counted = success("All metrics.", {"text/plain": {"schema": {"type": "string"}}})
    backends = {"200": answer("All backends.", BackendList)}
    alive: dict[str, Json] = {"200": answer("It does.", Alive)}
    return {
        "/api/v1/backends": {"get": operation("listBackends", tag, "List the agent CLIs", backends, GUARDED)},
        "/api/v1/usage": {
            "get": operation(
                "listUsage",
                tag,
                "Tell what runs have used, by day, key, backend and model",
                {"200": answer("Sums of the runs that have ended.", UsageList)},
                STORED,
                description="What runs have used is told also when they have been deleted.",
                parameters=parameters(UsageListing),
            )
        },
        "/metrics": {
            "get": operation(
                "metrics",
                tag,
                "Give metrics in the text format of Prometheus",
                {"200": counted},
                (NoSuchPath, *GUARDED),
                description="There only with the setting `server.metrics_enabled`.",
            )
        },
        "/health": health("health", "Tell how the server is", "Sessions cannot be kept."),
        "/health/ready": health("ready", "Tell whether prompts should be sent here", "They should not."),
        "/health/live": {"get": operation("live", tag, "Tell that the process answers", alive, ())},
        "/openapi.json": {"get": operation("openapi", tag, "Get this document", {"200": whole}, OPEN)},
        "/docs": {"get": operation("docs", tag, "Show this document as a page", {"200": page}, OPEN)},
        "/": {"get": operation("root", tag, "Show the same page", {"200": page}, OPEN)},
    }


_OF_COMMANDS = (SessionError, TimedOut)
"""What only commands raise: a run that timed out has an answer like any other."""

_TAGS = {
    "Prompts": "Run agents.",
    "Several agents": "Run them together, and get one answer or one stream.",
    "Sessions": "Conversations that can be continued.",
    "Runs": "What ran and what runs.",
    **model_operations.TAGS,
    "Server": "What the server can do, and how it is.",
}


def document() -> bytes:
    """Give the whole document as JSON."""
    types = (*rest_operations.TYPES, *SERVER_TYPES)
    schemas, components = msgspec.json.schema_components(
        types, schema_hook=anything, ref_template="#/components/schemas/{name}"
    )
    components |= model_operations.components()
    components["Event"] = {"description": "One line of a stream.", **schemas[types.index(unified.Line)]}
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
            "security": [{}, {"bearer": []}, {"header": []}],
            "tags": [{"name": name, "description": text} for name, text in _TAGS.items()],
            "paths": {**rest_operations.paths(), **model_operations.paths(), **server_paths()},
            "components": {
                "schemas": {
                    name: merged(_tidied(schema), rest_operations.BEYOND_TYPES.get(name, {}))
                    for name, schema in components.items()
                },
                "securitySchemes": {
                    "bearer": {"type": "http", "scheme": "bearer", "description": "An API key, where some are set."},
                    "header": {"type": "apiKey", "in": "header", "name": "x-api-key"},
                },
            },
            "x-problems": _problems(),
        }
    )


def _tidied(schema: dict[str, Json]) -> Json:
    """Take the indentation of the source out of a description."""
    text = schema.get("description")
    return {**schema, "description": cleandoc(text)} if isinstance(text, str) else schema


def _problems() -> list[Json]:
    """Explain the kinds of problems, by status."""
    told = (kind for kind in TITLES if kind not in _OF_COMMANDS)
    return [_explained(kind) for kind in sorted(told, key=lambda kind: nearest(kind, STATUSES))]


def _explained(kind: type[ClinvkError]) -> Json:
    status, title = nearest(kind, STATUSES), TITLES[kind]
    return {"code": kind.code, "status": status, "title": title, "description": sentence(kind)}
