"""The command's end of the private socket: runs that a server carries, as the command's own would be."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import TYPE_CHECKING

import msgspec
from msgspec.structs import replace

from clinvk.config.load import home
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
    Refused,
    Remark,
    Stop,
    ToCommand,
    Told,
    TooLong,
)
from clinvk.remote.socket_path import connected
from clinvk.runtime.process.waiting import finished
from clinvk.types import errors
from clinvk.types.errors import ClinvkError, TimedOut
from clinvk.types.events import Ending, Logged, RunFailed, RunFinished
from clinvk.types.request import RunRequest

if TYPE_CHECKING:
    from clinvk.runtime.runs import Followed

_GREETS_WITHIN_S = 1.0
"""A server that takes longer is at its limits, or stopped: a command does better without it."""

_STOPS_WITHIN_S = 6.0
"""What a server takes at most to stop a run: the agent's grace, and the end of what it has started."""

_STOPS_AT_ONCE_WITHIN_S = 2.0

_LATER_S = 8.0
"""So long after a run's time limit the server has told its ending, unless it is stopped."""

_QUIET_S = 4.0
"""So long nothing may come besides: what was told while nobody read it comes late."""

_GONE_WITHIN_S = 15.0
"""How long an agent that has told the end of its run may take to be gone."""

_SILENT = "the server does not answer"
_UNKNOWN = "the server does not tell whether its agent is gone"
_LOST = "the server that ran this is gone, and its agent with it; --no-server does without one"
_DECODER = msgspec.json.Decoder(ToCommand)

_LETS_GO_WITHIN_S = 5.0
"""How long a server may take to have an agent close a conversation; it goes on after that whether it has or not."""

Say = Callable[[str], None]


class NotHere(Exception):
    """The server does not take the run, and has not begun it; says why."""


@asynccontextmanager
async def server_of(
    settings: Settings, environ: Mapping[str, str], backend: str, say: Say
) -> AsyncGenerator["ServedRuns"]:
    """Go to the server of the same user and home, inside this context. `say` gets its remarks on what is not kept.

    Raises:
        NotHere: there is none, or the run would not be the same there; empty where there is none to speak of.
    """
    async with _linked(environ) as link:
        match await _first_words(link):
            case Greeting(circumstances=theirs):
                mine = caller.circumstances(settings, environ, (backend,))
                if why := caller.difference(mine, theirs):
                    raise NotHere(why)
            case Declined(why=why):
                raise NotHere(why)
            case _:
                raise NotHere(_SILENT)
        yield ServedRuns(link, caller.own(environ), settings.warm.enabled, say)


async def let_go(environ: Mapping[str, str], session_id: str) -> None:
    """Have a server of this home let go of a session's conversation, which is gone on with elsewhere."""
    with suppress(NotHere, TimeoutError, ConnectionError):  # it is gone on with all the same
        async with _linked(environ) as link:
            await _first_words(link)
            async with asyncio.timeout(_LETS_GO_WITHIN_S):
                await link.say(LetGo(session_id))
                while (message := await link.hear()) and not isinstance(message, Gone):
                    pass


@asynccontextmanager
async def _linked(environ: Mapping[str, str]) -> "AsyncGenerator[Link[ToCommand]]":
    sock = connected(home(environ))
    if sock is None:
        raise NotHere("")
    link = Link(*await asyncio.open_unix_connection(sock=sock), _DECODER)
    try:
        yield link
    finally:
        link.close()


async def _first_words(link: "Link[ToCommand]") -> ToCommand | None:
    try:
        async with asyncio.timeout(_GREETS_WITHIN_S):
            return await link.hear()
    except (TimeoutError, ConnectionError) as exc:
        raise NotHere(_SILENT) from exc


class ServedRuns:
    """A `Runner` whose agents are a server's, one run after the other."""

    def __init__(self, link: "Link[ToCommand]", environ: dict[str, str], warm: bool, say: Say) -> None:
        self._link = link
        self._environ = environ
        self._warm = warm
        self._say = say

    def run(self, request: RunRequest) -> AbstractAsyncContextManager["Followed"]:
        """Run a prompt there. Leaving the context ends the run, and waits until its agent is gone.

        Raises:
            NotHere: the server did not begin it.
            ClinvkError: it cannot be run, or the server is gone.
        """
        ask = Ask(replace(request, warm=request.warm and self._warm), self._environ)
        return _ServedRun(self._link, request, ask, self._say)


class _ServedRun:
    """One run over there: its context, and what is followed of it."""

    id: str
    created_at: float
    session_id: str | None

    def __init__(self, link: "Link[ToCommand]", request: RunRequest, ask: Ask, say: Say) -> None:
        self.request = request
        self.started_at: float | None = None
        self.ended_at: float | None = None
        self.raw = b""
        self.ending: Ending | None = None
        self._link = link
        self._ask = ask
        self._say = say
        self._number = 0
        self._unread: deque[Logged] = deque()
        self._is_over = False
        self._is_given_up = False
        self._give_time()

    async def __aenter__(self) -> "Followed":
        if not self.request.workdir:
            raise NotHere("the session is one of no directory")
        try:
            async with self._waiting():
                await self._link.say(self._ask)
                message = await self._link.hear()
        except TooLong as exc:
            raise NotHere(exc.message) from exc
        except ConnectionError:
            message = None
        except TimeoutError as exc:
            await self._stopped(_STOPS_AT_ONCE_WITHIN_S)
            raise TimedOut(self._overdue) from exc
        except asyncio.CancelledError:
            await self._stopped()
            raise
        match message:
            case Begun():
                self.id, self.session_id, self.created_at = message.run_id, message.session_id, message.created_at
                return self
            case Declined(why=why):
                raise NotHere(why)
            case Refused(code=code, message=text):
                raise errors.refusal(code, text)
            case _:
                raise ClinvkError(_LOST)

    async def __aexit__(self, *_: object) -> None:
        if self._is_given_up:
            await self._stopped(_STOPS_AT_ONCE_WITHIN_S)
        elif self.ending:
            await self._gone_within(_GONE_WITHIN_S)
        else:
            await self._stopped()

    async def follow(self, after: int = 0) -> AsyncIterator[Logged]:
        """Give the events, from the first on, to the ending; where the server is lost that is the ending."""
        while self._unread or self.ending is None:
            if not self._unread:
                await self._next()
            elif (logged := self._unread.popleft()).number > after:
                yield logged

    async def _next(self) -> None:
        """Wait for what happens next."""
        try:
            async with self._waiting():
                message = await self._link.hear()
        except ConnectionError:
            message = None
        except TimeoutError:
            self._is_given_up = True
            self._failed(TimedOut.code, self._overdue)
            return
        match message:
            case Told(entries=entries):
                if self.started_at is None and message.started_at:
                    self._give_time()
                self.started_at, self.ended_at, self.raw = message.started_at, message.ended_at, message.raw
                self._note(entries)
            case Begun():  # it was not waited for
                pass
            case Remark(message=text):
                self._say(text)
            case _:  # it is over, or the server is lost
                self._is_over = True
                if not self.ending:
                    self._failed(ClinvkError.code, _LOST)

    def _give_time(self) -> None:
        """From this moment on the time limit of the run counts, as far as is known here."""
        limit_s = self.request.timeout_s
        self._until = time.monotonic() + limit_s + _LATER_S if limit_s else None

    def _waiting(self) -> asyncio.Timeout:
        """Give a context for a wait for the server, which raises TimeoutError where the run should long be over."""
        if self._until is None or self.ending:
            return asyncio.timeout(None)
        return asyncio.timeout(max(self._until - time.monotonic(), _QUIET_S))

    @property
    def _overdue(self) -> str:
        return f"{_SILENT}, and the {self.request.timeout_s:g} s are over"

    def _failed(self, code: str, message: str) -> None:
        """End the run here."""
        self.ended_at = time.time()
        self._note([Logged(self._number + 1, self.ended_at, RunFailed(code, message))])

    def _note(self, entries: list[Logged]) -> None:
        self._unread += entries
        for number, _, event in entries:
            self._number = number
            if isinstance(event, RunFinished | RunFailed):
                self.ending = event

    async def _stopped(self, within_s: float = _STOPS_WITHIN_S) -> None:
        """End the run. Cancelled meanwhile, end it at once."""
        self._until = None
        try:
            await self._stop(within_s)
        except asyncio.CancelledError:
            await finished(self._stop(_STOPS_AT_ONCE_WITHIN_S))
            raise

    async def _stop(self, within_s: float) -> None:
        try:
            async with asyncio.timeout(within_s):
                await self._link.say(Stop())  # this waits too where the server does not read
                await self._gone()
        except ConnectionError:
            return
        except TimeoutError:
            self._say(_UNKNOWN)

    async def _gone_within(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._gone()
        except TimeoutError:
            self._say(_UNKNOWN)

    async def _gone(self) -> None:
        """Wait until nothing is left of the run. What happens in it meanwhile can be followed afterwards."""
        while not self._is_over:
            await self._next()
