"""Asking the user on the terminal."""

import os
import sys
from collections.abc import Sequence

from clinvk.cli.output import STDERR, write
from clinvk.cli.stdin import decoded
from clinvk.errors import InvalidRequest


def agreed(verb: str, what: Sequence[str], many: str) -> bool:
    """Ask before something is gone: to do it to these, one a line, `many` of which are called so; give the answer.

    Raises:
        InvalidRequest: there is no terminal to ask on.
    """
    if not os.isatty(0):
        raise InvalidRequest(f"{verb} needs --yes: there is no terminal to ask on")
    question = f"{verb} {what[0]}" if len(what) == 1 else "\n".join([*what, f"{verb} these {len(what)} {many}"])
    return answer_to(f"{question}? [y/N] ").strip().lower() in ("y", "yes")


def answer_to(question: str) -> str:
    """Ask for a line, and give it with its end; where the input has ended it is empty.

    Raises:
        InvalidRequest: it is not UTF-8.
    """
    line = b""
    try:
        write(STDERR, question)
        line = sys.stdin.buffer.readline()
    finally:
        if not line.endswith(b"\n"):  # after Ctrl-C and Ctrl-D the next line begins where the question ended
            write(STDERR, "\n")
    return decoded(line)
