"""JSON-RPC 2.0 over lines (https://www.jsonrpc.org/specification), for channels with a long-lived agent process."""

from collections.abc import Iterable, Iterator
from itertools import count
from typing import Generic, TypeVar

import msgspec

from clinvk.backends.base import Channel, Delivery, ProtocolNotSupported
from clinvk.backends.shared import decode_line
from clinvk.types.events import Ending
from clinvk.types.record import Resume
from clinvk.types.request import RunRequest

Params = TypeVar("Params")
Result = TypeVar("Result")
Call = TypeVar("Call")
Run = TypeVar("Run")


class _Details(msgspec.Struct, frozen=True):
    details: str = ""


class Failure(msgspec.Struct, frozen=True):
    """The error of a request. For an internal error of the agent, only `data` describes the error."""

    code: int = 0
    message: str = ""
    data: msgspec.Raw = msgspec.Raw(b"null")

    @property
    def text(self) -> str:
        """The message with its details."""
        inner = decode_line(_DETAILS, bytes(self.data))
        return f"{self.message}: {inner.details}" if inner and inner.details else self.message


class _Head(msgspec.Struct, frozen=True):
    id: int | str | None = None
    method: str = ""


class Message(msgspec.Struct, Generic[Params, Result], frozen=True):
    """Any message: a response has `id`, a request has `id` and `method`, a notification only `method`."""

    id: int | str | None = None
    method: str = ""
    params: Params | None = None
    result: Result | None = None
    error: Failure | None = None


_DETAILS = msgspec.json.Decoder(_Details)
_HEADS = msgspec.json.Decoder(_Head)


class RpcChannel(Channel, Generic[Params, Result, Call, Run]):
    """The part of a channel that all JSON-RPC agents share: the initialization, request ids and open runs.

    The channel initializes the process before the first run. Requests wait for the response to `initialize`.
    """

    _has_version = True
    """Whether each message names the JSON-RPC version."""

    _ready = b""
    """The notification that follows the response to `initialize`."""

    def __init__(self, decoder: "msgspec.json.Decoder[Message[Params, Result]]", initialize: dict[str, object]) -> None:
        self._decoder = decoder
        self._initialize = initialize
        self._numbers = count()
        self._initialize_id: int | None = None
        self._speaks = False
        self._held: list[bytes] = []
        self._calls: dict[int, Call] = {}
        self._open: dict[str, Run] = {}

    def greet(self) -> bytes:
        """Return the request `initialize`."""
        self._initialize_id = next(self._numbers)
        return self._encode({"id": self._initialize_id, "method": "initialize", "params": self._initialize})

    def start(self, run: str, request: RunRequest, resume: Resume | None) -> bytes:
        """Start a run. Send `initialize` first if needed, and the run's request after the response."""
        first = self.greet() if self._initialize_id is None else b""
        message = self._begin(run, request, resume)
        if self._speaks:
            return message
        self._held.append(message)
        return first

    def receive(self, line: bytes) -> Iterable[Delivery]:
        """Parse one line of stdout.

        Raises:
            ProtocolNotSupported: the process refused `initialize`.
        """
        message = self._read(line)
        if message is None:
            return
        if message.method:
            yield from self._notified(message)
        elif message.id == self._initialize_id and not self._speaks:
            yield self._initialized(message)
        elif isinstance(message.id, int) and (call := self._calls.pop(message.id, None)) is not None:
            yield from self._answered(call, message)

    def closed(self, exit_code: int, stderr: bytes) -> Iterable[Delivery]:
        """Yield an ending for each run that is still open."""
        for run in [*self._open]:
            yield run, self._lost(self._open.pop(run), exit_code, stderr)

    def _begin(self, run: str, request: RunRequest, resume: Resume | None) -> bytes:
        """Add a run to the open runs, and return the first request of the run."""
        raise NotImplementedError

    def _notified(self, message: Message[Params, Result]) -> Iterator[Delivery]:
        """Handle a notification, or a request of the agent."""
        raise NotImplementedError

    def _answered(self, call: Call, message: Message[Params, Result]) -> Iterator[Delivery]:
        """Handle the response to the request that belongs to `call`."""
        raise NotImplementedError

    def _lost(self, run: Run, exit_code: int, stderr: bytes) -> Ending:
        """Return the ending of a run whose process has exited."""
        raise NotImplementedError

    def _read(self, line: bytes) -> Message[Params, Result] | None:
        """Parse a message. Return only `id` and `method` if the rest does not decode, so that no request waits."""
        if (message := decode_line(self._decoder, line)) is None and (head := decode_line(_HEADS, line)):
            message = Message[Params, Result](head.id, head.method)
        return message if message and (message.method or message.id is not None) else None

    def _initialized(self, message: Message[Params, Result]) -> bytes:
        if message.result is None:
            why = message.error.text if message.error else "its answer makes no sense"
            raise ProtocolNotSupported(f"it refused `initialize`: {why}")
        self._speaks = True
        held, self._held = self._held, []
        return self._ready + b"".join(held)

    def _ask(self, method: str, params: dict[str, object], call: Call | None = None, **fields: object) -> bytes:
        """Return a request with further `fields`; the response goes to `_answered` if the request is of a `call`."""
        number = next(self._numbers)
        if call is not None:
            self._calls[number] = call
        return self._encode({"id": number, "method": method, "params": params, **fields})

    def _answer(self, message: Message[Params, Result], result: dict[str, object] | None) -> bytes:
        """Answer a request of the agent. Refuse with `result` None, so that the agent does not wait."""
        if result is not None:
            return self._encode({"id": message.id, "result": result})
        error = {"code": -32601, "message": f"clinvk does not answer {message.method}"}
        return self._encode({"id": message.id, "error": error})

    def _encode(self, message: dict[str, object]) -> bytes:
        return msgspec.json.encode({"jsonrpc": "2.0", **message} if self._has_version else message) + b"\n"
