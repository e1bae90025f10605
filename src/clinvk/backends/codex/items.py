"""The lines of `codex exec --json` as structs, and the text of a turn as events.

The source is the CLI's output, recorded with 0.163.0 and 0.169.0, and for items that were not seen there
`codex-rs/exec/src/exec_events.rs` of its repository. An event or item of a type that is not here does not decode. Each
character of the text is reported once, though the CLI asks again after a broken stream.
"""

from collections.abc import Iterator

import msgspec

from clinvk.backends.base import Prose, parsed
from clinvk.backends.shared import News, Retold
from clinvk.types.events import Progress, TextDelta, ThinkingDelta, ToolCall, ToolResult, Usage

_ANSWER: msgspec.json.Decoder[object] = msgspec.json.Decoder()


class AgentMessage(msgspec.Struct, tag="agent_message"):
    """A whole message of the agent."""

    text: str
    id: str = ""


class Reasoning(msgspec.Struct, tag="reasoning"):
    """A summary of the model's thinking."""

    text: str
    id: str = ""


class Warn(msgspec.Struct, tag="error"):
    """Something that the CLI wants to be known, though the turn goes on."""

    message: str


class Todo(msgspec.Struct):
    """A step of the agent's plan."""

    text: str
    completed: bool = False


class TodoList(msgspec.Struct, tag="todo_list"):
    """The agent's plan, in full each time."""

    items: list[Todo]

    def progress(self) -> Progress:
        """Say how far the agent is."""
        done = sum(todo.completed for todo in self.items)
        ahead = next((todo.text for todo in self.items if not todo.completed), "")
        return Progress("plan", f"{done}/{len(self.items)} done" + (f"; next: {ahead}" if ahead else ""))


class CommandExecution(msgspec.Struct, tag="command_execution"):
    """A shell command. Where the sandbox refuses it at once, there may be no item at all."""

    id: str
    command: str
    aggregated_output: str | None = None
    exit_code: int | None = None
    status: str = ""

    def call(self) -> ToolCall:
        """Name the command."""
        return ToolCall(self.id, "command_execution", {"command": self.command})

    def result(self) -> ToolResult:
        """Give stdout and stderr as they came; where there is nothing, how it failed."""
        failed = self.status in ("failed", "declined") or bool(self.exit_code)
        how = "declined" if self.status == "declined" else f"exit code {self.exit_code}"
        return ToolResult(self.id, self.aggregated_output or (how if failed else ""), failed)


class Change(msgspec.Struct):
    """What is done to one file: add, delete or update."""

    path: str
    kind: str


class FileChange(msgspec.Struct, tag="file_change"):
    """A patch."""

    id: str
    changes: list[Change]
    status: str = ""

    def call(self) -> ToolCall:
        """Name the files."""
        changes: list[object] = [{"path": change.path, "kind": change.kind} for change in self.changes]
        return ToolCall(self.id, "file_change", {"changes": changes})

    def result(self) -> ToolResult:
        """Give a line for each file."""
        lines = (f"{change.kind} {change.path}" for change in self.changes)
        return ToolResult(self.id, "\n".join(lines), self.status == "failed")


class McpError(msgspec.Struct):
    """Why a tool of an MCP server failed."""

    message: str


class McpResult(msgspec.Struct):
    """What a tool of an MCP server gave: content blocks of that protocol."""

    content: list[dict[str, object]] = []
    structured_content: object = None


class McpToolCall(msgspec.Struct, tag="mcp_tool_call"):
    """A tool of an MCP server."""

    id: str
    server: str
    tool: str
    arguments: object = None
    result_: McpResult | None = msgspec.field(name="result", default=None)
    error: McpError | None = None
    status: str = ""

    def call(self) -> ToolCall:
        """Name server and tool as the model sees them."""
        return ToolCall(self.id, f"mcp__{self.server}__{self.tool}", _as_input(self.arguments))

    def result(self) -> ToolResult:
        """Give the text blocks; where there are none, all that came."""
        if self.error:
            return ToolResult(self.id, self.error.message, is_error=True)
        gave = self.result_ or McpResult()
        texts = [str(block["text"]) for block in gave.content if "text" in block]
        rest = gave.content if gave.structured_content is None else gave.structured_content
        return ToolResult(self.id, "\n".join(texts) if texts else _json(rest), self.status == "failed")


class WebSearch(msgspec.Struct, tag="web_search"):
    """A search that the model API does by itself. What is searched is known at its end."""

    id: str
    query: str = ""
    action: object = None

    def call(self) -> ToolCall | None:
        """Name the query."""
        return ToolCall(self.id, "web_search", {"query": self.query}) if self.query else None

    def result(self) -> ToolResult:
        """Give what was done; the CLI does not tell what was found."""
        return ToolResult(self.id, "" if self.action is None else _json(self.action))


class CollabToolCall(msgspec.Struct, tag="collab_tool_call"):
    """Work with sub-agents: spawn_agent, send_input, wait, close_agent."""

    id: str
    tool: str
    prompt: str | None = None
    receiver_thread_ids: list[str] = []
    agents_states: dict[str, object] = {}
    status: str = ""

    def call(self) -> ToolCall:
        """Name what is asked, and of whom."""
        asked: dict[str, object] = {"receiver_thread_ids": self.receiver_thread_ids}
        return ToolCall(self.id, self.tool, asked if self.prompt is None else {"prompt": self.prompt, **asked})

    def result(self) -> ToolResult:
        """Give how the sub-agents are."""
        states = _json(self.agents_states) if self.agents_states else ""
        return ToolResult(self.id, states, self.status == "failed")


Tool = CommandExecution | FileChange | McpToolCall | WebSearch | CollabToolCall
Item = AgentMessage | Reasoning | Warn | TodoList | Tool


class Totals(msgspec.Struct):
    """Tokens of the whole thread, former turns included; cached are part of the input, reasoning of the output."""

    input_tokens: int = 0
    cached_input_tokens: int = 0
    output_tokens: int = 0
    reasoning_output_tokens: int = 0

    @property
    def usage(self) -> Usage:
        """The same in our words."""
        return Usage(self.input_tokens, self.output_tokens, self.cached_input_tokens, self.reasoning_output_tokens)


class ThreadStarted(msgspec.Struct, tag="thread.started"):
    """The first line: the id by which the thread can be resumed."""

    thread_id: str


class TurnStarted(msgspec.Struct, tag="turn.started"):
    """The prompt is in the thread."""


class ItemStarted(msgspec.Struct, tag="item.started"):
    """An item is begun."""

    item: Item


class ItemUpdated(msgspec.Struct, tag="item.updated"):
    """An item has changed."""

    item: Item


class ItemCompleted(msgspec.Struct, tag="item.completed"):
    """An item is done; the only event of items that take no time."""

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
    """The CLI tries again, or is about to end the turn: the message tells which."""

    message: str


Line = (
    ThreadStarted | TurnStarted | ItemStarted | ItemUpdated | ItemCompleted | TurnCompleted | TurnFailed | StreamError
)


def structured(message: str) -> object:
    """Give the answer that a message is as JSON; None where it is none."""
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
    """The items of one kind. Those of a request to the model that did not end come again, each under another id."""

    def __init__(self) -> None:
        self._item: str | None = None
        self._open = Retold()
        self._told: list[Retold] = []
        self._again: list[Retold] = []

    def begins(self, item: str) -> bool:
        """Turn to an item; say whether it is another than the last, and not one over again."""
        if item == self._item:
            return False
        fresh = not self._again
        self._open = Retold() if fresh else self._again.pop(0)
        self._open.begin(again=not fresh)
        self._told.append(self._open)
        self._item = item
        return fresh

    def piece(self, text: str) -> News:
        """Take a piece of the item."""
        return self._open.piece(text)

    def whole(self, text: str) -> News:
        """Take the item in full: nothing more comes of it."""
        self._item = None
        return self._open.block(text)

    def go_on(self) -> None:
        """The model has gone on to something else: nothing will be told again."""
        self._told, self._again = [], []

    def cut(self) -> None:
        """The stream broke: what the request has told will be told again, whole items too."""
        self._told, self._again = [], self._told + self._again
        self._item = None


class Messages(Telling):
    """The messages of the agent, a blank line apart."""

    def __init__(self) -> None:
        super().__init__()
        self._prose = Prose()

    def say(self, item: str, text: str, whole: bool) -> Iterator[TextDelta]:
        """Take a piece of a message, or all of it."""
        if self.begins(item):
            self._prose.end_message()
        news = self.whole(text) if whole else self.piece(text)
        if news.restarts:
            self._prose.end_message()
        yield from self._prose.say(news.text)


class Thoughts(Telling):
    """The summaries of the model's thinking; they and their parts are a blank line apart."""

    def __init__(self) -> None:
        super().__init__()
        self._part = 0
        self._thought = False

    def think(self, item: str, text: str, part: int) -> Iterator[ThinkingDelta]:
        """Take a piece of a part of a summary."""
        opens = self.begins(item)
        before = "\n\n" if part > (0 if opens else self._part) else ""
        self._part = part
        yield from self._tell(self.piece(before + text), opens)

    def think_through(self, item: str, text: str) -> Iterator[ThinkingDelta]:
        """Take a summary in full."""
        opens = self.begins(item)
        yield from self._tell(self.whole(text), opens)

    def _tell(self, news: News, opens: bool) -> Iterator[ThinkingDelta]:
        if news.text:
            apart = self._thought and (opens or news.restarts)
            self._thought = True
            yield ThinkingDelta(f"\n\n{news.text}" if apart else news.text)
