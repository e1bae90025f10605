"""The command's end of the private socket: runs of the server of the home, and requests to it."""

import asyncio
import os
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from functools import partial

from msgspec.structs import replace

from clinvk.config.load import home
from clinvk.config.model import Settings
from clinvk.remote import environment, messages
from clinvk.remote.connection import Connection
from clinvk.remote.messages import Answer, BeginPlan, BeginPrompt, Begun, Greeting, Read, Refused
from clinvk.remote.remote_run import RemoteRun, attached
from clinvk.remote.socket_path import connected
from clinvk.types import errors
from clinvk.types.errors import ClinvkError, TimedOut
from clinvk.types.orchestration import Plan, all_requests
from clinvk.types.request import RunRequest
from clinvk.types.run import RunFacts

_GREETS_TIMEOUT_S = 1.0
"""A server that takes longer is overloaded or stopped; the command is faster without the server."""

_LATER_S = 8.0
"""How long beyond the time limit of a run a server may send nothing."""

_RELEASES_TIMEOUT_S = 5.0
"""How long a server may take to release a session; the command continues the conversation after that in any case."""

_CANCELS_TIMEOUT_S = 30.0
"""How long a server may take to stop a run; several agents in worktrees take longest."""

_NO_ANSWER = "the server does not answer"
_NO_WORKDIR = "the session has no working directory"
_SERVER_LOST = "the server that ran this is gone, and its agent with it; --no-server does without one"

_OK = 200

Warn = Callable[[str], None]


class ServerDeclined(Exception):
    """The server has not started the run; the message says why, and is empty if no server is up."""


class EnvironmentDiffers(ServerDeclined):
    """A run through the server would differ; the message names what differs."""


@asynccontextmanager
async def server_of(
    settings: Settings, environ: Mapping[str, str], *backends: str, sends_variables: bool = True
) -> AsyncGenerator[Connection]:
    """Connect to the server of the same user and home inside the context.

    `sends_variables` is whether a request will have the `own_variables` of the command.

    Raises:
        ServerDeclined: no server is up, or a run of a backend through the server would differ.
    """
    async with _connection(environ) as connection:
        greeting = await _greeting(connection)
        mine = environment.environment_digests(settings, environ, backends, sends_variables)
        if why := environment.environment_difference(mine, greeting.environment):
            raise EnvironmentDiffers(why)
        yield connection


@asynccontextmanager
async def run_through_server(
    request: RunRequest, settings: Settings, environ: Mapping[str, str], warn: Warn
) -> AsyncGenerator[RemoteRun]:
    """Run a prompt through the server of the same user and home. `warn` receives the server's warnings.

    Leaving the context stops the run and waits until its agent has exited.

    Raises:
        ServerDeclined: as `server_of`, or the session has no working directory.
        ClinvkError: the run is refused, or the server is gone.
    """
    async with server_of(settings, environ, *request.backends) as connection:
        if not request.workdir:
            raise ServerDeclined(_NO_WORKDIR)
        request = replace(request, warm=request.warm and settings.warm.enabled)
        async with run_over(connection, request, environment.own_variables(environ), warn) as run:
            yield run


async def start_on_server(
    work: RunRequest | tuple[Plan, Plan], settings: Settings, environ: Mapping[str, str]
) -> RunFacts:
    """Start a prompt, or a plan and the plan before its admission, in the background of the server of the home.

    Raises:
        ServerDeclined, ClinvkError: as `run_through_server`.
    """
    variables = environment.own_variables(environ)
    if isinstance(work, RunRequest):
        requests, command = [work], BeginPrompt(os.urandom(16).hex(), work, variables, detach=True)
    else:
        requests, command = all_requests(work[0]), BeginPlan(*work, variables)
    names = {backend for request in requests for backend in request.backends}
    async with server_of(settings, environ, *names) as connection:
        if not all(request.workdir for request in requests):
            raise ServerDeclined(_NO_WORKDIR)
        connection.send(command)
        message = await connection.receive()
    if not isinstance(message, Begun):
        raise _refusal(message)
    return message.facts


async def cancel_on_server(environ: Mapping[str, str], run_id: str) -> bool:
    """Cancel a run of the server of the home, and wait for its end. Return False if no server is up, or has the run.

    Raises:
        ClinvkError: the server does not answer.
    """
    request = messages.RestRequest("POST", f"/api/v1/runs/{run_id}/cancel", b"{}")
    try:
        async with _connection(environ) as connection, asyncio.timeout(_CANCELS_TIMEOUT_S):
            await _greeting(connection)
            connection.send(request)
            message = await connection.receive()
    except ServerDeclined:
        return False
    except TimeoutError as exc:
        raise ClinvkError(_NO_ANSWER) from exc
    return isinstance(message, messages.RestResponse) and message.status == _OK


async def call_rest_on_server(
    request: messages.RestRequest, settings: Settings, environ: Mapping[str, str], backends: Iterable[str]
) -> messages.RestResponse:
    """Send a request to the REST API of the server of the home.

    Raises:
        ServerDeclined: as `server_of`.
        ClinvkError: the server is gone.
    """
    async with server_of(settings, environ, *backends, sends_variables=False) as connection:
        connection.send(request)
        message = await connection.receive()
    if not isinstance(message, messages.RestResponse):
        raise _refusal(message)
    return message


async def create_login(environ: Mapping[str, str]) -> messages.LoginLink | None:
    """Return a new login link of the server of the home; None if no server answers, or it creates none."""
    with suppress(ServerDeclined, TimeoutError):
        async with _connection(environ) as connection, asyncio.timeout(_GREETS_TIMEOUT_S):
            await _greeting(connection)
            connection.send(messages.CreateLogin())
            message = await connection.receive()
            return message if isinstance(message, messages.LoginLink) else None
    return None


async def _greeting(connection: Connection) -> Greeting:
    try:
        greeting = await asyncio.wait_for(connection.receive(), _GREETS_TIMEOUT_S)
    except TimeoutError:
        greeting = None
    if not isinstance(greeting, Greeting):
        raise ServerDeclined(greeting.message if isinstance(greeting, Refused) else _NO_ANSWER)
    return greeting


def _refusal(message: messages.Message | None) -> ClinvkError:
    """Return the error for an answer without a run."""
    if isinstance(message, Refused):
        return errors.error_from_code(message.code, message.message, message.field)
    return ClinvkError(_SERVER_LOST)


async def release_session(environ: Mapping[str, str], session_id: str) -> None:
    """Make the server of the home release a session, so that another process can continue the conversation."""
    with suppress(ServerDeclined, TimeoutError):
        async with _connection(environ) as connection, asyncio.timeout(_RELEASES_TIMEOUT_S):
            connection.send(messages.ReleaseSession(session_id))
            while await connection.receive():  # the greeting
                pass


@asynccontextmanager
async def _connection(environ: Mapping[str, str]) -> AsyncGenerator[Connection]:
    """Connect to the server of the home inside the context."""
    sock = connected(home(environ))
    if sock is None:
        raise ServerDeclined("")
    connection = Connection(*await asyncio.open_unix_connection(sock=sock))
    try:
        yield connection
    finally:
        connection.close()


@asynccontextmanager
async def run_over(
    connection: Connection, request: RunRequest, variables: bytes, warn: Warn
) -> AsyncGenerator[RemoteRun]:
    """Run a prompt over a connection. Leaving the context stops the run, and waits until its agent has exited."""
    caller_end = _CallerEnd(connection, request, warn)
    run = caller_end.run
    connection.send(BeginPrompt(run.id, request, variables))
    receiving = asyncio.create_task(caller_end.receive())
    try:
        async with attached(run):
            yield run
    finally:
        receiving.cancel()
        caller_end.cancel_timer()
        for warning in run.facts.warnings:
            warn(warning)


class _CallerEnd:
    """Moves the messages about a run over a connection, and ends the run if the server does not answer in time."""

    def __init__(self, connection: Connection, request: RunRequest, warn: Warn) -> None:
        self.run = RemoteRun(os.urandom(16).hex(), request, self._send, warn)
        self._connection = connection
        self._limit_s = request.timeout_s
        self._timer: asyncio.TimerHandle | None = None

    async def receive(self) -> None:
        """Take the messages of the server until the agent has exited. The loss of the server ends the run."""
        run = self.run
        self._restart_timer()
        while not run.exited.is_set():
            message = await self._connection.receive()
            if isinstance(message, Answer):
                run.feed(message, self._connection.size)
            else:
                run.lose(ClinvkError(_SERVER_LOST))
            self._restart_timer()

    def _restart_timer(self) -> None:
        """End the run at the time by which a server that still answers would have sent something.

        There is no limit while a user answers, or while the reader of the events is behind: then the server waits.
        """
        self.cancel_timer()
        limit_s, run = self._limit_s, self.run
        if limit_s and not (run.log.ending or run.log.is_ahead or run.facts.state == "waiting"):
            overdue = TimedOut(f"{_NO_ANSWER}, and the {limit_s:g} s are over")
            lose = partial(run.lose, overdue, is_overdue=True)
            self._timer = asyncio.get_running_loop().call_later(limit_s + _LATER_S, lose)

    def cancel_timer(self) -> None:
        """Set no time limit for the next message."""
        if self._timer:
            self._timer.cancel()

    def _send(self, message: messages.Message) -> None:
        self._connection.send(message)
        if isinstance(message, Read):  # perhaps because a reader has caught up
            self._restart_timer()
