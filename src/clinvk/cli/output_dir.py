"""The folder that gets what came of tasks: `summary.json`, and a file of JSON for each task."""

import os
import re
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from clinvk.errors import ClinvkError, InvalidRequest

_NAME_CHARS = 60
_UNSAFE = re.compile(r"[^A-Za-z0-9_.-]+")
_SUMMARY = "summary.json"


class OutputDir:
    """A folder held open: what is written lands in it, wherever an agent moves it or leads its path meanwhile."""

    def __init__(self, fd: int, path: str) -> None:
        self.path = path
        self._fd = fd

    def write_part(self, index: int, total: int, name: str, value: object) -> None:
        """Write what came of a task; raises as `write_summary`."""
        digits = len(str(total - 1))
        safe = _UNSAFE.sub("-", name)[:_NAME_CHARS].strip("-.")
        self._write(f"{index:0{digits}}{f'-{safe}' if safe else ''}.json", value)

    def write_summary(self, value: object) -> None:
        """Write what came of all.

        Raises:
            ClinvkError: it cannot be written.
        """
        self._write(_SUMMARY, value)

    def _write(self, name: str, value: object) -> None:
        """Write a file whole or not at all; one of this name, or a link, is replaced."""
        beside = f".{name}.{os.urandom(4).hex()}"
        try:
            fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666, dir_fd=self._fd)
            try:
                with open(fd, "wb") as file:
                    file.write(msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n")
                os.replace(beside, name, src_dir_fd=self._fd, dst_dir_fd=self._fd)
            except BaseException:
                os.unlink(beside, dir_fd=self._fd)
                raise
        except OSError as exc:
            raise ClinvkError(f"output_dir: {self.path}/{name} cannot be written: {exc.strerror}") from exc


@contextmanager
def opened(path: str, base: str) -> Generator[OutputDir]:
    """Make the folder where it is missing, and hold it open; `base` is the directory that it must lie in.

    Raises:
        InvalidRequest: it lies elsewhere, or cannot be made.
    """
    field = "output_dir"
    real = os.path.realpath(os.path.join(base, os.path.expanduser(path)))
    root = os.path.realpath(base)
    if os.path.commonpath([root, real]) != root:
        raise InvalidRequest(f"output_dir: {path!r} is outside the working directory {root!r}", field)
    try:
        Path(real).mkdir(parents=True, exist_ok=True)
        fd = os.open(real, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except (OSError, ValueError) as exc:
        why = exc.strerror if isinstance(exc, OSError) else exc
        raise InvalidRequest(f"output_dir: {path!r} cannot be used: {why}", field) from exc
    try:
        if not os.access(real, os.W_OK | os.X_OK):
            raise InvalidRequest(f"output_dir: {path!r} cannot be written to", field)
        yield OutputDir(fd, real)
    finally:
        os.close(fd)
