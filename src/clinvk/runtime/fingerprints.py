"""What tells whether files are the same as before, without a look into them."""

import os
from collections.abc import Collection, Mapping

from clinvk.runtime.private import at_home

Fingerprint = tuple[tuple[str, int, int, int], ...]
"""Files with inode, size and time of change: npm gives all files of a package the same time of writing."""


def fingerprint(paths: Collection[str], env: Mapping[str, str]) -> Fingerprint:
    """Give what tells of the files that are there."""
    found: list[tuple[str, int, int, int]] = []
    for path in paths:
        try:
            status = os.stat(at_home(path, env))
        except OSError:
            continue
        found.append((path, status.st_ino, status.st_size, status.st_ctime_ns))
    return tuple(found)
