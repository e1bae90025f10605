"""The rows of the endpoint table: route, application, and the description for the OpenAPI document.

A row names types. The document builder makes schemas of them, and only when the document is requested.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Literal, NamedTuple

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from clinvk.api.endpoints.services import Owner, Services
from clinvk.api.http.response import compressed, document
from clinvk.dialects import json_bodies
from clinvk.types import errors
from clinvk.types.errors import ClinvkError

Json = dict[str, "Json"] | list["Json"] | str | int | float | bool | None
Method = Literal["GET", "POST", "PATCH", "DELETE"]
ErrorDocs = tuple[type[ClinvkError], ...]
Handler = Callable[..., Awaitable[ASGIApp | msgspec.Struct]]
"""A function of the services, the request, and an optional `query`, a struct. A returned struct is sent as JSON."""

OPEN: ErrorDocs = (errors.HostRefused, errors.RateLimited, ClinvkError, errors.ShuttingDown)
"""The possible errors of every request."""

GUARDED: ErrorDocs = (errors.KeyRefused, *OPEN)
"""The possible errors of requests with a key."""

STORED: ErrorDocs = (errors.InvalidRequest, errors.StoreUnavailable, *GUARDED)
"""The possible errors of requests with parameters and access to the store."""

BODY: ErrorDocs = (errors.BodyTooSlow, errors.BodyTooLarge, errors.WrongMediaType)
"""The possible errors of requests with a body."""

POLICY: ErrorDocs = (errors.DirectoryNotAllowed, errors.BackendNotAllowed)
"""The possible errors of requests for a directory and an agent."""

ANY_PROMPT: ErrorDocs = (
    *(*STORED, *BODY, *POLICY),
    *(errors.ForeignOrigin, errors.BeyondPolicy, errors.BudgetSpent),
    *(errors.BackendUnavailable, errors.SessionNotFound, errors.SessionBusy),
    *(errors.AgentFailed, errors.ResourcesExhausted, errors.QueueFull),
)
"""The possible errors of every prompt."""


class Api(NamedTuple):
    """The schema names and error reports of one API: the status of each kind of error, and the body.

    `unions` are schemas that stand for one of several structs, by name.
    """

    prefix: str
    statuses: Mapping[type[ClinvkError], int]
    error_media_type: str
    error_body: type[msgspec.Struct]
    unions: Mapping[str, Sequence[type[msgspec.Struct]]] = {}


class Route(NamedTuple):
    """Method, path, and the application of a server for them, which is made for the first request."""

    method: Method
    path: str
    app: Callable[[Services], ASGIApp]
    owner: Owner = "store"

    @property
    def paths(self) -> tuple[str, ...]:
        """The path, and for the model APIs an undocumented path without the vendor, unless a later row has that."""
        if not self.path.startswith(("/openai/", "/anthropic/")):
            return (self.path,)
        return self.path, self.path[self.path.index("/", 1) :]


class Returns(NamedTuple):
    """A response: the struct of the JSON body, extra headers, and further content by media type.

    `also` are structs used only by the further content.
    """

    description: str
    json: type[msgspec.Struct] | None = None
    headers: Mapping[str, str] = {}
    content: Mapping[str, Json] = {}
    also: tuple[type[msgspec.Struct], ...] = ()


Answers = type[msgspec.Struct] | Returns | Mapping[int, Returns]
"""Responses by status. A response alone, or the struct of its body, has the status 200."""


class Operation(NamedTuple):
    """What the document says about a request. The parameters of the query are the fields of the struct `query`.

    The id in a path is a parameter without being listed here. `examples` are bodies to copy.
    """

    name: str
    summary: str
    returns: Answers
    errors: ErrorDocs = ()
    description: str = ""
    query: type[msgspec.Struct] | None = None
    headers: tuple[Json, ...] = ()
    body: type[msgspec.Struct] | None = None
    examples: Mapping[str, Json] = {}

    @property
    def responses(self) -> Mapping[int, Returns]:
        """The responses by status. A struct is described by the first line of its docstring."""
        match self.returns:
            case Returns():
                return {200: self.returns}
            case type():
                return {200: Returns((self.returns.__doc__ or "").partition("\n")[0], self.returns)}
            case _:
                return self.returns


class Endpoint(NamedTuple):
    """A row of the table; one without an operation is not documented."""

    route: Route
    operation: Operation | None = None


def json_app(handler: Handler, services: Services) -> ASGIApp:
    """Return a handler as an ASGI application."""
    query: type[msgspec.Struct] | None = handler.__annotations__.get("query")

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        args = (json_bodies.parameters(scope["query_string"], query),) if query else ()
        result = await handler(services, Request(scope, receive, send), *args)
        if isinstance(result, msgspec.Struct):
            result = await compressed(document(result), scope)
        await result(scope, receive, send)

    return app


def json_endpoint(
    method: Method,
    path: str,
    handler: Handler,
    refusals: ErrorDocs,
    *,
    returns: Answers | None = None,
    body: type[msgspec.Struct] | None = None,
    examples: Mapping[str, Json] = {},
    owner: Owner = "store",
) -> Endpoint:
    """Return the endpoint of a handler, described by the name, the docstring and the types of the handler."""
    first, *others = handler.__name__.split("_")
    name = first + "".join(map(str.capitalize, others))
    summary, _, description = (handler.__doc__ or "").removesuffix(".").partition(". ")
    types = handler.__annotations__
    operation = Operation(
        name,
        summary,
        returns or types["return"],
        refusals,
        description and f"{description}.",
        types.get("query"),
        body=body,
        examples=examples,
    )
    return Endpoint(Route(method, path, partial(json_app, handler), owner), operation)


def examples(name: str, summary: str, value: Json) -> Mapping[str, Json]:
    """Return the example of a body."""
    return {name: {"summary": summary, "value": value}}


def header(name: str, description: str, **schema: Json) -> Json:
    """Return the parameter for a request header, of type string unless `schema` sets a type."""
    return {"name": name, "in": "header", "description": description, "schema": {"type": "string", **schema}}


def ref(type_: type[msgspec.Struct], prefix: str = "") -> Json:
    """Return a reference to the schema of a struct; `prefix` is the prefix of an API, such as `OpenAI.`."""
    return {"$ref": f"#/components/schemas/{prefix}{type_.__name__}"}


EVENT: Json = {"$ref": "#/components/schemas/Event"}
"""A reference to the schema of one event of a stream."""


TEXT_EVENT: Json = {"type": "object", "required": ["data"], "properties": {"data": {"type": "string"}}}
"""The schema of a server-sent event of a model API. Not all data is JSON: OpenAI's streams end with `[DONE]`."""


def sse_event(data: Json) -> Json:
    """Return the schema of one server-sent event; `data` is the schema of the JSON in the event."""
    text: Json = {"type": "string", "contentMediaType": "application/json", "contentSchema": data}
    return {
        "type": "object",
        "required": ["data"],
        "properties": {"id": {"type": "string", "pattern": "^[1-9][0-9]*$"}, "data": text},
    }


def openapi_document(services: Services) -> Response:
    """Return the OpenAPI document as an ASGI application."""
    from clinvk.api.openapi import document as openapi  # imported late: a twentieth of the server's start

    return Response(
        openapi.document(services.registry), headers={"cache-control": "no-cache"}, media_type="application/json"
    )
