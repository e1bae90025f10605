"""The lines of `claude --output-format stream-json --verbose --include-partial-messages` of 2.1.197 to 2.1.332.

The structs contain only the fields that a run needs. Unknown fields are skipped. A line of an unknown type or with an
invalid field is `None`, except a `result` line, whose invalid fields are skipped, so that a future format cannot hide
the ending of a run.
"""

from collections.abc import Iterator

import msgspec

from clinvk.backends.shared import EpochSeconds, decode_line
from clinvk.types.events import ToolCall, Usage
from clinvk.types.record import LimitStatus, LimitWindow
from clinvk.types.tool_text import tool_action


class TokenCounts(msgspec.Struct, frozen=True):
    """Tokens of one message, or of the main conversation, whose counts may lag behind the counts per model."""

    input_tokens: int | None = 0
    cache_creation_input_tokens: int | None = 0
    cache_read_input_tokens: int | None = 0
    output_tokens: int | None = 0


class MessageHead(msgspec.Struct, frozen=True):
    """The head of a message, with the input tokens."""

    id: str = ""
    usage: TokenCounts | None = None


class Delta(msgspec.Struct, frozen=True):
    """The head of a content block, or a piece of a block; `type` determines the relevant field."""

    type: str = ""
    text: str = ""
    thinking: str = ""
    id: str = ""
    name: str = ""
    partial_json: str = ""


class StreamPart(msgspec.Struct, frozen=True):
    """An event of the model API; of the `usage` of a `message_delta`, only the output tokens are relevant."""

    type: str
    message: MessageHead = MessageHead()
    content_block: Delta = Delta()
    delta: Delta = Delta()
    usage: TokenCounts | None = None


class Block(msgspec.Struct, frozen=True):
    """A content block; `type` determines the relevant fields."""

    type: str
    text: str = ""
    thinking: str = ""
    id: str = ""
    name: str = ""
    input: dict[str, object] = {}


class Message(msgspec.Struct, frozen=True):
    """A message of the conversation; `model` is `<synthetic>` for messages written by Claude Code.

    A streamed message has no stop reason here; the message that replaces an interrupted stream has one.
    """

    content: list[Block]
    id: str = ""
    model: str = ""
    usage: TokenCounts | None = None
    stop_reason: str | None = None


class Part(msgspec.Struct, frozen=True):
    """A part of a tool's output."""

    type: str
    text: str = ""


class ResultBlock(msgspec.Struct, frozen=True):
    """A content block of a user message; only blocks of type `tool_result` are relevant."""

    type: str
    tool_use_id: str = ""
    content: str | list[Part] | None = None
    is_error: bool | None = None


class Results(msgspec.Struct, frozen=True):
    """A user message: tool results, or text inserted by Claude Code."""

    content: list[ResultBlock] | str


class _Line(msgspec.Struct, frozen=True):
    parent_tool_use_id: str | None = None


_PROMPTS = ("compact", "init", "security-review")
"""The commands of Claude Code itself that ask the model."""


class System(_Line, frozen=True, tag="system"):
    """A report of Claude Code's state: init, status, api_retry, compact_boundary, hooks."""

    subtype: str = ""
    session_id: str | None = None
    model: str | None = None
    slash_commands: list[str] = []
    skills: list[str] = []
    attempt: int = 0
    max_retries: int = 0
    retry_delay_ms: float = 0
    error_status: int | None = None
    error: str | None = None

    @property
    def prompts(self) -> tuple[str, ...]:
        """The slash commands that ask the model: the user's commands and skills come first in the list."""
        own = max((at for at, name in enumerate(self.slash_commands, 1) if name in self.skills), default=0)
        return (*self.slash_commands[:own], *(name for name in self.slash_commands[own:] if name in _PROMPTS))


class StreamEvent(_Line, frozen=True, kw_only=True, tag="stream_event"):
    """An unmodified event of the model API."""

    event: StreamPart


class Assistant(_Line, frozen=True, kw_only=True, tag="assistant"):
    """A complete content block of the model, or the complete message after an interrupted stream."""

    message: Message
    error: str | None = None


class User(_Line, frozen=True, kw_only=True, tag="user"):
    """A line with tool results."""

    message: Results


class UnifiedWindow(msgspec.Struct, frozen=True, rename="camel"):
    """The state of one limit; `utilization` is a fraction, and `resets_at` is in seconds since the epoch."""

    utilization: float | None = None
    resets_at: EpochSeconds | None = None
    status: str = ""


_STATUSES: dict[str, LimitStatus] = {"allowed_warning": "warning", "rejected": "rejected"}


class RateLimitInfo(UnifiedWindow, frozen=True, rename="camel"):
    """The limit that applies at present, and the state of all limits since 2.1.332."""

    rate_limit_type: str = ""
    unified_windows: dict[str, UnifiedWindow] = {}

    def windows(self) -> Iterator[LimitWindow]:
        """Yield the limits whose end is known."""
        for name, window in ({self.rate_limit_type: self} | self.unified_windows).items():
            if name and window.resets_at is not None:
                yield LimitWindow(
                    backend="claude",
                    window=name.replace("five_hour", "5h").replace("seven_day", "7d"),
                    used_percent=None if window.utilization is None else round(window.utilization * 100, 2),
                    status=_STATUSES.get(window.status, "allowed"),
                    resets_at=window.resets_at,
                )


class RateLimitEvent(_Line, frozen=True, kw_only=True, tag="rate_limit_event"):
    """A change of the limits of a subscription."""

    rate_limit_info: RateLimitInfo


class ModelUsage(msgspec.Struct, frozen=True, rename="camel"):
    """Tokens that one model used; 2.1.197 does not report the share of thinking in the output tokens."""

    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_input_tokens: int = 0
    cache_creation_input_tokens: int = 0
    thinking_tokens: int = 0
    context_window: int = 0
    cost_usd: float = msgspec.field(default=0.0, name="costUSD")


class Origin(msgspec.Struct, frozen=True):
    """The origin of the turn of a result, if not the prompt."""

    kind: str = ""


class Denial(msgspec.Struct, frozen=True):
    """A tool call that was denied."""

    tool_use_id: str = ""
    tool_name: str = ""
    tool_input: dict[str, object] = {}

    @property
    def action(self) -> str:
        """The tool and its most telling argument, such as `Bash: pip install requests`."""
        call = ToolCall("", self.tool_name, self.tool_input)
        return ": ".join(tool_action(call)) if self.tool_input else self.tool_name


class Todo(msgspec.Struct, frozen=True):
    """An entry of the tool `TodoWrite`."""

    content: str
    status: str


class Result(_Line, frozen=True, kw_only=True, rename={"model_usage": "modelUsage"}, tag="result"):
    """The ending of the run. A failure may have the `subtype` `success`; `is_error` is decisive."""

    subtype: str = ""
    is_error: bool = False
    api_error_status: int | None = None
    num_turns: int | None = None
    result: str | None = None
    stop_reason: str | None = None
    total_cost_usd: float | None = None
    usage: TokenCounts | None = None
    model_usage: dict[str, ModelUsage] | None = None
    model_usage_since_last_result: dict[str, ModelUsage] | None = None
    permission_denials: list[Denial] | None = None
    structured_output: object = None
    terminal_reason: str | None = None
    api_error: str | None = None
    origin: Origin | None = None
    errors: list[str] | None = None


Line = System | StreamEvent | Assistant | User | RateLimitEvent | Result

_LINES: msgspec.json.Decoder[Line] = msgspec.json.Decoder(Line)
_FIELDS: msgspec.json.Decoder[dict[str, msgspec.Raw]] = msgspec.json.Decoder(dict[str, msgspec.Raw])


def read(line: bytes) -> Line | None:
    """Decode a line, or return None. In a `result` line, fields that do not fit are skipped."""
    if (decoded := decode_line(_LINES, line)) or b'"result"' not in line:
        return decoded
    fields = decode_line(_FIELDS, line) or {}
    kind = fields.get("type", msgspec.Raw())
    if bytes(kind) != b'"result"':
        return None
    fit = {name: value for name, value in fields.items() if decode_line(_LINES, _encoded({"type": kind, name: value}))}
    return decode_line(_LINES, _encoded(fit))


def _encoded(fields: dict[str, msgspec.Raw]) -> bytes:
    return msgspec.json.encode(fields)


def tokens(counts: ModelUsage | TokenCounts | None) -> Usage:
    """Return the usage in clinvk's form, in which cached tokens are part of the input; None counts as zero."""
    if counts is None:
        return Usage()
    cached = counts.cache_read_input_tokens or 0
    return Usage(
        input_tokens=(counts.input_tokens or 0) + cached + (counts.cache_creation_input_tokens or 0),
        output_tokens=counts.output_tokens or 0,
        cached_tokens=cached,
        reasoning_tokens=counts.thinking_tokens if isinstance(counts, ModelUsage) else 0,
    )
