"""The private folder of a launch: files that a CLI reads and nobody else may."""

import logging
import os
from collections.abc import Mapping

from clinvk.backends.base import PRIVATE, Launch
from clinvk.errors import ClinvkError

logger = logging.getLogger(__name__)


class PrivateFolder:
    """The files and links of one launch. `write` and `remove` block; `path` is None while there is no folder."""

    def __init__(self, launch: Launch, environ: Mapping[str, str]) -> None:
        self.path: str | None = None
        self.is_needed = bool(launch.files or launch.links)
        self._launch = launch
        self._environ = environ

    def write(self) -> None:
        """Make the folder, and all in it.

        Raises:
            ClinvkError: it cannot be written.
        """
        import tempfile

        try:
            self.path = tempfile.mkdtemp(prefix="clinvk-")
            self._fill(self.path)
        except OSError as exc:
            self.remove()
            raise _unwritten(exc) from exc

    def add(self, launch: Launch) -> None:
        """Add what another launch needs and is not there yet.

        Raises:
            ClinvkError: it cannot be written.
        """
        self._launch = launch
        if self.path is None and not (launch.files or launch.links):
            return
        if self.path is None:
            self.write()
            return
        try:
            self._fill(self.path)
        except OSError as exc:
            raise _unwritten(exc) from exc

    def remove(self) -> None:
        """Remove the folder and all in it; what its links lead to stays."""
        import shutil

        if self.path:
            shutil.rmtree(self.path, onerror=_complain)
            self.path = None

    def filled(self, text: str) -> str:
        """Put the folder's path in the place that a launch left for it."""
        return text.replace(PRIVATE, self.path) if self.path else text

    def _fill(self, folder: str) -> None:
        for name, data in self._launch.files.items():
            if not os.path.lexists(os.path.join(folder, name)):
                with open(os.open(_place(folder, name), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                    file.write(data)
        for name, target in self._launch.links.items():
            if os.path.lexists(os.path.join(folder, name.rstrip("/"))):
                continue
            leads_to = at_home(target, self._environ)
            if name.endswith("/"):
                os.makedirs(leads_to, mode=0o700, exist_ok=True)
            os.symlink(leads_to, _place(folder, name.rstrip("/")))


def _unwritten(exc: OSError) -> ClinvkError:
    return ClinvkError(f"cannot write the agent's private files: {exc.strerror} ({exc.filename})")


def at_home(path: str, environ: Mapping[str, str]) -> str:
    """Put the agent's home in the place of a leading `~`."""
    return environ.get("HOME", "") + path[1:] if path.startswith("~") else path


def _place(folder: str, name: str) -> str:
    path = os.path.join(folder, name)
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    return path


def _complain(function: object, path: str, error: object) -> None:
    logger.warning("a private file could not be removed: %s", path)
