"""The processes of a bench: programs that run to their end, and programs that are ended."""

import contextlib
import subprocess
import sys
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path

from bench.workplace import BenchBroken

_PROJECT = Path(__file__).parent.parent
RUNS_FOR_S = 90
_ENDS_TIMEOUT_S = 10


def module(name: str, *arguments: str) -> list[str]:
    """The processes of a bench: programs that run to their end, and programs that are ended."""
    return [sys.executable, "-m", f"bench.{name}", *arguments]


def clinvk(*arguments: str) -> list[str]:
    """Return the command that runs clinvk in this Python's environment."""
    script = Path(sys.executable).parent / "clinvk"
    return [str(script), *arguments] if script.exists() else [sys.executable, "-m", "clinvk", *arguments]


def last_words(said: str) -> str:
    """Return the last lines of a failed program's output."""
    return " | ".join(said.strip().splitlines()[-3:])


def run(command: Sequence[str], env: Mapping[str, str] | None = None, within_s: float = RUNS_FOR_S) -> str:
    """Run a program to its end and return its output.

    Raises:
        BenchBroken: it failed, or took too long.
    """
    try:
        done = subprocess.run(
            command,
            env=env,
            cwd=_PROJECT,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=within_s,
            check=False,
        )
    except subprocess.TimeoutExpired as exc:
        raise BenchBroken(f"{command} took over {within_s} s") from exc
    if done.returncode:
        raise BenchBroken(f"{command} exited with code {done.returncode}: {last_words(done.stderr)}")
    return done.stdout


@contextlib.contextmanager
def running(command: Sequence[str], env: Mapping[str, str] | None, log: Path) -> Generator["subprocess.Popen[bytes]"]:
    """Run a program during the context; `log` gets its stderr. It is ended by the end of stdin, TERM or KILL."""
    with log.open("wb") as errors:
        process = subprocess.Popen(
            command, env=env, cwd=_PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors
        )
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.communicate(timeout=_ENDS_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
