"""The OpenAPI 3.1 document, derived from the endpoint table and from the types that the server reads and writes."""

from collections.abc import Iterator, Mapping
from inspect import cleandoc

import msgspec

from clinvk import __version__
from clinvk.api.openapi.endpoint import Api, ErrorDocs, Json, Operation, Returns, ref
from clinvk.api.openapi.endpoint_table import ENDPOINTS
from clinvk.backends.base import Backend
from clinvk.dialects.anthropic import body as anthropic_body
from clinvk.dialects.anthropic import message as anthropic_message
from clinvk.dialects.dialect import table_entry
from clinvk.dialects.google import answer as google_answer
from clinvk.dialects.openai import answers as openai_answers
from clinvk.dialects.openai.responses.input_items import ITEMS
from clinvk.dialects.rest import unified
from clinvk.dialects.rest.batch_bodies import BackendBody
from clinvk.dialects.rest.rest import STATUSES, Problem, Rest, title
from clinvk.types import errors

_RETRIED = (
    *(errors.RateLimited, errors.BudgetSpent, errors.ResourcesExhausted),
    *(errors.QueueFull, errors.ShuttingDown, errors.StoreUnavailable),
)
_OF_COMMANDS = (errors.SessionError, errors.TimedOut)
"""Errors of commands only: over HTTP, a timed-out run has an ordinary response."""

_TAGS = {
    "Prompts": "Run agents.",
    "Several agents": "Run them together, and get one answer or one stream.",
    "Sessions": "Conversations that can be continued.",
    "Runs": "What ran and what runs.",
    "OpenAI": "The API of OpenAI: clients get `/openai/v1` as their base URL. `/v1` leads here as well.",
    "Anthropic": "The API of Anthropic: clients get `/anthropic` as their base URL, or the server's own address.",
    "Google": "The API of Google: clients get `/gemini` as their base URL.",
    "Server": "What the server can do, and how it is.",
}

_REST = Api("", STATUSES, Rest.error_type, Problem)
_JSON = "application/json"
_OPENAI = Api("OpenAI.", openai_answers.STATUSES, _JSON, openai_answers.ErrorAnswer, ITEMS)
_ANTHROPIC = Api("Anthropic.", anthropic_message.STATUSES, _JSON, anthropic_message.ErrorAnswer, anthropic_body.BLOCKS)
_GOOGLE = Api("Google.", google_answer.STATUSES, _JSON, google_answer.ErrorAnswer)
_SECTIONS = (
    ("/api/v1/prompt", "Prompts", _REST),
    ("/api/v1/parallel", "Several agents", _REST),
    ("/api/v1/chain", "Several agents", _REST),
    ("/api/v1/compare", "Several agents", _REST),
    ("/api/v1/sessions", "Sessions", _REST),
    ("/api/v1/runs", "Runs", _REST),
    ("/openai/", "OpenAI", _OPENAI),
    ("/anthropic/", "Anthropic", _ANTHROPIC),
    ("/gemini/", "Google", _GOOGLE),
    ("/", "Server", _REST),
)
"""The tag and the API of the paths that begin so; the first that fits counts."""


def document(registry: Mapping[str, Backend]) -> bytes:
    """Return the document as JSON; `registry` has the backends that requests can name."""
    paths: dict[str, dict[str, Json]] = {}
    for route, operation in ENDPOINTS:
        if operation:
            path = route.path.replace(":path}", "}")
            paths.setdefault(path, {})[route.method.lower()] = _operation(path, operation, registry)
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
            "paths": paths,
            "components": {
                "schemas": _schemas(registry),
                "securitySchemes": {
                    "bearer": {
                        "type": "http",
                        "scheme": "bearer",
                        "description": "An API key, if the server has keys.",
                    },
                    "header": {"type": "apiKey", "in": "header", "name": "x-api-key"},
                },
            },
            "x-problems": _problems(),
        }
    )


def _operation(path: str, operation: Operation, registry: Mapping[str, Backend]) -> Json:
    tag, api = next((tag, api) for prefix, tag, api in _SECTIONS if path.startswith(prefix))
    described: dict[str, Json] = {"operationId": operation.name, "tags": [tag], "summary": operation.summary}
    if operation.description:
        described["description"] = operation.description
    described["parameters"] = [*_id_in(path, api), *_in_query(operation.query, registry), *operation.headers]
    if operation.body:
        schema = ref(operation.body, api.prefix)
        content: Json = {_JSON: {"schema": schema, "examples": {**operation.examples}}}
        described["requestBody"] = {"required": True, "content": content}
    returned = {str(status): _response(each, api) for status, each in operation.responses.items()}
    return {**described, "responses": {**returned, **_error_responses(operation.errors, api)}}


def _id_in(path: str, api: Api) -> Iterator[Json]:
    """Yield the parameter for the id in a path, if the path has an id."""
    before, found, _ = path.partition("/{id}")
    if found:
        is_push = before.endswith("/push")
        prefix = ", or the first 4 or more digits of it, if no other begins so" if api is _REST and not is_push else ""
        noun = "subscription" if is_push else before.rpartition("/")[2].removesuffix("s")
        description = f"The id of the {noun}{prefix}."
        yield {"name": "id", "in": "path", "required": True, "description": description, "schema": {"type": "string"}}


def _in_query(type_: type[msgspec.Struct] | None, registry: Mapping[str, Backend]) -> Iterator[Json]:
    """Yield the fields of a struct as parameters of a query. An empty value counts as an absent one."""
    if type_:
        (_,), components = msgspec.json.schema_components([type_])
        for name, schema in components[type_.__name__]["properties"].items():
            described: Json = {"name": name, "in": "query", "description": schema.pop("description", "")}
            if "anyOf" in schema:
                schema, _ = schema["anyOf"]  # the other is null, which no query can have
            if name == "backend":
                schema["enum"] = [*registry]
            yield {**described, "allowEmptyValue": True, "schema": _portable(schema)}


def _response(returns: Returns, api: Api) -> Json:
    content: dict[str, Json] = {_JSON: {"schema": ref(returns.json, api.prefix)}} if returns.json else {}
    content |= returns.content
    response: dict[str, Json] = {"description": returns.description, "headers": _headers(returns.headers)}
    return {**response, "content": content} if content else response


def _error_responses(kinds: ErrorDocs, api: Api) -> dict[str, Json]:
    """Return the error responses by status; kinds of errors that share a status are described together."""
    by_status: dict[str, list[type[errors.ClinvkError]]] = {}
    for kind in dict.fromkeys(kinds):
        by_status.setdefault(str(table_entry(kind, api.statuses)), []).append(kind)
    return {
        status: {
            "description": " ".join(f"`{kind.code}`: {_first_paragraph(kind)}" for kind in same),
            "headers": _headers({}, is_retried=any(kind in _RETRIED for kind in same)),
            "content": {api.error_media_type: {"schema": ref(api.error_body, api.prefix)}},
        }
        for status, same in sorted(by_status.items())
    }


def _headers(more: Mapping[str, str], is_retried: bool = False) -> Json:
    described = {"x-request-id": "The id sent with the request, or one made for it.", **more}
    headers: dict[str, Json] = {
        name: {"description": description, "schema": {"type": "string"}} for name, description in described.items()
    }
    if is_retried:
        headers["retry-after"] = {"description": "Seconds to wait.", "schema": {"type": "integer"}}
    return headers


def _schemas(registry: Mapping[str, Backend]) -> dict[str, Json]:
    """Return the schemas of all types that the endpoints name, by name."""
    found: dict[str, dict[str, Json]] = {}
    for api in (_REST, _OPENAI, _ANTHROPIC, _GOOGLE):
        types: list[object] = [*_types(api), *([unified.Line] if api is _REST else [])]
        schemas, components = msgspec.json.schema_components(
            types, schema_hook=any_json, ref_template=f"#/components/schemas/{api.prefix}{{name}}"
        )
        found |= {api.prefix + name: schema for name, schema in components.items()}
        for name, members in api.unions.items():
            one_of: list[Json] = [ref(member, api.prefix) for member in members]
            found[api.prefix + name] = {"description": "One of several kinds of objects.", "anyOf": one_of}
        if api is _REST:
            found["Event"] = {"description": "One line of a stream.", **schemas[-1]}
    required = _required_of_bodies(registry)
    return {name: _portable(_merged(_dedented(schema), required.get(name, {}))) for name, schema in found.items()}


def _types(api: Api) -> dict[type[msgspec.Struct], None]:
    """Return the structs that the operations of an API name, each once."""
    types: list[type[msgspec.Struct] | None] = []
    for route, operation in ENDPOINTS:
        if operation and next(each for prefix, _, each in _SECTIONS if route.path.startswith(prefix)) is api:
            types.append(operation.body)
            for each in operation.responses.values():
                types += [each.json, *each.also]
    unions = (member for members in api.unions.values() for member in members)
    return dict.fromkeys([*filter(None, types), *unions, api.error_body])


def _required_of_bodies(registry: Mapping[str, Backend]) -> dict[str, Json]:
    """Return the rules for bodies beyond the types of the fields, to merge into the schemas of the bodies."""
    backend: Json = {"enum": [*registry]}
    none: Json = {"type": "null"}
    prompt: Json = {
        "properties": {"backend": _optional("", *registry)},
        "if": _where(session_id={"enum": [None, ""]}),
        "then": _where("backend", backend=backend),
    }
    waits: Json = {
        "if": _where(on_limit={"const": "wait"}),
        "then": _where("detach", detach={"const": True}),
    }
    step = _where(node={"enum": [None, ""]}, labels={"enum": [None, []]})
    return {
        "PromptBody": {**prompt, "dependentSchemas": {"on_limit": waits}},
        "PartBody": _merged(prompt, {"properties": {"detach": _optional(False), "on_limit": _optional("", "fail")}}),
        "ChainBody": {
            "if": _where(resume_from={"enum": [None, ""]}),
            "then": _where("steps", steps={"type": "array", "items": step}),
            "else": _where(steps=none, input=none),
        },
        "CompareBody": {"properties": {"backends": {"items": {"anyOf": [backend, ref(BackendBody)]}}}},
        "BackendBody": {"properties": {"backend": backend}},
        "JudgeBody": {"properties": {"backend": backend}},
        "LoginBody": {
            "if": _where("key", key={"type": "string"}),
            "then": _where(token=none),
            "else": _where("token", token={"type": "string"}),
        },
    }


def _where(*required: str, **properties: Json) -> Json:
    """Return a condition of a body, or its consequence. Generators of clients ignore both."""
    return {"required": [*required], "properties": properties, "additionalProperties": True}


def _optional(*values: Json) -> Json:
    """Return the part of a schema that allows some values of one type, or null."""
    return {"anyOf": [{"enum": [*values]}, {"type": "null"}]}


def any_json(type_: type) -> dict[str, Json]:
    """Return the schema of `object`, which msgspec has none for: any JSON value."""
    if type_ is object:
        return {"description": "Any JSON value."}
    raise NotImplementedError


def _merged(schema: Json, more: Json) -> Json:
    """Return a schema with members added or replaced, at any depth."""
    if not (isinstance(schema, dict) and isinstance(more, dict)):
        return more
    return {**schema, **{name: _merged(schema.get(name), value) for name, value in more.items()}}


_TYPES: dict[type, Json] = {str: "string", int: "integer", bool: "boolean"}


def _portable(schema: Json, is_option: bool = False) -> Json:
    """Return a schema of msgspec as generators of clients expect it, at any depth.

    Titles are removed: generators name types by title, and the titles of two APIs may be the same. A single value is
    `const`, with a type unless it is null. Arrays have `items`. `is_option`: the schema is an option of a union.
    """
    if isinstance(schema, list):
        return [_portable(each, is_option=True) for each in schema]
    if not isinstance(schema, dict):
        return schema
    portable = {name: _portable(value) for name, value in schema.items() if name != "title" or isinstance(value, dict)}
    match portable:
        case {"enum": [value]}:
            del portable["enum"]
            portable |= {"type": _TYPES[type(value)], "const": value}
        case {"enum": [first, *others]} if all(type(other) is type(first) for other in others):
            portable["type"] = _TYPES[type(first)]
        case {"type": "array"}:
            portable.setdefault("items", {})
        case {"type": "null", **rest} if not is_option:
            return {**rest, "const": None}
        case _:
            pass
    return portable


def _dedented(schema: dict[str, Json]) -> Json:
    """Return a schema whose description lacks the indentation of the source."""
    text = schema.get("description")
    return {**schema, "description": cleandoc(text)} if isinstance(text, str) else schema


def _problems() -> list[Json]:
    """Return the kinds of problem documents, by status."""
    kinds = [kind for kind in (*STATUSES, errors.BudgetSpent, errors.NotResumable) if kind not in _OF_COMMANDS]
    return [
        {
            "code": kind.code,
            "status": table_entry(kind, STATUSES),
            "title": title(kind),
            "description": _first_paragraph(kind),
        }
        for kind in sorted(kinds, key=lambda kind: table_entry(kind, STATUSES))
    ]


def _first_paragraph(kind: type[errors.ClinvkError]) -> str:
    """Return the first paragraph of a kind's docstring, which says when the error is raised."""
    return " ".join((kind.__doc__ or "").split("\n\n")[0].split())
