"""What tells whether files are the same as before, without a look into them."""

import os
from collections.abc import Collection, Mapping

from clinvk.runtime.private import at_home

Stamp = tuple[tuple[str, int, int], ...]
"""Files with size and time of change."""


def stamps(paths: Collection[str], env: Mapping[str, str]) -> Stamp:
    """Give size and time of change of the files that are there."""
    found: list[tuple[str, int, int]] = []
    for path in paths:
        try:
            status = os.stat(at_home(path, env))
        except OSError:
            continue
        found.append((path, status.st_size, status.st_mtime_ns))
    return tuple(found)
