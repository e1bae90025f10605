"""Directories held open: a path may become a link at any time, but a descriptor leads to one directory."""

import os
from collections.abc import Generator
from contextlib import contextmanager

from clinvk.types.errors import InvalidRequest

_FLAGS = os.O_DIRECTORY | os.O_CLOEXEC | getattr(os, "O_PATH", os.O_RDONLY)
DESCRIPTORS = "/proc/self/fd" if os.path.isdir("/proc/self/fd") else ""
"""The folder with a path for each descriptor; empty on systems without `/proc`."""


@contextmanager
def held_directory(path: str, real_path: str) -> Generator[int]:
    """Open a directory and yield the descriptor.

    Without `/proc` the path is only resolved again.

    Raises:
        OSError: the directory cannot be opened.
        InvalidRequest: the path of the directory without links is not `real_path`.
    """
    fd = os.open(path, _FLAGS)
    try:
        if (os.readlink(f"{DESCRIPTORS}/{fd}") if DESCRIPTORS else os.path.realpath(path)) != real_path:
            raise InvalidRequest(f"cannot work in {path!r}: it leads elsewhere since it was checked", "workdir")
        yield fd
    finally:
        os.close(fd)
