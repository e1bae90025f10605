"""What a request may ask for: the directories that an agent is let into, and how deep agents may call agents.

Pure: all paths are handed in absolute and free of symbolic links. Whoever calls resolves them, and lets the agent into
the resolved path, so that what was judged is what is used.
"""

from collections.abc import Iterable, Mapping

import msgspec

from clinvk.errors import InvalidRequest
from clinvk.request import RunRequest

DEPTH_VARIABLE = "CLINVK_DEPTH"
"""In an agent's environment: how many agents are around what it starts, itself included."""


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


def depth(environ: Mapping[str, str]) -> int:
    """Give how many agents are around this clinvk; one that somebody else has set counts as none."""
    told = environ.get(DEPTH_VARIABLE, "")
    return int(told) if told.isascii() and told.isdigit() and len(told) < 10 else 0


def refuse_depth(environ: Mapping[str, str], most: int) -> None:
    """Refuse to run an agent that an agent asks for, where that goes too deep.

    Raises:
        InvalidRequest: it does.
    """
    around = depth(environ)
    if around > most:
        raise InvalidRequest(
            f"this clinvk was started by an agent that clinvk runs, {around} deep ({DEPTH_VARIABLE}); "
            f"unified_flags.max_depth allows {most}"
        )


def may_edit(request: RunRequest) -> bool:
    """Say whether an agent is let change files without being asked each time."""
    if request.sandbox_mode == "read-only":
        return False
    return request.approval_mode in ("auto", "none") or request.sandbox_mode in ("workspace", "full")


def _containing(path: str, directories: Iterable[str]) -> str | None:
    """Give the first directory that is the path or above it: `/home/a` holds `/home/a/b`, but not `/home/ab`."""
    return next((above for above in directories if path == above or path.startswith(above.rstrip("/") + "/")), None)
