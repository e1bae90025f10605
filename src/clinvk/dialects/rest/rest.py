"""clinvk's REST dialect: `POST /api/v1/prompt`, problem documents (RFC 9457), NDJSON streams."""

from collections.abc import Mapping
from typing import Annotated, Self

import msgspec
from msgspec import Meta

from clinvk.dialects import dialect, json_bodies
from clinvk.dialects.dialect import Call, copy_as
from clinvk.dialects.rest import unified
from clinvk.dialects.rest.batch_bodies import placement
from clinvk.dialects.rest.bodies import PromptBody, request_of
from clinvk.dialects.rest.views import QueuePosition
from clinvk.types import errors
from clinvk.types.errors import AmbiguousId, ClinvkError
from clinvk.types.events import RunFailed, RunResult, StopReason, Usage
from clinvk.types.redaction import redacted
from clinvk.types.request import FailedAgent, RunRequest
from clinvk.types.run import RunFacts


class PromptAnswer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The outcome of a prompt. `exit_code` and `error` report a failed agent."""

    session_id: Annotated[str | None, Meta(description="The session; null if none is stored.")]
    backend: str
    exit_code: Annotated[int, Meta(description="0 means success; else the agent's exit code, or 1.")]
    duration_ms: Annotated[int, Meta(description="Duration of the agent in milliseconds.")]
    output: Annotated[str, Meta(description="The answer, possibly incomplete if the run failed.")]
    token_usage: Annotated[Usage, Meta(description="Tokens of this run; zeros if unknown.")]
    run_id: Annotated[str, Meta(description="The id of the run; absent in a dry run.")] = ""
    error: Annotated[str | None, Meta(description="The error of a failed run.")] = None
    error_code: Annotated[str | None, Meta(description="The code of the error, e.g. agent_rate_limited.")] = None
    fallback: Annotated[tuple[FailedAgent, ...], Meta(description="The agents that could not take the prompt.")] = ()
    model: Annotated[str | None, Meta(description="The model as reported by the agent.")] = None
    cost_usd: Annotated[float | None, Meta(description="US dollars; absent if unknown.")] = None
    stop_reason: Annotated[StopReason | None, Meta(description="Why a successful run ended.")] = None
    stop_sequence: Annotated[str | None, Meta(description="The matched text of `stop`.")] = None
    structured_output: Annotated[
        object, Meta(description="The answer as JSON, with `output_schema`; `output` has it as text.")
    ] = None
    stderr: Annotated[str | None, Meta(description="The agent's stderr, with `verbose`.")] = None


class Accepted(msgspec.Struct, frozen=True, kw_only=True):
    """A run in the background, or in progress; the header `location` has its URL."""

    run_id: str
    session_id: Annotated[str | None, Meta(description="The session; null if none is stored.")]
    state: Annotated[str, Meta(description="queued or running.")]
    queue_position: QueuePosition = msgspec.UNSET
    steered: Annotated[
        bool | msgspec.UnsetType,
        Meta(description="The run was in progress, and its agent has received the prompt within the turn."),
    ] = msgspec.UNSET

    @classmethod
    def of(cls, facts: RunFacts) -> Self:
        """Return the answer for a run."""
        return cls(
            run_id=facts.run_id,
            session_id=facts.session_id,
            state="queued" if facts.state == "queued" else "running",
            queue_position=facts.queue_position or msgspec.UNSET,
            steered=facts.is_steered or msgspec.UNSET,
        )


class Problem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A request that could not be run (RFC 9457)."""

    type: Annotated[str, Meta(description="The documentation of the problem.", examples=["/docs#invalid_request"])]
    title: Annotated[str, Meta(description="The kind of problem.")]
    status: Annotated[int, Meta(description="The HTTP status.")]
    detail: Annotated[str, Meta(description="What failed, the value, and what is allowed.")]
    code: Annotated[str, Meta(description="The code of the problem.", examples=["invalid_request"])]
    request_id: Annotated[str, Meta(description="The `x-request-id` of the answer.")]
    field: Annotated[
        str | None, Meta(description="The place in the body, or the parameter.", examples=["extra[0]"])
    ] = None
    candidates: Annotated[tuple[str, ...], Meta(description="Some ids with an ambiguous prefix.")] = ()


STATUSES: Mapping[type[ClinvkError], int] = {
    **dialect.STATUSES,
    errors.Unsupported: 422,
    errors.SessionError: 409,
    AmbiguousId: 409,
    errors.NotCancellable: 409,
    errors.InteractionAnswered: 409,
    errors.InteractionEnded: 410,
    errors.AgentFailed: 502,
}

_body = json_bodies.decoder(PromptBody)
_encoder = msgspec.json.Encoder()


class Rest:
    """The dialect of `/api/v1/prompt`."""

    is_model_api = False
    stream_type = unified.MEDIA_TYPE
    result_type = "application/json"
    error_type = "application/problem+json"
    pulse = unified.PULSE
    fields: Mapping[str, str] = {}

    def parse(self, body: bytes, headers: Mapping[str, str]) -> Call:
        """Parse a prompt body.

        Raises:
            InvalidRequest: names the field.
        """
        parsed = json_bodies.decode(body, _body)
        return Call(
            request=request_of(parsed, parsed.backend, parsed.session_id),
            stream=wants_stream(parsed.output_format, headers),
            dry_run=bool(parsed.dry_run),
            detach=bool(parsed.detach),
            respond_async=bool(parsed.detach) and prefers_async(headers),
            placement=placement(parsed),
        )

    def encoder(self, call: Call, facts: RunFacts) -> unified.UnifiedEncoder:
        """Return the encoder of one stream of unified events."""
        return unified.UnifiedEncoder(facts)

    def result(self, call: Call, result: RunResult, facts: RunFacts) -> bytes:
        """Return the answer for an ended run."""
        return _encoder.encode(prompt_answer(call.request, result, facts, facts.duration_s))

    def accepted(self, call: Call, facts: RunFacts) -> bytes:
        """Return the answer for a run that continues in the background, or has received the prompt."""
        return _encoder.encode(Accepted.of(facts))

    def error(self, error: ClinvkError, request_id: str) -> tuple[int, bytes]:
        """Return the problem document for a request that could not be run."""
        status = dialect.table_entry(type(error), STATUSES)
        problem = Problem(
            type=f"/docs#{error.code}",
            title=title(type(error)),
            status=status,
            detail=redacted(error.message),
            code=error.code,
            request_id=request_id,
            field=error.field,
            candidates=error.candidates if isinstance(error, AmbiguousId) else (),
        )
        return status, _encoder.encode(problem)


def title(kind: type[ClinvkError]) -> str:
    """Return the title of a kind of problem."""
    return kind.code.replace("_", " ").capitalize()


def prompt_answer(request: RunRequest, result: RunResult, facts: RunFacts, duration_s: float) -> PromptAnswer:
    """Return the answer to a prompt."""
    ending = result.ending
    failed = ending if isinstance(ending, RunFailed) else None
    return copy_as(  # an ending has the cost, and unless the run failed, the reason and the JSON of the answer
        PromptAnswer,
        ending,
        session_id=facts.session_id,
        backend=facts.backend,
        exit_code=result.exit_code,
        duration_ms=round(duration_s * 1000),
        output=result.text,
        token_usage=result.usage or Usage(),
        run_id=facts.run_id,
        fallback=facts.fallback,
        error=failed.message if failed else None,
        error_code=failed.code if failed else None,
        model=(result.started.model if result.started else None) or facts.model,
        stderr=result.stderr if request.verbose else None,
    )


def prefers_async(headers: Mapping[str, str]) -> bool:
    """Return whether the client asks not to wait for the run (RFC 7240)."""
    preferences = headers.get("prefer", "").lower().split(",")
    return any(preference.partition(";")[0].strip() == "respond-async" for preference in preferences)


def wants_stream(output_format: str | None, headers: Mapping[str, str]) -> bool:
    """Return whether the client wants a stream: the body decides, or the `accept` header if the body does not."""
    if output_format in (None, "", "default"):
        return unified.MEDIA_TYPE in headers.get("accept", "").lower()
    return output_format == "stream-json"
