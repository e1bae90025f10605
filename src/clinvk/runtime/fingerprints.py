"""What tells whether files are the same as before, without a look into them."""

import os
from collections.abc import Collection, Mapping
from itertools import chain, islice

from clinvk.runtime.private import at_home

Fingerprint = tuple[tuple[str, int, int, int], ...]
"""Files with inode, size and time of change: npm gives all files of a package the same time of writing."""

_NOWHERE = "\0"
"""No path begins so."""

_MOST = 200
"""So many entries are looked at for one name: this is done for each run, and nobody knows what a project has."""


def fingerprint(names: Collection[str], env: Mapping[str, str]) -> Fingerprint:
    """Give what tells of the files that are there, which are named as in `Launch.reads`.

    Most are not there, which `access` tells in half the time of an exception.
    """
    found: list[tuple[str, int, int, int]] = []
    missing = _NOWHERE
    for name in names:
        if name.startswith(missing):
            continue
        path = at_home(name, env)
        if name.endswith("/"):
            missing = _NOWHERE if os.access(path, os.F_OK) else name
        elif "*" in name:
            found += map(_stamp, _files(path))
        elif os.access(path, os.F_OK):
            found.append(_stamp(path))
    return tuple(found)


def _stamp(file: str) -> tuple[str, int, int, int]:
    try:
        status = os.stat(file)
    except OSError:  # gone since it was found
        return file, 0, 0, 0
    return file, status.st_ino, status.st_size, status.st_ctime_ns


def _files(path: str) -> Collection[str]:
    """Give the files that a path may stand for; a star elsewhere is part of a name."""
    folder, _, ending = path.rpartition("/*")
    if not ending.startswith((".", "/")) or "/" in ending[1:]:
        return (path,) if os.access(path, os.F_OK) else ()
    entries = _entries(folder)
    if ending.startswith("/"):
        return sorted(file for entry in entries if os.access(file := entry.path + ending, os.F_OK))
    # Not `entry.is_dir()`: it raises for a link that leads round in a circle.
    folders = [entry.path for entry in entries if not entry.name.endswith(ending) and os.path.isdir(entry)]
    entries += islice(chain.from_iterable(map(_entries, sorted(folders))), _MOST - len(entries))
    return sorted(entry.path for entry in entries if entry.name.endswith(ending))


def _entries(folder: str) -> "list[os.DirEntry[str]]":
    try:
        with os.scandir(folder) as entries:
            return [*islice(entries, _MOST)]
    except OSError:
        return []
