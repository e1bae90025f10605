"""The server's end of the private socket: run the prompts of commands of the same user."""

import asyncio
import logging
import socket
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Protocol, Self

from clinvk.backends.base import Backend
from clinvk.config.model import Settings
from clinvk.remote import environment, messages
from clinvk.remote.connection import Connection
from clinvk.remote.messages import Begun, Greeting, Refused
from clinvk.remote.run_owner import RunOwner
from clinvk.remote.socket_path import SocketClaim, peer_pid
from clinvk.runtime.local import LocalRuns
from clinvk.runtime.process.process_scan import is_tagged
from clinvk.types.orchestration import Plan
from clinvk.types.run import RunFacts

logger = logging.getLogger(__name__)

_CHECK_INTERVAL_S = 2.0
"""How often a server checks whether the socket of the home is still its own, or has become free."""

_CLOSE_TIMEOUT_S = 2.0


class RunControl(Protocol):
    """What commands ask of a server besides a prompt."""

    async def start_plan(self, plan: Plan, original: Plan, environ: Mapping[str, str]) -> str:
        """Start a plan in the background, in the environment of the command; return the run id.

        `original` is the plan before admission.
        """
        ...

    def create_login(self) -> messages.LoginLink:
        """Create a login link for the web pages of this server."""
        ...

    async def call_rest(self, request: messages.RestRequest) -> messages.RestResponse:
        """Send a request to the REST API as the user of this machine."""
        ...


class SocketServer:
    """Accepts commands from `open` to `close`. Enter the context before the runs, to report the end of every run.

    The first of several servers of one home has the socket; after the first server exits, another takes the socket.
    """

    def __init__(
        self, home: Path, settings: Settings, environ: Mapping[str, str], registry: Mapping[str, Backend]
    ) -> None:
        self._claim = SocketClaim(home)
        self._settings = settings
        self._environ = environ
        self._registry = registry
        self._group = asyncio.TaskGroup()
        self._serving: asyncio.Task[None] | None = None
        self._clients: dict[asyncio.Task[None], ClientConnection] = {}

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Wait briefly until the last messages are sent, then disconnect all clients. All runs have ended."""
        self.close()
        if answering := [task for task, client in self._clients.items() if client.is_answering]:
            await asyncio.wait(answering, timeout=_CLOSE_TIMEOUT_S)
        for task in self._clients:
            task.cancel()
        await self._group.__aexit__(None, None, None)

    def open(self, runs: LocalRuns, control: RunControl) -> None:
        """Accept commands, now or once no other server has the socket, and run the prompts with `runs`."""
        mine = environment.environment_digests(self._settings, self._environ, self._registry)
        try:
            listener = self._claim.listen()
        except OSError as exc:
            logger.warning("commands do not go through this server: %s", exc)
            return
        if listener is None:
            logger.info("commands go through another server of this home, for as long as it is there")
        self._serving = self._group.create_task(self._serve(listener, runs, control, Greeting(mine)))

    def close(self) -> None:
        """Accept no more commands. Connected clients stay; the runs refuse further prompts."""
        if self._serving:
            self._serving.cancel()
        self._claim.leave()

    async def _serve(
        self, listener: socket.socket | None, runs: LocalRuns, control: RunControl, greeting: Greeting
    ) -> None:
        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            client = ClientConnection(runs, control, self._environ, reader, writer)
            task = self._group.create_task(client.serve(greeting))
            self._clients[task] = client
            task.add_done_callback(self._clients.pop)

        while True:
            if listener:
                server = await asyncio.start_unix_server(accept, sock=listener)
                try:
                    while self._claim.is_found():  # noqa: ASYNC110 - others may remove the file without notice
                        await asyncio.sleep(_CHECK_INTERVAL_S)
                finally:
                    server.close()
                self._claim.leave()
                listener = None
                logger.info("the socket for commands was removed")
            await asyncio.sleep(_CHECK_INTERVAL_S)
            with suppress(OSError):  # the home may be gone for a while
                listener = self._claim.listen()


class ClientConnection:
    """A connected command. Its runs end with the connection."""

    def __init__(
        self,
        runs: LocalRuns,
        control: RunControl,
        environ: Mapping[str, str],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self.is_answering = False
        self._connection = Connection(reader, writer)
        self._pid = peer_pid(writer.get_extra_info("socket"))
        self._runs = runs
        self._control = control
        self._environ = environ
        self._tasks = asyncio.TaskGroup()
        self._owner = RunOwner(self._connection.send, self._tasks)

    async def serve(self, greeting: Greeting) -> None:
        """Answer the command; stop its runs when the command disconnects."""
        try:
            if self._pid is not None:
                is_of_agent = is_tagged(self._pid)
                self._connection.send(Refused("it was started by an agent") if is_of_agent else greeting)
                async with self._tasks:
                    await self._receive_all(is_of_agent)
            await self._connection.drain()
        finally:
            self._connection.close()

    async def _receive_all(self, is_of_agent: bool) -> None:
        """Carry out the messages until the command disconnects. Those of an agent are only to release sessions."""
        while message := await self._connection.receive():
            match message:
                case messages.ReleaseSession(session_id=session_id):
                    await self._runs.release_session(session_id)
                    return
                case _ if is_of_agent:
                    return
                case messages.Read() | messages.Stop():
                    self._owner.take(message)
                case messages.BeginPrompt(detach=False):
                    self.is_answering = True
                    environ = self._environ_of(message)
                    open_run = partial(self._runs.run_of_user, message.request, environ, message.run_id)
                    steer = partial(self._runs.steer, message.request, is_of_user=True)
                    self._owner.begin(message.run_id, open_run, steer)
                case message if isinstance(message, messages.Request):
                    self.is_answering = True
                    self._tasks.create_task(self._owner.answer("", self._carry_out(message)))
                case _:
                    return
        self._owner.leave()

    async def _carry_out(self, request: messages.Request) -> messages.Message:
        """Carry out a request, and return the answer."""
        match request:
            case messages.BeginPrompt():
                if steered := await self._runs.steer(request.request, is_of_user=True):
                    return Begun(request.run_id, steered)
                run = await self._runs.start(request.request, self._environ_of(request), request.run_id)
                return Begun(run.id, run.facts)
            case messages.BeginPlan(plan=plan, original=original):
                run_id = await self._control.start_plan(plan, original, self._environ_of(request))
                return Begun("", RunFacts(run_id=run_id, backend=""))
            case messages.CreateLogin():
                return self._control.create_login()
            case messages.RestRequest():
                return await self._control.call_rest(request)

    def _environ_of(self, command: messages.BeginPrompt | messages.BeginPlan) -> dict[str, str]:
        return environment.merge_environment(self._environ, command.environ)
