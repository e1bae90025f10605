"""The signatures of the messages of a cluster. Pure.

Each message is signed with the secret of the cluster, together with what the message belongs to.
"""

import hashlib
import hmac
from collections.abc import Iterator
from typing import TypeVar

import msgspec

from clinvk.cluster.announcements import Announcement, Change

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
