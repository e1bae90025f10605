"""Locks on files, which whoever else wants them finds by a path."""

import os


def is_of(lock: int, path: str | os.PathLike[str]) -> bool:
    """Say whether a descriptor that is locked is of the file at a path: not where that was removed or replaced."""
    try:
        return os.path.samestat(os.fstat(lock), os.stat(path))
    except OSError:
        return False
