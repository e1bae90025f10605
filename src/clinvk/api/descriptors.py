"""How many connections, pipes and files the server may have open at once."""

import resource
from contextlib import suppress

_WANTED = (65_536, 10_240)
"""The second is the most that some releases of macOS take, whatever their hard limit says."""


def raise_limit() -> int | None:
    """Raise the soft limit towards the hard one: the usual 1024 are less than the prompts that may wait.

    Give the one before; None where it stays. It stays below the hard one: agents raise their own to that by themselves,
    and such a limit must be told from one that is only inherited.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for wanted in _WANTED:
        limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard - 1)
        if limit <= soft or soft == resource.RLIM_INFINITY:
            return None
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
            return soft
    return None
