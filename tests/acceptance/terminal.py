"""A terminal for the command: a pty of 80 columns and 24 rows, its screen, and typed keys."""

import fcntl
import os
import re
import select
import struct
import subprocess
import termios
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from acceptance.command import TIMEOUT_S, Clinvk

ESCAPE, ENTER = b"\x1b", b"\r"
_CODES = re.compile(rb"\x1b\[[0-9;?]*[A-Za-z]")
_DRAWN = re.compile(r"\x1b\[([0-9;?]*)([A-Za-z])|(\r\n|\r|[^\x1b\r]+)")


class Terminal:
    """The user's side. `mode` is how the terminal was set up when the command was started.

    `read` is what came since the last text that was waited for, `all_read` whatever came.
    """

    def __init__(self, process: "subprocess.Popen[bytes]", leader: int, follower: int, mode: list[object]) -> None:
        self.process = process
        self.mode = mode
        self.read = b""
        self.all_read = b""
        self._leader = leader
        self._follower = follower

    def type(self, keys: bytes) -> None:
        """Press keys."""
        os.write(self._leader, keys)

    def until(self, text: str) -> str:
        """Wait until a text has come since the last time; give what came up to it, without codes."""
        deadline = time.monotonic() + TIMEOUT_S
        while text.encode() not in self.plain():
            assert time.monotonic() < deadline, f"{text!r} did not come: {self.read.decode(errors='replace')!r}"
            self._take(0.05)
        before, found, _ = self.plain().partition(text.encode())
        self.read = b""
        return (before + found).decode()

    def plain(self) -> bytes:
        """Return the output without control sequences."""
        return _CODES.sub(b"", self.read)

    def screen(self) -> list[str]:
        """Return the lines on an unlimited screen after all output."""
        lines, row = [""], 0
        for steps, code, text in _DRAWN.findall(self.all_read.decode(errors="replace")):
            if code == "A":
                row -= int(steps or 1)
            elif code == "J":
                del lines[row + 1 :]
            elif code == "K" or text == "\r":  # what is written there is written over the whole line
                lines[row] = ""
            elif text == "\r\n":
                row += 1
                lines += [""] * (row == len(lines))
            else:
                lines[row] += text
        return "\n".join(lines).rstrip().split("\n")

    def ended(self) -> int:
        """Read to the end of the command; return the exit code."""
        deadline = time.monotonic() + TIMEOUT_S
        while self.process.poll() is None:
            assert time.monotonic() < deadline, f"it did not end: {self.read.decode(errors='replace')!r}"
            self._take(0.02)
        while self._take(0):
            pass
        return self.process.returncode

    def present_mode(self) -> list[object]:
        """Return how the terminal is set up."""
        return [*termios.tcgetattr(self._follower)]

    def _take(self, within_s: float) -> bool:
        if not select.select([self._leader], [], [], within_s)[0]:
            return False
        with suppress(OSError):
            news = os.read(self._leader, 65536)
            self.read += news
            self.all_read += news
            return True
        return False


@contextmanager
def on_terminal(
    clinvk: Clinvk, *arguments: str, env: Mapping[str, str] | None = None, columns: int = 80, stdout: int | None = None
) -> Generator[Terminal]:
    """Start the command on a terminal; `stdout` goes elsewhere where it is given."""
    with started_on_terminal(
        arguments, clinvk.folder, {**clinvk.agent.env, **(env or {})}, columns, stdout
    ) as terminal:
        yield terminal


@contextmanager
def started_on_terminal(
    arguments: Sequence[str], folder: Path, env: Mapping[str, str], columns: int = 80, stdout: int | None = None
) -> Generator[Terminal]:
    """Start the command on a terminal in a folder, with this environment."""
    leader, follower = os.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    mode: list[object] = [*termios.tcgetattr(follower)]
    process = subprocess.Popen(
        ["/bin/sh", "-c", 'exec "$0" "$@"', Clinvk.command, *arguments],
        stdin=follower,
        stdout=follower if stdout is None else stdout,
        stderr=follower,
        cwd=folder,
        env={"TERM": "xterm-256color", **env},
        start_new_session=True,
    )
    try:
        yield Terminal(process, leader, follower, mode)
    finally:
        process.kill()
        process.wait()
        os.close(leader)
        os.close(follower)
