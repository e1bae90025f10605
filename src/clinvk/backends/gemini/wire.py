"""The lines of `gemini --acp` as structs: JSON-RPC, as 0.61.0 prints it; see tests/unit/recordings/gemini_acp."""

import msgspec

from clinvk.backends.base import Head, head_of, parsed


class Content(msgspec.Struct, frozen=True):
    """A text."""

    type: str = ""
    text: str = ""


class Piece(msgspec.Struct, frozen=True, rename="camel"):
    """The displayed output of a tool: a text in `content`, or a change of a file."""

    type: str = ""
    content: Content | None = None
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


class Params(msgspec.Struct, frozen=True, rename="camel"):
    """The parameters of a message."""

    session_id: str = ""
    update: Update | None = None
    tool_call: Tool | None = None


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


class _Details(msgspec.Struct, frozen=True):
    details: str = ""


class Failure(msgspec.Struct, frozen=True):
    """The error of a request. For an internal error of the CLI, only `data` describes the error."""

    code: int = 0
    message: str = ""
    data: msgspec.Raw = msgspec.Raw(b"null")

    @property
    def said(self) -> str:
        """The message with its details."""
        inner = parsed(_DETAILS, bytes(self.data))
        return f"{self.message}: {inner.details}" if inner and inner.details else self.message


class Message(Head, frozen=True):
    """Any message."""

    params: Params = Params()
    result: Result | None = None
    error: Failure | None = None


_DETAILS = msgspec.json.Decoder(_Details)
_MESSAGES = msgspec.json.Decoder(Message)


def read(line: bytes) -> Message | None:
    """Parse a line. Return only id and method if the rest does not decode, so that no request waits forever."""
    if message := parsed(_MESSAGES, line):
        return message
    head = head_of(line)
    return Message(head.id, head.method) if head else None
