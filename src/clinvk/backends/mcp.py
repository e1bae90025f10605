"""What agents and clinvk say in MCP, pure: the server of the client's tools, servers of an editor, and forms.

https://modelcontextprotocol.io/specification
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import count

import msgspec

from clinvk.backends.base import Delivery
from clinvk.backends.shared import base64_data, decode_line, tool_names
from clinvk.types.events import AwaitingTools, ToolCall
from clinvk.types.interaction import FieldOption, InteractionAnswer, QuestionField
from clinvk.types.request import ClientTool, Image, McpServer, NamedValue, ToolOutput

SERVER = "client"
"""The name of the server."""

_PROTOCOL = "2025-06-18"

_MAX_NAME_CHARS = 48
"""Agents shorten a name of more than 63 characters, including the server's name."""

_META = {"anthropic/maxResultSizeChars": 1 << 30}
"""Without the entry, Claude Code puts a long result into a file."""

_ANNOTATIONS = {"readOnlyHint": True}
"""Claude Code makes the calls of one message together only if the tools are read-only."""


class Parameters(msgspec.Struct, frozen=True):
    """The parameters of a call."""

    name: str = ""
    arguments: dict[str, object] = {}
    meta: dict[str, object] = msgspec.field(default_factory=dict[str, object], name="_meta")


class McpMessage(msgspec.Struct, frozen=True):
    """A JSON-RPC message to the server; a notification has no id."""

    method: str = ""
    id: int | str | None = None
    params: Parameters = Parameters()

    @property
    def is_call(self) -> bool:
        """Whether the message calls a tool."""
        return self.method == "tools/call"


def server_settings(
    servers: Iterable[McpServer], for_http: Mapping[str, object], headers: str = "headers"
) -> dict[str, object]:
    """Return the entries of an agent's `mcpServers` by name; those of HTTP servers have `for_http` and `headers`."""
    return {
        server.name: {**for_http, "url": server.url, headers: _by_name(server.headers)}
        if server.type == "http"
        else {"command": server.command, "args": server.args, "env": _by_name(server.env)}
        for server in servers
    }


def _by_name(values: Iterable[NamedValue]) -> dict[str, str]:
    return {each.name: each.value for each in values}


def call_result(output: ToolOutput) -> dict[str, object]:
    """Return the result of a call."""
    return {"content": [_part(part) for part in output.content], "isError": output.is_error}


class ToolServer:
    """The server of one process. `accepted` returns the name for the agent of a tool, as in `tool_names`.

    Attributes:
        names: the client's names of the tools by the agent's.
    """

    def __init__(self, tools: tuple[ClientTool, ...], accepted: Callable[[str], str]) -> None:
        called = tool_names(tools, accepted)
        self.names = {name: own for own, name in called.items()}
        self._tools = [_definition(called[tool.name], tool) for tool in tools]

    def result(self, message: McpMessage) -> dict[str, object]:
        """Return the result of a request that is no call; empty for a request without a result."""
        match message.method:
            case "initialize":
                capabilities: dict[str, object] = {"tools": {}}
                server = {"name": SERVER, "version": "1"}
                return {"protocolVersion": _PROTOCOL, "capabilities": capabilities, "serverInfo": server}
            case "tools/list":
                return {"tools": self._tools}
            case _:
                return {}


_MESSAGES = msgspec.json.Decoder(McpMessage)


class BridgedServer(ToolServer):
    """The server of one process, whose agent reaches clinvk through the tool bridge. `extra` extends each result.

    The ids of calls are clinvk's own. Agents send the calls of one answer without a pause, so the answer to a ping
    after the last call shows that no further call follows.
    """

    def __init__(self, tools: tuple[ClientTool, ...], extra: Mapping[str, object] = {}) -> None:
        super().__init__(tools, lambda name: name[:_MAX_NAME_CHARS])
        self._extra = extra
        self._numbers = count()
        self._waiting: dict[str, int | str | None] = {}
        self._ping = ""

    def receive(self, run: str, line: bytes) -> Iterator[Delivery]:
        """Answer a message of the agent, or yield a call and, after the last call, that the agent waits."""
        message = decode_line(_MESSAGES, line)
        if message is None or message.id is None:
            return
        if message.is_call:
            name = message.params.name
            call_id = f"call_{run}{next(self._numbers)}"
            self._waiting[call_id] = message.id
            self._ping = f"ping {call_id}"
            yield run, ToolCall(call_id, self.names.get(name, name), message.params.arguments, for_client=True)
            yield _encode({"id": self._ping, "method": "ping"})
        elif message.id == self._ping:
            yield run, AwaitingTools()
        elif message.method:
            yield _encode({"id": message.id, "result": self.result(message)})

    def answer(self, output: ToolOutput) -> bytes:
        """Return the answer to a call."""
        return _encode({"id": self._waiting.pop(output.call_id), "result": {**call_result(output), **self._extra}})


def _encode(message: dict[str, object]) -> bytes:
    return msgspec.json.encode({"jsonrpc": "2.0", **message}) + b"\n"


def _definition(name: str, tool: ClientTool) -> dict[str, object]:
    return {
        "name": name,
        "description": tool.description,
        "inputSchema": {"type": "object", **tool.schema},
        "annotations": _ANNOTATIONS,
        "_meta": _META,
    }


def _part(part: str | Image) -> dict[str, str]:
    if isinstance(part, Image):
        return {"type": "image", "data": base64_data(part), "mimeType": part.media_type}
    return {"type": "text", "text": part}


class _Constant(msgspec.Struct, frozen=True):
    const: str
    title: str = ""


class _Items(msgspec.Struct, frozen=True, rename="camel"):
    enum: tuple[str, ...] = ()
    any_of: tuple[_Constant, ...] = ()


class _Field(msgspec.Struct, frozen=True, rename="camel"):
    """A field, with the attributes of a JSON Schema."""

    type: str = "string"
    title: str | None = None
    description: str | None = None
    enum: tuple[str, ...] = ()
    one_of: tuple[_Constant, ...] = ()
    items: _Items = _Items()

    @property
    def label(self) -> str:
        """The title with the description, as far as the form has them."""
        if self.title and self.description:
            return f"{self.title} ({self.description})"
        return self.title or self.description or ""

    @property
    def labels_by_value(self) -> dict[str, str]:
        """The labels of the values by value; empty if any value is valid."""
        if self.type == "boolean":
            return {"true": "yes", "false": "no"}
        return dict.fromkeys(self.enum or self.items.enum, "") | {
            one.const: one.title for one in self.one_of or self.items.any_of
        }


_VALUES: dict[str, msgspec.json.Decoder[object]] = {
    "boolean": msgspec.json.Decoder(bool),
    "integer": msgspec.json.Decoder(int),
    "number": msgspec.json.Decoder(int | float),
}


class Form(msgspec.Struct, frozen=True):
    """The fields of a form by name."""

    properties: dict[str, _Field] = {}

    @property
    def questions(self) -> tuple[QuestionField, ...]:
        """The fields as the fields of an interaction."""
        return tuple(
            QuestionField(
                id=name,
                label=field.label or name,
                options=tuple(FieldOption(value, title) for value, title in field.labels_by_value.items()),
                multiple=field.type == "array",
            )
            for name, field in self.properties.items()
        )

    def result(self, answer: InteractionAnswer) -> dict[str, object]:
        """Return the response to a request that shows the form."""
        if answer.choice in ("deny", "deny_and_stop"):
            return {"action": "decline"}
        return {"action": "accept", "content": self._content(answer)}

    def _content(self, answer: InteractionAnswer) -> dict[str, object]:
        """Return the values, without empty ones, in the types of the form."""
        content: dict[str, object] = {}
        for name, value in answer.answers.items():
            if isinstance(value, str) and (decoder := _VALUES.get(self.properties[name].type)):
                content[name] = decode_line(decoder, value.encode())
            elif value:
                content[name] = value
        return {name: value for name, value in content.items() if value is not None}
