"""Asking before something is gone for good."""

import os
import sys
from collections.abc import Sequence

from clinvk.errors import InvalidRequest


def agreed(verb: str, what: Sequence[str], many: str) -> bool:
    """Ask on the terminal whether to do it to these, one a line, `many` of which are called so; give the answer.

    Raises:
        InvalidRequest: there is no terminal to ask on.
    """
    if not os.isatty(0):
        raise InvalidRequest(f"{verb} needs --yes: there is no terminal to ask on")
    question = f"{verb} {what[0]}" if len(what) == 1 else "\n".join([*what, f"{verb} these {len(what)} {many}"])
    sys.stderr.write(f"{question}? [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")
