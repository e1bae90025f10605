"""Run a prompt through the server of this user and home if the run is the same there, else in this process."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, NamedTuple

from clinvk.cli.terminal.output import Notes
from clinvk.config.load import home
from clinvk.config.model import Settings
from clinvk.remote.socket_path import connected, path_of
from clinvk.store.protocol import SessionStore
from clinvk.types.request import RunRequest

if TYPE_CHECKING:
    from clinvk.runtime.runs import FollowedRun

_NOT_ASKED = "it is not to be asked (--no-server, or warm.command_line: false)"


def release_session(environ: Mapping[str, str]) -> Callable[[str], Awaitable[None]]:
    """Return a function that makes the server of this home release a session's conversation."""

    async def free(session_id: str) -> None:
        if path_of(home(environ)).exists():
            from clinvk.remote.remote_runs import release_session

            await release_session(environ, session_id)

    return free


class ServerOrLocalRuns(NamedTuple):
    """A `Runner` that starts and imports only what a run needs.

    With `is_verbose`, notes report whether a running server takes the run, and why not. The setting
    `warm.command_line` says whether to ask a server at all.
    """

    settings: Settings
    environ: Mapping[str, str]
    store: SessionStore
    notes: Notes
    is_verbose: bool

    @asynccontextmanager
    async def run(self, request: RunRequest) -> "AsyncGenerator[FollowedRun]":
        """Run a prompt. Leaving the context ends the run."""
        async with AsyncExitStack() as stack:
            run = await self._through_server(request, stack)
            if not run:
                from clinvk.runtime.local import LocalRuns

                where = home(self.environ)
                local = LocalRuns(
                    self.settings, self.store, self.environ, frees=release_session(self.environ), home=where
                )
                run = await stack.enter_async_context((await stack.enter_async_context(local)).run(request))
            yield run

    async def _through_server(self, request: RunRequest, stack: AsyncExitStack) -> "FollowedRun | None":
        """Return the run on the server; None if no server is up, or the run would differ there."""
        if not path_of(home(self.environ)).exists():
            return None
        if not self.settings.warm.command_line:
            if self.is_verbose and (connection := connected(home(self.environ))):
                connection.close()
                self._explain(
                    "not through the server: it is not to be asked (--no-server, or warm.command_line: false)"
                )
            return None
        from clinvk.remote.remote_runs import ServerDeclined, server_of

        try:
            server = server_of(self.settings, self.environ, request.backend, self.notes.info)
            run = await stack.enter_async_context((await stack.enter_async_context(server)).run(request))
        except ServerDeclined as exc:
            self._explain(f"not through the server: {exc}" if str(exc) else "")
            return None
        self._explain("through the server of this home")
        return run

    def _explain(self, what: str) -> None:
        if what and self.is_verbose:
            self.notes.info(what)
