"""Messages between a command and a server: frames of JSON, each behind its length in four bytes.

The server sends `Greeting`. A command whose environment matches sends `RunCommand`. The server answers with `Begun`,
`Events` and `Done`, or with `Refused`. A connection carries one run, which is stopped when the command disconnects. A
command that continues a conversation without the server sends `ReleaseSession` instead, and the server answers `Done`.
"""

import asyncio

import msgspec

from clinvk.types.events import Logged
from clinvk.types.request import RunRequest

MAX_BYTES = 256 * 1024 * 1024
"""The longest frame."""

_LENGTH_BYTES = 4


class Greeting(msgspec.Struct, frozen=True, tag="greeting"):
    """The digests of the environment in which the server runs agents; see `clinvk.remote.caller`.

    Commands of every version read this message: among the digests is that of the version.
    """

    environment: dict[str, str] = msgspec.field(name="circumstances")


class RunCommand(msgspec.Struct, frozen=True, tag="run"):
    """Run a prompt; `environ` has the command's variables, to add to the server's environment."""

    request: RunRequest
    environ: dict[str, str]


class Stop(msgspec.Struct, frozen=True, tag="stop"):
    """Stop the run; a second `Stop` kills its agent at once."""


class ReleaseSession(msgspec.Struct, frozen=True, tag="let_go"):
    """Make the agent process with the conversation of a session close the conversation; sent by every version."""

    session_id: str


class Refused(msgspec.Struct, frozen=True, tag="refused"):
    """No run was started. With an empty `code` the command should run the prompt itself."""

    message: str
    code: str = ""


class Begun(msgspec.Struct, frozen=True, tag="begun"):
    """The run was accepted."""

    run_id: str
    session_id: str | None
    created_at: float


class Events(msgspec.Struct, frozen=True, tag="events"):
    """New events of the run, and the state of the run."""

    entries: list[Logged]
    started_at: float | None
    ended_at: float | None
    raw: bytes


class Done(msgspec.Struct, frozen=True, tag="done"):
    """The agent of the run has exited, or the session was released; `warnings` name what could not be stored."""

    warnings: list[str] = []


Message = Greeting | RunCommand | Stop | ReleaseSession | Refused | Begun | Events | Done

_DECODER = msgspec.json.Decoder(Message)


class Connection:
    """One end of a connection. Both ends wait for a slow reader."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._length: int | None = None

    async def send(self, message: Message) -> None:
        """Send a frame.

        Raises:
            ConnectionError: the peer has disconnected.
        """
        data = msgspec.json.encode(message)
        try:
            self._writer.writelines((len(data).to_bytes(_LENGTH_BYTES, "big"), data))
        except RuntimeError as exc:  # uvloop raises this for a closed connection
            raise ConnectionResetError(str(exc)) from exc
        await self._writer.drain()

    async def receive(self) -> Message | None:
        """Wait for a frame; return None at the end. A cancelled call loses no data.

        Raises:
            ConnectionError: the peer has disconnected, or sent an invalid frame.
        """
        try:
            if self._length is None:
                self._length = int.from_bytes(await self._reader.readexactly(_LENGTH_BYTES), "big")
                if self._length > MAX_BYTES:
                    raise ConnectionAbortedError(f"a frame of {self._length:,} bytes")
            data = await self._reader.readexactly(self._length)
        except asyncio.IncompleteReadError:
            return None
        self._length = None
        try:
            return _DECODER.decode(data)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
            raise ConnectionAbortedError(f"an invalid frame: {exc}") from exc

    def close(self) -> None:
        """Close the connection."""
        self._writer.close()
