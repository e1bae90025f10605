"""The events of a run: one closed union, and the result that they add up to.

The stream law: a run's events are `RunStarted`, then any others, then exactly one `RunFinished` or
`RunFailed`; or a single `RunFailed`. Nothing follows the last event. The runtime enforces this law
whatever an agent prints, so readers need no checks.
"""

from collections.abc import AsyncIterable, Iterable
from operator import add, sub
from typing import Literal, NamedTuple

import msgspec
from msgspec.structs import astuple, force_setattr

from clinvk.types.interaction import Interaction

MAX_TOKENS = 2**53 - 1
"""The largest integer that every reader of JSON represents exactly."""

StopReason = Literal["end_turn", "max_tokens", "max_turns", "max_budget", "stop_sequence", "refusal", "tool_use"]


class Usage(msgspec.Struct, frozen=True, omit_defaults=False):
    """Tokens of one run alone.

    `input_tokens` includes `cached_tokens`; `output_tokens` includes `reasoning_tokens`. Each is counted once.
    A count is at least 0 and at most `MAX_TOKENS`, whatever an agent reports.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0

    def __post_init__(self) -> None:
        for field in self.__struct_fields__:
            if not 0 <= (tokens := getattr(self, field)) <= MAX_TOKENS:
                force_setattr(self, field, max(0, min(tokens, MAX_TOKENS)))

    @property
    def total_tokens(self) -> int:
        """Input and output tokens together."""
        return self.input_tokens + self.output_tokens

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(*map(add, astuple(self), astuple(other)))

    def __sub__(self, other: "Usage") -> "Usage":
        return Usage(*map(sub, astuple(self), astuple(other)))


class RunStarted(msgspec.Struct, frozen=True, omit_defaults=True, tag="run_started"):
    """The agent has started. The model and the CLI's session handle are set if the agent reports them.

    `commands` are the names, without the slash, of the agent's slash commands that ask the model, as far as known.
    """

    model: str | None = None
    backend_session_id: str | None = None
    commands: tuple[str, ...] = ()


class TextDelta(msgspec.Struct, frozen=True, tag="text_delta"):
    """A piece of the answer. Each character is in exactly one delta; separate messages are a blank line apart."""

    text: str


class ThinkingDelta(msgspec.Struct, frozen=True, tag="thinking_delta"):
    """A piece of the model's thinking."""

    text: str


class ToolCall(msgspec.Struct, frozen=True, tag="tool_call"):
    """The agent uses a tool; `name` is the CLI's name for the tool.

    With `for_client`, the client of the request executes the tool; a tool that takes text has the text as `input`.
    """

    id: str
    name: str
    input: dict[str, object]
    for_client: bool = False


class ToolCallDelta(msgspec.Struct, frozen=True, tag="tool_call_delta"):
    """A piece of the arguments, in JSON, of a call of a client tool; the whole `ToolCall` follows.

    Only clients of the model APIs see the pieces: they are not stored. A call whose `ToolCall` does not follow is void.
    """

    id: str
    name: str
    arguments: str


class ToolResult(msgspec.Struct, frozen=True, tag="tool_result"):
    """The output of the tool of the `ToolCall` with this `id`."""

    id: str
    output: str
    is_error: bool = False


class PlanStep(msgspec.Struct, frozen=True):
    """A step of the agent's plan.

    `status` is `pending`, `in_progress` or `completed`; `priority` is `high`, `medium` or `low`.
    """

    text: str
    status: str = "pending"
    priority: str = "medium"


class Progress(msgspec.Struct, frozen=True, omit_defaults=True, tag="progress"):
    """Progress worth showing besides answer and tools.

    `stage` is one word: `retry`, `warning`, `hint` (about the machine), `denied`, `fallback`, `handover`, `stderr`,
    `plan`, or `output` (the last line that a running command has printed). With `plan`, `steps` is the whole plan.
    With `denied`, `advice` says which settings denied the action, and is empty if a person did.
    """

    stage: str
    message: str
    steps: tuple[PlanStep, ...] = ()
    advice: str = ""


def plan(steps: Iterable[PlanStep]) -> Progress:
    """Return the progress of a plan, which agents send in full on each update."""
    steps = tuple(steps)
    ahead = [step.text for step in steps if step.status != "completed"]
    progress = f"{len(steps) - len(ahead)}/{len(steps)} done"
    return Progress("plan", f"{progress}; next: {ahead[0]}" if ahead and ahead[0] else progress, steps)


class UserMessage(msgspec.Struct, frozen=True, tag="user_message"):
    """A further prompt that the agent has received within its turn."""

    text: str


class AwaitingTools(msgspec.Struct, frozen=True, tag="awaiting_tools"):
    """The model's answer is complete, and the agent waits for the results of the client's tools.

    `usage` counts the tokens of the run so far; None if the agent does not report the tokens before the end of the run.
    """

    usage: Usage | None = None


class InteractionRequested(msgspec.Struct, frozen=True, omit_defaults=True, tag="interaction_requested"):
    """The agent asks its user for an approval or an answer, and waits.

    A channel sets `paths` to the files and directories that the action uses. The runtime notes in the interaction which
    of the paths are outside of the directories of the run, and logs the event without the paths.
    """

    interaction: Interaction
    paths: tuple[str, ...] = ()


class InteractionResolved(msgspec.Struct, frozen=True, tag="interaction_resolved"):
    """An interaction was answered, expired, or was withdrawn."""

    interaction: Interaction


class Context(msgspec.Struct, frozen=True):
    """The model's context window after a run: the tokens in use, and the size of the window in tokens."""

    used: int
    size: int


class RunFinished(msgspec.Struct, frozen=True, tag="run_finished"):
    """The agent ended the run, or the run reached a limit of the caller.

    `stop_sequence` is the text of the request's `stop` at which the answer was cut.
    """

    stop_reason: StopReason = "end_turn"
    usage: Usage | None = None
    cost_usd: float | None = None
    structured_output: object = None
    turns: int | None = None
    stop_sequence: str | None = None
    context: Context | None = None


class RunFailed(msgspec.Struct, frozen=True, tag="run_failed"):
    """The run ended without success. `code` is a `ClinvkError.code`, `exit_code` is the exit code of the agent process.

    For a process killed by signal n, `exit_code` is 128 + n. A backend sets the code only if it ends the run while the
    process would continue in vain; else the runtime waits for the exit and sets the code.
    """

    code: str
    message: str
    exit_code: int | None = None
    usage: Usage | None = None
    cost_usd: float | None = None


Ending = RunFinished | RunFailed
Waiting = AwaitingTools | InteractionRequested
Event = (
    RunStarted
    | TextDelta
    | ThinkingDelta
    | ToolCallDelta
    | ToolCall
    | ToolResult
    | Waiting
    | InteractionResolved
    | Progress
    | UserMessage
    | Ending
)


class Logged(NamedTuple):
    """An event in a run's log: the number (from 1), and the time in seconds since the epoch."""

    number: int
    at: float
    event: Event


Said = TextDelta | ThinkingDelta | ToolCall | ToolResult


class RunResult(msgspec.Struct, frozen=True, kw_only=True):
    """The events of an ended run, collected.

    `said` has the answer, the thinking and the tool calls of the agent, in order.
    """

    text: str
    started: RunStarted | None
    ending: Ending
    stderr: str = ""
    said: tuple[Said, ...] = ()

    @property
    def exit_code(self) -> int:
        """Return 0 for a finished run, else the agent's exit code, or 1 if the code is missing or 0."""
        match self.ending:
            case RunFinished():
                return 0
            case RunFailed(exit_code=code):
                return code or 1

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        """Return the tool calls of the agent."""
        return tuple(step for step in self.said if isinstance(step, ToolCall))

    @property
    def usage(self) -> Usage | None:
        """Return the tokens of this run, if the agent reported any."""
        return self.ending.usage

    @property
    def error(self) -> RunFailed | None:
        """Return the failure of the run, or None."""
        return self.ending if isinstance(self.ending, RunFailed) else None


async def collect(events: AsyncIterable[Event]) -> RunResult:
    """Read the event stream to the end and return the result; raise what `gather` raises."""
    return gather([event async for event in events])


def gather(events: Iterable[Event]) -> RunResult:
    """Return the result of all events of a run.

    Raises:
        ValueError: the events have no ending, which breaks the stream law.
    """
    text: list[str] = []
    stderr: list[str] = []
    said: list[Said] = []
    started: RunStarted | None = None
    ending: Ending | None = None
    for event in events:
        match event:
            case TextDelta() | ThinkingDelta() | ToolCall() | ToolResult():
                said.append(event)
                if isinstance(event, TextDelta):
                    text.append(event.text)
            case RunStarted():
                started = event
            case RunFinished() | RunFailed():
                ending = event
            case Progress():
                if event.stage == "stderr":
                    stderr.append(event.message)
            case AwaitingTools() | ToolCallDelta() | InteractionRequested() | InteractionResolved() | UserMessage():
                pass
    if ending is None:
        raise ValueError("the events of a run stopped before its ending")
    return RunResult(text="".join(text), started=started, ending=ending, stderr="\n".join(stderr), said=tuple(said))
