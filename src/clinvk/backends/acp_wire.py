"""Messages of the Agent Client Protocol, version 1, as structs: https://agentclientprotocol.com/protocol/schema.

clinvk reads them as the client of an agent, and writes them as the agent of an editor. Agents and editors differ, so
every field has a default, and what clinvk only passes on may have any type.
"""

from collections.abc import Iterable, Iterator

import msgspec

from clinvk.backends import jsonrpc
from clinvk.backends.mcp import Form
from clinvk.backends.shared import edit_title, unified_diff
from clinvk.types.request import McpServer


class Content(msgspec.Struct, frozen=True):
    """A text."""

    type: str = ""
    text: str = ""


class Resource(msgspec.Struct, frozen=True):
    """The content of a resource: a text, or data in base64."""

    uri: str = ""
    text: str | None = None
    blob: str = ""


class Block(Content, frozen=True, rename="camel"):
    """A part of a prompt: a text, an image in base64, a link to a resource, or a resource."""

    data: str = ""
    mime_type: str | None = None
    uri: str | None = None
    name: str = ""
    resource: Resource = Resource()


class Piece(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """The displayed output of a tool: a text in `content`, or a change of a file."""

    type: str = ""
    content: Content | None = None
    path: str = ""
    old_text: str | None = None
    new_text: str | None = None


class Location(msgspec.Struct, frozen=True):
    """A file that a tool works on."""

    path: str = ""


class Tool(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """The state of a tool call. An update has only the fields that change."""

    tool_call_id: str = ""
    title: str | None = None
    kind: str | None = None
    status: str | None = None
    content: list[Piece] | Content | None = None
    locations: list[Location] | None = None
    raw_input: dict[str, object] | list[object] | str | float | bool | None = None

    @property
    def pieces(self) -> list[Piece]:
        """The pieces of the displayed output."""
        return self.content if isinstance(self.content, list) else []

    @property
    def changes(self) -> list[Piece]:
        """The displayed changes of files."""
        return [piece for piece in self.pieces if piece.type == "diff"]

    @property
    def texts(self) -> Iterator[str]:
        """The displayed texts, without changes of files."""
        if isinstance(self.content, Content):
            yield self.content.text
        yield from (piece.content.text for piece in self.pieces if piece.content)


def diff_of(changes: Iterable[Piece]) -> str:
    """Return changes of files as a unified diff."""
    return "".join(unified_diff(change.path, change.old_text or None, change.new_text or "") for change in changes)


def title_of(changes: Iterable[Piece]) -> str:
    """Return the title for the approval of changes of files."""
    return ", ".join(edit_title(change.path, "update" if change.old_text else "add") for change in changes)


class Tokens(msgspec.Struct, frozen=True, rename="camel"):
    """Token counts. Some agents count the cached tokens in `input_tokens`, some only in `total_tokens`."""

    input_tokens: int = 0
    output_tokens: int = 0
    total_tokens: int = 0
    cached_read_tokens: int = 0


class UpdateMeta(msgspec.Struct, frozen=True):
    """An extension of Qwen Code: the tokens of a request to the model."""

    usage: Tokens | None = None


class Entry(msgspec.Struct, frozen=True):
    """A step of the agent's plan."""

    content: str = ""
    status: str = ""
    priority: str = "medium"


class Command(msgspec.Struct, frozen=True):
    """A slash command of the agent; `name` has no slash."""

    name: str = ""
    description: str = ""


class Update(Tool, frozen=True, rename="camel"):
    """An update of a session. `used` and `size` are the tokens in the model's context window, and its size."""

    session_update: str = ""
    entries: tuple[Entry, ...] = ()
    available_commands: tuple[Command, ...] = ()
    used: int = 0
    size: int = 0
    meta: UpdateMeta | None = msgspec.field(name="_meta", default=None)
    current_mode_id: object = None
    config_options: object = None


class PermissionOption(msgspec.Struct, frozen=True, rename="camel"):
    """A possible answer to a permission request; `kind` is allow_once, allow_always, reject_once or reject_always."""

    option_id: str = ""
    kind: str = ""
    name: object = ""


CANCELLED: dict[str, object] = {"outcome": {"outcome": "cancelled"}}
"""The response to a permission request of a turn that is cancelled, or that offers no suitable option."""


def chosen(option: PermissionOption | None) -> dict[str, object]:
    """Return the response to a permission request that chooses an option."""
    return {"outcome": {"outcome": "selected", "optionId": option.option_id}} if option else CANCELLED


class Params(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """The parameters of a message of an agent."""

    session_id: str = ""
    update: Update | None = None
    tool_call: Tool | None = None
    options: tuple[PermissionOption, ...] = ()
    message: str = ""
    requested_schema: Form | None = None


class Model(msgspec.Struct, frozen=True, rename="camel"):
    """A model that a session can use."""

    model_id: str = ""
    name: str = ""


class Models(msgspec.Struct, frozen=True, rename="camel"):
    """The model of a session, and the models to choose from."""

    current_model_id: str | None = None
    available_models: list[Model] = []


class Mode(msgspec.Struct, frozen=True):
    """A mode that a session can use."""

    id: str = ""
    name: object = ""


class Modes(msgspec.Struct, frozen=True, rename="camel"):
    """The mode of a session, and the modes to choose from."""

    current_mode_id: str = ""
    available_modes: list[Mode] = []


class ConfigValue(msgspec.Struct, frozen=True, omit_defaults=True):
    """A value of a configuration option, or a group of values in `options`."""

    value: str = ""
    name: str = ""
    options: "list[ConfigValue]" = []


class ConfigOption(msgspec.Struct, frozen=True, rename="camel"):
    """A configuration option of a session."""

    id: str = ""
    name: object = ""
    type: object = ""
    category: str | None = None
    current_value: object = None
    options: list[ConfigValue] = []


class PromptCapabilities(msgspec.Struct, frozen=True, rename="camel"):
    """The kinds of content that a prompt may have."""

    image: bool = False
    embedded_context: bool = False


class SessionCapabilities(msgspec.Struct, frozen=True, rename="camel"):
    """The optional methods and parameters for sessions; those that exist have an object."""

    list: object = None
    resume: object = None
    close: object = None
    additional_directories: object = None


class McpCapabilities(msgspec.Struct, frozen=True):
    """The kinds of MCP servers that a session may have besides programs."""

    http: bool = False
    sse: bool = False


class AgentCapabilities(msgspec.Struct, frozen=True, rename="camel"):
    """What the agent claims to support."""

    load_session: bool = False
    prompt_capabilities: PromptCapabilities = PromptCapabilities()
    session_capabilities: SessionCapabilities = SessionCapabilities()
    mcp_capabilities: McpCapabilities = McpCapabilities()


class AuthMethod(msgspec.Struct, frozen=True):
    """A way to log in."""

    name: str = ""
    description: str | None = None
    id: object = ""


class SessionInfo(msgspec.Struct, frozen=True, rename="camel"):
    """A session in a list; `updated_at` is RFC 3339."""

    session_id: str = ""
    cwd: str = ""
    title: str = ""
    updated_at: str = ""


class Result(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """The result of a request of the client."""

    protocol_version: int = 0
    agent_capabilities: AgentCapabilities = AgentCapabilities()
    agent_info: object = None
    auth_methods: list[AuthMethod] = []
    session_id: str = ""
    models: Models | None = None
    modes: Modes | None = None
    config_options: list[ConfigOption] | None = None
    sessions: object = None
    next_cursor: str | None = None
    stop_reason: str = ""
    usage: Tokens | None = None
    meta: msgspec.Raw = msgspec.field(name="_meta", default=msgspec.Raw(b"null"))


class Request(msgspec.Struct, frozen=True, rename="camel"):
    """The parameters of a message of the client."""

    session_id: str = ""
    cwd: str | None = None
    cursor: str | None = None
    method_id: str = ""
    additional_directories: list[str] = []
    mcp_servers: tuple[McpServer, ...] = ()
    prompt: list[Block] = []
    mode_id: str = ""
    config_id: str = ""
    value: str | bool = ""


Message = jsonrpc.Message[Params, Result]
MESSAGES = msgspec.json.Decoder(Message)
