"""What an environment makes of the agents: which there are, where, what they inherit, what a backend may know."""

import os
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from functools import partial

from clinvk import backends, policy
from clinvk.backends.base import Backend, Host
from clinvk.config import Settings
from clinvk.config.loading import home, may_lie_in_worktree
from clinvk.errors import ConfigError
from clinvk.runtime import executables
from clinvk.runtime.process import Spawner


class Surroundings:
    """An environment under the settings. `paths` are the CLIs that were found, by backend."""

    def __init__(self, settings: Settings, environ: Mapping[str, str], registry: Mapping[str, Backend]) -> None:
        self.paths: dict[str, str] = {}
        self._settings = settings
        self._environ = environ
        self._registry = registry
        self._hosts: dict[str, Host] = {}
        self._environments: dict[str, Mapping[str, str]] = {}

    def backend(self, name: str) -> Backend:
        """Give a backend that may be run here.

        Raises:
            BackendUnavailable: it is unknown or disabled.
            InvalidRequest: too many agents are around this clinvk.
        """
        backend = backends.named(name, self._registry)
        executables.check_enabled(backend, self._settings)
        policy.refuse_depth(self._environ, self._settings.unified_flags.max_depth)
        return backend

    def path(self, backend: Backend) -> str:
        """Look on PATH again only where the CLI is no more where it was found.

        Raises:
            BackendUnavailable: it is not installed.
        """
        path = self.paths.get(backend.name)
        if path is None or not os.access(path, os.X_OK):
            path = self.paths[backend.name] = executables.require(backend, self._settings, self._environ)
        return path

    def host(self, backend: str) -> Host:
        """Look at the machine once for each backend: helper programs do not come and go."""
        if backend not in self._hosts:
            self._hosts[backend] = executables.host(self.environment(backend))
        return self._hosts[backend]

    def environment(self, backend: str) -> Mapping[str, str]:
        """Give the environment that a backend's CLI is started in."""
        if backend not in self._environments:
            self._environments[backend] = executables.environment(backend, self._settings, self._environ)
        return self._environments[backend]

    def hold(self, spawner: Spawner, directory: str | None) -> Callable[[], AbstractAsyncContextManager[None]] | None:
        """Give what holds the worktree of this clinvk that a directory lies in; None where its name says otherwise."""
        if not directory or not may_lie_in_worktree(directory):
            return None
        from clinvk.runtime.worktrees import Worktrees  # few runs need it

        try:
            return partial(Worktrees(spawner, home(self._environ), self._environ).used, directory)
        except ConfigError:  # a machine without homes
            return None
