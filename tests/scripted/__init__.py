"""A scripted agent: an executable that plays what a test tells it, under the name of any agent CLI.

scripted.play(claude_says("hello"))
scripted.play([line("garbage"), spawn("setsid"), ignore(SIGTERM), hang()], when="slow")
… run something with PATH=scripted.path …
scripted.calls()[0].argv
"""

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from scripted.steps import Step
from standin.document import JSON, Record, record, string

CLIS = ("claude", "codex", "gemini")


@dataclass(frozen=True)
class Call:
    """How the agent was started, once. `stdin` is None until it was read to its end."""

    pid: int
    name: str
    argv: tuple[str, ...]
    env: dict[str, str]
    cwd: str
    stdin: bytes | None


class Scripted:
    """The agent, installed in a folder."""

    def __init__(self, folder: Path, names: Sequence[str] = CLIS) -> None:
        self.folder = folder
        self._plays: list[JSON] = []
        source = Path(__file__).with_name("agent.py").read_text()
        for name in names:
            executable = folder / name
            executable.write_text(f"#!{sys.executable} -IS\n{source}")
            executable.chmod(0o755)

    @property
    def path(self) -> str:
        """A PATH with the agent in front, for the environment of clinvk."""
        return os.pathsep.join([str(self.folder), "/usr/bin", "/bin"])

    @property
    def env(self) -> dict[str, str]:
        """A scrubbed environment in which clinvk finds the agent; its home is the folder too.

        No agent is kept, since those of scripts serve one prompt. It lets the coverage of a `clinvk` that a test starts
        be measured.
        """
        measured = {name: value for name, value in os.environ.items() if name.startswith("COVERAGE_")}
        kept = {"CLINVK_WARM__ENABLED": "false"}
        return {"PATH": self.path, "HOME": str(self.folder), "LANG": "C.UTF-8", **kept, **measured}

    def play(self, steps: Sequence[Step], *, when: str | None = None, reads: bool = True) -> None:
        """Set what the agent does from its next start on; afterwards it exits with 0.

        Args:
            steps: see `scripted.steps`.
            when: a text of the prompt for which this holds; None is any prompt. Later plays come first.
            reads: stdin is read to its end before the first step. As `codex app-server` the agent waits for a turn
                instead, and exits when stdin is closed.
        """
        self._plays.append([when, reads, [*steps]])
        beside = self.folder / "plays.tmp"
        beside.write_text(json.dumps(self._plays))
        beside.rename(self.folder / "plays.json")

    def calls(self) -> list[Call]:
        """Return the starts of the agent so far, oldest first; `--version` does not count."""
        return [self._call(entry) for entry in self._records() if "argv" in entry]

    def outputs(self) -> list[tuple[str, str]]:
        """Return the outputs of client tools that agents received so far: the id of the call, and the text."""
        return [(string(entry, "output"), string(entry, "text")) for entry in self._records() if "output" in entry]

    def approvals(self) -> list[Record]:
        """Return the answers to the agent's requests for approval so far."""
        return [record(entry, "response") for entry in self._records() if "approval" in entry]

    def steerings(self) -> list[Record]:
        """Return the parameters of each `turn/steer` so far."""
        return [record(entry, "steered") for entry in self._records() if "steered" in entry]

    def grandchildren(self) -> list[int]:
        """Return the pids of all grandchildren that were ever started."""
        return [pid for entry in self._records() if "grandchild" in entry and isinstance(pid := entry["pid"], int)]

    def alive(self) -> list[int]:
        """Return the pids of agents and grandchildren that still run."""
        found: list[int] = []
        for process in psutil.process_iter(["cmdline"]):
            words: list[str] = process.info["cmdline"] or []
            if any(word.startswith(f"{self.folder}/") for word in words[:3]):
                found.append(process.pid)
        return found

    def end(self) -> None:
        """Kill the remaining processes."""
        for pid in self.alive():
            try:
                psutil.Process(pid).kill()
            except psutil.NoSuchProcess:
                continue

    def _records(self) -> list[Record]:
        file = self.folder / "calls.jsonl"
        if not file.exists():
            return []
        return [json.loads(text) for text in file.read_text().rpartition("\n")[0].splitlines()]  # what is whole

    def _call(self, entry: Record) -> Call:
        argv, pid = entry["argv"], entry["pid"]
        assert isinstance(argv, list)
        assert isinstance(pid, int)
        stdin = self.folder / f"{pid}.stdin"
        return Call(
            pid=pid,
            name=string(entry, "name"),
            argv=tuple(str(word) for word in argv),
            env={name: str(value) for name, value in record(entry, "env").items()},
            cwd=string(entry, "cwd"),
            stdin=stdin.read_bytes() if stdin.exists() else None,
        )
