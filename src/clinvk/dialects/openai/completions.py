"""OpenAI's older text completions: https://platform.openai.com/docs/api-reference/completions."""

from collections.abc import Mapping
from typing import Annotated, Literal

import msgspec
from msgspec import Meta
from msgspec.structs import asdict

from clinvk.dialects import json_bodies, vendor
from clinvk.dialects.conversation import Conversation, Turn
from clinvk.dialects.dialect import Call
from clinvk.dialects.json_bodies import NOT_BLANK, because
from clinvk.dialects.openai import answers
from clinvk.types.request import RunRequest
from clinvk.types.result import RunResult

_Text = Annotated[str, Meta(pattern=NOT_BLANK)]


class CompletionBody(answers.GenerationBody, frozen=True, kw_only=True):
    """A text for the agent to answer. Other fields are accepted and ignored."""

    prompt: Annotated[
        _Text | Annotated[list[_Text], Meta(min_length=1, max_length=1)],
        Meta(
            description="A text, or a list of one text. Tokens are refused.",
            extra=because("an agent gives one answer, and takes no tokens"),
        ),
    ]
    best_of: Annotated[answers.OneAnswer, Meta(description="Number of candidates; only 1 is possible.")] = None
    echo: Annotated[bool | None, Meta(description="Begin the answer with the prompt.")] = None
    suffix: Annotated[
        Literal[""] | None, Meta(description="Refused: an agent fills no gap.", extra=because("an agent fills no gap"))
    ] = None
    logprobs: Annotated[int | None, Meta(description="Ignored.")] = None


class CompletionChoice(msgspec.Struct, frozen=True):
    """The answer."""

    text: str
    index: int
    logprobs: None
    finish_reason: str


class CompletionAnswer(msgspec.Struct, frozen=True):
    """The answer to a text."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: Annotated[str, Meta(description="The model as sent in the request.")]
    choices: tuple[CompletionChoice, ...]
    usage: answers.TokenUsage


class CompletionCall(Call, frozen=True, kw_only=True):
    """A request for a completion; `echo` is the beginning of the answer."""

    echo: str = ""


_TEMPLATES = answers.ChunkTemplates(
    start=b"",
    text=b'{"text":%s,"index":0,"logprobs":null,"finish_reason":null}',
    thinking=b"",
    last=b'{"text":"","index":0,"logprobs":null,"finish_reason":"%s"}',
)
_body = msgspec.json.Decoder(CompletionBody)
_encoder = msgspec.json.Encoder()


class OpenAICompletions(answers.CompletionApi):
    """The dialect of `/openai/v1/completions`."""

    id_prefix = "cmpl-"
    answer_type = "text_completion"
    chunk_type = "text_completion"
    answer_struct = CompletionAnswer

    def parse(self, body: bytes, headers: Mapping[str, str]) -> Call:
        """Parse a request body.

        Raises:
            InvalidRequest: names the field.
        """
        parsed = json_bodies.decode(body, _body)
        prompt = parsed.prompt if isinstance(parsed.prompt, str) else parsed.prompt[0]
        request = RunRequest(prompt="", model=parsed.model, max_tokens=parsed.max_tokens, stop=parsed.stops)
        call = vendor.call(
            request, Conversation((), (Turn("user", (prompt,)),)), vendor.header_options(headers), "prompt"
        )
        call = answers.with_answer_options(call, parsed)
        return CompletionCall(**asdict(call), echo=prompt if parsed.echo else "")

    def templates(self, call: Call) -> answers.ChunkTemplates:
        """Return the templates of the chunks of a stream, which starts with the echoed prompt if requested."""
        return _TEMPLATES._replace(start=_TEMPLATES.text % _encoder.encode(_echo(call)) if _echo(call) else b"")

    def choice(self, call: Call, result: RunResult, finish_reason: str) -> CompletionChoice:
        """Return the choice of a whole answer."""
        return CompletionChoice(_echo(call) + result.text, 0, None, finish_reason)


def _echo(call: Call) -> str:
    return call.echo if isinstance(call, CompletionCall) else ""
