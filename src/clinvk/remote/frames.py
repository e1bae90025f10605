"""Messages between a command and a server: frames of JSON, each behind its length in four bytes.

The server sends `Greeting`. A command whose environment matches sends `RunCommand`. The server answers with `RunUpdate`
messages, or with `Refused`. A connection carries one run, which is stopped when the command disconnects. A command that
continues a conversation without the server sends `ReleaseSession` instead, and the server disconnects when it is done.
`RunCommand` with `detach` and `RunPlan` start runs that continue without the command. The server answers these and
`CancelRun` with one `RunStatus`, or with `Refused`. It answers `CreateLogin` with `LoginLink`,
`RestRequest` with `RestResponse`, and a prompt that has steered another run with `RunStatus`.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec

from clinvk.types.events import Logged
from clinvk.types.interaction import InteractionAnswer
from clinvk.types.orchestration import Plan
from clinvk.types.request import FailedAgent, RunRequest

if TYPE_CHECKING:
    from clinvk.runtime.runs import FollowedRun

_LENGTH_BYTES = 4


class Greeting(msgspec.Struct, frozen=True, tag="greeting"):
    """The digests of the environment in which the server runs agents, and their variables; see `clinvk.remote.caller`.

    Commands of every version read this message: among the digests is that of the version.
    """

    environment: dict[str, str]
    variables: list[str]


class RunCommand(msgspec.Struct, frozen=True, tag="run"):
    """Run a prompt; `environ` has the command's variables, to add to the server's environment."""

    request: RunRequest
    environ: dict[str, str]
    detach: bool = False


class RunPlan(msgspec.Struct, frozen=True, tag="run_plan"):
    """Run several agents in the background; `original` is the plan before admission. `environ` is as in a prompt."""

    plan: Plan
    original: Plan
    environ: dict[str, str]


class CancelRun(msgspec.Struct, frozen=True, tag="cancel"):
    """Cancel a run of the server with all parts; the answer follows the end of the run."""

    run_id: str


class CreateLogin(msgspec.Struct, frozen=True, tag="create_login"):
    """Create a login link for the web pages of the server."""


class RestRequest(msgspec.Struct, frozen=True, tag="rest_request"):
    """A request to the REST API, as the user of this machine; `path` includes the query.

    A request for a run of the server waits up to `wait_s` until the run has ended or asks something.
    """

    method: str
    path: str
    body: bytes = b""
    wait_s: float = 0


class RestResponse(msgspec.Struct, frozen=True, tag="rest_response"):
    """The response of the REST API."""

    status: int
    body: bytes


class LoginLink(msgspec.Struct, frozen=True, tag="login_link"):
    """The address of the server, and a token that logs in once; empty if the server requires no key."""

    host: str
    port: int
    token: str


class RunStatus(msgspec.Struct, frozen=True, tag="status"):
    """A run that was started, steered or cancelled, or waits.

    `queue_position` counts from 1; None if the run does not wait.
    """

    run_id: str
    session_id: str | None = None
    queue_position: int | None = None
    is_steered: bool = False


class Stop(msgspec.Struct, frozen=True, tag="stop"):
    """Stop the run; a second `Stop` kills its agent at once."""


class AnswerInteraction(msgspec.Struct, frozen=True, tag="answer_interaction"):
    """Answer an interaction of the run; the events of the run report the outcome."""

    id: str
    answer: InteractionAnswer


class ReleaseSession(msgspec.Struct, frozen=True, tag="release"):
    """Make the agent process with the conversation of a session close the conversation; sent by every version."""

    session_id: str


class Refused(msgspec.Struct, frozen=True, tag="refused"):
    """No run was started. With an empty `code` the command should run the prompt itself."""

    message: str
    code: str = ""


class RunUpdate(msgspec.Struct, frozen=True, kw_only=True, tag="update"):
    """The state of the run, and its new events. The first update, without events, says that the run was accepted.

    Attributes:
        backend: the agent that has the prompt, after those in `fell_back`.
        raw: the last line of the agent, once the run has ended.
        warnings: name what could not be stored.
        is_last: the agent of the run has exited.
    """

    run_id: str
    session_id: str | None
    created_at: float
    started_at: float | None
    ended_at: float | None
    raw: bytes
    backend: str
    model: str | None = None
    workdir: str = ""
    fell_back: tuple[FailedAgent, ...] = ()
    events: Sequence[Logged] = ()
    warnings: list[str] = []
    is_last: bool = False


def run_update(run: "FollowedRun", events: Sequence[Logged] = ()) -> RunUpdate:
    """Return the state of a run, with new events."""
    return RunUpdate(
        run_id=run.id,
        session_id=run.session_id,
        created_at=run.created_at,
        started_at=run.started_at,
        ended_at=run.ended_at,
        raw=run.raw if run.ended_at else b"",
        backend=run.request.backend,
        model=run.request.model,
        workdir=run.request.workdir or "",
        fell_back=run.request.fell_back,
        events=events,
    )


Request = RunCommand | RunPlan | CancelRun | CreateLogin | RestRequest
Response = Greeting | LoginLink | RestResponse | RunStatus | Refused | RunUpdate
Message = Request | Response | Stop | AnswerInteraction | ReleaseSession

_DECODER = msgspec.json.Decoder(Message)


class Connection:
    """One end of a connection. Both ends wait for a slow reader."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._length: int | None = None

    async def send(self, message: Message) -> None:
        """Send a frame. If the peer has disconnected, send nothing: `receive` reports the end."""
        data = msgspec.json.encode(message)
        with suppress(ConnectionError, RuntimeError):  # uvloop raises RuntimeError for a closed connection
            self._writer.writelines((len(data).to_bytes(_LENGTH_BYTES, "big"), data))
            await self._writer.drain()

    async def receive(self) -> Message | None:
        """Wait for a frame; return None at the end, and for an invalid frame. A cancelled call loses no data."""
        try:
            if self._length is None:
                self._length = int.from_bytes(await self._reader.readexactly(_LENGTH_BYTES), "big")
            data = await self._reader.readexactly(self._length)
            self._length = None
            return _DECODER.decode(data)
        except (EOFError, ConnectionError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return None

    def close(self) -> None:
        """Close the connection."""
        self._writer.close()
