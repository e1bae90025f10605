"""OpenAI's older text completions: https://platform.openai.com/docs/api-reference/completions."""

from collections.abc import Mapping
from typing import Annotated, Literal

import msgspec
from msgspec import Meta
from msgspec.structs import asdict, replace

from clinvk.dialects import json_bodies, vendor
from clinvk.dialects.conversation import Conversation, Turn
from clinvk.dialects.dialect import Call, RunFacts
from clinvk.dialects.json_bodies import NOT_BLANK, because
from clinvk.dialects.openai import answers, error_bodies
from clinvk.dialects.vendor import ModelName
from clinvk.types.errors import ClinvkError
from clinvk.types.events import Event, RunFailed, RunFinished, RunStarted, TextDelta
from clinvk.types.request import RunRequest
from clinvk.types.result import RunResult

_Text = Annotated[str, Meta(pattern=NOT_BLANK)]


class CompletionBody(msgspec.Struct, frozen=True, kw_only=True):
    """A text that the agent answers. Fields that are not listed are accepted and ignored."""

    model: ModelName
    prompt: Annotated[
        _Text | Annotated[list[_Text], Meta(min_length=1, max_length=1)],
        Meta(
            description="A text, or a list of one. Tokens are refused.",
            extra=because("an agent gives one answer, and takes no tokens"),
        ),
    ]
    stream: Annotated[bool | None, Meta(description="Answer with server-sent events.")] = None
    stream_options: answers.StreamOptions | None = None
    stop: answers.Stop = None
    n: Annotated[answers.OneAnswer, Meta(description="Answers; only 1 is possible.")] = None
    best_of: Annotated[answers.OneAnswer, Meta(description="Answers to choose from; only 1.")] = None
    echo: Annotated[bool | None, Meta(description="Begin the answer with the prompt.")] = None
    suffix: Annotated[
        Literal[""] | None, Meta(description="Refused: an agent fills no gap.", extra=because("an agent fills no gap"))
    ] = None
    max_tokens: Annotated[int | None, Meta(description="Advice: no agent CLI has such a limit.")] = None
    temperature: Annotated[float | None, Meta(description="Ignored.")] = None
    top_p: Annotated[float | None, Meta(description="Ignored.")] = None
    presence_penalty: Annotated[float | None, Meta(description="Ignored.")] = None
    frequency_penalty: Annotated[float | None, Meta(description="Ignored.")] = None
    seed: Annotated[int | None, Meta(description="Ignored.")] = None
    logprobs: Annotated[int | None, Meta(description="Ignored.")] = None


class CompletionChoice(msgspec.Struct, frozen=True):
    """The answer."""

    text: str
    index: int
    logprobs: None
    finish_reason: str


class CompletionAnswer(msgspec.Struct, frozen=True):
    """What came of a text."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: Annotated[str, Meta(description="As it was sent.")]
    choices: tuple[CompletionChoice, ...]
    usage: answers.TokenUsage


class CompletionCall(Call, frozen=True, kw_only=True):
    """A request for a completion; `echo` is the beginning of the answer."""

    echo: str = ""


_body = msgspec.json.Decoder(CompletionBody)
_encoder = msgspec.json.Encoder()


class OpenAICompletions(vendor.ModelApi):
    """The dialect of `/openai/v1/completions`."""

    def parse(self, body: bytes, headers: Mapping[str, str]) -> Call:
        """Parse a request body.

        Raises:
            InvalidRequest: names the field.
        """
        asked = json_bodies.decode(body, _body)
        prompt = asked.prompt if isinstance(asked.prompt, str) else asked.prompt[0]
        request = RunRequest(prompt="", model=asked.model, max_tokens=asked.max_tokens, stop=answers.stops(asked.stop))
        call = vendor.call(request, Conversation((), (Turn("user", (prompt,)),)), vendor.asked(headers), "prompt")
        call = replace(
            call,
            stream=bool(asked.stream),
            model=asked.model,
            include_usage=bool(asked.stream_options and asked.stream_options.include_usage),
        )
        return CompletionCall(**asdict(call), echo=prompt if asked.echo else "")

    def encoder(self, call: Call, facts: RunFacts) -> "CompletionEncoder":
        """Return the encoder of one stream."""
        return CompletionEncoder(call, facts)

    def result(self, call: Call, result: RunResult, facts: RunFacts) -> bytes:
        """Return the answer for a finished run."""
        ending = result.ending
        assert isinstance(ending, RunFinished), "a run that failed is an error"
        answer = CompletionAnswer(
            id=_id(facts),
            object="text_completion",
            created=int(facts.started_at),
            model=call.model,
            choices=(CompletionChoice(_echo(call) + result.text, 0, None, answers.finish_reason(ending)),),
            usage=answers.usage_of(ending.usage),
        )
        return _encoder.encode(answer)

    def error(self, error: ClinvkError, request_id: str) -> tuple[int, bytes]:
        """Return status and body for an error."""
        return error_bodies.refusal(error)


class CompletionEncoder:
    """Encodes the chunks of one run: the echoed prompt, if requested, the pieces of the answer, the finish reason."""

    def __init__(self, call: Call, facts: RunFacts) -> None:
        self._echo = _echo(call)
        self._chunks = answers.Chunks("text_completion", _id(facts), call, facts)

    def feed(self, event: Event, at: float) -> bytes:
        """Return the chunks of one event."""
        match event:
            case TextDelta(text=text):
                return self._piece(text)
            case RunStarted() if self._echo:
                return self._piece(self._echo)
            case RunFinished():
                reason = answers.finish_reason(event).encode()
                last = b'{"text":"","index":0,"logprobs":null,"finish_reason":"%s"}' % reason
                return self._chunks.chunk(last) + self._chunks.end(event.usage)
            case RunFailed():
                return error_bodies.broken_off(event)
            case _:
                return b""

    def _piece(self, text: str) -> bytes:
        return self._chunks.chunk(b'{"text":%s,"index":0,"logprobs":null,"finish_reason":null}' % _encoder.encode(text))


def _id(facts: RunFacts) -> str:
    return f"cmpl-{facts.run_id}"


def _echo(call: Call) -> str:
    return call.echo if isinstance(call, CompletionCall) else ""
