"""The command's end of the private socket: runs of a server that look like the command's own runs."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import TYPE_CHECKING

from msgspec.structs import replace

from clinvk.config.load import home
from clinvk.config.model import Settings
from clinvk.remote import caller, frames
from clinvk.remote.socket_path import connected
from clinvk.runtime.process.waiting import finish_shielded
from clinvk.types import errors
from clinvk.types.errors import ClinvkError, TimedOut
from clinvk.types.events import Ending, Logged, RunFailed, RunFinished
from clinvk.types.request import RunRequest

if TYPE_CHECKING:
    from clinvk.runtime.runs import FollowedRun

_GREETS_TIMEOUT_S = 1.0
"""A server that takes longer is overloaded or stopped; the command is faster without the server."""

_STOPS_TIMEOUT_S = 6.0
"""The longest that a server takes to stop a run: the grace of the agent, and the end of its child processes."""

_STOPS_AT_ONCE_TIMEOUT_S = 2.0

_LATER_S = 8.0
"""How long after the time limit of a run its ending may arrive."""

_QUIET_S = 4.0
"""How long nothing may arrive after that: events that waited for a slow reader arrive late."""

_EXITS_TIMEOUT_S = 15.0
"""How long the agent may take to exit after the ending of its run."""

_RELEASES_TIMEOUT_S = 5.0
"""How long a server may take to release a session; the command continues the conversation after that in any case."""

_SILENT = "the server does not answer"
_UNKNOWN = "the server does not tell whether its agent is gone"
_LOST = "the server that ran this is gone, and its agent with it; --no-server does without one"

Say = Callable[[str], None]


class ServerDeclined(Exception):
    """The server has not started the run; the message says why, and is empty if no server is up."""


@asynccontextmanager
async def server_of(
    settings: Settings, environ: Mapping[str, str], backend: str, say: Say
) -> AsyncGenerator["RemoteRuns"]:
    """Connect to the server of the same user and home inside the context. `say` receives the server's warnings.

    Raises:
        ServerDeclined: no server is up, or a run through the server would differ.
    """
    async with _connection(environ) as (connection, greeting):
        if not isinstance(greeting, frames.Greeting):
            raise ServerDeclined(greeting.message if isinstance(greeting, frames.Refused) else _SILENT)
        mine = caller.caller_environment(settings, environ, (backend,))
        if why := caller.environment_difference(mine, greeting.environment):
            raise ServerDeclined(why)
        yield RemoteRuns(connection, caller.own_variables(environ), settings.warm.enabled, say)


async def release_session(environ: Mapping[str, str], session_id: str) -> None:
    """Make the server of the home release a session, so that another process can continue the conversation."""
    with suppress(ServerDeclined, TimeoutError, ConnectionError):
        async with _connection(environ) as (connection, _), asyncio.timeout(_RELEASES_TIMEOUT_S):
            await connection.send(frames.ReleaseSession(session_id))
            await connection.receive()


@asynccontextmanager
async def _connection(environ: Mapping[str, str]) -> AsyncGenerator[tuple[frames.Connection, frames.Message | None]]:
    """Connect to the server of the home. Yield the connection and the server's first message."""
    sock = connected(home(environ))
    if sock is None:
        raise ServerDeclined("")
    connection = frames.Connection(*await asyncio.open_unix_connection(sock=sock))
    try:
        try:
            async with asyncio.timeout(_GREETS_TIMEOUT_S):
                message = await connection.receive()
        except (TimeoutError, ConnectionError) as exc:
            raise ServerDeclined(_SILENT) from exc
        yield connection, message
    finally:
        connection.close()


class RemoteRuns:
    """A `Runner` using the agents of a server, one run at a time."""

    def __init__(self, connection: frames.Connection, environ: dict[str, str], warm: bool, say: Say) -> None:
        self._connection = connection
        self._environ = environ
        self._warm = warm
        self._say = say

    def run(self, request: RunRequest) -> AbstractAsyncContextManager["FollowedRun"]:
        """Run a prompt. Leaving the context stops the run and waits until its agent has exited.

        Raises:
            ServerDeclined: the server has not started the run.
            ClinvkError: the run is refused, or the server is gone.
        """
        command = frames.RunCommand(replace(request, warm=request.warm and self._warm), self._environ)
        return _RemoteRun(self._connection, request, command, self._say)


class _RemoteRun:
    """The context of one run, and the command's view of the run."""

    id: str
    created_at: float
    session_id: str | None

    def __init__(
        self, connection: frames.Connection, request: RunRequest, command: frames.RunCommand, say: Say
    ) -> None:
        self.request = request
        self.started_at: float | None = None
        self.ended_at: float | None = None
        self.raw = b""
        self.ending: Ending | None = None
        self._connection = connection
        self._command = command
        self._say = say
        self._number = 0
        self._unread: deque[Logged] = deque()
        self._is_done = False
        self._is_overdue = False
        self._restart_time_limit()

    async def __aenter__(self) -> "FollowedRun":
        if not self.request.workdir:
            raise ServerDeclined("the session is one of no directory")
        try:
            async with self._time_limit():
                await self._connection.send(self._command)
                message = await self._connection.receive()
        except frames.TooLong as exc:
            raise ServerDeclined(exc.message) from exc
        except ConnectionError:
            message = None
        except TimeoutError as exc:
            await self._finish(_STOPS_AT_ONCE_TIMEOUT_S)
            raise TimedOut(self._overdue) from exc
        except asyncio.CancelledError:
            await self._finish(_STOPS_TIMEOUT_S)
            raise
        match message:
            case frames.Begun():
                self.id, self.session_id, self.created_at = message.run_id, message.session_id, message.created_at
                return self
            case frames.Refused(code=""):
                raise ServerDeclined(message.message)
            case frames.Refused():
                raise errors.refusal(message.code, message.message)
            case _:
                raise ClinvkError(_LOST)

    async def __aexit__(self, *_: object) -> None:
        if self.ending and not self._is_overdue:
            await self._finish(_EXITS_TIMEOUT_S, stop=False)
        else:
            await self._finish(_STOPS_AT_ONCE_TIMEOUT_S if self._is_overdue else _STOPS_TIMEOUT_S)

    async def follow(self, after: int = 0) -> AsyncIterator[Logged]:
        """Yield the events up to the ending; the loss of the server is an ending too."""
        while self._unread or self.ending is None:
            if not self._unread:
                await self._receive()
            elif (logged := self._unread.popleft()).number > after:
                yield logged

    async def _receive(self) -> None:
        """Wait for the next message."""
        try:
            async with self._time_limit():
                message: frames.Message | None = await self._connection.receive()
        except ConnectionError:
            message = None
        except TimeoutError:
            self._is_overdue = True
            self._fail(TimedOut.code, self._overdue)
            return
        match message:
            case frames.Begun():  # the command was cancelled earlier
                return
            case frames.Events():
                if self.started_at is None and message.started_at:
                    self._restart_time_limit()
                self.started_at, self.ended_at, self.raw = message.started_at, message.ended_at, message.raw
                self._add(message.entries)
                return
            case frames.Done():
                for warning in message.warnings:
                    self._say(warning)
            case _:
                pass
        self._is_done = True
        if not self.ending:
            self._fail(ClinvkError.code, _LOST)

    def _restart_time_limit(self) -> None:
        limit_s = self.request.timeout_s
        self._until = time.monotonic() + limit_s + _LATER_S if limit_s else None

    def _time_limit(self) -> asyncio.Timeout:
        """Return a context that raises TimeoutError when the run should have ended long ago."""
        if self._until is None or self.ending:
            return asyncio.timeout(None)
        return asyncio.timeout(max(self._until - time.monotonic(), _QUIET_S))

    @property
    def _overdue(self) -> str:
        return f"{_SILENT}, and the {self.request.timeout_s:g} s are over"

    def _fail(self, code: str, message: str) -> None:
        self.ended_at = time.time()
        self._add([Logged(self._number + 1, self.ended_at, RunFailed(code, message))])

    def _add(self, entries: list[Logged]) -> None:
        self._unread += entries
        for number, _, event in entries:
            self._number = number
            if isinstance(event, RunFinished | RunFailed):
                self.ending = event

    async def _finish(self, within_s: float, stop: bool = True) -> None:
        """Wait until the agent has exited; its last events can be followed afterwards. Stop the run first if asked.

        A cancelled wait stops the run at once.
        """
        self._until = None
        try:
            async with asyncio.timeout(within_s):
                if stop:
                    await self._connection.send(frames.Stop())  # `send` also waits for the server to read
                while not self._is_done:
                    await self._receive()
        except ConnectionError:
            return
        except TimeoutError:
            self._say(_UNKNOWN)
        except asyncio.CancelledError:
            await finish_shielded(self._finish(_STOPS_AT_ONCE_TIMEOUT_S))
            raise
