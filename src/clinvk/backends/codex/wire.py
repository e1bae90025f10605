"""The lines of `codex app-server`, as structs: JSON-RPC, whose version it leaves out.

The source is what 0.163.0, 0.169.0 and 0.171.0 print, and the schema that `codex app-server generate-json-schema`
writes. A notification or an item of a type that is not here does not decode. What tells how a turn ended is read as
loosely as can be, so that a form of the future cannot hide it.
"""

import re

import msgspec

from clinvk.backends.base import Head, head_of
from clinvk.backends.codex import items
from clinvk.types.events import Usage

_CAPITAL = re.compile(r"(?<!^)(?=[A-Z])")


class AgentMessage(msgspec.Struct, tag="agentMessage"):
    """A message of the agent; empty when it is started."""

    id: str
    text: str = ""


class Reasoning(msgspec.Struct, tag="reasoning"):
    """The model's thinking, in summaries."""

    id: str
    summary: list[str] = []


class Compaction(msgspec.Struct, tag="contextCompaction"):
    """Codex summarizes the conversation, for which it asks the model."""

    id: str = ""


class CommandExecution(msgspec.Struct, tag="commandExecution", rename="camel"):
    """A shell command. Where the sandbox refuses it at once, there may be no item at all."""

    id: str
    command: str
    aggregated_output: str | None = None
    exit_code: int | None = None
    status: str = ""

    def tool(self) -> items.Tool:
        """Give it as `codex exec` would."""
        return items.CommandExecution(self.id, self.command, self.aggregated_output, self.exit_code, self.status)


class ChangeKind(msgspec.Struct):
    """What is done to a file: add, delete or update."""

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
        """Give it as `codex exec` would."""
        changes = [items.Change(change.path, change.kind.type) for change in self.changes]
        return items.FileChange(self.id, changes, self.status)


class McpResult(msgspec.Struct, rename="camel"):
    """What a tool of an MCP server gave: content blocks of that protocol."""

    content: list[dict[str, object]] = []
    structured_content: object = None


class McpToolCall(msgspec.Struct, tag="mcpToolCall"):
    """A tool of an MCP server."""

    id: str
    server: str
    tool_: str = msgspec.field(name="tool")
    arguments: object = None
    result: McpResult | None = None
    error: items.McpError | None = None
    status: str = ""

    def tool(self) -> items.Tool:
        """Give it as `codex exec` would."""
        gave = items.McpResult(self.result.content, self.result.structured_content) if self.result else None
        return items.McpToolCall(self.id, self.server, self.tool_, self.arguments, gave, self.error, self.status)


class WebSearch(msgspec.Struct, tag="webSearch"):
    """A search that the model API does by itself. What is searched is known at its end."""

    id: str
    query: str = ""
    action: object = None

    def tool(self) -> items.Tool:
        """Give it as `codex exec` would."""
        return items.WebSearch(self.id, self.query, self.action)


class CollabToolCall(msgspec.Struct, tag="collabAgentToolCall", rename="camel"):
    """Work with sub-agents, each a thread of its own."""

    id: str
    tool_: str = msgspec.field(name="tool")
    prompt: str | None = None
    receiver_thread_ids: list[str] = []
    agents_states: dict[str, object] = {}
    status: str = ""

    def tool(self) -> items.Tool:
        """Give it as `codex exec` would, which writes `spawn_agent` for `spawnAgent`."""
        name = _CAPITAL.sub("_", self.tool_).lower()
        return items.CollabToolCall(
            self.id, name, self.prompt, self.receiver_thread_ids, self.agents_states, self.status
        )


Tool = CommandExecution | FileChange | McpToolCall | WebSearch | CollabToolCall
Item = AgentMessage | Reasoning | Compaction | Tool


class OfThread(msgspec.Struct, rename="camel", kw_only=True):
    """What is said of a thread, and of which of its turns, where that is told."""

    thread_id: str
    turn_id: str | None = None


class OfItem(OfThread, rename="camel"):
    """An item as it stands."""

    item: Item


class Piece(OfThread, rename="camel"):
    """A piece of an item; a summary has several parts."""

    item_id: str
    delta: str
    summary_index: int = 0


class Tokens(msgspec.Struct, rename="camel"):
    """Tokens; cached are part of the input, reasoning of the output."""

    input_tokens: int = 0
    cached_input_tokens: int = 0
    output_tokens: int = 0
    reasoning_output_tokens: int = 0

    @property
    def usage(self) -> Usage:
        """The same in our words."""
        return Usage(self.input_tokens, self.output_tokens, self.cached_input_tokens, self.reasoning_output_tokens)


class TokenUsage(msgspec.Struct):
    """Tokens of the thread with all its former turns, and those of the last request to the model."""

    total: Tokens
    last: Tokens


class OfTokens(OfThread, rename="camel"):
    """How many tokens were used."""

    token_usage: TokenUsage


class Step(msgspec.Struct):
    """A step of the agent's plan: pending, inProgress or completed."""

    step: str
    status: str = ""


class Plan(OfThread):
    """The agent's plan, in full each time."""

    plan: list[Step]

    def todo(self) -> items.TodoList:
        """Give it as `codex exec` would."""
        return items.TodoList([items.Todo(step.step, step.status == "completed") for step in self.plan])


class Failure(msgspec.Struct, rename="camel"):
    """Why something failed. `additional_details` says why the CLI tries again, `codex_error_info` names the kind."""

    message: str
    additional_details: str | None = None
    codex_error_info: msgspec.Raw = msgspec.Raw(b"null")

    @property
    def said(self) -> str:
        """The message in full."""
        return f"{self.message} ({self.additional_details})" if self.additional_details else self.message


class OfFailure(OfThread, rename="camel"):
    """A failure; with `will_retry` the CLI tries again, else it is about to end the turn."""

    error: Failure
    will_retry: bool = False


class Message(OfThread):
    """Something that the CLI wants to be known."""

    message: str


class Turn(msgspec.Struct, rename="camel"):
    """How a turn stands: completed, failed, interrupted or inProgress. That of a sub-agent has another as its root."""

    id: str
    status: str = ""
    error: Failure | None = None
    root_turn_id: str | None = None


class OfTurn(OfThread):
    """A turn as it stands."""

    turn: Turn


class TurnStarted(msgspec.Struct, tag_field="method", tag="turn/started"):
    """The prompt is in the thread, which is on disk."""

    params: OfTurn


class ItemStarted(msgspec.Struct, tag_field="method", tag="item/started"):
    """An item is begun."""

    params: OfItem


class ItemCompleted(msgspec.Struct, tag_field="method", tag="item/completed"):
    """An item is done; it may never have been begun."""

    params: OfItem


class MessageDelta(msgspec.Struct, tag_field="method", tag="item/agentMessage/delta"):
    """A piece of a message, as the model sent it."""

    params: Piece


class SummaryDelta(msgspec.Struct, tag_field="method", tag="item/reasoning/summaryTextDelta"):
    """A piece of a summary of the model's thinking."""

    params: Piece


class PlanUpdated(msgspec.Struct, tag_field="method", tag="turn/plan/updated"):
    """The plan has changed."""

    params: Plan


class TokensCounted(msgspec.Struct, tag_field="method", tag="thread/tokenUsage/updated"):
    """A request to the model has ended, if there are more than before."""

    params: OfTokens


class Warned(msgspec.Struct, tag_field="method", tag="warning"):
    """A warning about a thread."""

    params: Message


class Failed(msgspec.Struct, tag_field="method", tag="error"):
    """Something failed in a turn."""

    params: OfFailure


class TurnCompleted(msgspec.Struct, tag_field="method", tag="turn/completed"):
    """A turn has ended, well or not."""

    params: OfTurn


State = TurnStarted | PlanUpdated | TokensCounted | Warned | TurnCompleted
Notification = MessageDelta | SummaryDelta | ItemStarted | ItemCompleted | Failed | State
NOTIFICATIONS: msgspec.json.Decoder[Notification] = msgspec.json.Decoder(Notification)


class Thread(msgspec.Struct):
    """A thread of which nothing matters but its id."""

    id: str


class Settings(msgspec.Struct):
    """What matters of the settings that would hold for a thread."""

    model_provider: str | None = None


class Result(msgspec.Struct):
    """What was answered: the fields of all the answers that are waited for."""

    config: Settings | None = None
    thread: Thread | None = None
    model: str | None = None
    turn: Turn | None = None


class Refusal(msgspec.Struct):
    """Why a request was not done."""

    message: str = ""


class Other(Head, frozen=True):
    """Any message."""

    result: Result | None = None
    error: Refusal | None = None


OTHERS: msgspec.json.Decoder[Other] = msgspec.json.Decoder(Other)


def bare(line: bytes) -> Other | None:
    """Read whose message it is that does not fit, so that nobody waits for it."""
    head = head_of(line)
    return Other(head.id, head.method) if head else None
