"""The unified events: one JSON object per line, the same over HTTP and on the command line.

The stream begins with `init` (or consists of a single `error`) and ends with exactly one `done` or `error`. No text is
repeated: the answer is the concatenation of all `message` events.
"""

from datetime import UTC
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta
from msgspec.structs import asdict

from clinvk.dialects.rest.interactions import InteractionView, interaction_view
from clinvk.types import events
from clinvk.types.events import Context, Event, PlanStep, RunFailed, RunFinished, RunStarted, StopReason, Usage
from clinvk.types.run import RunFacts
from clinvk.types.text import Clock, readable

MEDIA_TYPE = "application/x-ndjson"

PULSE = b" "
"""Parsers skip a space before a line of JSON; an empty line would stop many parsers."""


class Init(msgspec.Struct, frozen=True, omit_defaults=True):
    """The agent has started."""

    model: Annotated[str | None, Meta(description="The model as reported by the agent, or null.")]
    backend_session_id: Annotated[str | None, Meta(description="The agent CLI's session id.")]
    working_dir: Annotated[str, Meta(description="Absolute path of the agent's working directory.")]
    run_id: Annotated[str, Meta(description="The id of the run.")]
    commands: Annotated[
        tuple[str, ...], Meta(description="The agent's slash commands, without the slash; absent if unknown.")
    ] = ()


class Message(msgspec.Struct, frozen=True):
    """A piece of the answer."""

    text: str
    role: Literal["assistant"] = "assistant"
    is_partial: Annotated[bool, Meta(description="Always true: pieces are never repeated in full.")] = True


class Thinking(msgspec.Struct, frozen=True):
    """A piece of the model's thinking."""

    text: str
    is_partial: bool = True


class ToolUse(msgspec.Struct, frozen=True):
    """A tool call of the agent."""

    tool_id: str
    tool_name: str
    input: dict[str, object]


class ToolOutcome(msgspec.Struct, frozen=True):
    """The output of a tool."""

    tool_id: str
    tool_name: str
    output: str
    is_error: bool


class Stage(msgspec.Struct, frozen=True, omit_defaults=True):
    """Something worth showing that is neither answer nor tool."""

    stage: Annotated[str, Meta(description="One word: retry, warning, hint, denied, fallback, stderr, plan or output.")]
    message: str
    steps: Annotated[tuple[PlanStep, ...], Meta(description="All steps of the plan, with the stage plan.")] = ()
    advice: Annotated[str, Meta(description="What helps, with the stage denied; absent if a person denied.")] = ""


class Prompt(msgspec.Struct, frozen=True):
    """A further prompt that the agent has received while it works."""

    text: str
    role: Literal["user"] = "user"


class FailureDetails(msgspec.Struct, frozen=True, omit_defaults=True):
    """Further facts about a failure."""

    exit_code: Annotated[int, Meta(description="The agent's exit code, or 1; 128 + n for signal n.")]
    token_usage: Usage | None = None
    cost_usd: float | None = None


class Failure(msgspec.Struct, frozen=True):
    """Why the run ended without success."""

    code: Annotated[str, Meta(description="The error code, e.g. agent_rate_limited.")]
    message: Annotated[str, Meta(description="The agent's message, if any.")]
    details: FailureDetails


class Done(msgspec.Struct, frozen=True, omit_defaults=True):
    """How the run ended."""

    token_usage: Annotated[Usage, Meta(description="Tokens of this run; zeros if unknown.")]
    duration: Annotated[float, Meta(description="Seconds from the agent's start.")]
    stop_reason: StopReason
    turn_count: Annotated[int | None, Meta(description="Number of model requests; absent if unknown.")] = None
    cost_usd: Annotated[float | None, Meta(description="US dollars; absent if unknown.")] = None
    stop_sequence: Annotated[str | None, Meta(description="The matched text of `stop`.")] = None
    structured_output: Annotated[
        object, Meta(description="The answer as JSON, with `output_schema`; the messages have it as text.")
    ] = None
    context: Annotated[Context | None, Meta(description="The model's context window; absent if unknown.")] = None


class Tag(msgspec.Struct, frozen=True):
    """The part of an orchestration that an event belongs to; None for no part, or for a value the caller omitted."""

    index: int | None = None
    step: int | None = None
    name: str | None = None
    id: str | None = None


class _Line(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="type"):
    backend: Annotated[str, Meta(description="Name of the agent CLI.", examples=["claude"])]
    session_id: Annotated[str | None, Meta(description="The session; absent if none is stored.")] = None
    timestamp: Annotated[str, Meta(description="RFC 3339, UTC, milliseconds.", examples=["2026-11-25T14:09:11.042Z"])]
    sequence: Annotated[int, Meta(description="Position in the stream of this run, from 1.", ge=1)]
    index: Annotated[int | None, Meta(description="Index of an orchestration's part, from 0.")] = None
    step: Annotated[int | None, Meta(description="Number of a chain's step, from 1.")] = None
    name: Annotated[str | None, Meta(description="Name of an orchestration's part.")] = None
    id: Annotated[str | None, Meta(description="Id of an orchestration's part.")] = None


class InitLine(_Line, frozen=True, kw_only=True, tag="init"):
    """The first event."""

    content: Init


class MessageLine(_Line, frozen=True, kw_only=True, tag="message"):
    """A piece of the answer."""

    content: Message


class ThinkingLine(_Line, frozen=True, kw_only=True, tag="thinking"):
    """A piece of the model's thinking."""

    content: Thinking


class ToolUseLine(_Line, frozen=True, kw_only=True, tag="tool_use"):
    """A tool starts."""

    content: ToolUse


class ToolResultLine(_Line, frozen=True, kw_only=True, tag="tool_result"):
    """A tool has ended."""

    content: ToolOutcome


class InteractionRequestedLine(_Line, frozen=True, kw_only=True, tag="interaction_requested"):
    """The agent waits for an approval or an answer."""

    content: InteractionView


class InteractionResolvedLine(_Line, frozen=True, kw_only=True, tag="interaction_resolved"):
    """An interaction was answered, has expired, or was withdrawn."""

    content: InteractionView


class ProgressLine(_Line, frozen=True, kw_only=True, tag="progress"):
    """A retry, a warning, or a line of the agent's stderr."""

    content: Stage


class UserMessageLine(_Line, frozen=True, kw_only=True, tag="user_message"):
    """The agent has received a further prompt."""

    content: Prompt


class UsageLine(_Line, frozen=True, kw_only=True, tag="token_usage"):
    """Tokens of this run, once before the end; absent if unknown."""

    content: Usage


class ErrorLine(_Line, frozen=True, kw_only=True, tag="error"):
    """The last event of a run that failed."""

    content: Failure


class DoneLine(_Line, frozen=True, kw_only=True, tag="done"):
    """The last event of a run that did not fail."""

    content: Done


_Output = InitLine | MessageLine | ThinkingLine | ToolUseLine | ToolResultLine
_Interactions = InteractionRequestedLine | InteractionResolvedLine
Line = _Output | _Interactions | ProgressLine | UserMessageLine | UsageLine | ErrorLine | DoneLine


_UNTAGGED = Tag()
_WAITS = Stage("waiting", "the agent waits for the client's tools")
_encoder = msgspec.json.Encoder()


class UnifiedEncoder:
    """Encodes the events of one run as lines. `facts.began_at` is the start of the duration.

    Each event is one line, so `sequence` (the number of the last line) equals the number of the event in the run's log;
    only an ending may be two lines, and the pieces of a call have none. A caller that omits events of a log must set
    `sequence` before the next event.
    """

    def __init__(self, facts: RunFacts, tag: Tag = _UNTAGGED) -> None:
        self.sequence = 0
        self._facts = facts
        self._fixed: dict[str, Any] = {"backend": facts.backend, "session_id": facts.session_id, **asdict(tag)}
        self._tool_names: dict[str, str] = {}
        self._clock = Clock("%Y-%m-%dT%H:%M:%S", UTC)

    def skip(self, event: Event) -> None:
        """Record an event, other than an ending, whose line the reader already has."""
        if isinstance(event, events.ToolCall):
            self._tool_names[event.id] = event.name
        elif isinstance(event, events.ToolResult):
            self._tool_names.pop(event.id, "")

    def feed(self, event: Event, at: float) -> bytes:  # noqa: PLR0911 - one line for each kind
        """Return the line of one event; the line of an ending follows a line with the token usage."""
        match event:
            case events.TextDelta(text=text):
                return self._line(MessageLine, Message(text), at)
            case events.ThinkingDelta(text=text):
                return self._line(ThinkingLine, Thinking(text), at)
            case events.ToolCall():
                self._tool_names[event.id] = event.name
                return self._line(ToolUseLine, ToolUse(event.id, event.name, event.input), at)
            case events.ToolCallDelta():
                self.sequence += 1
                return b""
            case events.ToolResult():
                name = self._tool_names.pop(event.id, "")
                return self._line(ToolResultLine, ToolOutcome(event.id, name, event.output, event.is_error), at)
            case events.Progress() | events.AwaitingTools():
                is_waiting = isinstance(event, events.AwaitingTools)
                stage = _WAITS if is_waiting else Stage(event.stage, event.message, event.steps, event.advice)
                return self._line(ProgressLine, stage, at)
            case events.UserMessage(text=text):
                return self._line(UserMessageLine, Prompt(text), at)
            case events.InteractionRequested() | events.InteractionResolved():
                is_new = isinstance(event, events.InteractionRequested)
                kind = InteractionRequestedLine if is_new else InteractionResolvedLine
                return self._line(kind, interaction_view(event.interaction), at)
            case RunFinished() | RunFailed():
                return self._ending(event, at)
            case _:
                return self._line(InitLine, self._init(event), at)

    def _ending(self, event: RunFinished | RunFailed, at: float) -> bytes:
        """Return the lines of an ending; an `error` without `init` is alone."""
        is_finished = isinstance(event, RunFinished)
        usage = self._line(UsageLine, event.usage, at) if event.usage and (is_finished or self.sequence) else b""
        if is_finished:
            return usage + self._line(DoneLine, self._done(event, at), at)
        return usage + self._line(ErrorLine, failure(event), at)

    def _init(self, event: RunStarted) -> Init:
        facts = self._facts
        model, directory = event.model or facts.model, readable(facts.workdir)
        return Init(model, event.backend_session_id, directory, facts.run_id, event.commands)

    def _done(self, event: RunFinished, at: float) -> Done:
        duration = round(max(0.0, at - self._facts.began_at), 3)
        rest = (event.turns, event.cost_usd, event.stop_sequence, event.structured_output, event.context)
        return Done(event.usage or Usage(), duration, event.stop_reason, *rest)

    def _line(self, kind: type[Line], content: object, at: float) -> bytes:
        self.sequence += 1
        line = kind(
            **self._fixed,
            timestamp=self._timestamp(at),
            sequence=self.sequence,
            content=content,  # pyright: ignore[reportArgumentType]  # each call pairs a line with its content
        )
        return _encoder.encode(line) + b"\n"

    def _timestamp(self, at: float) -> str:
        second, millis = divmod(int(at * 1000), 1000)
        return f"{self._clock.show(second)}.{millis:03d}Z"


def failure(event: RunFailed) -> Failure:
    """Return the content of an `error` event for a failed run."""
    return Failure(event.code, event.message, FailureDetails(event.exit_code or 1, event.usage, event.cost_usd))
