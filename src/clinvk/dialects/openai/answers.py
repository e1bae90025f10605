"""Code shared by OpenAI's chat completions and older completions."""

from typing import Annotated, Literal, NamedTuple

import msgspec
from msgspec import Meta
from msgspec.structs import replace

from clinvk.dialects import vendor
from clinvk.dialects.dialect import Call, RunFacts
from clinvk.dialects.json_bodies import because
from clinvk.dialects.openai import error_bodies
from clinvk.dialects.vendor import ModelName
from clinvk.types.events import Event, RunFailed, RunFinished, RunStarted, StopReason, TextDelta, Usage
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
    """The contents of a stream besides the answer."""

    include_usage: bool | None = None


class GenerationBody(msgspec.Struct, frozen=True, kw_only=True):
    """The fields that chat completions and completions share. Other fields are accepted and ignored."""

    model: ModelName
    stream: Annotated[bool | None, Meta(description="Answer with server-sent events.")] = None
    stream_options: StreamOptions | None = None
    stop: Stop = None
    n: Annotated[OneAnswer, Meta(description="Answers; only 1 is possible.")] = None
    max_tokens: Annotated[int | None, Meta(description="Advice: no agent CLI has such a limit.")] = None
    temperature: Annotated[float | None, Meta(description="Ignored.")] = None
    top_p: Annotated[float | None, Meta(description="Ignored.")] = None
    presence_penalty: Annotated[float | None, Meta(description="Ignored.")] = None
    frequency_penalty: Annotated[float | None, Meta(description="Ignored.")] = None
    seed: Annotated[int | None, Meta(description="Ignored.")] = None

    @property
    def stops(self) -> tuple[str, ...]:
        """Return the stop texts."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())


def with_form(call: Call, body: GenerationBody) -> Call:
    """Return a call with the form of the answer that a body asks for."""
    include_usage = bool(body.stream_options and body.stream_options.include_usage)
    return replace(call, stream=bool(body.stream), model=body.model, include_usage=include_usage)


class TextFormat(msgspec.Struct, frozen=True, tag="text"):
    """The answer is any text."""


class JsonObjectFormat(msgspec.Struct, frozen=True, tag="json_object"):
    """The answer is a JSON object."""


class PromptDetails(msgspec.Struct, frozen=True):
    """The share of prompt tokens that a cache served."""

    cached_tokens: int


class CompletionDetails(msgspec.Struct, frozen=True):
    """The share of answer tokens that was thinking."""

    reasoning_tokens: int


class TokenUsage(msgspec.Struct, frozen=True):
    """Tokens of one request; zeros if unknown."""

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
        total_tokens=usage.total_tokens,
        prompt_tokens_details=PromptDetails(usage.cached_tokens),
        completion_tokens_details=CompletionDetails(usage.reasoning_tokens),
    )


def finish_reason(ending: RunFinished) -> str:
    """Return OpenAI's finish reason for a finished run."""
    return _FINISH_REASONS[ending.stop_reason]


class Choices(NamedTuple):
    """Templates of the choice in a chunk, as JSON.

    Attributes:
        start: the choice of the first chunk; empty if a stream has no such chunk.
        text, thinking: a piece of the answer or of the thinking; an empty template drops the pieces.
        last: the choice with the finish reason.
    """

    start: bytes
    text: bytes
    thinking: bytes
    last: bytes


class ChunkEncoder:
    """Encodes the chunks of one run; `kind` is the `object` of each chunk."""

    def __init__(self, kind: str, id_: str, call: Call, facts: RunFacts, choices: Choices) -> None:
        model = _encoder.encode(call.model).decode()
        head = f'data: {{"id":"{id_}","object":"{kind}","created":{int(facts.started_at)},"model":{model},"choices":['
        self._head = head.encode()
        self._tail = b'],"usage":null}\n\n' if call.include_usage else b"]}\n\n"
        self._call = call
        self._choices = choices

    def feed(self, event: Event, at: float) -> bytes:
        """Return the chunks of one event."""
        match event:
            case TextDelta(text=text):
                return self._chunk(self._choices.text % _encoder.encode(text))
            case RunStarted():
                return self._chunk(self._choices.start) if self._choices.start else b""
            case RunFinished():
                return self._chunk(self._choices.last % finish_reason(event).encode()) + self._end(event.usage)
            case RunFailed():
                return error_bodies.broken_off(event)
            case _:
                thought = vendor.thought(event, self._call) if self._choices.thinking else ""
                return self._chunk(self._choices.thinking % _encoder.encode(thought)) if thought else b""

    def _chunk(self, choice: bytes) -> bytes:
        return self._head + choice + self._tail

    def _end(self, usage: Usage | None) -> bytes:
        """Return the end of a stream: the token usage, if requested, in a chunk without choices, then `DONE`."""
        if not self._call.include_usage:
            return DONE
        return self._head + b'],"usage":' + _encoder.encode(usage_of(usage)) + b"}\n\n" + DONE
