"""The server's end of the private socket: commands of the same user come in and have their prompts run."""

import asyncio
import logging
import os
import socket
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from clinvk import logs
from clinvk.backends.registry import BACKENDS
from clinvk.config.model import Settings
from clinvk.remote import caller
from clinvk.remote.frames import (
    Ask,
    Begun,
    Declined,
    Gone,
    Greeting,
    LetGo,
    Link,
    Over,
    Refused,
    Remark,
    Stop,
    ToCommand,
    Told,
    ToServer,
)
from clinvk.remote.socket_path import Claim, Peer, peer_of
from clinvk.runtime.local import LocalRuns
from clinvk.runtime.process.process_scan import is_marked
from clinvk.runtime.runs import Run
from clinvk.types.errors import ClinvkError, QueueFull, ShuttingDown

logger = logging.getLogger(__name__)

_LOOK_AGAIN_S = 2.0
"""How often a server looks whether it still has the home's socket, or the one that has it is gone."""

_ACCEPT_AGAIN_S = 0.1
_LAST_WORDS_WITHIN_S = 2.0
_DECODER = msgspec.json.Decoder(ToServer)


class Door:
    """Lets commands in from `open` to `shut`. Entered before the runs are, it sees their commands off.

    Of several servers of one home the first has the socket, and when that is gone another.
    """

    def __init__(self, home: Path, settings: Settings, environ: Mapping[str, str]) -> None:
        self._claim = Claim(home)
        self._settings = settings
        self._environ = environ
        self._group = asyncio.TaskGroup()
        self._serving: asyncio.Task[None] | None = None
        self._guests: set[_Guest] = set()

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, at: TracebackType | None
    ) -> None:
        """Wait a moment for what commands are still to be told; no run is under way any more."""
        self.shut()
        if talking := [guest.talk for guest in self._guests if guest.talk]:
            await asyncio.wait(talking, timeout=_LAST_WORDS_WITHIN_S)
        for guest in self._guests:
            guest.show_out()
        await self._group.__aexit__(kind, exc, at)

    def open(self, runs: LocalRuns) -> None:
        """Have commands be served by these runs: from this moment on, where no other server has the socket."""
        greeting = Greeting(caller.circumstances(self._settings, self._environ, BACKENDS))
        try:
            listener = self._claim.listen()
        except OSError as exc:
            logger.warning("commands do not go through this server: %s", exc)
            return
        if listener is None:
            logger.info("commands go through another server of this home, for as long as it is there")
        self._serving = self._group.create_task(self._serve(listener, runs, greeting))

    def shut(self) -> None:
        """Let nobody in any more. Those who are in stay; what they ask for is declined where runs are not taken."""
        if self._serving:
            self._serving.cancel()
        self._claim.leave()

    async def _serve(self, listener: socket.socket | None, runs: LocalRuns, greeting: Greeting) -> None:
        while True:
            if listener:
                with listener:
                    await self._let_in_while_held(listener, runs, greeting)
            await asyncio.sleep(_LOOK_AGAIN_S)
            try:
                listener = self._claim.listen()
            except OSError as exc:
                logger.warning("commands do not go through this server: %s", exc)
                return

    async def _let_in_while_held(self, listener: socket.socket, runs: LocalRuns, greeting: Greeting) -> None:
        async with asyncio.TaskGroup() as group:
            letting_in = group.create_task(self._let_in(listener, runs, greeting))
            while self._claim.is_found():  # noqa: ASYNC110 - another process may take the file away, and tells nobody
                await asyncio.sleep(_LOOK_AGAIN_S)
            letting_in.cancel()
        self._claim.leave()
        logger.info("the socket for commands was removed")

    async def _let_in(self, listener: socket.socket, runs: LocalRuns, greeting: Greeting) -> None:
        while True:
            try:
                sock, _ = await asyncio.get_running_loop().sock_accept(listener)
            except OSError as exc:
                logger.warning("a command was not let in: %s", exc)
                await asyncio.sleep(_ACCEPT_AGAIN_S)
            else:
                _Guest(sock, runs, greeting, self._environ).enter(self._group, self._guests)


class _Guest:
    """A command that is connected. `talk` is the run that it asked for, while there is one."""

    visit: asyncio.Task[None]

    def __init__(self, sock: socket.socket, runs: LocalRuns, greeting: Greeting, environ: Mapping[str, str]) -> None:
        self.talk: asyncio.Task[None] | None = None
        self._sock = sock
        self._runs = runs
        self._greeting = greeting
        self._environ = environ
        self._run: Run | None = None
        self._stops = 0

    def enter(self, group: asyncio.TaskGroup, guests: "set[_Guest]") -> None:
        """Be there until the command goes."""
        self.visit = group.create_task(self._stay(group))
        guests.add(self)
        self.visit.add_done_callback(lambda _: guests.discard(self))

    def show_out(self) -> None:
        """Have it go, whatever it was to be told."""
        for task in (self.talk, self.visit):
            if task:
                task.cancel()

    async def _stay(self, group: asyncio.TaskGroup) -> None:
        try:
            link = Link(*await asyncio.open_unix_connection(sock=self._sock), _DECODER)
        except OSError as exc:
            logger.debug("a command is gone: %s", exc)
            self._sock.close()
            return
        try:
            if peer := self._peer():
                declined = _declined(peer)
                await link.say(declined or self._greeting)
                await self._listen(link, group, declined)
        except ConnectionError as exc:
            logger.debug("a command is gone: %s", exc)
        except Exception:
            logger.exception("the visit of a command failed inside clinvk")
        finally:
            self._stop()
            if self.talk:
                await asyncio.wait([self.talk])
            link.close()

    def _peer(self) -> Peer | None:
        """Look who it is; None is nobody to talk to."""
        try:
            peer = peer_of(self._sock)
        except OSError:
            return None
        return peer if peer.uid == os.geteuid() else None

    async def _listen(self, link: "Link[ToServer]", group: asyncio.TaskGroup, declined: Declined | None) -> None:
        while message := await link.hear():
            match message:
                case Ask() if declined:
                    await link.say(declined)
                case Ask():
                    if self.talk:
                        await asyncio.wait([self.talk])
                    self._stops = 0
                    self.talk = group.create_task(self._answer(link, message))
                case Stop():
                    self._stop()
                case LetGo(session_id=session_id):
                    await self._runs.let_go(session_id)
                    await link.say(Gone())

    def _stop(self) -> None:
        """End the run; when it was said before, at once."""
        self._stops += 1
        if self._run:
            self._runs.stop(self._run.id, at_once=self._stops > 1)

    async def _answer(self, link: "Link[ToServer]", ask: Ask) -> None:
        try:
            await link.say(await self._carried(link, ask))
        except ConnectionError as exc:
            logger.debug("a command is gone: %s", exc)
        except Exception:
            logger.exception("the answer to a command failed inside clinvk")
        finally:
            self._run = None

    async def _carried(self, link: "Link[ToServer]", ask: Ask) -> ToCommand:
        """Run it and tell all of it; give the last that is to be told."""
        try:
            environ = caller.together(self._environ, ask.environ)
            async with self._runs.run_of_user(ask.request, environ) as run:
                self._run = run
                if self._stops:
                    self._runs.stop(run.id)
                await link.say(Begun(run.id, run.session_id, run.created_at))
                with _not_kept(run.id) as remarks:
                    async for batch in run.batches():
                        await link.say(Told(batch, run.started_at, run.ended_at, run.raw))
                    await self._runs.cancel(run.id)  # it has ended: this waits until its agent is gone
                for message in remarks:
                    await link.say(Remark(message))
            return Over()
        except (QueueFull, ShuttingDown) as exc:
            return Declined(exc.message)
        except ClinvkError as exc:
            return Refused(exc.code, exc.message)
        except ConnectionError:
            raise
        except Exception:
            logger.exception("a run of a command failed inside clinvk")
            return Refused(ClinvkError.code, "clinvk itself failed; the server's log has the details")


def _declined(peer: Peer) -> Declined | None:
    """Say no to what an agent starts: it stays with that agent, is ended with it, and held in its sandbox."""
    return Declined("it was started by an agent") if peer.pid and is_marked(peer.pid) else None


class _Heard(logging.Handler):
    """Keeps what is logged of one run."""

    def __init__(self, run_id: str) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []
        self._run_id = run_id

    def emit(self, record: logging.LogRecord) -> None:
        if logs.noted().get("run_id") == self._run_id:
            self.messages.append(record.getMessage())


@contextmanager
def _not_kept(run_id: str) -> Generator[Sequence[str]]:
    """Give what the store could not keep of a run, as far as it is known."""
    logger = logging.getLogger("clinvk.runtime.run.recording")
    heard = _Heard(run_id)
    logger.addHandler(heard)
    try:
        yield heard.messages
    finally:
        logger.removeHandler(heard)
