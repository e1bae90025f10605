"""What an agent does during a run: one closed union of events.

The stream law: a run's events are `RunStarted`, then any others, then exactly one `RunFinished` or
`RunFailed`; or a `RunFailed` alone. Nothing follows the last one. The runtime keeps this law
whatever an agent prints, so that no reader has to check it.
"""

from typing import Literal, NamedTuple

import msgspec

StopReason = Literal["end_turn", "max_tokens", "max_turns", "stop_sequence", "refusal"]


class Usage(msgspec.Struct, frozen=True, omit_defaults=False):
    """Tokens of one run alone.

    `input_tokens` includes `cached_tokens`; `output_tokens` includes `reasoning_tokens`. Each is counted once.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            self.cached_tokens + other.cached_tokens,
            self.reasoning_tokens + other.reasoning_tokens,
        )

    def __sub__(self, other: "Usage") -> "Usage":
        return Usage(
            max(0, self.input_tokens - other.input_tokens),
            max(0, self.output_tokens - other.output_tokens),
            max(0, self.cached_tokens - other.cached_tokens),
            max(0, self.reasoning_tokens - other.reasoning_tokens),
        )


class RunStarted(msgspec.Struct, frozen=True, tag="run_started"):
    """The agent is up. Its model and its own session handle, where it tells them."""

    model: str | None = None
    backend_session_id: str | None = None


class TextDelta(msgspec.Struct, frozen=True, tag="text_delta"):
    """A piece of the answer. Each character is in exactly one delta; separate messages are a blank line apart."""

    text: str


class ThinkingDelta(msgspec.Struct, frozen=True, tag="thinking_delta"):
    """A piece of the model's thinking."""

    text: str


class ToolCall(msgspec.Struct, frozen=True, tag="tool_call"):
    """The agent uses one of its tools; `name` is the CLI's own."""

    id: str
    name: str
    input: dict[str, object]


class ToolResult(msgspec.Struct, frozen=True, tag="tool_result"):
    """What the tool of the `ToolCall` with this `id` gave."""

    id: str
    output: str
    is_error: bool = False


class Progress(msgspec.Struct, frozen=True, tag="progress"):
    """Something worth showing that is neither answer nor tool.

    `stage` is one word: `retry`, `warning`, `denied`, `stderr`.
    """

    stage: str
    message: str


class RunFinished(msgspec.Struct, frozen=True, tag="run_finished"):
    """The agent ended the run by itself, or a limit that the caller set did.

    `stop_sequence` is the text of the request's `stop` before which the answer was cut.
    """

    stop_reason: StopReason = "end_turn"
    usage: Usage | None = None
    cost_usd: float | None = None
    structured_output: object = None
    turns: int | None = None
    stop_sequence: str | None = None


class RunFailed(msgspec.Struct, frozen=True, tag="run_failed"):
    """The run ended without success. `code` is a `ClinvkError.code`, `exit_code` the agent process's.

    A process that a signal ended has `exit_code` 128 + its number. A backend gives the code itself where it ends
    a run whose process would go on in vain; else the runtime waits for the exit and fills it in.
    """

    code: str
    message: str
    exit_code: int | None = None
    usage: Usage | None = None
    cost_usd: float | None = None


Event = RunStarted | TextDelta | ThinkingDelta | ToolCall | ToolResult | Progress | RunFinished | RunFailed
Ending = RunFinished | RunFailed


class Logged(NamedTuple):
    """An event in a run's log: its number (from 1), and when it happened in seconds since the epoch."""

    number: int
    at: float
    event: Event
