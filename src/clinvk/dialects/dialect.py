"""What a wire format looks like to clinvk: a body in, a `Call` out; events in, bytes out."""

from collections.abc import Callable, Mapping
from typing import Protocol, TypeVar, runtime_checkable

import msgspec

from clinvk.dialects.conversation import Conversation, Told
from clinvk.types import errors
from clinvk.types.errors import ClinvkError, InvalidRequest
from clinvk.types.events import Event
from clinvk.types.record import RunRecord
from clinvk.types.request import RunRequest
from clinvk.types.result import RunResult


class NoSuchPath(InvalidRequest):
    """Nothing is served under the path of the request."""

    code = "not_found"


class MethodNotAllowed(InvalidRequest):
    """The path is served, but not with this method."""

    code = "method_not_allowed"


class BodyTooLarge(InvalidRequest):
    """The body has more bytes than `server.max_request_body_bytes`."""

    code = "body_too_large"


class BodyTooSlow(InvalidRequest):
    """The body was not there within `server.read_timeout_secs`."""

    code = "body_too_slow"


class WrongMediaType(InvalidRequest):
    """The body does not say that it is JSON, as a form on a foreign web page would not."""

    code = "unsupported_media_type"


class KeyRefused(InvalidRequest):
    """API keys are asked for, and the request carries none of them."""

    code = "unauthorized"


class ForeignOrigin(InvalidRequest):
    """A web page of another origin made its browser send the request."""

    code = "foreign_origin"


class HostRefused(InvalidRequest):
    """The header `host` names another server: a web page may have given its own name this address."""

    code = "host_refused"


class DirectoryNotAllowed(InvalidRequest):
    """The settings, or the limits of the API key, keep agents out of the directory."""

    code = "directory_not_allowed"


class BackendNotAllowed(InvalidRequest):
    """The policy of the server, or the API key, allows other backends only."""

    code = "backend_not_allowed"


class BeyondPolicy(InvalidRequest):
    """The request asks for more than the policy of the server allows."""

    code = "beyond_policy"


class RateLimited(InvalidRequest):
    """The client has sent too many requests; try again after `retry_after_s`."""

    code = "rate_limited"

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class BudgetSpent(RateLimited):
    """The API key has used up its tokens or dollars of the day."""

    code = "budget_spent"


class NotCancellable(InvalidRequest):
    """The run has ended already, or goes on in another clinvk."""

    code = "run_not_cancellable"


class PreviousNotFound(InvalidRequest):
    """No run that can be gone on from has this id."""

    code = "previous_response_not_found"


STATUSES: Mapping[type[ClinvkError], int] = {
    ClinvkError: 500,
    InvalidRequest: 400,
    KeyRefused: 401,
    ForeignOrigin: 403,
    HostRefused: 403,
    DirectoryNotAllowed: 403,
    BackendNotAllowed: 403,
    BeyondPolicy: 403,
    NoSuchPath: 404,
    errors.BackendUnavailable: 404,
    errors.SessionNotFound: 404,
    errors.RunNotFound: 404,
    MethodNotAllowed: 405,
    BodyTooSlow: 408,
    errors.SessionBusy: 409,
    BodyTooLarge: 413,
    WrongMediaType: 415,
    RateLimited: 429,
    errors.ResourcesExhausted: 503,
    errors.QueueFull: 503,
    errors.ShuttingDown: 503,
    errors.StoreUnavailable: 503,
    errors.TimedOut: 504,
}
"""The HTTP status of each kind of error, to which each dialect adds its own; see `nearest`."""

_Word = TypeVar("_Word")


def nearest(kind: type[ClinvkError], table: Mapping[type[ClinvkError], _Word]) -> _Word:
    """Look a kind of error up: one that is not in a table is what its nearest ancestor is."""
    return next(table[known] for known in kind.__mro__ if known in table)


class Previous(msgspec.Struct, frozen=True):
    """A run that a request goes on from, named by its client in `field`.

    Attributes:
        conversation: what is said after it, for where it must be told again what was said before; without
            `instructions`.
        system: gives what the system said to a run that was told all of it, without such `instructions`.
        instructions: a text of the system that holds for this request alone, and stands before the others.
    """

    run_id: str
    field: str
    conversation: Conversation
    system: Callable[[RunRecord], str]
    instructions: str = ""


class Answered(msgspec.Struct, frozen=True, kw_only=True):
    """A chat in which something was said after the assistant's last turn.

    Attributes:
        digest: of the turns before that one, which it answers.
        answer: what that one said.
        latest: what came after it alone, for a session that has all the rest.
    """

    digest: str
    answer: str
    latest: Told


class Chat(msgspec.Struct, frozen=True, kw_only=True):
    """A conversation that its client keeps under a name of its own, and sends whole each time.

    Attributes:
        digest: of all its turns.
        answered: what a session must have to go on with it; None where it begins, or ends with an answer.
    """

    name: str
    digest: str
    answered: Answered | None = None


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """What a body asks: the run, and how it wants to be answered.

    A run with `detach` goes on without its client; with `respond_async` the client is not kept waiting for it either.

    Attributes:
        model: as the client sent it, where the answer tells it again.
        include_usage: a stream tells the tokens at its end.
        shows_work: what the agent does with its own tools shows as its thinking, which `request.thinking` asks for.
        ignored: fields of the body whose client should know that they have no effect, as far as the body tells.
        chat: the client's own conversation that this is of; None where it names none.
        previous: the run that it goes on from; None where it begins, or names a session.
        fails_in_stream: its client takes nothing but a stream, and asks again after a status that tells of a failure
            of the server whatever the headers say: a failure after which it must not is told in the stream.
    """

    request: RunRequest
    stream: bool = False
    dry_run: bool = False
    detach: bool = False
    respond_async: bool = False
    model: str = ""
    include_usage: bool = False
    shows_work: bool = False
    ignored: tuple[str, ...] = ()
    chat: Chat | None = None
    previous: Previous | None = None
    fails_in_stream: bool = False


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What a dialect needs of the run beside its events; handed in, since dialects have no clock and no ids.

    `created_at` and `started_at` are in seconds since the epoch: when it was asked for, and when its agent was started,
    if it was. `duration_s` is known for results only, `queue_position` while the run waits for a slot.
    """

    run_id: str
    backend: str
    session_id: str | None = None
    model: str | None = None
    workdir: str = ""
    created_at: float = 0.0
    started_at: float = 0.0
    duration_s: float = 0.0
    queue_position: int | None = None


class Encoder(Protocol):
    """Turns the events of one run into the bytes of one stream."""

    def feed(self, event: Event, at: float) -> bytes:
        """Give the bytes of one event that happened `at` seconds since the epoch; may be empty."""
        ...


class Dialect(Protocol):
    """A wire format, pure.

    `stream_type`, `result_type` and `error_type` are media types. `pulse` is what keeps a quiet stream
    alive: bytes that its readers skip, wherever they stand between two events. `fields` is what clients call a field of
    a `RunRequest`, where that is another name. `is_model_api` is said of a format that imitates a model's API: the
    model names the backend too, an agent that fails makes the request fail, and `encoder` and `result` know of no run
    that failed before it said anything.
    """

    is_model_api: bool
    stream_type: str
    result_type: str
    error_type: str
    pulse: bytes
    fields: Mapping[str, str]

    def parse(self, body: bytes, headers: Mapping[str, str]) -> Call:
        """Read a request body. The names of `headers` are in lower case.

        Raises:
            InvalidRequest: names the field.
        """
        ...

    def encoder(self, call: Call, facts: Facts) -> Encoder:
        """Make the encoder of one stream."""
        ...

    def result(self, call: Call, result: RunResult, facts: Facts) -> bytes:
        """Give the body of a run that has ended."""
        ...

    def error(self, error: ClinvkError, request_id: str) -> tuple[int, bytes]:
        """Give status and body of a request that could not be run."""
        ...


@runtime_checkable
class Deferring(Dialect, Protocol):
    """A wire format whose `Call` may have `respond_async`."""

    def accepted(self, call: Call, facts: Facts, state: str) -> bytes:
        """Give the body of a run that goes on behind the client's back; `state` is queued or running."""
        ...


@runtime_checkable
class Pulsing(Dialect, Protocol):
    """A wire format with clients that count only events as a sign of life: its streams have no other `pulse`."""

    def kept_alive(self, encoder: Encoder) -> bytes:
        """Give what its encoder keeps a quiet stream alive with; nothing else may come between it and the next."""
        ...


def renamed(error: ClinvkError, fields: Mapping[str, str]) -> ClinvkError:
    """Give an error about a field of a `RunRequest` the client's name of it, also where its message begins with it.

    What `Dialect.parse` raises has the client's names already, which may be those of other fields of the request.
    """
    match error:
        case InvalidRequest(field=str(field)) if field in fields:
            error.field = fields[field]
            if error.message.startswith(f"{field} "):
                error.message = error.field + error.message.removeprefix(field)
        case _:
            pass
    return error
