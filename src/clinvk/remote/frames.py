"""What a command and a server tell each other: frames of JSON, each after its length in four bytes.

The server greets. A command that finds the circumstances alike asks; it is told that its run has begun, all that
happens, and that nothing is left of it; or why there is no run. It may then ask again. One that is gone has stopped
its run. One that goes on with a conversation by itself has the server let go of it first.
"""

import asyncio
from typing import Generic, TypeVar

import msgspec

from clinvk.types.errors import ClinvkError
from clinvk.types.events import Logged
from clinvk.types.request import RunRequest

MOST_BYTES = 256 * 1024 * 1024
"""The longest frame: a larger request is no business of a server."""

_LENGTH_BYTES = 4


class Greeting(msgspec.Struct, frozen=True, tag="greeting"):
    """The circumstances of the server's runs, see `likeness`."""

    circumstances: dict[str, str]


class Ask(msgspec.Struct, frozen=True, tag="ask"):
    """Run this. `environ` are the variables that are the command's own."""

    request: RunRequest
    environ: dict[str, str]


class Stop(msgspec.Struct, frozen=True, tag="stop"):
    """End the run; said again, at once."""


class LetGo(msgspec.Struct, frozen=True, tag="let_go"):
    """The conversation of a session goes on elsewhere: no agent process shall hold it open."""

    session_id: str


class Gone(msgspec.Struct, frozen=True, tag="gone"):
    """None does."""


class Declined(msgspec.Struct, frozen=True, tag="declined"):
    """Nothing was begun, and the command had better run it itself."""

    why: str


class Refused(msgspec.Struct, frozen=True, tag="refused"):
    """Nothing was begun, since it cannot be run: the error that says so."""

    code: str
    message: str


class Begun(msgspec.Struct, frozen=True, tag="begun"):
    """The run has begun."""

    run_id: str
    session_id: str | None
    created_at: float


class Told(msgspec.Struct, frozen=True, tag="told"):
    """What happened, and what the run then knows of itself."""

    entries: list[Logged]
    started_at: float | None
    ended_at: float | None
    raw: bytes


class Remark(msgspec.Struct, frozen=True, tag="remark"):
    """What the server's log says of the keeping of the run."""

    message: str


class Over(msgspec.Struct, frozen=True, tag="over"):
    """Nothing is left of the run's agent."""


ToServer = Ask | Stop | LetGo
ToCommand = Greeting | Declined | Refused | Begun | Told | Remark | Over | Gone

Heard = TypeVar("Heard")


class TooLong(ClinvkError):
    """A frame would be longer than any may be."""


class Link(Generic[Heard]):
    """One end of a connection. The other end's silence is waited for, and so is its reading."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, heard: "msgspec.json.Decoder[Heard]"
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._heard = heard
        self._length: int | None = None

    async def say(self, message: ToServer | ToCommand) -> None:
        """Send a frame.

        Raises:
            TooLong: nothing was sent.
            ConnectionError: the other end is gone.
        """
        data = msgspec.json.encode(message)
        if len(data) > MOST_BYTES:
            raise TooLong(f"it takes {len(data):,} bytes, more than {MOST_BYTES:,}")
        try:
            self._writer.writelines((len(data).to_bytes(_LENGTH_BYTES, "big"), data))
        except RuntimeError as exc:  # what uvloop raises once the connection is closed
            raise ConnectionResetError(str(exc)) from exc
        await self._writer.drain()

    async def hear(self) -> Heard | None:
        """Wait for a frame; None is the end. Cancelled, it has taken nothing that the next call would miss.

        Raises:
            ConnectionError: the other end is gone, or is no clinvk of this kind.
        """
        try:
            if self._length is None:
                self._length = int.from_bytes(await self._reader.readexactly(_LENGTH_BYTES), "big")
                if self._length > MOST_BYTES:
                    raise ConnectionAbortedError(f"a frame of {self._length:,} bytes")
            data = await self._reader.readexactly(self._length)
        except asyncio.IncompleteReadError:
            return None
        self._length = None
        try:
            return self._heard.decode(data)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
            raise ConnectionAbortedError(f"a frame that is none: {exc}") from exc

    def close(self) -> None:
        """Let go of the connection."""
        self._writer.close()
