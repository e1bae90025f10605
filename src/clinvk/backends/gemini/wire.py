"""The lines of `gemini --acp` as structs: JSON-RPC, as 0.61.0 prints it; see tests/unit/recordings/gemini_acp.

The protocol is the Agent Client Protocol: https://agentclientprotocol.com/protocol/schema
"""

import msgspec

from clinvk.backends.jsonrpc import Message


class Content(msgspec.Struct, frozen=True):
    """A text."""

    type: str = ""
    text: str = ""


class Piece(msgspec.Struct, frozen=True, rename="camel"):
    """The displayed output of a tool: a text in `content`, or a change of a file."""

    type: str = ""
    content: Content | None = None
    path: str = ""
    old_text: str | None = None
    new_text: str | None = None


class Location(msgspec.Struct, frozen=True):
    """A file that a tool works on."""

    path: str = ""


class Tool(msgspec.Struct, frozen=True, rename="camel"):
    """The state of a tool call."""

    tool_call_id: str = ""
    title: str | None = None
    kind: str = ""
    status: str = ""
    content: list[Piece] | Content | None = None
    locations: list[Location] | None = None


class Update(Tool, frozen=True, rename="camel"):
    """An update of a session."""

    session_update: str = ""


class Option(msgspec.Struct, frozen=True, rename="camel"):
    """An answer to a request for permission; `kind` is `allow_once`, `allow_always` or `reject_once`."""

    option_id: str
    kind: str = ""


class Params(msgspec.Struct, frozen=True, rename="camel"):
    """The parameters of a message."""

    session_id: str = ""
    update: Update | None = None
    tool_call: Tool | None = None
    options: tuple[Option, ...] = ()


class Models(msgspec.Struct, frozen=True, rename="camel"):
    """The model of a session."""

    current_model_id: str | None = None


class Counts(msgspec.Struct, frozen=True):
    """Token counts."""

    input_tokens: int = 0
    output_tokens: int = 0


class Quota(msgspec.Struct, frozen=True):
    """The token usage of a turn."""

    token_count: Counts = Counts()


class Meta(msgspec.Struct, frozen=True):
    """Extensions to the protocol."""

    quota: Quota = Quota()


class Result(
    msgspec.Struct, frozen=True, rename={"session_id": "sessionId", "stop_reason": "stopReason", "meta": "_meta"}
):
    """The fields of every result that clinvk waits for."""

    session_id: str = ""
    models: Models | None = None
    stop_reason: str = ""
    meta: Meta = Meta()


MESSAGES = msgspec.json.Decoder(Message[Params, Result])
