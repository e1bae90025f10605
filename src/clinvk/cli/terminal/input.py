"""Read the prompt from the argument, stdin or both, and ask the user."""

import os
import select
import stat
import sys
from collections.abc import Callable, Sequence

from clinvk.cli.terminal.output import STDERR, write
from clinvk.types.errors import InvalidRequest
from clinvk.types.prompt_xml import STDIN_CONTEXT

_PATIENCE_S = 3.0
_READ_BYTES = 1024 * 1024
_NO_PROMPT = "no prompt: give one as an argument or on stdin; see clinvk help"

Note = Callable[[str], None]


def prompt_from(argument: str | None, no_stdin: bool, note: Note) -> str:
    """Return the prompt.

    Without an argument, or with `-`, stdin is the prompt. After an argument, stdin follows as context in `<stdin>`
    tags; a pipe without data for 3 s is ignored.

    Args:
        argument: PROMPT, if given.
        no_stdin: do not read stdin.
        note: prints a line for the user.

    Raises:
        InvalidRequest: the prompt is missing, empty, or not UTF-8.
    """
    if argument is not None and argument != "-":
        context = "" if no_stdin or not argument.strip() else _context(note)
        prompt = f"{argument}{STDIN_CONTEXT}{context.rstrip()}\n</stdin>" if context.strip() else argument
    elif no_stdin:
        raise InvalidRequest(_NO_PROMPT)
    elif argument is None and os.isatty(0):
        raise InvalidRequest("no prompt: give one as an argument, or - to type it here; see clinvk help")
    else:
        prompt = decoded(read_stdin("the prompt", note))
        if argument is None and not prompt and not _is_redirected():
            raise InvalidRequest(_NO_PROMPT)
    if not prompt.strip():
        raise InvalidRequest("the prompt is empty")
    return prompt


def read_stdin(what: str, note: Note) -> bytes:
    """Read stdin to its end. If no data arrives for a while, a note says what clinvk waits for.

    Raises:
        InvalidRequest: stdin cannot be read.
    """
    if not os.isatty(0) and not _has_data(_PATIENCE_S):
        note(f"waiting for {what} on stdin")
    return _read_all()


def decoded(data: bytes) -> str:
    """Decode the data of stdin.

    Raises:
        InvalidRequest: the data is not UTF-8.
    """
    try:
        return data.decode()
    except UnicodeDecodeError as exc:
        raise InvalidRequest(
            f"stdin is not UTF-8 text: byte 0x{exc.object[exc.start]:02x} at position {exc.start}"
        ) from None


def _context(note: Note) -> str:
    if not _is_redirected():
        return ""
    if not _has_data(_PATIENCE_S):
        note(f"no data on stdin for {_PATIENCE_S:g} s; continuing without it (--no-stdin does not wait)")
        return ""
    return decoded(_read_all())


def _is_redirected() -> bool:
    """Return whether stdin is a pipe, a socket or a file; terminals and /dev/null are devices."""
    mode = os.fstat(0).st_mode
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or stat.S_ISREG(mode)


def _has_data(within_s: float) -> bool:
    """Wait for data or the end; return whether either came in time."""
    poll = select.poll()
    poll.register(0, select.POLLIN)
    return bool(poll.poll(within_s * 1000))


def _read_all() -> bytes:
    data = bytearray()
    while True:
        try:
            chunk = os.read(0, _READ_BYTES)
        except BlockingIOError:  # another process that shares the pipe made it non-blocking
            _has_data(60)
            continue
        except OSError as exc:
            raise InvalidRequest(f"stdin cannot be read: {exc.strerror}") from exc
        if not chunk:
            return bytes(data)
        data += chunk


def confirm(verb: str, what: Sequence[str], many: str) -> bool:
    """Ask for confirmation before a deletion; return the answer.

    Args:
        verb: the action, such as `delete`.
        what: the objects, printed one per line.
        many: the plural of the kind of object.

    Raises:
        InvalidRequest: stdin is not a terminal.
    """
    if not os.isatty(0):
        raise InvalidRequest("this needs --yes: there is no terminal to ask on")
    one = f"{verb.capitalize()} {many.removesuffix('s')} {what[0]}"
    question = one if len(what) == 1 else "\n".join([*what, f"{verb.capitalize()} these {len(what)} {many}"])
    return ask_yes_no(question)


def ask_yes_no(question: str) -> bool:
    """Ask a question, without its question mark; no is the default.

    Raises:
        InvalidRequest: the line is not UTF-8.
    """
    return ask(f"{question}? [y/N] ").strip().lower() in ("y", "yes")


def ask(question: str) -> str:
    """Ask for a line, and return it with its line end; empty at the end of the input.

    Raises:
        InvalidRequest: the line is not UTF-8.
    """
    line = b""
    try:
        write(STDERR, question)
        line = sys.stdin.buffer.readline()
    finally:
        if not line.endswith(b"\n"):  # after Ctrl-C and Ctrl-D the cursor is still behind the question
            write(STDERR, "\n")
    return decoded(line)
