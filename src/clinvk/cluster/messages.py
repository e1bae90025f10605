"""The messages between the processes of a cluster, and their signatures. Pure.

A request and its response form a *stream*. A frame of a stream is a kind, a number and a payload. The frames of a
response, from `HEAD` to `FAILED`, are numbered from 1, so that the gateway notices a lost frame. Each message is signed
with the secret of the cluster, together with what the message belongs to.
"""

import hashlib
import hmac
import struct
from collections.abc import Iterator
from enum import IntEnum
from typing import Literal, NamedTuple, TypeVar

import msgspec

from clinvk.api.endpoints.inventory import BackendInfo

PROTOCOL = 2
"""The version of the messages. A gateway sends requests only to nodes with the same version.

Every version can read the announcements of the others, which only gain fields.
"""

CHUNK_BYTES = 512 * 1024
"""The maximum size of a payload."""

MESSAGE_BYTES = CHUNK_BYTES + 1024
"""The maximum size of a message with its payload: NATS allows 1 MB by default."""

WINDOW_BYTES = 256 * 1024
"""How far a worker sends ahead of the client."""

_FRAME = struct.Struct(">BI")
_SIGNATURE_BYTES = 16

Headers = tuple[tuple[bytes, bytes], ...]

_T = TypeVar("_T")


class InvalidMessage(Exception):
    """A message without the signature of this cluster, or in another format."""


class Kind(IntEnum):
    """The kinds of frames: a gateway sends those up to `CANCEL`, a worker the others."""

    REQUEST = 1
    """A `RequestHead`."""
    BODY = 2
    """A part of the request's body, numbered from 1."""
    ACK = 3
    """The client has received the response up to this number."""
    RESUME = 4
    """The connection was interrupted: send again what comes after this number."""
    CANCEL = 5
    """The client has disconnected, or the gateway does not know the stream."""
    HEAD = 6
    """A `ResponseHead`."""
    DATA = 7
    """A part of the response's body."""
    END = 8
    """The last part of the response's body."""
    FAILED = 9
    """The response breaks off here."""
    LOST = 10
    """The worker does not know the stream."""
    PROBE = 11
    """The connection was interrupted: does the gateway know the stream?"""


class Frame(NamedTuple):
    """A frame of a stream. `number` is 0 for frames that are not numbered."""

    kind: Kind
    number: int
    payload: bytes = b""

    def encode(self) -> bytes:
        """Return the frame as bytes."""
        return _FRAME.pack(self.kind, self.number) + self.payload


def decode_frame(data: bytes) -> Frame:
    """Read a frame.

    Raises:
        InvalidMessage: the data is no frame.
    """
    try:
        kind, number = _FRAME.unpack_from(data)
        return Frame(Kind(kind), number, data[_FRAME.size :])
    except (struct.error, ValueError) as exc:
        raise InvalidMessage(str(exc)) from exc


def chunks(data: bytes) -> Iterator[bytes]:
    """Split data into payloads; empty data is one empty payload."""
    if len(data) <= CHUNK_BYTES:
        yield data
        return
    yield from (data[start : start + CHUNK_BYTES] for start in range(0, len(data), CHUNK_BYTES))


class RequestHead(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """A request as a gateway has accepted it.

    Attributes:
        protocol: `PROTOCOL` of the gateway.
        key_name: the name of the API key; empty without a key.
        client: the owner of the run in the queue.
        depth: the number of nested agents around the client.
        origin_named: whether the settings of the gateway name the origin of the web page; None without an origin.
    """

    protocol: int = PROTOCOL
    method: str
    path: str
    query: bytes = b""
    headers: Headers
    address: tuple[str, int] | None = None
    server: tuple[str, int | None] | None = None
    scheme: str = "http"
    key_name: str
    client: str
    depth: int
    origin_named: bool | None = None
    body_bytes: int


class ResponseHead(msgspec.Struct, frozen=True, array_like=True):
    """The status and the headers of a response; of a refusal also the code and the field of the error."""

    status: int
    headers: Headers
    error_code: str = ""
    error_field: str = ""


class Announcement(msgspec.Struct, frozen=True, kw_only=True):
    """What a process of a cluster announces every second.

    Attributes:
        process: the id of the process, new with each start.
        node: the name of a worker; empty for a gateway that runs no agents.
        started_at: when a worker started, by its clock. Of two with one name the newer stops.
        connections: how often the process has connected to the broker: a change means that messages may be lost.
        store: the store of the process, which all processes of a cluster must share.
        labels: what requests can ask for.
        max_runs: how many runs may be active at once.
        clients: of each client the number of held slots, and for how long a run has waited only because the client is
            at its limit, in seconds; minus infinity without such a run.
        state: `stopping` means that the process takes no new runs, `left` is its last announcement.
    """

    process: str
    protocol: int = PROTOCOL
    node: str = ""
    started_at: float = 0
    version: str = ""
    store: str = ""
    connections: int = 1
    labels: tuple[str, ...] = ()
    backends: tuple[BackendInfo, ...] = ()
    running: int = 0
    queued: int = 0
    max_runs: int = 0
    clients: dict[str, tuple[int, float]] = {}
    state: Literal["up", "stopping", "left"] = "up"


class Change(msgspec.Struct, frozen=True, array_like=True):
    """A change of a run or an interaction of a worker, for the viewers at all gateways.

    `data` is JSON, or empty if it would be too long: then the viewers read the lists again.
    """

    process: str
    kind: str
    data: bytes


_encode = msgspec.msgpack.Encoder().encode
_requests = msgspec.msgpack.Decoder(RequestHead)
_responses = msgspec.msgpack.Decoder(ResponseHead)
_announcements = msgspec.msgpack.Decoder(Announcement)
_changes = msgspec.msgpack.Decoder(Change)


def encode(message: msgspec.Struct) -> bytes:
    """Return a message as bytes, unsigned."""
    return _encode(message)


def decode_request(data: bytes) -> RequestHead:
    """Read the head of a request. Raises `InvalidMessage`."""
    return _decode(_requests, data)


def decode_response(data: bytes) -> ResponseHead:
    """Read the head of a response. Raises `InvalidMessage`."""
    return _decode(_responses, data)


class Signer:
    """Signs messages with the secret of the cluster. A signature starts the message.

    The signature of a frame covers the subjects of its gateway's stream and of its worker, so that a copy is of no use
    in another stream.
    """

    def __init__(self, secret: bytes) -> None:
        self._key = hashlib.sha256(secret).digest()

    def sign(self, message: msgspec.Struct) -> bytes:
        """Return an announcement or a change as signed bytes."""
        return self._signed(type(message).__name__, _encode(message))

    def sign_frame(self, frame: Frame, reply: str, worker: str) -> bytes:
        """Return a frame as signed bytes."""
        return self._signed(f"{reply} {worker}", frame.encode())

    def announcement(self, data: bytes) -> Announcement:
        """Read an announcement. Raises `InvalidMessage`."""
        return _decode(_announcements, self._verified(Announcement.__name__, data))

    def change(self, data: bytes) -> Change:
        """Read a change. Raises `InvalidMessage`."""
        return _decode(_changes, self._verified(Change.__name__, data))

    def frame(self, data: bytes, reply: str, worker: str) -> Frame:
        """Read a frame. Raises `InvalidMessage`."""
        return decode_frame(self._verified(f"{reply} {worker}", data))

    def sign_piece(self, piece: bytes, subject: str) -> bytes:
        """Return a piece of a message about runs as signed bytes."""
        return self._signed(subject, piece)

    def piece(self, data: bytes, subject: str) -> bytes:
        """Read a piece of a message about runs. Raises `InvalidMessage`."""
        return self._verified(subject, data)

    def sign_answer(self, process: str, subject: str, nonce: bytes) -> bytes:
        """Return the id of a process as the signed answer to a request, whose data is the nonce."""
        return self._signed(f"{subject} {nonce.hex()}", process.encode())

    def answer(self, data: bytes, subject: str, nonce: bytes) -> str:
        """Read an answer to a request. Raises `InvalidMessage`."""
        return self._verified(f"{subject} {nonce.hex()}", data).decode()

    def _signed(self, context: str, data: bytes) -> bytes:
        return self._signature(context, data) + data

    def _signature(self, context: str, data: bytes) -> bytes:
        mac = hashlib.blake2b(context.encode() + b"\0", key=self._key, digest_size=_SIGNATURE_BYTES)
        mac.update(data)
        return mac.digest()

    def _verified(self, context: str, data: bytes) -> bytes:
        signature, message = data[:_SIGNATURE_BYTES], data[_SIGNATURE_BYTES:]
        if not hmac.compare_digest(signature, self._signature(context, message)):
            raise InvalidMessage("the message was signed with another secret")
        return message


def call_subject(key_name: str, call: str) -> str:
    """Return the last part of the subject at which the worker with a parked call of a client tool answers."""
    return hashlib.sha256(f"{key_name}\n{call}".encode()).hexdigest()


def request_frames(head: RequestHead, body: bytes) -> Iterator[Frame]:
    """Yield the frames of a request."""
    yield Frame(Kind.REQUEST, 0, _encode(head))
    for number, chunk in enumerate(chunks(body) if body else (), 1):
        yield Frame(Kind.BODY, number, chunk)


def _decode(decoder: "msgspec.msgpack.Decoder[_T]", data: bytes) -> _T:
    try:
        return decoder.decode(data)
    except msgspec.DecodeError as exc:
        raise InvalidMessage(str(exc)) from exc
