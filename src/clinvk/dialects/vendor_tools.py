"""The tools that clients execute by a schema of the vendor: the request names only the type.

https://docs.claude.com/en/docs/agents-and-tools/tool-use/overview,
https://platform.openai.com/docs/guides/tools-local-shell, https://platform.openai.com/docs/guides/tools-apply-patch
"""

from clinvk.types.request import ClientTool

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
        _object(
            ("command", "path"),
            command=_command("view", "create", "str_replace", "insert", "undo_edit"),
            **_EDIT,
        ),
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
