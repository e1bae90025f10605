"""What Codex asks its user: the parts of the requests of `codex app-server`, as in `wire`."""

import msgspec


class NetworkHost(msgspec.Struct, frozen=True):
    """A host that a command wants to reach."""

    host: str = ""


class _Option(msgspec.Struct, frozen=True):
    label: str
    description: str = ""


class Question(msgspec.Struct, frozen=True, rename="camel"):
    """A question of the model to the user."""

    id: str
    question: str
    options: tuple[_Option, ...] | None = None
    is_other: bool = False
    is_secret: bool = False


class Meta(msgspec.Struct, frozen=True):
    """The tool call for which an MCP server needs an approval, if `codex_approval_kind` is `mcp_tool_call`."""

    codex_approval_kind: str = ""
    tool_name: str = ""
    tool_params: dict[str, object] = {}
