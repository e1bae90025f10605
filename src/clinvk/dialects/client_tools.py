"""The client's tools in the vendors' model APIs: the choice among the tools, and the kinds of tools.

The tools that clients execute by a schema of the vendor, of which the request names only the type, are those of
https://docs.claude.com/en/docs/agents-and-tools/tool-use/overview,
https://platform.openai.com/docs/guides/tools-local-shell, https://platform.openai.com/docs/guides/tools-apply-patch.
"""

from collections.abc import Sequence
from typing import Literal

import msgspec

from clinvk.types.errors import InvalidRequest
from clinvk.types.events import RunFailed, RunResult, ToolCall
from clinvk.types.request import ClientTool, RunRequest

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


Schema = dict[str, object]


def _object(required: tuple[str, ...], **properties: Schema) -> Schema:
    return {"type": "object", "properties": properties, "required": [*required], "additionalProperties": False}


_TEXT: Schema = {"type": "string"}
_COUNT: Schema = {"type": "integer"}
_TEXTS: Schema = {"type": "array", "items": _TEXT}
_LINES: Schema = {"type": "array", "items": _COUNT, "description": "The first and the last line; -1 is the end."}


_EDIT: dict[str, Schema] = {
    "path": _TEXT,
    "file_text": _TEXT,
    "old_str": _TEXT,
    "new_str": _TEXT,
    "insert_line": _COUNT,
    "insert_text": _TEXT,
    "view_range": _LINES,
}
"""The properties of the commands that view and edit a file."""


def _command(*names: str) -> Schema:
    return {"type": "string", "enum": [*names]}


_ANTHROPIC: dict[str, tuple[str, Schema]] = {
    "bash_": (
        "Run a command in a bash session of the client, which lasts; `restart` starts another session instead.",
        _object((), command=_TEXT, restart={"type": "boolean"}),
    ),
    "text_editor_": (
        "View, create and edit files of the client. `str_replace` needs `old_str`, which must occur once, and "
        "`new_str`; `insert` puts `insert_text` behind the line `insert_line`; `create` needs `file_text`.",
        _object(("command", "path"), command=_command("view", "create", "str_replace", "insert", "undo_edit"), **_EDIT),
    ),
    "memory_": (
        "View, create, edit, rename and delete files of the client's memory, below /memories.",
        _object(
            ("command",),
            command=_command("view", "create", "str_replace", "insert", "delete", "rename"),
            old_path=_TEXT,
            new_path=_TEXT,
            **_EDIT,
        ),
    ),
}
"""Descriptions and schemas by the beginning of the type, without the version."""

OPENAI: dict[str, ClientTool] = {
    "local_shell": ClientTool(
        "local_shell",
        "Run a command, given as a list of arguments, on the client's machine.",
        _object(("command",), command=_TEXTS, working_directory=_TEXT, timeout_ms=_COUNT),
    ),
    "shell": ClientTool(
        "shell",
        "Run shell commands on the client's machine.",
        _object(("commands",), commands=_TEXTS, timeout_ms=_COUNT, max_output_length=_COUNT),
    ),
    "apply_patch": ClientTool(
        "apply_patch",
        "Create, update or delete a file of the client. `diff` is in the V4A format, without a header.",
        _object(("type", "path"), type=_command("create_file", "update_file", "delete_file"), path=_TEXT, diff=_TEXT),
    ),
}
"""The tools of the Responses API by type."""


def anthropic_tool(type_: str, name: str) -> ClientTool | None:
    """Return the tool of a type of the Messages API, such as `bash_20250124`; None if the vendor executes the tool."""
    found = next((tool for prefix, tool in _ANTHROPIC.items() if type_.startswith(prefix)), None)
    return ClientTool(name, *found) if found else None
