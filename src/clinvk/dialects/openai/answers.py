"""Code shared by OpenAI's APIs: errors, models, and the answers of chat completions and older completions.

https://platform.openai.com/docs/guides/error-codes: `code` is OpenAI's code, which clients check; if OpenAI has no
code, `code` is clinvk's.
"""

from collections.abc import Callable, Mapping
from typing import Annotated, Literal, NamedTuple

import msgspec
from msgspec import Meta
from msgspec.structs import replace

from clinvk.dialects import dialect, sse, vendor
from clinvk.dialects.dialect import Call
from clinvk.dialects.vendor import ModelName, OneAnswer
from clinvk.types import errors
from clinvk.types.errors import ClinvkError, InvalidRequest
from clinvk.types.events import Event, RunFailed, RunFinished, RunResult, RunStarted, StopReason, TextDelta, Usage
from clinvk.types.redaction import redacted
from clinvk.types.request import StopText, StopTexts
from clinvk.types.run import RunFacts

_encoder = msgspec.json.Encoder()

STATUSES: Mapping[type[ClinvkError], int] = {**vendor.STATUSES, errors.AgentUnpaid: 429, errors.AgentOverloaded: 503}

_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
"""The API's error types by status; any other status has the general type of a client error or a server error."""

_QUOTA = "insufficient_quota"

_CODES: dict[type[ClinvkError], str | None] = {
    errors.InvalidRequest: None,
    errors.BackendUnavailable: "model_not_found",
    errors.AgentRateLimited: "rate_limit_exceeded",
    errors.AgentUnpaid: _QUOTA,
    errors.KeyRefused: "invalid_api_key",
    errors.RateLimited: "rate_limit_exceeded",
    errors.BudgetSpent: _QUOTA,
    errors.NoSuchPath: "unknown_url",
    errors.MethodNotAllowed: "method_not_supported",
}


class ErrorObject(msgspec.Struct, frozen=True):
    """What went wrong; `param` is the place in the body, or the header."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorAnswer(msgspec.Struct, frozen=True):
    """The body of an error, and the data of the last event of a stream that breaks off."""

    error: ErrorObject


def error_object(error: ClinvkError) -> tuple[int, ErrorObject]:
    """Return the status and the error object for an error."""
    status = dialect.table_entry(type(error), STATUSES)
    code = _CODES.get(type(error), error.code)
    general = "server_error" if status >= 500 else "invalid_request_error"
    kind = _QUOTA if code == _QUOTA else _TYPES.get(status, general)
    return status, ErrorObject(redacted(error.message), kind, _param(error), code)


class OpenAIApi(vendor.ModelApi):
    """The attributes and errors that the dialects of OpenAI's APIs share."""

    def error(self, error: ClinvkError, request_id: str) -> tuple[int, bytes]:
        """Return status and body for a request that could not be run."""
        status, what = error_object(error)
        return status, _encoder.encode(ErrorAnswer(what))


def error_frame(event: RunFailed) -> bytes:
    """Return the last event for a run that failed after the start of the answer."""
    _, what = error_object(errors.error_from_code(event.code, event.message))
    return sse.frame(_encoder.encode(ErrorAnswer(what)))


def _param(error: ClinvkError) -> str | None:
    match error:
        case InvalidRequest(field="backend") | errors.BackendUnavailable():
            return "model"
        case InvalidRequest(field=str(field)):
            return field
        case errors.SessionError() | errors.AmbiguousId():
            return vendor.SESSION
        case _:
            return None


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """An available model. The release date is not known."""

    id: Annotated[str, Meta(description="The value for `model` in requests.", examples=["claude/opus"])]
    object: Literal["model"] = "model"
    created: Literal[0] = 0
    owned_by: Annotated[str, Meta(description="The backend of the model.")]


class ModelList(msgspec.Struct, frozen=True, kw_only=True):
    """All models."""

    data: list[Model]
    object: Literal["list"] = "list"


DONE = b"data: [DONE]\n\n"

_FINISH_REASONS: dict[StopReason, str] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "max_turns": "length",
    "max_budget": "length",
    "refusal": "content_filter",
    "tool_use": "tool_calls",
}

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

    @property
    def stops(self) -> tuple[str, ...]:
        """Return the stop texts."""
        return (self.stop,) if isinstance(self.stop, str) else self.stop or ()


def with_answer_options(call: Call, body: GenerationBody) -> Call:
    """Return a call with the options of a body for the answer."""
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


class ChunkTemplates(NamedTuple):
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

    def __init__(self, kind: str, id_: str, call: Call, facts: RunFacts, templates: ChunkTemplates) -> None:
        model = _encoder.encode(call.model).decode()
        head = f'data: {{"id":"{id_}","object":"{kind}","created":{int(facts.began_at)},"model":{model},"choices":['
        self._head = head.encode()
        self._tail = b'],"usage":null}\n\n' if call.include_usage else b"]}\n\n"
        self._call = call
        self._templates = templates

    def feed(self, event: Event, at: float) -> bytes:
        """Return the chunks of one event."""
        match event:
            case TextDelta(text=text):
                return self._chunk(self._templates.text % _encoder.encode(text))
            case RunStarted():
                return self._chunk(self._templates.start) if self._templates.start else b""
            case RunFinished():
                reason = finish_reason(event).encode()
                return self._chunk(self._templates.last % reason) + self._end(event.usage)
            case RunFailed():
                return error_frame(event)
            case _:
                thinking = vendor.visible_thinking(event, self._call) if self._templates.thinking else ""
                return self._chunk(self._templates.thinking % _encoder.encode(thinking)) if thinking else b""

    def _chunk(self, choice: bytes) -> bytes:
        return self._head + choice + self._tail

    def _end(self, usage: Usage | None) -> bytes:
        """Return the end of a stream: the token usage, if requested, in a chunk without choices, then `DONE`."""
        if not self._call.include_usage:
            return DONE
        return self._head + b'],"usage":' + _encoder.encode(usage_of(usage)) + b"}\n\n" + DONE


class CompletionApi(OpenAIApi):
    """The common part of the dialects whose answer is one choice.

    Attributes:
        id_prefix: the beginning of the id of an answer.
        answer_type, chunk_type: the `object` of a whole answer and of a chunk.
        answer_struct: the struct of a whole answer.
    """

    id_prefix: str
    answer_type: str
    chunk_type: str
    answer_struct: Callable[..., msgspec.Struct]

    def choice(self, call: Call, result: RunResult, finish_reason: str) -> msgspec.Struct:
        """Return the choice of a whole answer."""
        raise NotImplementedError

    def result(self, call: Call, result: RunResult, facts: RunFacts) -> bytes:
        """Return the answer for a finished run."""
        ending = result.ending
        assert isinstance(ending, RunFinished), "a run that failed is an error"
        answer = self.answer_struct(
            id=self.id_prefix + facts.run_id,
            object=self.answer_type,
            created=int(facts.began_at),
            model=call.model,
            choices=(self.choice(call, result, finish_reason(ending)),),
            usage=usage_of(ending.usage),
        )
        return _encoder.encode(answer)
