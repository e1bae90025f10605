"""The server's end of the private socket: run the prompts of commands of the same user."""

import asyncio
import logging
import os
import socket
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from clinvk import logs
from clinvk.backends.base import Backend
from clinvk.config.model import Settings
from clinvk.remote import caller, frames
from clinvk.remote.socket_path import Peer, SocketClaim, peer_of
from clinvk.runtime.local import LocalRuns
from clinvk.runtime.process.process_scan import is_tagged
from clinvk.runtime.process.waiting import in_background
from clinvk.runtime.run.task import RunTask
from clinvk.types.errors import ClinvkError, QueueFull, ShuttingDown

logger = logging.getLogger(__name__)

_CHECK_INTERVAL_S = 2.0
"""How often a server checks whether the socket of the home is still its own, or has become free."""

_CLOSE_TIMEOUT_S = 2.0
_UNUSABLE = "commands do not go through this server: %s"
_RECORDING = logging.getLogger("clinvk.runtime.run.recording")


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
        self._clients: dict[asyncio.Task[None] | None, _ClientConnection] = {}

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, at: TracebackType | None
    ) -> None:
        """Give the last messages a moment to be sent, then disconnect all clients. All runs have ended."""
        self.close()
        if answering := [task for task, client in self._clients.items() if task and client.is_answering]:
            await asyncio.wait(answering, timeout=_CLOSE_TIMEOUT_S)
        if tasks := [task for task in self._clients if task]:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        await self._group.__aexit__(kind, exc, at)

    def open(self, runs: LocalRuns) -> None:
        """Accept commands, now or once no other server has the socket, and run the prompts with `runs`."""
        names = [*self._registry]
        greeting = frames.Greeting(caller.caller_environment(self._settings, self._environ, self._registry, names))
        try:
            listener = self._claim.listen()
        except OSError as exc:
            logger.warning(_UNUSABLE, exc)
            return
        if listener is None:
            logger.info("commands go through another server of this home, for as long as it is there")
        self._serving = self._group.create_task(self._serve(listener, runs, greeting))

    def close(self) -> None:
        """Accept no more commands. Connected clients stay; the runs refuse further prompts."""
        if self._serving:
            self._serving.cancel()
        self._claim.leave()

    async def _serve(self, listener: socket.socket | None, runs: LocalRuns, greeting: frames.Greeting) -> None:
        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            client = self._clients[task] = _ClientConnection(runs, self._environ, reader, writer)
            with suppress(asyncio.CancelledError):  # by `__aexit__`; asyncio of Python 3.11 logs it as an error
                await client.serve(greeting)
            del self._clients[task]

        while True:
            if listener:
                server = await asyncio.start_unix_server(accept, sock=listener)
                try:
                    while self._claim.is_found():  # noqa: ASYNC110 - others may remove the file without notice
                        await asyncio.sleep(_CHECK_INTERVAL_S)
                finally:
                    server.close()
                self._claim.leave()
                logger.info("the socket for commands was removed")
            await asyncio.sleep(_CHECK_INTERVAL_S)
            try:
                listener = self._claim.listen()
            except OSError as exc:
                logger.warning(_UNUSABLE, exc)
                return


class _ClientConnection:
    """A connected command."""

    def __init__(
        self, runs: LocalRuns, environ: Mapping[str, str], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.is_answering = False
        self._connection = frames.Connection(reader, writer)
        self._peer = _peer(writer.get_extra_info("socket"))
        self._runs = runs
        self._environ = environ
        self._run: RunTask | None = None
        self._stops = 0

    async def serve(self, greeting: frames.Greeting) -> None:
        """Answer the command; stop the run when the command disconnects."""
        try:
            if self._peer:
                await self._converse(greeting, self._peer)
        except* ConnectionError as gone:
            logger.debug("a command is gone: %s", gone.exceptions)
        except* Exception:
            logger.exception("the visit of a command failed inside clinvk")
        finally:
            self._connection.close()

    async def _converse(self, greeting: frames.Greeting, peer: Peer) -> None:
        refused = frames.Refused("it was started by an agent") if peer.pid and is_tagged(peer.pid) else None
        await self._connection.send(refused or greeting)
        match await self._connection.receive():
            case frames.RunCommand() as command if not refused:
                self.is_answering = True
                async with in_background(self._listen()):
                    await self._connection.send(await self._answer(command))
            case frames.ReleaseSession() as release:
                await self._runs.release_session(release.session_id)
                await self._connection.send(frames.Done())
            case None:
                return
            case _:
                raise ConnectionAbortedError("a message for commands")

    async def _listen(self) -> None:
        """Stop the run when the command asks for that or disconnects."""
        try:
            while isinstance(await self._connection.receive(), frames.Stop):
                self._stop()
        finally:
            self._stop()

    def _stop(self) -> None:
        """Stop the run; the second call kills its agent at once."""
        self._stops += 1
        if self._run:
            self._runs.stop(self._run.id, at_once=self._stops > 1)

    async def _answer(self, command: frames.RunCommand) -> frames.Message:
        """Run the prompt, send its events, and return the last message."""
        try:
            environ = caller.merge_environment(self._environ, command.environ)
            async with self._runs.run_of_user(command.request, environ) as run:
                self._run = run
                if self._stops:
                    self._runs.stop(run.id)
                await self._connection.send(frames.Begun(run.id, run.session_id, run.created_at))
                with _store_warnings(run.id) as warnings:
                    async for batch in run.batches():
                        await self._connection.send(frames.Events(batch, run.started_at, run.ended_at, run.raw))
                    await self._runs.cancel(run.id)  # the run has ended: wait until the agent has exited
            return frames.Done(warnings)
        except (QueueFull, ShuttingDown) as exc:
            return frames.Refused(exc.message)
        except ClinvkError as exc:
            return frames.Refused(exc.message, exc.code)
        except ConnectionError:
            raise
        except Exception:
            logger.exception("a run of a command failed inside clinvk")
            return frames.Refused("clinvk itself failed; the server's log has the details", ClinvkError.code)


def _peer(sock: socket.socket) -> Peer | None:
    """Identify the peer; return None if the peer's user is unknown or differs from ours."""
    try:
        peer = peer_of(sock)
    except OSError:
        return None
    return peer if peer.uid == os.geteuid() else None


@contextmanager
def _store_warnings(run_id: str) -> Generator[list[str]]:
    """Collect log messages about a run that could not be stored."""
    messages: list[str] = []

    def collect(record: logging.LogRecord) -> bool:
        if logs.noted().get("run_id") == run_id:
            messages.append(record.getMessage())
        return True

    _RECORDING.addFilter(collect)
    try:
        yield messages
    finally:
        _RECORDING.removeFilter(collect)
