"""Which schemas Codex can be given: it asks its API for strict answers, which takes only a part of JSON Schema.

https://platform.openai.com/docs/guides/structured-outputs#supported-schemas
"""

from collections.abc import Iterator

import msgspec

Json = dict[str, object]

_ALWAYS = frozenset({"$ref", "$schema", "$id", "title", "description", "type", "enum", "const", "anyOf"})
_KNOWN = _ALWAYS | {
    *("properties", "required", "additionalProperties", "items", "$defs", "definitions"),
    *("pattern", "format", "multipleOf", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"),
    *("minItems", "maxItems"),
}


def is_strict(schema: Json) -> bool:
    """Say whether the API takes a schema: an object, all of whose objects are closed and need all they have."""
    return schema.get("type") == "object" and "anyOf" not in schema and all(map(_is_fit, _parts(schema)))


def _is_fit(part: Json) -> bool:
    if not _KNOWN.issuperset(part):
        return False
    if part.get("type") != "object" and "properties" not in part:
        return True
    return part.get("additionalProperties") is False and _names(part.get("required")) == set(
        _object(part, "properties")
    )


def _parts(schema: Json) -> Iterator[Json]:
    """Give a schema and all schemas in it."""
    yield schema
    for key in ("properties", "$defs", "definitions"):
        for part in _object(schema, key).values():
            yield from _parts(_as_object(part))
    options = schema.get("anyOf")
    inner = [schema.get("items"), *(msgspec.convert(options, list[object]) if isinstance(options, list) else ())]
    for part in inner:
        if part is not None:
            yield from _parts(_as_object(part))


def _object(schema: Json, key: str) -> Json:
    return _as_object(schema.get(key) or {})


def _as_object(value: object) -> Json:
    """Give a value as an object; what is none is an object that no strict schema has."""
    return msgspec.convert(value, Json) if isinstance(value, dict) else {"": value}


def _names(required: object) -> set[object]:
    return set(msgspec.convert(required, list[object])) if isinstance(required, list) else set()
