"""Code shared by OpenAI's chat completions and older completions."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from clinvk.dialects.dialect import Call, RunFacts
from clinvk.dialects.json_bodies import because
from clinvk.types.events import RunFinished, StopReason, Usage
from clinvk.types.request import StopText, StopTexts

DONE = b"data: [DONE]\n\n"

_FINISH_REASONS: dict[StopReason, str] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "max_turns": "length",
    "refusal": "content_filter",
}

_encoder = msgspec.json.Encoder()

OneAnswer = Annotated[Literal[1] | None, Meta(extra=because("an agent gives one answer"))]
Stop = Annotated[StopText | StopTexts | None, Meta(description="One text or several, before which the answer ends.")]


class StreamOptions(msgspec.Struct, frozen=True):
    """What a stream tells beside the answer."""

    include_usage: bool | None = None


class TextFormat(msgspec.Struct, frozen=True, tag="text"):
    """The answer is any text."""


class JsonObjectFormat(msgspec.Struct, frozen=True, tag="json_object"):
    """The answer is a JSON object."""


class PromptDetails(msgspec.Struct, frozen=True):
    """Which of the tokens of the prompt came from the model's cache."""

    cached_tokens: int


class CompletionDetails(msgspec.Struct, frozen=True):
    """Which of the tokens of the answer were thinking."""

    reasoning_tokens: int


class TokenUsage(msgspec.Struct, frozen=True):
    """Tokens of one request; zeros where the agent told none."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails
    completion_tokens_details: CompletionDetails


def usage_of(usage: Usage | None) -> TokenUsage:
    """Return the token usage of a run."""
    usage = usage or Usage()
    return TokenUsage(
        prompt_tokens=usage.input_tokens,
        completion_tokens=usage.output_tokens,
        total_tokens=usage.input_tokens + usage.output_tokens,
        prompt_tokens_details=PromptDetails(usage.cached_tokens),
        completion_tokens_details=CompletionDetails(usage.reasoning_tokens),
    )


def finish_reason(ending: RunFinished) -> str:
    """Return OpenAI's finish reason for a finished run."""
    return _FINISH_REASONS[ending.stop_reason]


def stops(stop: str | list[str] | None) -> tuple[str, ...]:
    """Return the stop texts of a body."""
    return (stop,) if isinstance(stop, str) else tuple(stop or ())


class Chunks:
    """Encodes the chunks of one stream; `kind` is the `object` of each chunk."""

    def __init__(self, kind: str, id_: str, call: Call, facts: RunFacts) -> None:
        model = _encoder.encode(call.model).decode()
        head = f'data: {{"id":"{id_}","object":"{kind}","created":{int(facts.started_at)},"model":{model},"choices":['
        self._head = head.encode()
        self._tail = b'],"usage":null}\n\n' if call.include_usage else b"]}\n\n"
        self._include_usage = call.include_usage

    def chunk(self, choice: bytes) -> bytes:
        """Return the chunk of one choice, which is JSON."""
        return self._head + choice + self._tail

    def end(self, usage: Usage | None) -> bytes:
        """Return the end of a stream: the token usage, if requested, in a chunk without choices, then `DONE`."""
        if not self._include_usage:
            return DONE
        return self._head + b'],"usage":' + _encoder.encode(usage_of(usage)) + b"}\n\n" + DONE
