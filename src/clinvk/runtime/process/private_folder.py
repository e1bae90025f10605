"""The private folder of a launch, files that a CLI reads and nobody else may; and the launch with its path in it."""

import asyncio
import logging
import os
from collections.abc import Mapping

from clinvk.backends.base import PRIVATE, Launch
from clinvk.runtime.process import process_scan
from clinvk.runtime.process.waiting import finished
from clinvk.types.errors import ClinvkError

logger = logging.getLogger(__name__)


class PrivateFolder:
    """The files and links of one launch, which has `environ` around it; `path` is None while there is no folder.

    `server` is the number of the clinvk that it is of, by which the guardian finds it when that was killed.
    `write`, `add` and `remove` block; `prepare` and `clear` do what is needed of it beside the loop.
    """

    __slots__ = ("_environ", "_is_cleared", "_launch", "_server", "path")

    def __init__(self, launch: Launch, environ: Mapping[str, str], server: int) -> None:
        self.path: str | None = None
        self._launch = launch
        self._environ = environ
        self._server = server
        self._is_cleared = False

    @property
    def is_needed(self) -> bool:
        """Whether the launch has files or links."""
        return bool(self._launch.files or self._launch.links)

    def command(self, path: str) -> list[str]:
        """Give the command line that starts the program at `path`."""
        return [path, *map(self.filled, self._launch.argv[1:])]

    def environment(self) -> dict[str, str]:
        """Give the environment of the program, with what the launch sets in it."""
        return {**self._environ, **{name: self.filled(value) for name, value in self._launch.env.items()}}

    async def prepare(self) -> None:
        """Make the folder, if there is to be one.

        Raises:
            ClinvkError: it cannot be written.
            TimeoutError: the disk hangs.
        """
        if self.is_needed:
            await finished(asyncio.to_thread(self.write))

    async def clear(self) -> None:
        """Remove the folder, if there is one; a disk that hangs is complained of in the log.

        What still makes it then removes it.
        """
        self._is_cleared = True
        if path := self.path:
            try:
                await finished(asyncio.to_thread(self.remove))
            except TimeoutError:
                logger.warning("a private folder could not be removed in time: %s", path)

    def write(self) -> None:
        """Make the folder where there is none, and all that is not in it yet; where it cannot be filled none is left.

        Raises:
            ClinvkError: it cannot be written.
        """
        import tempfile

        path = None
        try:
            path = self.path = self.path or tempfile.mkdtemp(prefix=process_scan.private_prefix(self._server))
            self._fill(path)
        except OSError as exc:
            self._is_cleared = True
            raise ClinvkError(f"cannot write the agent's private files: {exc.strerror} ({exc.filename})") from exc
        finally:
            if self._is_cleared:  # perhaps while it was filled
                self.path = path
                self.remove()

    def add(self, launch: Launch) -> None:
        """Add what another launch needs and is not there yet.

        Raises:
            ClinvkError: it cannot be written.
        """
        self._launch = launch
        if self.is_needed:
            self.write()

    def remove(self) -> None:
        """Remove the folder and all in it; what its links lead to stays."""
        import shutil

        path, self.path = self.path, None
        if path:
            shutil.rmtree(path, onerror=_complain)

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


def at_home(path: str, environ: Mapping[str, str]) -> str:
    """Put the agent's home in the place of a leading `~`."""
    return environ.get("HOME", "") + path[1:] if path.startswith("~") else path


def _place(folder: str, name: str) -> str:
    path = os.path.join(folder, name)
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    return path


def _complain(function: object, path: str, error: object) -> None:
    logger.warning("a private file could not be removed: %s", path)
