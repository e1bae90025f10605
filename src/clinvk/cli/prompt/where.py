"""Run a prompt through the server of this user and home if the run is the same there, else in this process."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, NamedTuple, Self

from clinvk.cli.terminal.output import Notes
from clinvk.config.load import home
from clinvk.config.model import Settings
from clinvk.remote.socket_path import connected, path_of
from clinvk.store.protocol import SessionStore
from clinvk.types.request import RunRequest

if TYPE_CHECKING:
    from clinvk.remote.remote_runs import RemoteRuns
    from clinvk.runtime.local import LocalRuns
    from clinvk.runtime.runs import Followed


_NOT_ASKED = "it is not to be asked (--no-server, or warm.command_line: false)"


class Circumstances(NamedTuple):
    """What a run needs besides its request.

    With `tells`, notes report whether a running server takes the run, and why not. The setting `warm.command_line`
    says whether to ask a server at all.
    """

    settings: Settings
    environ: Mapping[str, str]
    store: SessionStore
    notes: Notes
    tells: bool


def freeing(environ: Mapping[str, str]) -> Callable[[str], Awaitable[None]]:
    """Return a function that makes the server of this home release a session's conversation."""

    async def free(session_id: str) -> None:
        if path_of(home(environ)).exists():
            from clinvk.remote.remote_runs import release_session

            await release_session(environ, session_id)

    return free


class NearestRuns:
    """A `Runner` that starts and imports only what the run needs."""

    def __init__(self, given: Circumstances) -> None:
        self._given = given
        self._stack = AsyncExitStack()
        self._served: RemoteRuns | None = None
        self._local: LocalRuns | None = None
        self._has_looked = False

    async def __aenter__(self) -> Self:
        await self._stack.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    @asynccontextmanager
    async def run(self, request: RunRequest) -> "AsyncGenerator[Followed]":
        """Run a prompt. Leaving the context ends the run."""
        async with AsyncExitStack() as stack:
            yield await self._start(request, stack)

    async def _start(self, request: RunRequest, stack: AsyncExitStack) -> "Followed":
        if not self._has_looked:
            self._has_looked = True
            await self._connect(request.backend)
        if self._served:
            from clinvk.remote.remote_runs import ServerDeclined

            try:
                run = await stack.enter_async_context(self._served.run(request))
            except ServerDeclined as exc:
                self._served = None
                self._explain_local(str(exc))
            else:
                self._tell("through the server of this home")
                return run
        runs = await self._local_runs()
        return await stack.enter_async_context(runs.run(request))

    async def _connect(self, backend: str) -> None:
        given = self._given
        if not path_of(home(given.environ)).exists():
            return
        if not given.settings.warm.command_line:
            if given.tells and (server := connected(home(given.environ))):
                server.close()
                self._explain_local(_NOT_ASKED)
            return
        from clinvk.remote.remote_runs import ServerDeclined, server_of

        try:
            server = server_of(given.settings, given.environ, backend, given.notes.say)
            self._served = await self._stack.enter_async_context(server)
        except ServerDeclined as exc:
            self._explain_local(str(exc))

    def _explain_local(self, why: str) -> None:
        if why:
            self._tell(f"not through the server: {why}")

    def _tell(self, what: str) -> None:
        if self._given.tells:
            self._given.notes.say(what)

    async def _local_runs(self) -> "LocalRuns":
        if self._local is None:
            from clinvk.runtime.local import LocalRuns

            given = self._given
            runs = LocalRuns(
                given.settings, given.store, given.environ, frees=freeing(given.environ), home=home(given.environ)
            )
            self._local = await self._stack.enter_async_context(runs)
        return self._local
