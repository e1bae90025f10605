"""Locks on files, found by other processes through the path."""

import os


def is_of(lock: int, path: str | os.PathLike[str]) -> bool:
    """Return whether a locked descriptor refers to the file at a path; False if the file was removed or replaced."""
    try:
        return os.path.samestat(os.fstat(lock), os.stat(path))
    except OSError:
        return False
