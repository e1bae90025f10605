"""The command's end of the private socket: runs of a server that look like the command's own runs."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

from msgspec.structs import replace

from clinvk.config.load import home
from clinvk.config.model import Settings
from clinvk.remote import caller, frames
from clinvk.remote.socket_path import connected
from clinvk.runtime.process.waiting import finish_shielded
from clinvk.types import errors
from clinvk.types.errors import ClinvkError, Steered, TimedOut
from clinvk.types.events import Ending, InteractionRequested, InteractionResolved, Logged, RunFailed, RunFinished
from clinvk.types.interaction import InteractionAnswer
from clinvk.types.orchestration import Plan, all_requests
from clinvk.types.request import RunRequest

if TYPE_CHECKING:
    from clinvk.runtime.runs import FollowedRun

_GREETS_TIMEOUT_S = 1.0
"""A server that takes longer is overloaded or stopped; the command is faster without the server."""

_STOPS_TIMEOUT_S = 6.0
"""The longest that a server takes to stop a run: the grace of the agent, and the end of its child processes."""

_STOPS_AT_ONCE_TIMEOUT_S = 2.0

_LATER_S = 8.0
"""How long beyond the time limit of a run a server may send nothing."""

_EXITS_TIMEOUT_S = 15.0
"""How long the agent may take to exit after the ending of its run."""

_RELEASES_TIMEOUT_S = 5.0
"""How long a server may take to release a session; the command continues the conversation after that in any case."""

_CANCELS_TIMEOUT_S = 30.0
"""How long a server may take to stop a run; several agents in worktrees take longest."""

_SILENT = "the server does not answer"
_UNKNOWN = "the server does not tell whether its agent is gone"
_NO_DIRECTORY = "the session is one of no directory"
_LOST = "the server that ran this is gone, and its agent with it; --no-server does without one"

Say = Callable[[str], None]


class ServerDeclined(Exception):
    """The server has not started the run; the message says why, and is empty if no server is up."""


@asynccontextmanager
async def server_of(
    settings: Settings, environ: Mapping[str, str], *backends: str
) -> AsyncGenerator[frames.Connection]:
    """Connect to the server of the same user and home inside the context.

    Raises:
        ServerDeclined: no server is up, or a run of a backend through the server would differ.
    """
    async with _connection(environ) as connection:
        greeting = await _greeting(connection)
        mine = caller.caller_environment(settings, environ, greeting.variables, backends)
        if why := caller.environment_difference(mine, greeting.environment):
            raise ServerDeclined(why)
        yield connection


@asynccontextmanager
async def run_through_server(
    request: RunRequest, settings: Settings, environ: Mapping[str, str], say: Say
) -> AsyncGenerator["FollowedRun"]:
    """Run a prompt through the server of the same user and home. `say` receives the server's warnings.

    Leaving the context stops the run and waits until its agent has exited.

    Raises:
        ServerDeclined: as `server_of`, or the server has not started the run.
        ClinvkError: the run is refused, or the server is gone.
        Steered: as `LocalRuns.run`.
    """
    async with server_of(settings, environ, *request.backends) as connection:
        if not request.workdir:
            raise ServerDeclined(_NO_DIRECTORY)
        warm = request.warm and settings.warm.enabled
        command = frames.RunCommand(replace(request, warm=warm), caller.own_variables(environ))
        async with RemoteRun(connection, command, say) as run:
            yield run


async def start_on_server(
    work: RunRequest | tuple[Plan, Plan], settings: Settings, environ: Mapping[str, str]
) -> frames.RunStatus:
    """Start a prompt, or a plan and the plan before its admission, in the background of the server of the home.

    Raises:
        ServerDeclined, ClinvkError: as `run_through_server`.
    """
    variables = caller.own_variables(environ)
    if isinstance(work, RunRequest):
        requests, command = [work], frames.RunCommand(work, variables, detach=True)
    else:
        requests, command = all_requests(work[0]), frames.RunPlan(*work, variables)
    names = {backend for request in requests for backend in request.backends}
    async with server_of(settings, environ, *names) as connection:
        if not all(request.workdir for request in requests):
            raise ServerDeclined(_NO_DIRECTORY)
        return await _status(connection, command)


async def cancel_on_server(environ: Mapping[str, str], run_id: str) -> bool:
    """Cancel a run of the server of the home, and wait for its end. Return False if no server is up, or has the run.

    Raises:
        ClinvkError: the run cannot be cancelled, or the server does not answer.
    """
    try:
        async with _connection(environ) as connection, asyncio.timeout(_CANCELS_TIMEOUT_S):
            await _greeting(connection)
            await _status(connection, frames.CancelRun(run_id))
    except ServerDeclined:
        return False
    except TimeoutError as exc:
        raise ClinvkError(_SILENT) from exc
    return True


async def call_rest_on_server(
    request: frames.RestRequest, settings: Settings, environ: Mapping[str, str], backends: Iterable[str]
) -> frames.RestResponse:
    """Send a request to the REST API of the server of the home.

    Raises:
        ServerDeclined: as `server_of`.
        ClinvkError: the server is gone.
    """
    async with server_of(settings, environ, *backends) as connection:
        await connection.send(request)
        message = await connection.receive()
    if not isinstance(message, frames.RestResponse):
        raise _refusal(message)
    return message


async def create_login(environ: Mapping[str, str]) -> frames.LoginLink | None:
    """Return a new login link of the server of the home; None if no server answers, or it creates none."""
    with suppress(ServerDeclined, TimeoutError):
        async with _connection(environ) as connection, asyncio.timeout(_GREETS_TIMEOUT_S):
            await _greeting(connection)
            await connection.send(frames.CreateLogin())
            message = await connection.receive()
            return message if isinstance(message, frames.LoginLink) else None
    return None


async def _greeting(connection: frames.Connection) -> frames.Greeting:
    try:
        greeting = await asyncio.wait_for(connection.receive(), _GREETS_TIMEOUT_S)
    except TimeoutError:
        greeting = None
    if not isinstance(greeting, frames.Greeting):
        raise ServerDeclined(greeting.message if isinstance(greeting, frames.Refused) else _SILENT)
    return greeting


async def _status(connection: frames.Connection, request: frames.Request) -> frames.RunStatus:
    """Send a request, and return the server's answer."""
    await connection.send(request)
    message = await connection.receive()
    if not isinstance(message, frames.RunStatus):
        raise _refusal(message)
    return message


def _refusal(message: frames.Message | None) -> ServerDeclined | ClinvkError:
    """Return the error for an answer without a run."""
    match message:
        case frames.Refused(code=""):
            return ServerDeclined(message.message)
        case frames.Refused():
            return errors.refusal(message.code, message.message)
        case _:
            return ClinvkError(_LOST)


async def release_session(environ: Mapping[str, str], session_id: str) -> None:
    """Make the server of the home release a session, so that another process can continue the conversation."""
    with suppress(ServerDeclined, TimeoutError):
        async with _connection(environ) as connection, asyncio.timeout(_RELEASES_TIMEOUT_S):
            await connection.send(frames.ReleaseSession(session_id))
            while await connection.receive():  # the greeting
                pass


@asynccontextmanager
async def _connection(environ: Mapping[str, str]) -> AsyncGenerator[frames.Connection]:
    """Connect to the server of the home inside the context."""
    sock = connected(home(environ))
    if sock is None:
        raise ServerDeclined("")
    connection = frames.Connection(*await asyncio.open_unix_connection(sock=sock))
    try:
        yield connection
    finally:
        connection.close()


class RemoteRun:
    """The context of one run, and the command's view of the run."""

    id: str
    created_at: float
    session_id: str | None

    def __init__(self, connection: frames.Connection, command: frames.RunCommand, say: Say) -> None:
        self.request = command.request
        self.started_at: float | None = None
        self.ended_at: float | None = None
        self.raw = b""
        self.ending: Ending | None = None
        self._connection = connection
        self._command = command
        self._say = say
        self._number = 0
        self._unread: deque[Logged] = deque()
        self._awaited: set[str] = set()
        self._has_exited = False
        self._stop_timeout_s = _STOPS_TIMEOUT_S

    async def __aenter__(self) -> "FollowedRun":
        try:
            async with self._time_limit():
                await self._connection.send(self._command)
                message = await self._connection.receive()
        except TimeoutError as exc:
            await self._finish(_STOPS_AT_ONCE_TIMEOUT_S)
            raise TimedOut(self._overdue) from exc
        except asyncio.CancelledError:
            await self._finish(_STOPS_TIMEOUT_S)
            raise
        if isinstance(message, frames.RunStatus):
            raise Steered(message.run_id, message.session_id)
        if not isinstance(message, frames.RunUpdate):
            raise _refusal(message)
        self._update(message)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._finish(self._stop_timeout_s, stop=self._stop_timeout_s != _EXITS_TIMEOUT_S)

    async def follow(self, after: int = 0) -> AsyncIterator[Logged]:
        """Yield the events up to the ending; the loss of the server is an ending too."""
        while self._unread or self.ending is None:
            if not self._unread:
                await self._receive()
            elif (logged := self._unread.popleft()).number > after:
                yield logged

    async def resolve(self, reference: str, answer: InteractionAnswer) -> None:
        """Answer an interaction of this run; the events report the outcome."""
        await self._connection.send(frames.AnswerInteraction(reference, answer))

    async def _receive(self) -> None:
        """Wait for the next message."""
        try:
            async with self._time_limit():
                message = await self._connection.receive()
        except TimeoutError:
            self._fail(TimedOut.code, self._overdue)
            self._stop_timeout_s = _STOPS_AT_ONCE_TIMEOUT_S
            return
        if isinstance(message, frames.RunUpdate):
            self._update(message)
        else:
            self._has_exited = True
        if self._has_exited and not self.ending:
            self._fail(ClinvkError.code, _LOST)

    def _update(self, update: frames.RunUpdate) -> None:
        self.id, self.session_id, self.created_at = update.run_id, update.session_id, update.created_at
        self.started_at, self.ended_at, self.raw = update.started_at, update.ended_at, update.raw
        self.request = replace(self.request, backend=update.backend, fell_back=update.fell_back)
        self._has_exited = update.is_last
        self._add(update.events)
        for warning in update.warnings:
            self._say(warning)

    def _time_limit(self) -> asyncio.Timeout:
        """Return a context that raises TimeoutError when a server that still answers would have sent something."""
        limit_s = self.request.timeout_s
        is_limited = limit_s and not self.ending and not self._awaited
        return asyncio.timeout(limit_s + _LATER_S if limit_s and is_limited else None)

    @property
    def _overdue(self) -> str:
        return f"{_SILENT}, and the {self.request.timeout_s:g} s are over"

    def _fail(self, code: str, message: str) -> None:
        self.ended_at = time.time()
        self._add([Logged(self._number + 1, self.ended_at, RunFailed(code, message))])

    def _add(self, events: Sequence[Logged]) -> None:
        self._unread += events
        for number, _, event in events:
            self._number = number
            match event:
                case InteractionRequested(interaction):
                    self._awaited.add(interaction.id)
                case InteractionResolved(interaction):
                    self._awaited.discard(interaction.id)
                case RunFinished() | RunFailed():
                    self.ending, self._stop_timeout_s = event, _EXITS_TIMEOUT_S
                case _:
                    pass

    async def _finish(self, timeout_s: float, stop: bool = True) -> None:
        """Wait until the agent has exited; its last events can be followed afterwards. Stop the run first if asked.

        A cancelled wait stops the run at once.
        """
        try:
            async with asyncio.timeout(timeout_s):
                if stop:
                    await self._connection.send(frames.Stop())  # `send` also waits for the server to read
                while not self._has_exited:
                    await self._receive()
        except TimeoutError:
            self._say(_UNKNOWN)
        except asyncio.CancelledError:
            await finish_shielded(self._finish(_STOPS_AT_ONCE_TIMEOUT_S))
            raise
