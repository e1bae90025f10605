"""What the processes of a cluster tell all others, and the signatures of all their messages. Pure.

Each message is signed with the secret of the cluster, together with what the message belongs to.
"""

import hashlib
import hmac
from collections.abc import Iterator
from typing import Literal, TypeVar

import msgspec

from clinvk.api.endpoints.inventory import BackendInfo

PROTOCOL = 3
"""The version of the messages. A gateway sends requests only to nodes with the same version.

Every version can read the announcements of the others, which only gain fields.
"""

CHUNK_BYTES = 512 * 1024
"""The maximum size of a payload."""

MESSAGE_BYTES = CHUNK_BYTES + 1024
"""The maximum size of a message with its payload: NATS allows 1 MB by default."""

_SIGNATURE_BYTES = 16

_T = TypeVar("_T")


class InvalidMessage(Exception):
    """A message without the signature of this cluster, or in another format."""


def chunks(data: bytes) -> Iterator[bytes]:
    """Split data into payloads; empty data is one empty payload."""
    if len(data) <= CHUNK_BYTES:
        yield data
        return
    yield from (data[start : start + CHUNK_BYTES] for start in range(0, len(data), CHUNK_BYTES))


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
_announcements = msgspec.msgpack.Decoder(Announcement)
_changes = msgspec.msgpack.Decoder(Change)


class Signer:
    """Signs messages with the secret of the cluster. A signature starts the message."""

    def __init__(self, secret: bytes) -> None:
        self._key = hashlib.sha256(secret).digest()

    def sign(self, message: msgspec.Struct) -> bytes:
        """Return an announcement or a change as signed bytes."""
        return self._signed(type(message).__name__, _encode(message))

    def announcement(self, data: bytes) -> Announcement:
        """Read an announcement. Raises `InvalidMessage`."""
        return _decode(_announcements, self._verified(Announcement.__name__, data))

    def change(self, data: bytes) -> Change:
        """Read a change. Raises `InvalidMessage`."""
        return _decode(_changes, self._verified(Change.__name__, data))

    def sign_piece(self, piece: bytes, subject: str) -> bytes:
        """Return a piece of a message between two processes as signed bytes; a copy is of no use at another subject."""
        return self._signed(subject, piece)

    def piece(self, data: bytes, subject: str) -> bytes:
        """Read a piece of a message between two processes. Raises `InvalidMessage`."""
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


def _decode(decoder: "msgspec.msgpack.Decoder[_T]", data: bytes) -> _T:
    try:
        return decoder.decode(data)
    except msgspec.DecodeError as exc:
        raise InvalidMessage(str(exc)) from exc
