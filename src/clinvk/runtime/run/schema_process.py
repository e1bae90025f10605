"""The process that checks schemas, and answers against schemas; started by `answer_filter.py`.

The process reads a `SchemaTask` from stdin and prints a `SchemaFault`.
"""

import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from jsonschema.protocols import Validator

_MAX_FAULT = 500
_REFERENCES = ("$ref", "$dynamicRef", "$recursiveRef")
_SAMPLES = (b"null", b"true", b"0", b'""', b"[]", b"{}")
"""Values that a schema is tried with before an agent runs."""

_IN_PLACE = ("allOf", "anyOf", "oneOf", "not", "if", "then", "else", "extends")
_IN_PLACE_BY_NAME = ("dependentSchemas", "dependencies")
"""The keywords whose schemas are compared with the same value as the schema around them."""

_UNEVALUATED = ("unevaluatedProperties", "unevaluatedItems")
_UNEVALUATED_FACTOR = 4
"""How much longer these keywords make a comparison, since the inner schemas are compared again."""

_MAX_EXPANDED = 10_000
"""The maximum number of schemas that are compared with one value, with references expanded: about a second."""


class SchemaTask(msgspec.Struct, frozen=True, array_like=True):
    """What to check: an answer in JSON against the schema, or the schema and the schemas of tools, by name."""

    schema: dict[str, object]
    answer: bytes | None = None
    tools: dict[str, dict[str, object]] = {}


class SchemaFault(msgspec.Struct, frozen=True, omit_defaults=True):
    """Why a schema is invalid, which is that of `tool` if set, and where the answer does not match; empty if valid."""

    schema: str = ""
    answer: str = ""
    tool: str = ""


def check_schema(task: SchemaTask) -> SchemaFault:
    """Check a task; return the first fault. An exception of the validator counts as a fault of the schema."""
    tool = ""
    try:
        if task.answer is not None:
            return SchemaFault(answer=_mismatch(task.schema, task.answer))
        for tool, schema in {"": task.schema, **task.tools}.items():
            if fault := _fault(schema):
                return SchemaFault(schema=fault, tool=tool)
        return SchemaFault()
    except RecursionError:
        return SchemaFault(schema="it is nested too deeply, or refers to itself without end", tool=tool)
    except Exception as exc:  # noqa: BLE001 - validators raise exceptions of many kinds
        return SchemaFault(schema=f"{type(exc).__name__}: {exc}"[:_MAX_FAULT], tool=tool)


def _validator(schema: dict[str, object]) -> "type[Validator]":
    from jsonschema import Draft202012Validator, validators

    return validators.validator_for(schema, default=Draft202012Validator)


def _mismatch(schema: dict[str, object], answer: bytes) -> str:
    from referencing.jsonschema import EMPTY_REGISTRY

    validator = _validator(schema)(schema, registry=EMPTY_REGISTRY)
    error = next(validator.iter_errors(msgspec.json.decode(answer)), None)
    return f"{error.message[:_MAX_FAULT]} (at {error.json_path})" if error else ""


def _fault(schema: dict[str, object]) -> str:
    from jsonschema import SchemaError

    dialect = schema.get("$schema", "")
    if not isinstance(dialect, str):
        return f"{dialect!r} is not of type 'string' (at $.$schema)"
    try:
        _validator(schema).check_schema(schema)
        fault = _fault_of_references(schema)
    except SchemaError as error:
        return f"{error.message[:_MAX_FAULT]} (at {error.json_path})"
    if not fault:
        for sample in _SAMPLES:
            _mismatch(schema, sample)
    return fault


def _fault_of_references(schema: dict[str, object]) -> str:
    """Return which reference leads to no schema, or that the schema expands too far; empty for a valid schema.

    Remote references are never fetched.

    Raises:
        SchemaError: a reference leads to an invalid schema in a place without schemas.
    """
    from referencing.exceptions import Unresolvable
    from referencing.jsonschema import DRAFT202012, EMPTY_REGISTRY, specification_with

    dialect = specification_with(str(schema.get("$schema", "")), default=DRAFT202012)
    root = dialect.create_resource(schema)
    waiting = [(EMPTY_REGISTRY.resolver_with_root(root), root)]
    inner_of: dict[int, list[int]] = {}
    while waiting:
        resolver, part = waiting.pop()
        if id(part.contents) in inner_of:
            continue
        inner = inner_of[id(part.contents)] = [*_in_place(part.contents)]
        waiting += ((resolver.in_subresource(inner), inner) for inner in part.subresources())
        for reference in _references(part.contents):
            try:
                found = resolver.lookup(reference)
            except (Unresolvable, ValueError):
                return f"{reference[:_MAX_FAULT]!r} refers to nothing in it"
            if not isinstance(found.contents, dict | bool):
                return f"{reference[:_MAX_FAULT]!r} refers to no schema"
            if isinstance(found.contents, dict) and id(found.contents) not in inner_of:
                _validator(schema).check_schema(msgspec.convert(found.contents, dict[str, object]))
            inner.append(id(found.contents))
            waiting.append((found.resolver, dialect.create_resource(found.contents)))
    is_small = _largest(inner_of) <= _MAX_EXPANDED
    return "" if is_small else f"it expands to more than {_MAX_EXPANDED} schemas for one value"


def _largest(inner_of: Mapping[int, list[int]]) -> int:
    """Return the size of the largest expanded schema. A schema within itself counts once."""
    sizes: dict[int, int] = {}

    def size(schema: int) -> int:
        if schema not in sizes:
            sizes[schema] = 1
            sizes[schema] += sum(size(inner) for inner in inner_of.get(schema, ()))
        return sizes[schema]

    return max(map(size, inner_of))


def _in_place(part: object) -> Iterator[int]:
    """Yield the ids of the inner schemas that are compared with the same value, once for each comparison."""
    keywords = _keywords(part)
    inner: list[object] = []
    for name in _IN_PLACE:
        value = keywords.get(name, [])
        inner += msgspec.convert(value, list[object]) if isinstance(value, list) else [value]
    for name in _IN_PLACE_BY_NAME:
        inner += _keywords(keywords.get(name)).values()
    factor = _UNEVALUATED_FACTOR if any(name in keywords for name in _UNEVALUATED) else 1
    yield from factor * [id(schema) for schema in inner]


def _references(part: object) -> list[str]:
    keywords = _keywords(part)
    return [value for name in _REFERENCES if isinstance(value := keywords.get(name), str)]


def _keywords(part: object) -> dict[str, object]:
    return msgspec.convert(part, dict[str, object]) if isinstance(part, dict) else {}


if __name__ == "__main__":
    _task = msgspec.json.decode(sys.stdin.buffer.read(), type=SchemaTask)
    sys.stdout.buffer.write(msgspec.json.encode(check_schema(_task)))
