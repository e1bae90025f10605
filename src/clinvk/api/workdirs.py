"""In which directory an agent works."""

import errno
import os
import stat
from collections.abc import Mapping

from msgspec.structs import replace

from clinvk.config import Settings
from clinvk.config.loading import home
from clinvk.errors import ConfigError, InvalidRequest
from clinvk.request import RunRequest


class Workdirs:
    """Checks the directories that requests name, and gives one to those that name none."""

    def __init__(self, settings: Settings, environ: Mapping[str, str]) -> None:
        self._default = settings.server.default_workdir
        self._environ = environ

    def check_default(self) -> None:
        """Look at `server.default_workdir` before the first request comes.

        Raises:
            ConfigError: it cannot be worked in.
        """
        try:
            if self._default:
                check(self._default, "server.default_workdir")
        except InvalidRequest as exc:
            raise ConfigError(exc.message) from exc

    def settle(self, request: RunRequest) -> RunRequest:
        """Give the request with a directory that is there.

        Raises:
            InvalidRequest: a directory is not absolute, not there, not a directory, or not readable.
        """
        for index, path in enumerate(request.add_dirs):
            check(path, f"add_dirs[{index}]")
        workdir = request.workdir or self._default or self._own()
        check(workdir, "workdir")
        return replace(request, workdir=workdir)

    def _own(self) -> str:
        """Give the server's own directory; where that says nothing (a service starts in `/`), a workspace at home."""
        try:
            own = os.getcwd()
        except FileNotFoundError:  # somebody removed it
            own = "/"
        if own != "/":
            return own
        workspace = home(self._environ) / "workspace"
        workspace.mkdir(mode=0o700, parents=True, exist_ok=True)
        return str(workspace)


def check(path: str, field: str) -> None:
    """Refuse a directory that no agent could work in.

    Raises:
        InvalidRequest: names `field`.
    """
    if not os.path.isabs(path):
        raise InvalidRequest(f"{field} must be an absolute path, got {path!r}", field)
    try:
        mode = os.stat(path).st_mode
    except OSError as exc:
        why = "does not exist" if exc.errno == errno.ENOENT else f"cannot be used: {exc.strerror}"
        raise InvalidRequest(f"{field} {path!r} {why}", field) from exc
    if not stat.S_ISDIR(mode):
        raise InvalidRequest(f"{field} {path!r} is not a directory", field)
    if not os.access(path, os.R_OK | os.X_OK):
        raise InvalidRequest(f"{field} {path!r} cannot be read by the server's user", field)
