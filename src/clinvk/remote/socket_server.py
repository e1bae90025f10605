"""The server's end of the private socket: run the prompts of commands of the same user."""

import asyncio
import logging
import socket
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Protocol, Self

from msgspec.structs import replace

from clinvk.backends.base import Backend
from clinvk.config.model import Settings
from clinvk.remote import caller, frames
from clinvk.remote.socket_path import SocketClaim, peer_pid
from clinvk.runtime.local import LocalRuns
from clinvk.runtime.process.process_scan import is_tagged
from clinvk.runtime.process.waiting import in_background
from clinvk.types.errors import ClinvkError, QueueFull, ShuttingDown, Steered
from clinvk.types.orchestration import Plan

logger = logging.getLogger(__name__)

_CHECK_INTERVAL_S = 2.0
"""How often a server checks whether the socket of the home is still its own, or has become free."""

_CLOSE_TIMEOUT_S = 2.0


class RunControl(Protocol):
    """What commands ask of a server besides a prompt."""

    async def cancel(self, run_id: str) -> bool:
        """Cancel a run of this server with all parts, and wait for its end; return False if it is not live here."""
        ...

    async def start_plan(self, plan: Plan, original: Plan, environ: Mapping[str, str]) -> str:
        """Start a plan in the background, in the environment of the command; return the run id.

        `original` is the plan before admission.
        """
        ...

    def create_login(self) -> frames.LoginLink:
        """Create a login link for the web pages of this server."""
        ...

    async def call_rest(self, request: frames.RestRequest) -> frames.RestResponse:
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
        self._clients: dict[asyncio.Task[None], _ClientConnection] = {}

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
        variables = caller.decisive_variables(self._registry)
        mine = caller.caller_environment(self._settings, self._environ, variables, self._registry)
        try:
            listener = self._claim.listen()
        except OSError as exc:
            logger.warning("commands do not go through this server: %s", exc)
            return
        if listener is None:
            logger.info("commands go through another server of this home, for as long as it is there")
        serving = self._serve(listener, runs, control, frames.Greeting(mine, variables))
        self._serving = self._group.create_task(serving)

    def close(self) -> None:
        """Accept no more commands. Connected clients stay; the runs refuse further prompts."""
        if self._serving:
            self._serving.cancel()
        self._claim.leave()

    async def _serve(
        self, listener: socket.socket | None, runs: LocalRuns, control: RunControl, greeting: frames.Greeting
    ) -> None:
        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            client = _ClientConnection(runs, control, self._environ, reader, writer)
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


class _ClientConnection:
    """A connected command."""

    def __init__(
        self,
        runs: LocalRuns,
        control: RunControl,
        environ: Mapping[str, str],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self.is_answering = False
        self._connection = frames.Connection(reader, writer)
        self._pid = peer_pid(writer.get_extra_info("socket"))
        self._runs = runs
        self._control = control
        self._environ = environ

    async def serve(self, greeting: frames.Greeting) -> None:
        """Answer the command; stop the run when the command disconnects."""
        try:
            if self._pid is not None:
                await self._converse(greeting, is_tagged(self._pid))
        except Exception:
            logger.exception("a command failed inside clinvk")
            failed = "clinvk itself failed; the server's log has the details"
            await self._connection.send(frames.Refused(failed, ClinvkError.code))
        finally:
            self._connection.close()

    async def _converse(self, greeting: frames.Greeting, is_of_agent: bool) -> None:
        await self._connection.send(frames.Refused("it was started by an agent") if is_of_agent else greeting)
        match await self._connection.receive():
            case frames.ReleaseSession(session_id=session_id):
                await self._runs.release_session(session_id)
            case message if isinstance(message, frames.Request) and not is_of_agent:
                self.is_answering = True
                await self._answer(message)
            case _:
                pass

    async def _answer(self, request: frames.Request) -> None:
        """Carry out a request, and send the last message."""
        try:
            message = await self._carry_out(request)
        except Steered as exc:
            message = frames.RunStatus(exc.run_id, exc.session_id, is_steered=True)
        except (QueueFull, ShuttingDown) as exc:
            message = frames.Refused(exc.message)
        except ClinvkError as exc:
            message = frames.Refused(exc.message, exc.code)
        await self._connection.send(message)

    async def _carry_out(self, request: frames.Request) -> frames.Message:
        match request:
            case frames.RunCommand():
                return await (self._start(request) if request.detach else self._run_prompt(request))
            case frames.RunPlan(plan=plan, original=original):
                return frames.RunStatus(await self._control.start_plan(plan, original, self._environ_of(request)))
            case frames.CancelRun(run_id=run_id):
                is_live = await self._control.cancel(run_id)
                return frames.RunStatus(run_id) if is_live else frames.Refused("the run is not in this server")
            case frames.CreateLogin():
                return self._control.create_login()
            case frames.RestRequest():
                return await self._control.call_rest(request)

    async def _start(self, command: frames.RunCommand) -> frames.RunStatus:
        run = await self._runs.start(command.request, self._environ_of(command))
        return frames.RunStatus(run.id, run.session_id, run.slot.position)

    async def _run_prompt(self, command: frames.RunCommand) -> frames.RunUpdate:
        """Run the prompt, send its events, and return its end."""
        environ = self._environ_of(command)
        async with self._runs.run_of_user(command.request, environ) as run, in_background(self._listen(run.id)):
            await self._connection.send(frames.run_update(run))
            async for batch in run.batches():
                await self._connection.send(frames.run_update(run, batch))
            await self._runs.cancel(run.id)  # the run has ended: wait until the agent has exited
        return replace(frames.run_update(run), warnings=run.recorder.warnings, is_last=True)

    def _environ_of(self, command: frames.RunCommand | frames.RunPlan) -> dict[str, str]:
        return caller.merge_environment(self._environ, command.environ)

    async def _listen(self, run_id: str) -> None:
        """Pass on answers. Stop the run when the command sends `Stop` or disconnects; then kill its agent at once."""
        at_once = False
        while True:
            message = await self._connection.receive()
            if isinstance(message, frames.AnswerInteraction):
                await self._pass_on(message)
                continue
            self._runs.stop(run_id, at_once)
            at_once = True
            if not isinstance(message, frames.Stop):
                return

    async def _pass_on(self, message: frames.AnswerInteraction) -> None:
        try:
            await self._runs.interactions.answer(message.id, message.answer)
        except ClinvkError as exc:
            logger.info("an answer of a command is of no use: %s", exc.message)
