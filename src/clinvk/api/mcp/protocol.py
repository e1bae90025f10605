"""The messages of the MCP server (https://modelcontextprotocol.io/specification), over HTTP and over streams.

Clients of 2025-11-25 and earlier begin with `initialize`. Clients of 2026-07-28 name the version in each request, and
get results with more fields.
"""

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping

import anyio
import msgspec
from starlette.types import Scope

from clinvk import __version__
from clinvk.api.http.response import headers_of
from clinvk.api.mcp import resources, tools
from clinvk.api.mcp.calls import CallKey, Calls, http_key
from clinvk.api.mcp.tools import AwaitedRun, RestApi
from clinvk.api.openapi.document import any_json
from clinvk.backends.shared import decode_line
from clinvk.dialects import json_bodies
from clinvk.types.errors import ClinvkError, InvalidRequest, NoSuchPath
from clinvk.types.request import trace_context

logger = logging.getLogger(__name__)

_HANDSHAKE_VERSIONS = ("2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05")
_STATELESS_VERSIONS = ("2026-07-28",)

_PARSE_ERROR, _INVALID_REQUEST, _METHOD_NOT_FOUND = -32700, -32600, -32601
_INVALID_PARAMS, _INTERNAL_ERROR = -32602, -32603
_RESOURCE_NOT_FOUND, _HEADER_MISMATCH, _UNSUPPORTED_VERSION = -32002, -32020, -32022
_STATUSES = {**dict.fromkeys((_INVALID_PARAMS, _HEADER_MISMATCH, _UNSUPPORTED_VERSION), 400), _METHOD_NOT_FOUND: 404}

_VERSION_KEY = "io.modelcontextprotocol/protocolVersion"
_CAPABILITIES_KEY = "io.modelcontextprotocol/clientCapabilities"
_VERSION_HEADER = "mcp-protocol-version"

_SERVER = {"name": "clinvk", "version": __version__}
_Result = Mapping[str, object]
_ABOUT: _Result = {"capabilities": {"tools": {}, "resources": {}}, "instructions": tools.INSTRUCTIONS}
_STATELESS: _Result = {"resultType": "complete", "_meta": {"io.modelcontextprotocol/serverInfo": _SERVER}}
_UNCACHED: _Result = {"ttlMs": 0, "cacheScope": "private"}


class _Meta(msgspec.Struct, frozen=True):
    """What a request says besides its method. Only clients of 2026-07-28 send `version` and `capabilities`."""

    progress_token: int | str | None = msgspec.field(name="progressToken", default=None)
    version: str = msgspec.field(name=_VERSION_KEY, default="")
    capabilities: dict[str, object] | None = msgspec.field(name=_CAPABILITIES_KEY, default=None)
    traceparent: object = ""
    tracestate: object = ""


class _Params(msgspec.Struct, frozen=True, rename="camel"):
    """The parameters of all messages."""

    name: str = ""
    uri: str = ""
    cursor: str | None = None
    arguments: dict[str, object] | None = None
    protocol_version: str = ""
    request_id: int | str | None = None
    meta: _Meta = msgspec.field(name="_meta", default=_Meta())


class Message(msgspec.Struct, frozen=True):
    """A message of a client: a request has `id` and `method`, a notification only `method`."""

    method: str = ""
    id: int | str | None = None
    params: _Params = _Params()

    @property
    def is_request(self) -> bool:
        """Whether the message needs a response."""
        return bool(self.method) and self.id is not None

    @property
    def cancelled_id(self) -> int | str | None:
        """The id of the request that the message cancels; None for any other message."""
        return self.params.request_id if self.method == "notifications/cancelled" else None


class _Head(msgspec.Struct, frozen=True):
    id: int | str | None = None


_messages = json_bodies.decoder(Message)
_heads = msgspec.json.Decoder(_Head)


class Error(msgspec.Struct, frozen=True, omit_defaults=True):
    """Why a request has no result."""

    code: int
    message: str
    data: Mapping[str, object] | None = None


class Response(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="jsonrpc", tag="2.0"):
    """The response to a request. `id` is None if the request has none that can be read."""

    id: int | str | None
    result: _Result | None = None
    error: Error | None = None

    def status(self, request: Message, scope: Scope) -> int:
        """Return the HTTP status. To a client of 2025-11-25 or earlier, 404 would mean that its session has ended."""
        return _STATUSES.get(self.error.code, 200) if self.error and is_stateless(request, scope) else 200


def parse(data: bytes) -> Message | Response:
    """Return a message, or the response to an invalid one."""
    try:
        return json_bodies.decode(data, _messages)
    except InvalidRequest as exc:
        head = decode_line(_heads, data)
        return Response(head and head.id, error=Error(_INVALID_REQUEST if head else _PARSE_ERROR, exc.message))


def is_stateless(request: Message, scope: Scope | None) -> bool:
    """Return whether a request names its version, in the body or only in the header. The version may be unknown."""
    version = headers_of(scope).get(_VERSION_HEADER, "") if scope else ""
    return bool(request.params.meta.version) or version not in ("", *_HANDSHAKE_VERSIONS)


class McpServer:
    """Answers requests. `api_of` returns the API for the scope of an HTTP request; None stands for streams.

    A cancelled call ends the run that it waits for. Over HTTP, a client of 2026-07-28 cancels by disconnecting, and
    earlier clients by a notification, which `calls` has to get.
    """

    def __init__(self, api_of: Callable[[Scope | None, AwaitedRun], RestApi], calls: Calls) -> None:
        self._api_of = api_of
        self._calls = calls
        self._definitions = [*_definitions()]

    async def respond(
        self, request: Message, scope: Scope | None, notify: Callable[[bytes], Awaitable[None]]
    ) -> Response:
        """Return the response to a request. `notify` sends a notification to the client of the request."""
        stateless, params = is_stateless(request, scope), request.params
        if stateless and (error := _envelope_error(request, scope)):
            return Response(request.id, error=error)
        try:
            result = self._description(request, stateless)
            if result is None:
                result = await self._result(request, scope, notify)
        except ClinvkError as exc:
            return Response(request.id, error=_error(exc, request, stateless))
        except Exception:
            logger.exception("%s %s failed", request.method, params.name or params.uri)
            return Response(request.id, error=Error(_INTERNAL_ERROR, "clinvk itself failed; see its log"))
        return Response(request.id, {**_STATELESS, **result} if stateless else result)

    def _description(self, request: Message, stateless: bool) -> _Result | None:
        """Return what this server is and offers; None if the request asks for something else."""
        match request.method:
            case "initialize":
                version = request.params.protocol_version
                version = version if version in _HANDSHAKE_VERSIONS else _HANDSHAKE_VERSIONS[0]
                return {"protocolVersion": version, "serverInfo": _SERVER, **_ABOUT}
            case "server/discover" if stateless:
                return {"supportedVersions": _STATELESS_VERSIONS, **_ABOUT, **_UNCACHED}
            case "ping":
                return {}
            case "tools/list":
                return {"tools": self._definitions, **_UNCACHED}
            case "resources/templates/list":
                return {"resourceTemplates": resources.TEMPLATES, **_UNCACHED}
            case _:
                return None

    async def _result(
        self, request: Message, scope: Scope | None, notify: Callable[[bytes], Awaitable[None]]
    ) -> _Result:
        """Return the result of a request.

        Raises:
            NoSuchPath: clinvk does not answer the method.
            ClinvkError: why there is no result; see `_error`.
        """
        params, token = request.params, request.params.meta.progress_token

        async def report(progress: float, total: float, message: str) -> None:
            if token is not None:
                params = {"progressToken": token, "progress": progress, "total": total, "message": message}
                notification = {"jsonrpc": "2.0", "method": "notifications/progress", "params": params}
                await notify(msgspec.json.encode(notification))

        trace = trace_context(msgspec.structs.asdict(request.params.meta))
        api = self._api_of(scope, AwaitedRun(self._calls.attached, report))._replace(trace=trace)
        match request.method:
            case "tools/call" if tool := tools.TOOLS.get(params.name):
                return await self._call(tool, api, request, scope)
            case "tools/call":
                raise InvalidRequest(f"unknown tool {params.name!r} (available: {', '.join(tools.TOOLS)})")
            case "resources/list":
                return {**await resources.page(api, params.cursor), **_UNCACHED}
            case "resources/read":
                return {**await resources.read(api, params.uri), **_UNCACHED}
            case method:
                raise NoSuchPath(f"clinvk does not answer {method}")

    async def _call(self, tool: tools.Tool, api: RestApi, request: Message, scope: Scope | None) -> _Result:
        assert request.id is not None
        key = http_key(scope, request.id) if scope else CallKey(request.id)
        ends_with_connection = scope is not None and is_stateless(request, scope)
        cancelling = None
        try:
            with self._calls.entered(key, api) as cancelling:
                return await _tool_result(tool, api, request.params.arguments or {})
        except asyncio.CancelledError:
            if ends_with_connection or (cancelling and cancelling.cancel_called):
                await _stop(api)
            raise
        await _stop(api)
        return _refusal("cancelled")


def _error(exc: ClinvkError, request: Message, stateless: bool) -> Error:
    """Return the error of the protocol for a request that clinvk refuses."""
    match exc:
        case resources.UnknownResource():
            code = _INVALID_PARAMS if stateless else _RESOURCE_NOT_FOUND
            return Error(code, exc.message, {"uri": request.params.uri})
        case NoSuchPath():
            return Error(_METHOD_NOT_FOUND, exc.message)
        case InvalidRequest():
            return Error(_INVALID_PARAMS, exc.message)
        case _:
            return Error(_INTERNAL_ERROR, exc.message)


def _envelope_error(request: Message, scope: Scope | None) -> Error | None:
    """Return what is wrong with the version of a stateless request, or with the headers by which proxies route it."""
    meta = request.params.meta
    if not meta.version or meta.capabilities is None:
        return Error(_INVALID_PARAMS, f"params._meta must have {_VERSION_KEY} and {_CAPABILITIES_KEY}")
    expected = {_VERSION_HEADER: meta.version, "mcp-method": request.method}
    if request.method in ("tools/call", "resources/read"):
        expected["mcp-name"] = request.params.name or request.params.uri
    headers = headers_of(scope) if scope else expected
    for name, value in expected.items():
        if (given := headers.get(name)) != value:
            return Error(_HEADER_MISMATCH, f"the header {name} is {given!r}, but the body has {value!r}")
    if meta.version not in _STATELESS_VERSIONS:
        supported = {"supported": _STATELESS_VERSIONS, "requested": meta.version}
        return Error(_UNSUPPORTED_VERSION, f"unsupported protocol version {meta.version!r}", supported)
    return None


async def _stop(api: RestApi) -> None:
    with anyio.CancelScope(shield=True):
        await api.stop()


async def _tool_result(tool: tools.Tool, api: RestApi, arguments: Mapping[str, object]) -> dict[str, object]:
    try:
        result = await tool(api, json_bodies.converted(arguments, tool.__annotations__["arguments"], "argument"))
    except ClinvkError as exc:
        return _refusal(exc.message)
    text = msgspec.json.encode(result)
    return {"content": [{"type": "text", "text": text.decode()}], "structuredContent": msgspec.Raw(text)}


def _refusal(message: str) -> dict[str, object]:
    return {"content": [{"type": "text", "text": message}], "isError": True}


def _definitions() -> Iterator[dict[str, object]]:
    for name, tool in tools.TOOLS.items():
        types = tool.__annotations__
        yield {
            "name": name,
            "title": tools.ANNOTATIONS[name]["title"],
            "description": inspect.cleandoc(tool.__doc__ or ""),
            "inputSchema": _schema(types["arguments"]),
            "outputSchema": _schema(types["return"]),
            "annotations": tools.ANNOTATIONS[name],
        }


def _schema(type_: type[msgspec.Struct]) -> dict[str, object]:
    """Return the schema of a struct: an object at the root, as clients require."""
    _, components = msgspec.json.schema_components([type_], schema_hook=any_json, ref_template="#/$defs/{name}")
    schema = components.pop(type_.__name__)
    return {**schema, "$defs": components} if components else schema
