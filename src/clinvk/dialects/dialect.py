"""The interface of a wire format: a body in, a `Call` out; events in, bytes out."""

from collections.abc import Collection, Mapping
from typing import Any, Literal, Protocol, TypeVar, runtime_checkable

import msgspec

from clinvk.dialects.conversation import AgentPrompt, Conversation, ToolTurn
from clinvk.types import errors
from clinvk.types.errors import ClinvkError, InvalidRequest
from clinvk.types.events import Event, RunResult
from clinvk.types.request import Placement, RunRequest
from clinvk.types.run import RunFacts

STATUSES: Mapping[type[ClinvkError], int] = {
    errors.ClinvkError: 500,
    errors.InvalidRequest: 400,
    errors.KeyRefused: 401,
    errors.ForeignOrigin: 403,
    errors.HostRefused: 403,
    errors.DirectoryNotAllowed: 403,
    errors.BackendNotAllowed: 403,
    errors.BeyondPolicy: 403,
    errors.AgentCannotAnswer: 403,
    errors.NoSuchPath: 404,
    errors.BackendUnavailable: 404,
    errors.SessionNotFound: 404,
    errors.RunNotFound: 404,
    errors.InteractionNotFound: 404,
    errors.WorktreeNotFound: 404,
    errors.MethodNotAllowed: 405,
    errors.BodyTooSlow: 408,
    errors.SessionBusy: 409,
    errors.BodyTooLarge: 413,
    errors.WrongMediaType: 415,
    errors.RateLimited: 429,
    errors.ResourcesExhausted: 503,
    errors.QueueFull: 503,
    errors.ShuttingDown: 503,
    errors.NodeUnavailable: 503,
    errors.StoreUnavailable: 503,
    errors.TimedOut: 504,
}
"""The HTTP status of each kind of error. Each dialect adds statuses; `table_entry` looks up a kind."""

_Value = TypeVar("_Value")
_Struct = TypeVar("_Struct", bound=msgspec.Struct)


def table_entry(kind: type[ClinvkError], table: Mapping[type[ClinvkError], _Value]) -> _Value:
    """Return the table entry of a kind of error, or of its nearest ancestor in the table."""
    return next(table[known] for known in kind.__mro__ if known in table)


class Previous(msgspec.Struct, frozen=True):
    """The previous run that a request continues. The client names the run in `field`.

    Attributes:
        conversation: the turns after the previous run, without `instructions`; used if an agent must receive the
            earlier turns again.
        instructions: a system text for this request alone; precedes the other system texts.
    """

    run_id: str
    field: str
    conversation: Conversation
    instructions: str = ""


class AnsweredChat(msgspec.Struct, frozen=True, kw_only=True):
    """The assistant's last turn in a chat, and the turns around it.

    Attributes:
        digest: the digest of the earlier turns.
        answer: the text of the assistant's last turn.
        latest: only the later turns, for a session that has all the others.
    """

    digest: str
    answer: str
    latest: AgentPrompt


class Chat(msgspec.Struct, frozen=True, kw_only=True):
    """A conversation that the client names and sends in full with each request.

    Attributes:
        digest: the digest of all turns.
        answered: the turns that a session must contain to continue the chat; None if the chat has no answer yet, or
            ends with an answer.
    """

    name: str
    digest: str
    answered: AnsweredChat | None = None


ToolsMode = Literal["client", "agent", "both"]
"""Whose tools the model may call: the client's, the agent's own, or both."""

TOOLS_MODES: tuple[ToolsMode, ...] = ("client", "agent", "both")


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """A parsed body: the run, and the form of the answer.

    A run with `detach` continues when the client disconnects; with `respond_async` the client does not even wait.

    Attributes:
        model: the model as the client sent it, to repeat in the answer.
        include_usage: a stream ends with the token usage.
        echo: the beginning of the answer.
        shows_work: the agent's tool calls appear as thinking, which `request.thinking` asks for.
        tools_mode: whose tools the model may call; None leaves the choice to `server.client_tools`.
        has_tools: the body has tools of the client, even if the model must call none.
        tool_turn: set if the request has tools of the client.
        ignored: fields of the body without effect that the client should know about, as far as the body shows.
        chat: the client's conversation; None if the client names no conversation.
        previous: the run to continue; None if the conversation starts here, or the request names a session.
        placement: what the body asks of the node, without the headers.
        fails_in_stream: the client accepts only a stream and retries after a server error status, whatever the headers
            say; a failure that must not be retried is reported in the stream.
    """

    request: RunRequest
    stream: bool = False
    dry_run: bool = False
    detach: bool = False
    respond_async: bool = False
    model: str = ""
    include_usage: bool = False
    echo: str = ""
    shows_work: bool = False
    tools_mode: ToolsMode | None = None
    has_tools: bool = False
    tool_turn: ToolTurn | None = None
    ignored: tuple[str, ...] = ()
    chat: Chat | None = None
    previous: Previous | None = None
    placement: Placement = Placement()
    fails_in_stream: bool = False


class Encoder(Protocol):
    """Encodes the events of one run as the bytes of one stream."""

    def feed(self, event: Event, at: float) -> bytes:
        """Return the bytes of one event, which happened `at` seconds since the epoch; may be empty."""
        ...


class Dialect(Protocol):
    """A wire format, pure.

    `stream_type`, `result_type` and `error_type` are media types. `pulse` keeps an idle stream alive: bytes for readers
    to skip between any two events. `fields` maps fields of a `RunRequest` to the client's names, where names differ.
    `is_model_api` marks a format that imitates a model's API: the model names the backend too, a failed agent makes the
    request fail, and `encoder` and `result` never see a run that failed before any output.
    """

    is_model_api: bool
    stream_type: str
    result_type: str
    error_type: str
    pulse: bytes
    fields: Mapping[str, str]

    def parse(self, body: bytes, headers: Mapping[str, str]) -> Call:
        """Parse a request body. The names of `headers` are in lower case.

        Raises:
            InvalidRequest: names the field.
        """
        ...

    def encoder(self, call: Call, facts: RunFacts) -> Encoder:
        """Return the encoder of one stream."""
        ...

    def result(self, call: Call, result: RunResult, facts: RunFacts) -> bytes:
        """Return the body for an ended run."""
        ...

    def error(self, error: ClinvkError, request_id: str) -> tuple[int, bytes]:
        """Return status and body for a request that could not be run."""
        ...


@runtime_checkable
class SupportsAsync(Dialect, Protocol):
    """A wire format whose `Call` may have `respond_async`."""

    def accepted(self, call: Call, facts: RunFacts) -> bytes:
        """Return the body for a run that continues in the background, or has received the prompt."""
        ...


@runtime_checkable
class SupportsPath(Dialect, Protocol):
    """A wire format whose requests have a part of the body in the path or the query."""

    def of_path(self, path_params: Mapping[str, str], query: bytes) -> Dialect:
        """Return the dialect of one request; `path_params` are the values in the path, by name.

        Raises:
            InvalidRequest: names the parameter.
        """
        ...


@runtime_checkable
class SupportsKeepAlive(Dialect, Protocol):
    """A wire format for clients that accept only events as a sign of life; the streams use no other `pulse`."""

    def kept_alive(self, encoder: Encoder) -> bytes:
        """Return the encoder's bytes that keep an idle stream alive; send them before the encoder's next output."""
        ...


def copy_as(kind: type[_Struct], source: msgspec.Struct, skip: Collection[object] = (), **changed: Any) -> _Struct:
    """Return a struct of another kind with the fields that both kinds have, except values in `skip`, and `changed`."""
    names = (name for name in kind.__struct_fields__ if name not in changed and hasattr(source, name))
    same = {name: value for name in names if (value := getattr(source, name)) not in skip}
    return kind(**same, **changed)


def renamed(error: ClinvkError, fields: Mapping[str, str]) -> ClinvkError:
    """Replace the name of a `RunRequest` field in an error, and at the start of its message, by the client's name.

    Errors from `Dialect.parse` have the client's names already, which may equal names of other request fields.
    """
    field = error.field
    if isinstance(error, InvalidRequest) and field and field in fields:
        error.field = fields[field]
        if error.message.startswith(f"{field} "):
            error.message = error.field + error.message.removeprefix(field)
    return error
