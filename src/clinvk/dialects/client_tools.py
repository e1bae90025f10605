"""The client's tools in the vendors' model APIs: the choice among the tools, and tools that take a text."""

from collections.abc import Sequence
from typing import Literal

import msgspec

from clinvk.types.errors import InvalidRequest
from clinvk.types.events import RunFailed, ToolCall
from clinvk.types.request import ClientTool, RunRequest
from clinvk.types.result import RunResult

TEXT = "input"
"""The argument of a tool that takes a text: the agents know only tools with arguments."""

_TEXT_SCHEMA: dict[str, object] = {
    "type": "object",
    "properties": {TEXT: {"type": "string"}},
    "required": [TEXT],
    "additionalProperties": False,
}
_encode = msgspec.json.Encoder().encode


class ToolChoice(msgspec.Struct, frozen=True):
    """Which tools the model may or must call.

    Attributes:
        mode: whether the model decides, calls no tool, or must call one.
        names: the tools that the model may call; empty allows all.
        parallel: whether an answer may have several calls.
        is_repeated: whether an answer without the required call came before.
    """

    mode: Literal["auto", "none", "required"] = "auto"
    names: tuple[str, ...] = ()
    parallel: bool = True
    is_repeated: bool = False

    @property
    def instruction(self) -> str:
        """The choice as an instruction to the model, at the end of a prompt; empty if the model decides."""
        tools = " or ".join(f"`{name}`" for name in self.names)
        sentences: list[str] = []
        if self.mode == "required":
            sentences.append(f"Answer with a call of the tool {tools}." if tools else "Answer with a call of a tool.")
        elif tools:
            sentences.append(f"Call no other tool than {tools}.")
        if self.is_repeated:
            sentences.append("An answer without this call is refused.")
        if not self.parallel:
            sentences.append("Make at most one call at a time.")
        return " ".join(sentences)

    def is_met(self, result: RunResult) -> bool:
        """Return whether an answer has a required call; an answer that was cut or failed needs none."""
        if self.mode != "required" or isinstance(result.ending, RunFailed):
            return True
        names = {call.name for call in result.tool_calls if call.for_client}
        return result.ending.stop_reason not in ("end_turn", "tool_use") or bool(
            names & set(self.names) if self.names else names
        )


def function(
    name: str, description: str | None, schema: dict[str, object] | None, strict: bool | None, place: str
) -> ClientTool:
    """Return a tool that takes arguments; `place` is the place of the schema in the body.

    Raises:
        InvalidRequest: the schema does not describe an object.
    """
    schema = schema or {}
    if schema.get("type", "object") != "object":
        raise InvalidRequest(f"{place} must describe an object, got the type {schema['type']!r}", place)
    return ClientTool(name, description or "", schema, is_strict=bool(strict))


def text_tool(name: str, description: str | None, grammar: object = None) -> ClientTool:
    """Return a tool that takes a text; `grammar` describes the texts."""
    texts = [description or ""]
    if grammar:
        texts.append(f"The input must match this grammar: {_encode(grammar).decode()}")
    return ClientTool(name, "\n\n".join(filter(None, texts)), _TEXT_SCHEMA)


def qualified(namespace: str, name: str) -> str:
    """Return the name of a tool of a namespace, as agents accept it."""
    return f"{namespace}__{name}" if namespace else name


def client_name(name: str, request: RunRequest) -> tuple[str | None, str]:
    """Return the namespace of a tool, and the tool's name in the namespace."""
    namespace = next((tool.namespace for tool in request.client_tools if tool.name == name), "")
    return namespace or None, name.removeprefix(qualified(namespace, ""))


def check_names(tools: Sequence[ClientTool], field: str) -> None:
    """Refuse tools with equal names.

    Raises:
        InvalidRequest: two tools have the same name.
    """
    names: set[str] = set()
    for tool in tools:
        if tool.name in names:
            raise InvalidRequest(f"{field}: two tools have the name {tool.name!r}", field)
        names.add(tool.name)


def arguments(call: ToolCall) -> str:
    """Return the arguments of a call as JSON."""
    return _encode(call.input).decode()


def takes_text(name: str, request: RunRequest) -> bool:
    """Return whether a tool takes a text instead of arguments."""
    return any(tool.name == name and tool.schema is _TEXT_SCHEMA for tool in request.client_tools)


def text_input(call: ToolCall) -> str:
    """Return the text of a call of a tool that takes a text."""
    return str(call.input.get(TEXT, ""))
