"""The building blocks of the OpenAPI document: operations, parameters, answers, problems."""

from collections.abc import Mapping

import msgspec

from clinvk.dialects.rest import KINDS, Problem, Rest
from clinvk.errors import ClinvkError, QueueFull, ShuttingDown

Json = dict[str, "Json"] | list["Json"] | str | int | float | bool | None
Kinds = tuple[type[ClinvkError], ...]

_RETRIED = (QueueFull, ShuttingDown)


def operation(
    name: str, tag: str, summary: str, answers: Mapping[str, Json], problems: Kinds, **more: Json
) -> dict[str, Json]:
    """Describe one method of one path."""
    return {
        "operationId": name,
        "tags": [tag],
        "summary": summary,
        **more,
        "responses": {**answers, **_problems(problems)},
    }


def parameters(type_: type[msgspec.Struct]) -> list[Json]:
    """Give the fields of a struct as parameters of a query."""
    (_,), components = msgspec.json.schema_components([type_])
    found: list[Json] = []
    for name, schema in components[type_.__name__]["properties"].items():
        description = schema.pop("description", "")
        found.append({"name": name, "in": "query", "description": description, "schema": schema})
    return found


def by_id(what: str) -> Json:
    """Describe the id in a path."""
    return {
        "name": "id",
        "in": "path",
        "required": True,
        "description": f"The id of the {what}, or the first 4 or more digits of it, if no other begins so.",
        "schema": {"type": "string"},
    }


def body(type_: type[msgspec.Struct], examples: dict[str, Json], required: bool) -> Json:
    """Describe a body of JSON."""
    return {"required": required, "content": {"application/json": {"schema": ref(type_), "examples": examples}}}


def ref(type_: type[msgspec.Struct]) -> Json:
    """Point to the schema of a struct."""
    return {"$ref": f"#/components/schemas/{type_.__name__}"}


def an_event() -> Json:
    """Point to the schema of the events of a stream."""
    return {"$ref": "#/components/schemas/Event"}


def answer(description: str, type_: type[msgspec.Struct]) -> dict[str, Json]:
    """Describe an answer of JSON."""
    return {**success(description), "content": {"application/json": {"schema": ref(type_)}}}


def success(description: str) -> dict[str, Json]:
    """Describe an answer that is no problem, without its content."""
    return {"description": description, "headers": _headers()}


def located(answer: dict[str, Json]) -> dict[str, Json]:
    """Describe an answer that says where what it tells of is to be found."""
    location: Json = {"description": "Where it is to be found.", "schema": {"type": "string"}}
    return {**answer, "headers": {**_headers(), "location": location}}


def _headers() -> dict[str, Json]:
    schema: Json = {"type": "string"}
    return {"x-request-id": {"description": "The id sent with the request, or one made for it.", "schema": schema}}


def _problems(kinds: Kinds) -> dict[str, Json]:
    """Give the error responses by status; kinds that share one are told together."""
    by_status: dict[str, list[type[ClinvkError]]] = {}
    for kind in (kind for kind in KINDS if kind in kinds):
        by_status.setdefault(str(KINDS[kind][0]), []).append(kind)
    return {
        status: {
            "description": " ".join(f"`{kind.code}`: {sentence(kind)}" for kind in same),
            "headers": _retry_headers() if any(kind in _RETRIED for kind in same) else _headers(),
            "content": {Rest.error_type: {"schema": ref(Problem)}},
        }
        for status, same in sorted(by_status.items())
    }


def _retry_headers() -> dict[str, Json]:
    return {**_headers(), "retry-after": {"description": "Seconds to wait.", "schema": {"type": "integer"}}}


def sentence(kind: type[ClinvkError]) -> str:
    """Give the first paragraph of a kind's docstring, which says when it comes."""
    if kind is ClinvkError:
        return "Something failed inside clinvk; its log says what."
    return " ".join((kind.__doc__ or "").split("\n\n")[0].split())
