"""A connection over a Unix socket that carries messages: each is a frame of JSON behind its length in four bytes."""

import asyncio
from contextlib import suppress

import msgspec

from clinvk.remote import messages
from clinvk.remote.messages import Message

_LENGTH_BYTES = 4


class Connection:
    """One end of a connection. `size` is the size in bytes of the last frame that was received."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._length: int | None = None
        self.size = 0

    def send(self, message: Message) -> int:
        """Send a frame, and return its size in bytes. If the peer has disconnected, `receive` reports the end."""
        data = messages.encode(message)
        with suppress(ConnectionError, RuntimeError):  # uvloop raises RuntimeError for a closed connection
            self._writer.writelines((len(data).to_bytes(_LENGTH_BYTES, "big"), data))
        return len(data)

    async def drain(self) -> None:
        """Wait until the peer has nearly everything that was sent, or has disconnected."""
        with suppress(ConnectionError, RuntimeError):
            await self._writer.drain()

    async def receive(self) -> Message | None:
        """Wait for a frame; return None at the end, and for an invalid frame. A cancelled call loses no data."""
        try:
            if self._length is None:
                self._length = int.from_bytes(await self._reader.readexactly(_LENGTH_BYTES), "big")
            data = await self._reader.readexactly(self._length)
            self._length, self.size = None, len(data)
            return messages.decode(data)
        except (EOFError, ConnectionError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return None

    def close(self) -> None:
        """Close the connection."""
        self._writer.close()
