"""What a request may ask for: the directories that an agent is let into.

Pure: all paths are handed in absolute and free of symbolic links. Whoever calls resolves them, and lets the agent into
the resolved path, so that what was judged is what is used.
"""

from collections.abc import Iterable

import msgspec


class Directories(msgspec.Struct, frozen=True):
    """The lists of the settings: nothing outside `allowed` (empty is no limit), nothing inside `blocked`."""

    allowed: tuple[str, ...] = ()
    blocked: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        """Say whether anything is refused at all."""
        return bool(self.allowed or self.blocked)

    def refusal(self, path: str) -> str | None:
        """Say why an agent may not be let into a directory; None if it may."""
        if forbidden := _containing(path, self.blocked):
            return f"is in {forbidden!r}, which server.blocked_workdir_prefixes forbids"
        if self.allowed and not _containing(path, self.allowed):
            return f"is in none of {', '.join(map(repr, self.allowed))} (server.allowed_workdir_prefixes)"
        return None


def _containing(path: str, directories: Iterable[str]) -> str | None:
    """Give the first directory that is the path or above it: `/home/a` holds `/home/a/b`, but not `/home/ab`."""
    return next((above for above in directories if path == above or path.startswith(above.rstrip("/") + "/")), None)
