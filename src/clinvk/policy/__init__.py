"""What a request may ask for: words, models, flags and directories, and how deep agents may call agents.

Pure: settings and paths are handed in. What comes over HTTP is held to all of it, since others may have sent it; the
command line, which is the user's own, to the depth alone.
"""

from collections.abc import Mapping

from clinvk.errors import InvalidRequest
from clinvk.policy.directories import BuiltIn, Directories, containing
from clinvk.request import RunRequest

__all__ = ["DEPTH_VARIABLE", "BuiltIn", "Directories", "containing", "depth", "may_edit", "refuse_depth"]

DEPTH_VARIABLE = "CLINVK_DEPTH"
"""In an agent's environment: how many agents are around what it starts, itself included."""


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
