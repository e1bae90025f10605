"""The prompt for a thread of Codex, and the schema of the answer.

Codex requests strict output from the API, which supports only a part of JSON Schema:
https://platform.openai.com/docs/guides/structured-outputs#supported-schemas
"""

import msgspec

from clinvk.backends.shared import with_schema, with_system_prompt
from clinvk.types.record import Resume
from clinvk.types.request import RunRequest


def full_prompt(request: RunRequest, resume: Resume | None, instructions: str) -> str:
    """Return the full prompt, which in a resumed thread includes the system prompt and any `instructions`."""
    prompt = with_system_prompt(request) if resume else request.prompt
    if instructions:
        prompt = f"{instructions}\n\n{prompt}"
    return prompt if supports_schema(request) else with_schema(prompt, request)


def supports_schema(request: RunRequest) -> bool:
    """Return whether Codex can enforce the request's schema."""
    return request.output_schema is not None and is_strict(request.output_schema)


Json = dict[str, object]

_SUPPORTED_KEYWORDS = frozenset(
    {
        *("$ref", "$schema", "$id", "title", "description", "type", "enum", "const", "anyOf"),
        *("properties", "required", "additionalProperties", "items", "$defs", "definitions"),
        *("pattern", "format", "multipleOf", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"),
        *("minItems", "maxItems"),
    }
)


class _Schema(msgspec.Struct, rename={"defs": "$defs"}):
    """The keywords of JSON Schema that hold other schemas, or that decide whether an object is closed."""

    type: object = None
    properties: dict[str, Json] = {}
    required: list[str] = []
    additionalProperties: object = None  # JSON Schema's spelling
    items: Json | None = None
    anyOf: list[Json] = []
    defs: dict[str, Json] = {}
    definitions: dict[str, Json] = {}


def is_strict(schema: Json) -> bool:
    """Return whether the API accepts a schema: an object, with every object closed and requiring all properties."""
    return schema.get("type") == "object" and "anyOf" not in schema and _is_accepted(schema)


def _is_accepted(schema: Json) -> bool:
    """Return whether the API accepts a schema, and every schema nested in the schema, as a part of a strict schema."""
    try:
        part = msgspec.convert(schema, _Schema)
    except msgspec.ValidationError:
        return False
    is_closed = part.additionalProperties is False and {*part.required} == {*part.properties}
    is_object = part.type == "object" or "properties" in schema
    inner = [*part.properties.values(), *part.defs.values(), *part.definitions.values(), *part.anyOf]
    inner += [part.items] if part.items is not None else []
    return _SUPPORTED_KEYWORDS.issuperset(schema) and (is_closed or not is_object) and all(map(_is_accepted, inner))
