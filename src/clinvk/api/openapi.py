"""The OpenAPI 3.1 document, derived from the types that the server itself reads and writes."""

from inspect import cleandoc

import msgspec

from clinvk import __version__
from clinvk.api import model_operations, rest_operations, server_operations
from clinvk.api.operations import Json, anything, merged, sentence
from clinvk.dialects import unified
from clinvk.dialects.base import nearest
from clinvk.dialects.rest import STATUSES, TITLES
from clinvk.errors import ClinvkError, SessionError, TimedOut

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
    types = (*rest_operations.TYPES, *server_operations.TYPES)
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
            "paths": {**rest_operations.paths(), **model_operations.paths(), **server_operations.paths()},
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
