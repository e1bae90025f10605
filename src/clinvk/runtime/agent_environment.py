"""The agent environment: executables, variables, launches, and the command of an interactive session."""

import asyncio
import os
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from clinvk.backends import registry as backends
from clinvk.backends.base import Backend, Host, Launch
from clinvk.backends.refusals import refuse_incapable, refuse_nul
from clinvk.config.load import home, may_lie_in_worktree
from clinvk.config.model import Settings
from clinvk.policy import rules
from clinvk.runtime import sessions
from clinvk.runtime.process import executables
from clinvk.runtime.process.spawn import Spawner
from clinvk.runtime.process.waiting import Lookups
from clinvk.types.errors import ConfigError, InvalidRequest, NotResumable
from clinvk.types.record import Resume, Session
from clinvk.types.request import RunRequest
from clinvk.types.text import readable

if TYPE_CHECKING:
    from clinvk.runtime.worktrees.session_worktrees import SessionWorktrees


class AgentEnvironment:
    """The environment of agents under the settings. `paths` holds the located CLIs by backend."""

    def __init__(self, settings: Settings, environ: Mapping[str, str], registry: Mapping[str, Backend]) -> None:
        self.paths: dict[str, str] = {}
        self._settings = settings
        self._environ = environ
        self._registry = registry
        self._hosts: dict[str, Host] = {}
        self._queried: dict[str, tuple[str, float]] = {}

    def backend(self, name: str) -> Backend:
        """Return a backend that may run here.

        Raises:
            BackendUnavailable: the backend is unknown or disabled.
            InvalidRequest: clinvk is nested too deeply in other agents.
        """
        backend = backends.backend_named(name, self._registry)
        executables.check_enabled(backend, self._settings)
        rules.check_nesting_depth(rules.nesting_depth(self._environ), self._settings.unified_flags.max_depth)
        return backend

    def nested(self, depth: int) -> "AgentEnvironment":
        """Return the environment for a run that was requested by a program inside `depth` agents."""
        if depth <= rules.nesting_depth(self._environ):
            return self
        return AgentEnvironment(self._settings, {**self._environ, rules.DEPTH_VARIABLE: str(depth)}, self._registry)

    def path(self, backend: Backend) -> str:
        """Return the path of a CLI; search PATH again only if the known file is gone.

        Raises:
            BackendUnavailable: the CLI is not installed.
        """
        path = self.paths.get(backend.name)
        if path is None or not os.access(path, os.X_OK):
            path = self.paths[backend.name] = executables.require(backend, self._settings, self._environ)
        return path

    def host(self, backend: str) -> Host:
        """Return the agent's environment and the facts about the machine, looked up once: helpers rarely change."""
        if backend not in self._hosts:
            self._hosts[backend] = executables.host(executables.environment(backend, self._settings, self._environ))
        return self._hosts[backend]

    async def query_models(self, spawner: Spawner, backend: Backend) -> None:
        """Run the command that lists a CLI's models, for `Host.models`; ask again if the program has changed."""
        path = self.path(backend)
        program = path, (await asyncio.to_thread(os.stat, path)).st_mtime
        host = self.host(backend.name)
        if self._queried.get(backend.name) != program:
            models = await executables.output(spawner, (path, *backend.list_models), host.env)
            self._hosts[backend.name] = msgspec.structs.replace(host, models=models or b"")
            self._queried[backend.name] = program

    def launch(self, backend: Backend, request: RunRequest, resume: Resume | None) -> Launch:
        """Return the launch of a request. Looks up the request's directories: run in a thread.

        Raises:
            InvalidRequest, Unsupported: as `Backend.launch`; the message names the setting with a refused flag.
            Unsupported, NotResumable: the backend's `capabilities` lack an option.
        """
        _refuse_unreadable(request)
        try:
            refuse_nul(request)
            launch = backend.launch(request, resume, self.host(backend.name))
            refuse_incapable(backend, request, resume)
            return launch
        except InvalidRequest as exc:
            count = len(request.extra) - len(self.own_extra(request))
            for index, argument in enumerate(request.extra[:count]):
                if exc.field == f"extra[{index}]":  # the value may be a secret
                    message = exc.message.replace(repr(argument), repr(argument.partition("=")[0]))
                    exc.message, exc.field = f"backends.{request.backend}.extra_flags: {message}", None
            raise

    def own_extra(self, request: RunRequest) -> tuple[str, ...]:
        """Return the request's extra flags without the flags from the settings, which may hold secrets."""
        settings = self._settings.backend(request.backend).extra_flags
        return request.extra[len(settings) :] if request.extra[: len(settings)] == settings else request.extra

    def worktrees(self, spawner: Spawner) -> "SessionWorktrees":
        """Return the worktrees of the clinvk home. Raises `ConfigError` on a machine without homes."""
        from clinvk.runtime.worktrees.session_worktrees import SessionWorktrees  # few runs need it

        return SessionWorktrees(spawner, home(self._environ), self._environ)

    def hold(self, spawner: Spawner, directory: str | None) -> Callable[[], AbstractAsyncContextManager[None]] | None:
        """Return the lock of the clinvk worktree that contains a directory; None if the path rules a worktree out."""
        if not directory or not may_lie_in_worktree(directory):
            return None
        try:
            return partial(self.worktrees(spawner).used, directory)
        except ConfigError:  # a machine without homes
            return None


def _refuse_unreadable(request: RunRequest) -> None:
    """Raise InvalidRequest for directory names that are not UTF-8: protocols and the store require UTF-8."""
    others = ((f"add_dirs[{index}]", path) for index, path in enumerate(request.add_dirs))
    for field, path in (("workdir", request.workdir or ""), *others):
        if readable(path) != path:
            raise InvalidRequest(f"{field}: the name of {path!r} is not UTF-8", field)


class InteractiveCommand(msgspec.Struct, frozen=True, kw_only=True):
    """The program to execute: `argv` in the directory `cwd` (None: the current directory), as the executable `path`."""

    path: str
    argv: tuple[str, ...]
    cwd: str | None
    env: Mapping[str, str]


async def interactive_command(
    request: RunRequest,
    session: Session,
    settings: Settings,
    environ: Mapping[str, str],
    registry: Mapping[str, Backend],
) -> InteractiveCommand:
    """Return the command that opens a session in the agent's own program; only the request's model is used.

    Raises:
        SessionBusy: the agent has not reported a session id yet.
        NotResumable: the id was never reported, the fork has not branched off yet, or the directory is gone.
        InvalidRequest: the session belongs to another backend.
        BackendUnavailable: the backend is unknown, disabled or not installed.
    """
    backend = backends.backend_named(session.backend, registry)
    executables.check_enabled(backend, settings)
    handle = sessions.handle_of(session)
    if session.forks_parent:
        raise NotResumable(f"session {session.id!r} branches off with its first prompt; give it one")
    request = await sessions.in_session_directory(request, session, Lookups())
    return InteractiveCommand(
        path=executables.require(backend, settings, environ),
        argv=backend.interactive(Resume(handle), request.model),
        cwd=request.workdir,
        env=executables.environment(backend.name, settings, environ),
    )
