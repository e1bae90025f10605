"""The lines of `codex exec --json` as structs, and the text of a turn as events.

Recorded with 0.163.0 and 0.169.0; items that the recordings lack follow `codex-rs/exec/src/exec_events.rs` in the CLI's
repository. An event or item of an unlisted type does not decode. Each character of the text is reported once, although
the CLI repeats a request after a broken stream.
"""

from collections.abc import Iterator

import msgspec

from clinvk.backends.base import Prose, parsed
from clinvk.backends.shared import News, Retold
from clinvk.types.events import Progress, TextDelta, ThinkingDelta, ToolCall, ToolResult, Usage

_ANSWER: msgspec.json.Decoder[object] = msgspec.json.Decoder()


class AgentMessage(msgspec.Struct, tag="agent_message"):
    """A complete message of the agent."""

    text: str
    id: str = ""


class Reasoning(msgspec.Struct, tag="reasoning"):
    """A summary of the model's thinking."""

    text: str
    id: str = ""


class Warn(msgspec.Struct, tag="error"):
    """A warning of the CLI. The turn continues."""

    message: str


class Todo(msgspec.Struct):
    """A step of the agent's plan."""

    text: str
    completed: bool = False


class TodoList(msgspec.Struct, tag="todo_list"):
    """The agent's plan, sent in full on each update."""

    items: list[Todo]

    def progress(self) -> Progress:
        """Return the progress of the plan."""
        done = sum(todo.completed for todo in self.items)
        ahead = next((todo.text for todo in self.items if not todo.completed), "")
        return Progress("plan", f"{done}/{len(self.items)} done" + (f"; next: {ahead}" if ahead else ""))


class CommandExecution(msgspec.Struct, tag="command_execution"):
    """A shell command. A command that the sandbox refuses at once may have no item."""

    id: str
    command: str
    aggregated_output: str | None = None
    exit_code: int | None = None
    status: str = ""

    def call(self) -> ToolCall:
        """Return the call with the command line."""
        return ToolCall(self.id, "command_execution", {"command": self.command})

    def result(self) -> ToolResult:
        """Return stdout and stderr as printed. If both are empty, return the reason for a failure."""
        failed = self.status in ("failed", "declined") or bool(self.exit_code)
        how = "declined" if self.status == "declined" else f"exit code {self.exit_code}"
        return ToolResult(self.id, self.aggregated_output or (how if failed else ""), failed)


class Change(msgspec.Struct):
    """A change of one file: add, delete or update."""

    path: str
    kind: str


class FileChange(msgspec.Struct, tag="file_change"):
    """A patch."""

    id: str
    changes: list[Change]
    status: str = ""

    def call(self) -> ToolCall:
        """Return the call with the files of the patch."""
        changes: list[object] = [{"path": change.path, "kind": change.kind} for change in self.changes]
        return ToolCall(self.id, "file_change", {"changes": changes})

    def result(self) -> ToolResult:
        """Return one line per file."""
        lines = (f"{change.kind} {change.path}" for change in self.changes)
        return ToolResult(self.id, "\n".join(lines), self.status == "failed")


class McpError(msgspec.Struct):
    """The error of an MCP tool."""

    message: str


class McpResult(msgspec.Struct):
    """The result of an MCP tool: MCP content blocks."""

    content: list[dict[str, object]] = []
    structured_content: object = None


class McpToolCall(msgspec.Struct, tag="mcp_tool_call"):
    """A call of an MCP tool."""

    id: str
    server: str
    tool: str
    arguments: object = None
    result_: McpResult | None = msgspec.field(name="result", default=None)
    error: McpError | None = None
    status: str = ""

    def call(self) -> ToolCall:
        """Return the call with server and tool named as the model sees them."""
        return ToolCall(self.id, f"mcp__{self.server}__{self.tool}", _as_input(self.arguments))

    def result(self) -> ToolResult:
        """Return the text blocks, or the whole result as JSON if the result has no text blocks."""
        if self.error:
            return ToolResult(self.id, self.error.message, is_error=True)
        gave = self.result_ or McpResult()
        texts = [str(block["text"]) for block in gave.content if "text" in block]
        rest = gave.content if gave.structured_content is None else gave.structured_content
        return ToolResult(self.id, "\n".join(texts) if texts else _json(rest), self.status == "failed")


class WebSearch(msgspec.Struct, tag="web_search"):
    """A search that the model API performs. The query is known only at the end of the search."""

    id: str
    query: str = ""
    action: object = None

    def call(self) -> ToolCall | None:
        """Return the call with the query, or None while the query is unknown."""
        return ToolCall(self.id, "web_search", {"query": self.query}) if self.query else None

    def result(self) -> ToolResult:
        """Return the search action. The CLI does not report the search results."""
        return ToolResult(self.id, "" if self.action is None else _json(self.action))


class CollabToolCall(msgspec.Struct, tag="collab_tool_call"):
    """A sub-agent call: spawn_agent, send_input, wait, close_agent."""

    id: str
    tool: str
    prompt: str | None = None
    receiver_thread_ids: list[str] = []
    agents_states: dict[str, object] = {}
    status: str = ""

    def call(self) -> ToolCall:
        """Return the call with the prompt and the threads that receive the prompt."""
        asked: dict[str, object] = {"receiver_thread_ids": self.receiver_thread_ids}
        return ToolCall(self.id, self.tool, asked if self.prompt is None else {"prompt": self.prompt, **asked})

    def result(self) -> ToolResult:
        """Return the states of the sub-agents."""
        states = _json(self.agents_states) if self.agents_states else ""
        return ToolResult(self.id, states, self.status == "failed")


Tool = CommandExecution | FileChange | McpToolCall | WebSearch | CollabToolCall
Item = AgentMessage | Reasoning | Warn | TodoList | Tool


class Totals(msgspec.Struct):
    """Token totals of the thread, including former turns. Input includes cached tokens, output includes reasoning."""

    input_tokens: int = 0
    cached_input_tokens: int = 0
    output_tokens: int = 0
    reasoning_output_tokens: int = 0

    @property
    def usage(self) -> Usage:
        """The totals as `Usage`."""
        return Usage(self.input_tokens, self.output_tokens, self.cached_input_tokens, self.reasoning_output_tokens)


class ThreadStarted(msgspec.Struct, tag="thread.started"):
    """The first line, with the thread id for resuming."""

    thread_id: str


class TurnStarted(msgspec.Struct, tag="turn.started"):
    """The thread contains the prompt."""


class ItemStarted(msgspec.Struct, tag="item.started"):
    """An item has started."""

    item: Item


class ItemUpdated(msgspec.Struct, tag="item.updated"):
    """An item has changed."""

    item: Item


class ItemCompleted(msgspec.Struct, tag="item.completed"):
    """An item has completed. Instantaneous items have only this event."""

    item: Item


class TurnCompleted(msgspec.Struct, tag="turn.completed"):
    """The run has succeeded."""

    usage: Totals | None = None


class Failure(msgspec.Struct):
    """Why a turn failed."""

    message: str


class TurnFailed(msgspec.Struct, tag="turn.failed"):
    """The run has failed."""

    error: Failure


class StreamError(msgspec.Struct, tag="error"):
    """The CLI retries, or is about to end the turn, depending on the message."""

    message: str


Line = (
    ThreadStarted | TurnStarted | ItemStarted | ItemUpdated | ItemCompleted | TurnCompleted | TurnFailed | StreamError
)


def structured(message: str) -> object:
    """Return the JSON value of a message, or None if the message is not JSON."""
    return parsed(_ANSWER, message.encode())


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _as_input(arguments: object) -> dict[str, object]:
    if arguments is None:
        return {}
    try:
        return msgspec.convert(arguments, dict[str, object])
    except msgspec.ValidationError:
        return {"arguments": arguments}


class Telling:
    """The items of one kind, each reported once.

    After a broken stream, the CLI repeats the items of the unfinished model request under different ids.
    """

    def __init__(self) -> None:
        self._item: str | None = None
        self._open = Retold()
        self._told: list[Retold] = []
        self._again: list[Retold] = []

    def begins(self, item: str) -> bool:
        """Select an item. Return whether the item differs from the last item and is not a repetition."""
        if item == self._item:
            return False
        fresh = not self._again
        self._open = Retold() if fresh else self._again.pop(0)
        self._open.begin(again=not fresh)
        self._told.append(self._open)
        self._item = item
        return fresh

    def piece(self, text: str) -> News:
        """Return the new text in a piece of the item."""
        return self._open.piece(text)

    def whole(self, text: str) -> News:
        """Return the new text in the complete item, which receives no more pieces."""
        self._item = None
        return self._open.block(text)

    def go_on(self) -> None:
        """Record that the model has moved on, after which no item repeats."""
        self._told, self._again = [], []

    def cut(self) -> None:
        """Record a broken stream, after which every item of the request repeats, including complete items."""
        self._told, self._again = [], self._told + self._again
        self._item = None


class Messages(Telling):
    """The messages of the agent, separated by blank lines."""

    def __init__(self) -> None:
        super().__init__()
        self._prose = Prose()

    def say(self, item: str, text: str, whole: bool) -> Iterator[TextDelta]:
        """Yield the new text in a piece of a message or in a complete message."""
        if self.begins(item):
            self._prose.end_message()
        news = self.whole(text) if whole else self.piece(text)
        if news.restarts:
            self._prose.end_message()
        yield from self._prose.say(news.text)


class Thoughts(Telling):
    """The summaries of the model's thinking. Blank lines separate the summaries and the parts of a summary."""

    def __init__(self) -> None:
        super().__init__()
        self._part = 0
        self._thought = False

    def think(self, item: str, text: str, part: int) -> Iterator[ThinkingDelta]:
        """Yield the new text in a piece of one part of a summary."""
        opens = self.begins(item)
        before = "\n\n" if part > (0 if opens else self._part) else ""
        self._part = part
        yield from self._tell(self.piece(before + text), opens)

    def think_through(self, item: str, text: str) -> Iterator[ThinkingDelta]:
        """Yield the new text in a complete summary."""
        opens = self.begins(item)
        yield from self._tell(self.whole(text), opens)

    def _tell(self, news: News, opens: bool) -> Iterator[ThinkingDelta]:
        if news.text:
            apart = self._thought and (opens or news.restarts)
            self._thought = True
            yield ThinkingDelta(f"\n\n{news.text}" if apart else news.text)
