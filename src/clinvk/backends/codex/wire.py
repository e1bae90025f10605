"""The lines of `codex app-server` as structs: JSON-RPC without the version field.

The sources are the output of 0.163.0, 0.169.0 and 0.171.0, and the schema that `codex app-server generate-json-schema`
writes. A notification or an item of an unlisted type does not decode. The structs for the end of a turn are as lenient
as possible, so that a future form of the message cannot hide the end.
"""

import re

import msgspec

from clinvk.backends.base import Head, head_of
from clinvk.backends.codex import items
from clinvk.types.events import Usage

_CAPITAL = re.compile(r"(?<!^)(?=[A-Z])")


class AgentMessage(msgspec.Struct, tag="agentMessage"):
    """A message of the agent, empty at the start."""

    id: str
    text: str = ""


class Reasoning(msgspec.Struct, tag="reasoning"):
    """The model's thinking, in summaries."""

    id: str
    summary: list[str] = []


class Compaction(msgspec.Struct, tag="contextCompaction"):
    """A summary of the conversation, for which Codex makes a model request."""

    id: str = ""


class CommandExecution(msgspec.Struct, tag="commandExecution", rename="camel"):
    """A shell command. A command that the sandbox refuses at once may have no item."""

    id: str
    command: str
    aggregated_output: str | None = None
    exit_code: int | None = None
    status: str = ""

    def tool(self) -> items.Tool:
        """Return the `codex exec` form of the command."""
        return items.CommandExecution(self.id, self.command, self.aggregated_output, self.exit_code, self.status)


class ChangeKind(msgspec.Struct):
    """The kind of a change: add, delete or update."""

    type: str


class Change(msgspec.Struct):
    """The change of one file."""

    path: str
    kind: ChangeKind


class FileChange(msgspec.Struct, tag="fileChange"):
    """A patch."""

    id: str
    changes: list[Change]
    status: str = ""

    def tool(self) -> items.Tool:
        """Return the `codex exec` form of the patch."""
        changes = [items.Change(change.path, change.kind.type) for change in self.changes]
        return items.FileChange(self.id, changes, self.status)


class McpResult(msgspec.Struct, rename="camel"):
    """The result of an MCP tool: MCP content blocks."""

    content: list[dict[str, object]] = []
    structured_content: object = None


class McpToolCall(msgspec.Struct, tag="mcpToolCall"):
    """A call of an MCP tool."""

    id: str
    server: str
    tool_: str = msgspec.field(name="tool")
    arguments: object = None
    result: McpResult | None = None
    error: items.McpError | None = None
    status: str = ""

    def tool(self) -> items.Tool:
        """Return the `codex exec` form of the call."""
        gave = items.McpResult(self.result.content, self.result.structured_content) if self.result else None
        return items.McpToolCall(self.id, self.server, self.tool_, self.arguments, gave, self.error, self.status)


class WebSearch(msgspec.Struct, tag="webSearch"):
    """A search that the model API performs. The query is known only at the end of the search."""

    id: str
    query: str = ""
    action: object = None

    def tool(self) -> items.Tool:
        """Return the `codex exec` form of the search."""
        return items.WebSearch(self.id, self.query, self.action)


class CollabToolCall(msgspec.Struct, tag="collabAgentToolCall", rename="camel"):
    """A sub-agent call. Each sub-agent has a thread."""

    id: str
    tool_: str = msgspec.field(name="tool")
    prompt: str | None = None
    receiver_thread_ids: list[str] = []
    agents_states: dict[str, object] = {}
    status: str = ""

    def tool(self) -> items.Tool:
        """Return the `codex exec` form of the call, which writes `spawn_agent` for `spawnAgent`."""
        name = _CAPITAL.sub("_", self.tool_).lower()
        return items.CollabToolCall(
            self.id, name, self.prompt, self.receiver_thread_ids, self.agents_states, self.status
        )


Tool = CommandExecution | FileChange | McpToolCall | WebSearch | CollabToolCall
Item = AgentMessage | Reasoning | Compaction | Tool


class OfThread(msgspec.Struct, rename="camel", kw_only=True):
    """Parameters about a thread and, if known, one of its turns."""

    thread_id: str
    turn_id: str | None = None


class OfItem(OfThread, rename="camel"):
    """The current state of an item."""

    item: Item


class Piece(OfThread, rename="camel"):
    """A piece of an item. A summary has several parts."""

    item_id: str
    delta: str
    summary_index: int = 0


class Tokens(msgspec.Struct, rename="camel"):
    """Token counts. Input includes cached tokens, output includes reasoning."""

    input_tokens: int = 0
    cached_input_tokens: int = 0
    output_tokens: int = 0
    reasoning_output_tokens: int = 0

    @property
    def usage(self) -> Usage:
        """The counts as `Usage`."""
        return Usage(self.input_tokens, self.output_tokens, self.cached_input_tokens, self.reasoning_output_tokens)


class TokenUsage(msgspec.Struct):
    """Token counts of the thread, including former turns, and of the last model request."""

    total: Tokens
    last: Tokens


class OfTokens(OfThread, rename="camel"):
    """The token counts of a thread."""

    token_usage: TokenUsage


class Step(msgspec.Struct):
    """A step of the agent's plan: pending, inProgress or completed."""

    step: str
    status: str = ""


class Plan(OfThread):
    """The agent's plan, sent in full on each update."""

    plan: list[Step]

    def todo(self) -> items.TodoList:
        """Return the `codex exec` form of the plan."""
        return items.TodoList([items.Todo(step.step, step.status == "completed") for step in self.plan])


class Failure(msgspec.Struct, rename="camel"):
    """An error. `additional_details` explains a retry, `codex_error_info` names the kind of error."""

    message: str
    additional_details: str | None = None
    codex_error_info: msgspec.Raw = msgspec.Raw(b"null")

    @property
    def said(self) -> str:
        """The message with its details."""
        return f"{self.message} ({self.additional_details})" if self.additional_details else self.message


class OfFailure(OfThread, rename="camel"):
    """An error in a turn. The CLI retries if `will_retry` is true; otherwise the CLI is about to end the turn."""

    error: Failure
    will_retry: bool = False


class Message(OfThread):
    """A message from the CLI to the client."""

    message: str


class Turn(msgspec.Struct, rename="camel"):
    """The state of a turn: completed, failed, interrupted or inProgress. A sub-agent's turn names its root turn."""

    id: str
    status: str = ""
    error: Failure | None = None
    root_turn_id: str | None = None


class OfTurn(OfThread):
    """The current state of a turn."""

    turn: Turn


class TurnStarted(msgspec.Struct, tag_field="method", tag="turn/started"):
    """The thread contains the prompt and is on disk."""

    params: OfTurn


class ItemStarted(msgspec.Struct, tag_field="method", tag="item/started"):
    """An item has started."""

    params: OfItem


class ItemCompleted(msgspec.Struct, tag_field="method", tag="item/completed"):
    """An item has completed, with or without an earlier start."""

    params: OfItem


class MessageDelta(msgspec.Struct, tag_field="method", tag="item/agentMessage/delta"):
    """A piece of a message, as sent by the model."""

    params: Piece


class SummaryDelta(msgspec.Struct, tag_field="method", tag="item/reasoning/summaryTextDelta"):
    """A piece of a summary of the model's thinking."""

    params: Piece


class PlanUpdated(msgspec.Struct, tag_field="method", tag="turn/plan/updated"):
    """The plan has changed."""

    params: Plan


class TokensCounted(msgspec.Struct, tag_field="method", tag="thread/tokenUsage/updated"):
    """A model request has ended if the counts have grown."""

    params: OfTokens


class Warned(msgspec.Struct, tag_field="method", tag="warning"):
    """A warning about a thread."""

    params: Message


class Failed(msgspec.Struct, tag_field="method", tag="error"):
    """A turn had an error."""

    params: OfFailure


class TurnCompleted(msgspec.Struct, tag_field="method", tag="turn/completed"):
    """A turn has ended, with or without success."""

    params: OfTurn


State = TurnStarted | PlanUpdated | TokensCounted | Warned | TurnCompleted
Notification = MessageDelta | SummaryDelta | ItemStarted | ItemCompleted | Failed | State
NOTIFICATIONS: msgspec.json.Decoder[Notification] = msgspec.json.Decoder(Notification)


class Thread(msgspec.Struct):
    """A thread, of which only the id matters."""

    id: str


class Settings(msgspec.Struct):
    """The fields of a thread's settings that clinvk reads."""

    model_provider: str | None = None


class Result(msgspec.Struct):
    """The fields of every result that clinvk waits for."""

    config: Settings | None = None
    thread: Thread | None = None
    model: str | None = None
    turn: Turn | None = None


class Refusal(msgspec.Struct):
    """The reason for refusing a request."""

    message: str = ""


class Other(Head, frozen=True):
    """Any message."""

    result: Result | None = None
    error: Refusal | None = None


OTHERS: msgspec.json.Decoder[Other] = msgspec.json.Decoder(Other)


def bare(line: bytes) -> Other | None:
    """Return the id and method of a message that does not decode, so that no request waits forever."""
    head = head_of(line)
    return Other(head.id, head.method) if head else None
