"""The private folder of a launch: files that only the CLI may read; and the launch with the folder's path filled in."""

import asyncio
import logging
import os
from collections.abc import Mapping

import msgspec

from clinvk.backends.base import PRIVATE, Launch
from clinvk.runtime.process import process_scan
from clinvk.runtime.process.waiting import finish_shielded
from clinvk.types.errors import ClinvkError

logger = logging.getLogger(__name__)


class PrivateFolder:
    """The private files and links of one launch; `path` is None while no folder exists.

    `environ` is the base environment of the launch. `server` is the server number of the owning clinvk: the guardian
    finds the folder by `server` after a kill. `write` and `remove` block; `prepare` and `clear` do the same work in a
    thread.
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
        """Whether the launch has files, links or a socket."""
        return bool(self._launch.files or self._launch.links or self._launch.tool_socket)

    def command(self, path: str) -> list[str]:
        """Return the command line that starts the program at `path`."""
        return [*map(self.filled, self._launch.wrapper), path, *map(self.filled, self._launch.argv[1:])]

    def environment(self) -> dict[str, str]:
        """Return the environment of the program, including the variables that the launch sets."""
        return {**self._environ, **{name: self.filled(value) for name, value in self._launch.env.items()}}

    def session_params(self) -> dict[str, object]:
        """Return the session parameters of the launch."""
        encoded = msgspec.json.encode(self._launch.session_params)
        path = self.path or PRIVATE
        return msgspec.json.decode(encoded.replace(_in_json(PRIVATE), _in_json(path)))

    async def prepare(self, launch: Launch | None = None) -> None:
        """Create the folder if the launch needs a folder; with another `launch`, add its missing files and links.

        Raises:
            ClinvkError: the folder cannot be written.
            TimeoutError: the disk hangs.
        """
        self._launch = launch or self._launch
        if self.is_needed:
            await finish_shielded(asyncio.to_thread(self.write))

    async def clear(self) -> None:
        """Remove the folder if the folder exists; log a warning if the disk hangs.

        If `write` is still running in a thread, `write` then removes the folder.
        """
        self._is_cleared = True
        if path := self.path:
            try:
                await finish_shielded(asyncio.to_thread(self.remove))
            except TimeoutError:
                logger.warning("a private folder could not be removed in time: %s", path)

    def write(self) -> None:
        """Create the folder if needed, and add missing files and links; on failure, remove the folder.

        Raises:
            ClinvkError: the folder cannot be written.
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
            if self._is_cleared:  # `clear` may have been called during the write
                self.path = path
                self.remove()

    def remove(self) -> None:
        """Remove the folder and its content; keep the targets of links."""
        import shutil

        path, self.path = self.path, None
        if path:
            shutil.rmtree(path, onerror=_complain)

    def filled(self, text: str) -> str:
        """Replace the placeholder for the folder's path in `text`."""
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


def _in_json(text: str) -> bytes:
    return msgspec.json.encode(text)[1:-1]


def at_home(path: str, environ: Mapping[str, str]) -> str:
    """Replace a leading `~` by the agent's home."""
    return environ.get("HOME", "") + path[1:] if path.startswith("~") else path


def _place(folder: str, name: str) -> str:
    path = os.path.join(folder, name)
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    return path


def _complain(function: object, path: str, error: object) -> None:
    logger.warning("a private file could not be removed: %s", path)
