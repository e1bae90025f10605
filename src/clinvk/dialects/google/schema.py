"""Convert Google's schemas, a subset of OpenAPI 3.0, to JSON Schema: https://ai.google.dev/api/caching#Schema."""

import re

import msgspec

from clinvk.dialects import json_bodies
from clinvk.types.errors import InvalidRequest

Schema = dict[str, object]

_KEYWORDS = {"defs": "$defs", "ref": "$ref"}
_COUNT = re.compile("(min|max)(Items|Length|Properties)")
"""The keywords whose numbers may be texts, as JSON of Google writes integers of 64 bits."""

_SNAKE = re.compile("_([a-z0-9])")
_ANY_JSON: Schema = {"type": ["object", "array"]}
_OUTERMOST = ("$schema", "$defs", "definitions")
"""The keywords that belong to the outermost schema, where references begin."""

_JSON_INSIDE = "The property `answer` is the answer."
_TEXT_INSIDE = "The property `answer` is the answer, a text."


class _Shape(msgspec.Struct, rename="camel"):
    """The keywords to convert. Other keywords are those of JSON Schema."""

    type: str | list[str] | None = None
    nullable: bool | None = None
    properties: dict[str, Schema] | None = None
    property_ordering: list[str] | None = None
    items: Schema | None = None
    any_of: list[Schema] | None = None
    additional_properties: Schema | bool | None = None
    defs: dict[str, Schema] | None = msgspec.field(name="$defs", default=None)


def camel_case(name: str) -> str:
    """Return a name in snake case, which JSON of Google may have, in camel case."""
    return _SNAKE.sub(lambda found: found[1].upper(), name.lstrip("_")) if "_" in name else name


def json_schema(schema: Schema) -> Schema:
    """Return a schema of Google as JSON Schema; JSON Schema stays unchanged.

    The types are in lower case, null is a type, and the properties are in the order that the schema asks for.

    Raises:
        InvalidRequest: a keyword has a value of another kind, or the schema is nested too deeply.
    """
    try:
        return _converted(schema)
    except RecursionError:
        raise InvalidRequest("the schema is nested too deeply") from None


def _converted(schema: Schema) -> Schema:
    named = {_KEYWORDS.get(name) or camel_case(name): value for name, value in schema.items() if value is not None}
    shape = json_bodies.converted(named, _Shape, "field", strict=True)
    found = {name: _number(name, value) for name, value in named.items()}
    for name in ("nullable", "propertyOrdering", "type"):
        found.pop(name, None)
    if shape.type and shape.type != "TYPE_UNSPECIFIED":
        found["type"] = shape.type.lower() if isinstance(shape.type, str) else [each.lower() for each in shape.type]
    if shape.properties is not None:
        order = dict.fromkeys([*(shape.property_ordering or ()), *shape.properties])
        found["properties"] = {name: _converted(shape.properties[name]) for name in order if name in shape.properties}
    if shape.items is not None:
        found["items"] = _converted(shape.items)
    if shape.any_of is not None:
        found["anyOf"] = [_converted(each) for each in shape.any_of]
    if isinstance(shape.additional_properties, dict):
        found["additionalProperties"] = _converted(shape.additional_properties)
    if shape.defs is not None:
        found["$defs"] = {name: _converted(each) for name, each in shape.defs.items()}
    return _nullable(found) if shape.nullable else found


def _number(name: str, value: object) -> object:
    return int(value) if isinstance(value, str) and value.isdecimal() and _COUNT.fullmatch(name) else value


def _nullable(schema: Schema) -> Schema:
    """Return a schema that also allows null."""
    if isinstance(schema.get("type"), str) and "enum" not in schema:
        return {**schema, "type": [schema["type"], "null"]}
    return {"anyOf": [schema, {"type": "null"}]}


def answer_schema(schema: Schema | None, is_text: bool) -> Schema:
    """Return the schema for the agent, whose answer must be an object; None is the schema of any object or array.

    `is_text` says that the client wants the answer, which is a text, without quotes. `client_text` returns what the
    client wants.
    """
    if schema and schema.get("type") == "object" and not is_text:
        return schema
    inner = {**(schema or _ANY_JSON)}
    outer = {name: inner.pop(name) for name in _OUTERMOST if name in inner}
    return {
        **outer,
        "type": "object",
        "description": _TEXT_INSIDE if is_text else _JSON_INSIDE,
        "properties": {"answer": inner},
        "required": ["answer"],
        "additionalProperties": False,
    }


def client_text(answer: object, schema: Schema | None) -> str | None:
    """Return the answer for the client, from the agent's answer to a schema; None if the client gets all of it."""
    shape = schema or {}
    description, properties = shape.get("description"), shape.get("properties")
    is_own = description in (_TEXT_INSIDE, _JSON_INSIDE) and shape.get("additionalProperties") is False
    if (
        not is_own
        or not isinstance(properties, dict)
        or properties.keys() != {"answer"}
        or not isinstance(answer, dict)
    ):
        return None
    value = msgspec.convert(answer, Schema).get("answer")
    return str(value) if description == _TEXT_INSIDE else msgspec.json.encode(value).decode()
