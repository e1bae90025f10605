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


class _Constant(msgspec.Struct, frozen=True):
    const: str
    title: str = ""


class _Items(msgspec.Struct, frozen=True, rename="camel"):
    enum: tuple[str, ...] = ()
    any_of: tuple[_Constant, ...] = ()


class FormField(msgspec.Struct, frozen=True, rename="camel"):
    """A field of a form that an MCP server shows; the fields are those of a JSON Schema."""

    type: str = "string"
    title: str | None = None
    description: str | None = None
    enum: tuple[str, ...] = ()
    one_of: tuple[_Constant, ...] = ()
    items: _Items = _Items()

    @property
    def options(self) -> dict[str, str]:
        """The titles of the values by value; empty if any value is valid."""
        if self.type == "boolean":
            return {"true": "yes", "false": "no"}
        return dict.fromkeys(self.enum or self.items.enum, "") | {
            one.const: one.title for one in self.one_of or self.items.any_of
        }


class Form(msgspec.Struct, frozen=True):
    """A form that an MCP server shows."""

    properties: dict[str, FormField] = {}


class Meta(msgspec.Struct, frozen=True):
    """The tool call for which an MCP server needs an approval, if `codex_approval_kind` is `mcp_tool_call`."""

    codex_approval_kind: str = ""
    tool_name: str = ""
    tool_params: dict[str, object] = {}
