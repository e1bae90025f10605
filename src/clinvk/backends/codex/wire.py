"""The lines of `codex app-server` as structs.

The sources are the output of 0.163.0, 0.169.0 and 0.171.0, and the schema that `codex app-server generate-json-schema`
writes. The structs have only the fields that a run needs, and are as lenient as possible, so that a future form of a
line cannot hide the end of a turn.
"""

import re
from collections.abc import Iterator

import msgspec

from clinvk.backends import jsonrpc
from clinvk.backends.mcp import Form
from clinvk.backends.shared import EpochSeconds, decode_line, edit_title, unified_diff
from clinvk.types.events import PlanStep, ToolCall, ToolResult, Usage
from clinvk.types.record import LimitWindow

_CAPITAL = re.compile(r"(?<!^)(?=[A-Z])")
_COMPACTION = "context_compaction"
_LIMIT = "codex"
"""The id of the limit that covers all models."""
_ANSWER: msgspec.json.Decoder[object] = msgspec.json.Decoder()

_KINDS = frozenset(
    {
        *("agent_message", "reasoning", _COMPACTION),
        *("command_execution", "file_change", "mcp_tool_call", "web_search", "collab_tool_call", "dynamic_tool_call"),
        "function_call",
    }
)
OUTPUT = "item/commandExecution/outputDelta"
"""A piece of the output of a command that runs."""

_METHODS = frozenset(
    {
        *("turn/started", "turn/plan/updated", "turn/completed", "item/started", "item/completed"),
        *("item/agentMessage/delta", "item/reasoning/summaryTextDelta", OUTPUT),
        *("thread/tokenUsage/updated", "rawResponseItem/completed", "rawResponse/completed"),
        *("warning", "error"),
    }
)


class Step(msgspec.Struct, frozen=True):
    """A step of the agent's plan."""

    step: str = ""
    status: str = ""

    @property
    def planned(self) -> PlanStep:
        """The step as clinvk names its state."""
        return PlanStep(self.step, _snake(self.status))


class Change(msgspec.Struct, frozen=True):
    """A change of one file: add, delete or update."""

    path: str
    kind: str | dict[str, object]
    diff: str = ""

    @property
    def action(self) -> str:
        """The kind of change."""
        return self.kind if isinstance(self.kind, str) else str(self.kind["type"])

    @property
    def target(self) -> str:
        """The path after the change, which may move the file."""
        moved = self.kind.get("move_path") if isinstance(self.kind, dict) else None
        return moved if isinstance(moved, str) else self.path

    @property
    def title(self) -> str:
        """The title of the approval."""
        title = edit_title(self.path, self.action)
        return title if self.target == self.path else f"{title.replace('Edit', 'Move', 1)} to {self.target}"

    @property
    def unified_diff(self) -> str:
        """The change as a unified diff; `diff` is the whole text of a file that is added or deleted."""
        match self.action:
            case "add":
                return unified_diff(self.path, None, self.diff)
            case "delete":
                return unified_diff(self.path, self.diff, "")
            case _:
                return f"--- {self.path}\n+++ {self.target}\n{self.diff}"


class Failure(msgspec.Struct, frozen=True, rename="camel"):
    """An error. `additional_details` explains a retry, `codex_error_info` names the kind of error."""

    message: str = ""
    additional_details: str | None = None
    codex_error_info: msgspec.Raw = msgspec.Raw(b"null")

    @property
    def text(self) -> str:
        """The message with its details."""
        return f"{self.message} ({self.additional_details})" if self.additional_details else self.message


class _McpResult(msgspec.Struct, frozen=True, rename="camel"):
    """The result of an MCP tool: MCP content blocks."""

    content: tuple[dict[str, object], ...] = ()
    structured_content: object = None

    @property
    def text(self) -> str:
        """The text blocks, or the whole result as JSON if the result has no text blocks."""
        texts = [str(block["text"]) for block in self.content if "text" in block]
        structured = self.structured_content
        return "\n".join(texts) if texts else _json(self.content if structured is None else structured)


class _ContentItem(msgspec.Struct, frozen=True):
    """A part of the output of a client tool; `text` is empty for an image."""

    text: str = ""


class Item(msgspec.Struct, frozen=True, rename="camel"):
    """An item of a turn; `type` determines which fields are relevant."""

    type: str = ""
    id: str = ""
    text: str = ""
    summary: tuple[str, ...] = ()
    status: str = ""
    command: str = ""
    aggregated_output: str | None = None
    exit_code: int | None = None
    changes: tuple[Change, ...] = ()
    server: str = ""
    tool: str = ""
    arguments: object = None
    result: _McpResult | None = None
    error: Failure | None = None
    query: str = ""
    action: object = None
    prompt: str | None = None
    receiver_thread_ids: tuple[str, ...] = ()
    agents_states: dict[str, object] = {}
    content_items: tuple[_ContentItem, ...] | None = None
    success: bool | None = None
    name: str = ""
    raw_call_id: str = msgspec.field(default="", name="call_id")

    @property
    def kind(self) -> str:
        """The type in snake case; "" if clinvk does not read the type."""
        kind = _snake(self.type).replace("collab_agent", "collab")
        return kind if kind in _KINDS else ""

    @property
    def compacts(self) -> bool:
        """Whether the item is a summary of the conversation, for which Codex makes a model request."""
        return self.kind == _COMPACTION

    def call(self) -> ToolCall | None:  # noqa: PLR0911 - one line for each kind
        """Return the tool call; None if the item is no tool, or a web search whose query is not known yet.

        A command or patch that the sandbox refuses at once may have no item.
        """
        match self.kind:
            case "command_execution":
                return ToolCall(self.id, self.kind, {"command": self.command})
            case "file_change":
                changes: list[object] = [{"path": change.path, "kind": change.action} for change in self.changes]
                return ToolCall(self.id, self.kind, {"changes": changes})
            case "mcp_tool_call":  # named as the model sees the tool
                return ToolCall(self.id, f"mcp__{self.server}__{self.tool}", _as_input(self.arguments))
            case "dynamic_tool_call":
                return ToolCall(self.id, self.tool, _as_input(self.arguments), for_client=True)
            case "web_search" if self.query:
                return ToolCall(self.id, self.kind, {"query": self.query})
            case "collab_tool_call":
                prompt: dict[str, object] = {} if self.prompt is None else {"prompt": self.prompt}
                receivers: list[object] = [*self.receiver_thread_ids]
                return ToolCall(self.id, _snake(self.tool), {**prompt, "receiver_thread_ids": receivers})
            case _:
                return None

    def tool_result(self) -> ToolResult:
        """Return the result of the tool call. The CLI does not report the results of a web search."""
        output, is_error = "", self.status in ("failed", "declined")
        match self.kind:
            case "command_execution":
                is_error = is_error or bool(self.exit_code)
                why = "declined" if self.status == "declined" else f"exit code {self.exit_code}"
                output = self.aggregated_output or (why if is_error else "")
            case "file_change":
                edits = "\n".join(f"{change.action} {change.path}" for change in self.changes)
                output = self.status if self.status == "declined" else edits
            case "mcp_tool_call":
                output = self.error.message if self.error else (self.result or _McpResult()).text
                is_error = is_error or self.error is not None
            case "dynamic_tool_call":
                output, is_error = "\n".join(part.text for part in self.content_items or ()), self.success is False
            case "web_search":
                output, is_error = "" if self.action is None else _json(self.action), False
            case _:
                output = _json(self.agents_states) if self.agents_states else ""
        return ToolResult(self.id, output, is_error)


class Totals(msgspec.Struct, frozen=True, rename="camel"):
    """Token totals of the thread, including former turns. Input includes cached tokens, output includes reasoning."""

    input_tokens: int = 0
    cached_input_tokens: int = 0
    output_tokens: int = 0
    reasoning_output_tokens: int = 0

    @property
    def usage(self) -> Usage:
        """The totals as `Usage`."""
        return Usage(self.input_tokens, self.output_tokens, self.cached_input_tokens, self.reasoning_output_tokens)


class TokenUsage(msgspec.Struct, frozen=True, rename="camel"):
    """Token counts of the thread, including former turns, and of the last model request."""

    total: Totals = Totals()
    last: Totals = Totals()
    model_context_window: int | None = None


class Turn(msgspec.Struct, frozen=True, rename="camel"):
    """The state of a turn: completed, failed, interrupted or inProgress. A sub-agent's turn names its root turn."""

    id: str = ""
    status: str = ""
    error: Failure | None = None
    root_turn_id: str | None = None


class _Window(msgspec.Struct, frozen=True, rename="camel"):
    used_percent: float
    window_duration_mins: int | None = None
    resets_at: EpochSeconds | None = None


class _Credits(msgspec.Struct, frozen=True, rename="camel"):
    """The credits of the account beyond the limits."""

    has_credits: bool = False


class RateLimits(msgspec.Struct, frozen=True, rename="camel"):
    """The limits of the user's account; both windows are missing without a subscription."""

    limit_id: str | None = None
    primary: _Window | None = None
    secondary: _Window | None = None
    credits: _Credits | None = None

    def windows(self) -> Iterator[LimitWindow]:
        """Yield the limits whose length and end are known."""
        used_up = "warning" if self.credits and self.credits.has_credits else "rejected"
        for window in (self.primary, self.secondary):
            if window and window.window_duration_mins and window.resets_at is not None:
                scope = "" if self.limit_id in (None, _LIMIT) else f"_{self.limit_id}"
                yield LimitWindow(
                    backend="codex",
                    window=_length(window.window_duration_mins) + scope,
                    used_percent=window.used_percent,
                    status="allowed" if window.used_percent < 100 else used_up,
                    resets_at=window.resets_at,
                )


def _length(minutes: int) -> str:
    unit, size = next((unit, size) for unit, size in (("d", 1440), ("h", 60), ("m", 1)) if minutes % size == 0)
    return f"{minutes // size}{unit}"


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


class Params(msgspec.Struct, frozen=True, rename="camel"):
    """The parameters of a notification, or of a request to the user.

    A summary of the model's thinking has several parts, by `summary_index`.

    After an error, the CLI retries if `will_retry` is set; otherwise the CLI is about to end the turn.
    """

    thread_id: str = ""
    turn_id: str | None = None
    turn: Turn = Turn()
    item: Item = Item()
    item_id: str = ""
    delta: str = ""
    summary_index: int = 0
    token_usage: TokenUsage = TokenUsage()
    usage: Totals | None = None
    call_id: str = ""
    plan: tuple[Step, ...] = ()
    message: str = ""
    error: Failure = Failure()
    will_retry: bool = False
    rate_limits: RateLimits | None = None
    request_id: int | str | None = None
    reason: str | None = None
    command: str | None = None
    cwd: str | None = None
    available_decisions: tuple[object, ...] | None = None
    network_approval_context: NetworkHost | None = None
    permissions: dict[str, object] = {}
    questions: tuple[Question, ...] = ()
    server_name: str = ""
    mode: str = ""
    url: str = ""
    requested_schema: Form = Form()
    meta: Meta | None = msgspec.field(default=None, name="_meta")


class _Thread(msgspec.Struct, frozen=True):
    id: str


class _Settings(msgspec.Struct, frozen=True):
    model_provider: str | None = None


class Result(msgspec.Struct, frozen=True):
    """The fields of every result that clinvk waits for: of a settings request, of a thread, and of a turn."""

    config: _Settings | None = None
    thread: _Thread | None = None
    model: str | None = None
    turn: Turn | None = None


Message = jsonrpc.Message[Params, Result]
MESSAGES = msgspec.json.Decoder(Message)


def is_read(method: str, params: Params) -> bool:
    """Return whether clinvk reads a notification of the server: known method, and a known item if any."""
    return method in _METHODS and bool(params.thread_id) and bool(params.item.kind or not params.item.type)


def structured(message: str) -> object:
    """Return the JSON value of a message, or None if the message is not JSON."""
    return decode_line(_ANSWER, message.encode())


def _snake(name: str) -> str:
    return _CAPITAL.sub("_", name).lower()


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _as_input(arguments: object) -> dict[str, object]:
    if arguments is None:
        return {}
    try:
        return msgspec.convert(arguments, dict[str, object])
    except msgspec.ValidationError:
        return {"arguments": arguments}
