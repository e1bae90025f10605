"""The installed `clinvk` as a user starts it, over the scripted agent, in a scrubbed environment."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import msgspec

from clients import finished
from scripted import Scripted

TIMEOUT_S = 30.0

T = TypeVar("T")


class Clinvk:
    """Starts the command in `folder`, with the scripted agent's home."""

    command = str(Path(sys.executable).with_name("clinvk"))

    def __init__(self, agent: Scripted, folder: Path) -> None:
        self.agent = agent
        self.folder = folder
        self.config = agent.folder / ".clinvk" / "config.yaml"

    def run(
        self,
        *arguments: str | bytes,
        stdin: bytes | int = subprocess.DEVNULL,
        env: Mapping[str, str] | None = None,
        close_fds: str = "",
        before: str = "true",
    ) -> "subprocess.CompletedProcess[str]":
        """Run the command to its end; `close_fds` is shell syntax such as `<&-`, `before` a shell command."""
        command = ["/bin/sh", "-c", f'{before}; exec "$0" "$@" {close_fds}', self.command]
        done = subprocess.run(
            [*command, *arguments],
            capture_output=True,
            cwd=self.folder,
            env={**self.agent.env, **(env or {})},
            timeout=TIMEOUT_S,
            input=stdin if isinstance(stdin, bytes) else None,
            stdin=None if isinstance(stdin, bytes) else stdin,
        )
        assert b"Traceback" not in done.stderr, done.stderr.decode()
        return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())

    def json(
        self, kind: type[T], *arguments: str, code: int = 0, stdin: bytes | int = subprocess.DEVNULL, notes: str = ""
    ) -> T:
        """Run the command with --json; return its decoded output. The stderr of a success must match `notes`."""
        done = self.run(*arguments, "--json", stdin=stdin)
        assert done.returncode == code, done.stderr
        assert code or re.fullmatch(notes, done.stderr), done.stderr
        return msgspec.json.decode(done.stdout, type=kind)

    @contextmanager
    def started(
        self,
        *arguments: str,
        stdin: int = subprocess.DEVNULL,
        stdout: int = subprocess.PIPE,
        stderr: int = subprocess.PIPE,
        env: Mapping[str, str] | None = None,
        close_fds: str = "",
    ) -> Generator["subprocess.Popen[bytes]"]:
        """Start the command; kill it at the end if it is still running."""
        shell = ("/bin/sh", "-c", f'exec "$0" "$@" {close_fds}') if close_fds else ()
        process = subprocess.Popen(
            [*shell, self.command, *arguments],
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            cwd=self.folder,
            env={**self.agent.env, **(env or {})},
        )
        try:
            yield process
        finally:
            process.kill()
            process.wait()
            for stream in (process.stdout, process.stderr):
                if stream:
                    stream.close()

    def settings(self, text: str) -> None:
        """Write the settings file."""
        self.config.parent.mkdir(exist_ok=True)
        self.config.write_text(text)

    @property
    def prompts(self) -> list[str]:
        """The agent's stdin of each start; for a warm conversation, the texts of its prompts."""
        return [_text((call.stdin or b"").decode()) for call in self.agent.calls()]


def _text(stdin: str) -> str:
    if stdin.startswith('{"id":'):  # `codex app-server`
        return json.loads(stdin.splitlines()[-1])["params"]["input"][-1]["text"]
    if not stdin.startswith(('{"type":"control_request"', '{"type":"user"')):
        return stdin
    content = json.loads(stdin.splitlines()[-1])["message"]["content"]
    return content[0]["text"] if len(content) == 1 else stdin


async def command_line(agent: Scripted, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run the command beside others, in the folder of the agent."""
    return await finished(Clinvk.command, *arguments, cwd=agent.folder, env=agent.env, within_s=3 * TIMEOUT_S)


def until(happened: Callable[[], object], within_s: float = TIMEOUT_S) -> None:
    """Wait until the condition holds."""
    deadline = time.monotonic() + within_s
    while not happened():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.005)


def read_until(fd: int, wanted: bytes) -> bytes:
    """Read until the text has arrived."""
    read = b""
    while wanted not in read:
        chunk = os.read(fd, 65536)
        assert chunk, f"it ended with {read!r}"
        read += chunk
    return read
