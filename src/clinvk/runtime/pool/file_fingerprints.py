"""Fingerprints of the files that an agent reads, its program included: they show whether a file has changed."""

import os
from collections.abc import Collection, Mapping
from itertools import chain, islice

from clinvk.runtime.process.private_folder import at_home

Fingerprint = tuple[tuple[str, int, int, int], ...]
"""Files with inode, size and ctime. The mtime is useless: npm gives all files of a package the same mtime."""

_NO_PREFIX = "\0"
"""No path begins with this character."""

_MAX_ENTRIES = 200
"""Maximum number of entries read for one name: the look-up happens for every run, and projects can be huge."""


def fingerprint(names: Collection[str], env: Mapping[str, str]) -> Fingerprint:
    """Return the fingerprint of files named as in `Launch.reads`.

    Most files do not exist. `access` reports a missing file in half the time of an exception.
    """
    found: list[tuple[str, int, int, int]] = []
    missing_prefix = _NO_PREFIX
    for name in names:
        if name.startswith(missing_prefix):
            continue
        path = at_home(name, env)
        if name.endswith("/"):
            missing_prefix = _NO_PREFIX if os.access(path, os.F_OK) else name
        elif "*" in name:
            found += map(_stamp, _files(path))
        elif os.access(path, os.F_OK):
            found.append(_stamp(path))
    return tuple(found)


def _stamp(file: str) -> tuple[str, int, int, int]:
    try:
        status = os.stat(file)
    except OSError:  # removed after the search
        return file, 0, 0, 0
    return file, status.st_ino, status.st_size, status.st_ctime_ns


def _files(path: str) -> Collection[str]:
    """Return the files that match a path; a star before the end is part of the name."""
    folder, _, ending = path.rpartition("/*")
    if not ending.startswith((".", "/")) or "/" in ending[1:]:
        return (path,) if os.access(path, os.F_OK) else ()
    entries = _entries(folder)
    if ending.startswith("/"):
        return sorted(file for entry in entries if os.access(file := entry.path + ending, os.F_OK))
    # Not `entry.is_dir()`: it raises for a link that leads round in a circle.
    folders = [entry.path for entry in entries if not entry.name.endswith(ending) and os.path.isdir(entry)]
    entries += islice(chain.from_iterable(map(_entries, sorted(folders))), _MAX_ENTRIES - len(entries))
    return sorted(entry.path for entry in entries if entry.name.endswith(ending))


def _entries(folder: str) -> "list[os.DirEntry[str]]":
    try:
        with os.scandir(folder) as entries:
            return [*islice(entries, _MAX_ENTRIES)]
    except OSError:
        return []
