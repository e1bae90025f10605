"""The building blocks of the OpenAPI document: operations, parameters, answers, problems."""

from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from clinvk.backends.registry import BACKENDS
from clinvk.dialects.dialect import BudgetSpent, HostRefused, KeyRefused, RateLimited, nearest
from clinvk.dialects.rest.rest import STATUSES, TITLES, Problem, Rest
from clinvk.types.errors import (
    ClinvkError,
    InvalidRequest,
    QueueFull,
    ResourcesExhausted,
    ShuttingDown,
    StoreUnavailable,
)

Json = dict[str, "Json"] | list["Json"] | str | int | float | bool | None
Kinds = tuple[type[ClinvkError], ...]

OPEN: Kinds = (HostRefused, RateLimited, ClinvkError, ShuttingDown)
"""The ways in which every request can fail."""

GUARDED: Kinds = (KeyRefused, *OPEN)
"""Those of requests that need a key."""

STORED: Kinds = (InvalidRequest, StoreUnavailable, *GUARDED)
"""Those of requests with parameters that need the store."""

_RETRIED = (RateLimited, BudgetSpent, ResourcesExhausted, QueueFull, ShuttingDown, StoreUnavailable)


class Errors(NamedTuple):
    """How one API tells errors: the status of each kind, as `nearest` has it, and the body."""

    statuses: Mapping[type[ClinvkError], int]
    media_type: str
    schema: Json


def operation(
    name: str,
    tag: str,
    summary: str,
    answers: Mapping[str, Json],
    kinds: Kinds,
    errors: Errors | None = None,
    **more: Json,
) -> dict[str, Json]:
    """Describe one method of one path, which fails in these kinds of ways; without `errors` with problem documents."""
    return {
        "operationId": name,
        "tags": [tag],
        "summary": summary,
        **more,
        "responses": {**answers, **_failures(kinds, errors or _PROBLEMS)},
    }


def parameters(type_: type[msgspec.Struct]) -> list[Json]:
    """Return the fields of a struct as parameters of a query. An empty value is as good as none."""
    (_,), components = msgspec.json.schema_components([type_])
    found: list[Json] = []
    for name, schema in components[type_.__name__]["properties"].items():
        description = schema.pop("description", "")
        if name == "backend":
            schema["enum"] = [*BACKENDS]
        found.append(
            {"name": name, "in": "query", "description": description, "allowEmptyValue": True, "schema": schema}
        )
    return found


def merged(schema: Json, more: Json) -> Json:
    """Return a schema with members added or replaced, at any depth."""
    if not (isinstance(schema, dict) and isinstance(more, dict)):
        return more
    return {**schema, **{name: merged(schema.get(name), value) for name, value in more.items()}}


def by_id(what: str, or_prefix: bool = True) -> Json:
    """Describe the id in a path, for which the beginning of one will do unless told otherwise."""
    prefix = ", or the first 4 or more digits of it, if no other begins so" if or_prefix else ""
    description = f"The id of the {what}{prefix}."
    return {"name": "id", "in": "path", "required": True, "description": description, "schema": {"type": "string"}}


def header(name: str, description: str, **schema: Json) -> Json:
    """Describe a header of a request: a text, unless its `schema` says otherwise."""
    return {"name": name, "in": "header", "description": description, "schema": {"type": "string", **schema}}


def body(type_: type[msgspec.Struct], examples: dict[str, Json], required: bool, group: str = "") -> Json:
    """Describe a body of JSON."""
    return {"required": required, "content": {"application/json": {"schema": ref(type_, group), "examples": examples}}}


def ref(type_: type[msgspec.Struct], group: str = "") -> Json:
    """Point to the schema of a struct; in a `group`, such as `OpenAI.`, names are those of a vendor."""
    return {"$ref": f"#/components/schemas/{group}{type_.__name__}"}


def an_event() -> Json:
    """Point to the schema of the events of a stream."""
    return {"$ref": "#/components/schemas/Event"}


def an_sse_event(data: Json) -> Json:
    """Describe one server-sent event whose `data` is this as JSON."""
    text: Json = {"type": "string", "contentMediaType": "application/json", "contentSchema": data}
    return {
        "type": "object",
        "required": ["data"],
        "properties": {"id": {"type": "integer", "minimum": 1}, "data": text},
    }


def answer(description: str, type_: type[msgspec.Struct], group: str = "") -> dict[str, Json]:
    """Describe an answer of JSON."""
    return success(description, {"application/json": {"schema": ref(type_, group)}})


def success(
    description: str, content: dict[str, Json] | None = None, headers: Mapping[str, str] | None = None
) -> dict[str, Json]:
    """Describe an answer that is no problem: its content by media type, and what its own headers say."""
    told: dict[str, Json] = {"description": description, "headers": _headers(headers)}
    return {**told, "content": content} if content else told


def anything(type_: type) -> dict[str, Json]:
    """Give the schema of `object`, which msgspec has none for: any JSON value."""
    if type_ is object:
        return {"description": "Any JSON value."}
    raise NotImplementedError


def located(answer: dict[str, Json]) -> dict[str, Json]:
    """Describe an answer that says where what it tells of is to be found."""
    return {**answer, "headers": _headers({"location": "Where it is to be found."})}


def _headers(more: Mapping[str, str] | None = None) -> dict[str, Json]:
    told = {"x-request-id": "The id sent with the request, or one made for it.", **(more or {})}
    return {name: {"description": description, "schema": {"type": "string"}} for name, description in told.items()}


def _failures(kinds: Kinds, errors: Errors) -> dict[str, Json]:
    """Give the error responses by status; kinds that share one are told together."""
    by_status: dict[str, list[type[ClinvkError]]] = {}
    for kind in dict.fromkeys((*(kind for kind in TITLES if kind in kinds), *kinds)):
        by_status.setdefault(str(nearest(kind, errors.statuses)), []).append(kind)
    return {
        status: {
            "description": " ".join(f"`{kind.code}`: {sentence(kind)}" for kind in same),
            "headers": _retry_headers() if any(kind in _RETRIED for kind in same) else _headers(),
            "content": {errors.media_type: {"schema": errors.schema}},
        }
        for status, same in sorted(by_status.items())
    }


def _retry_headers() -> dict[str, Json]:
    return {**_headers(), "retry-after": {"description": "Seconds to wait.", "schema": {"type": "integer"}}}


_PROBLEMS = Errors(STATUSES, Rest.error_type, ref(Problem))


def sentence(kind: type[ClinvkError]) -> str:
    """Give the first paragraph of a kind's docstring, which says when it comes."""
    if kind is ClinvkError:
        return "Something failed inside clinvk; its log says what."
    return " ".join((kind.__doc__ or "").split("\n\n")[0].split())
