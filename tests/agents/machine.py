"""A user's machine for one test: the real agent CLIs, set up to talk to the stand-in model API."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import psutil
from msgspec.structs import replace

from acceptance.command import Clinvk, until
from clinvk.backends.registry import BACKENDS
from clinvk.config.model import Settings, WarmSettings, complete
from clinvk.runtime.local import LocalRuns
from clinvk.store.memory import MemoryStore
from clinvk.store.protocol import SessionStore
from clinvk.types.events import Event, RunResult, TextDelta
from clinvk.types.request import RunRequest
from standin.document import Record
from standin.process import Address

REPOSITORY = Path(__file__).parents[2]
INSTALLED = REPOSITORY / ".clients"
"""Where the Makefile has installed the clients: `node_modules/`, and virtual environments."""
CLIS = ("claude", "codex", "gemini")
CODEX_CONFIG = """\
model = "gpt-5.5"
model_provider = "standin"
check_for_update_on_startup = false

[model_providers.standin]
name = "stand-in"
base_url = "{url}/v1"
wire_api = "responses"
env_key = "STANDIN_KEY"
requires_openai_auth = false
supports_websockets = false
request_max_retries = 1
stream_max_retries = 1

[analytics]
enabled = false

[feedback]
enabled = false

[features]
plugins = false
"""
GEMINI_SETTINGS = {
    "general": {
        "enableAutoUpdate": False,
        "enableAutoUpdateNotification": False,
        "maxAttempts": 1,
        "retryFetchErrors": False,
    },
    "privacy": {"usageStatisticsEnabled": False},
    "telemetry": {"enabled": False},
    "security": {"auth": {"selectedType": "gemini-api-key"}},
}

MCP_SERVER = """\
import json, pathlib, sys
pathlib.Path(sys.argv[1]).touch()
for line in sys.stdin:
    message = json.loads(line)
    tool = {"name": "write", "description": "w", "inputSchema": {"type": "object"}}
    result = {
        "initialize": lambda: {"protocolVersion": message["params"]["protocolVersion"], "capabilities": {"tools": {}},
                               "serverInfo": {"name": "e", "version": "1"}},
        "tools/list": lambda: {"tools": [tool]},
        "tools/call": lambda: pathlib.Path(sys.argv[1] + "-called").touch() or {"content": []},
    }.get(message["method"], dict)()
    if "id" in message:
        print(json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}), flush=True)
"""
"""An MCP server that touches a file, whose path is its argument; another, `…-called`, when its tool is called."""

PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
"""A picture of one pixel, in base64."""

SETTINGS = Settings(warm=WarmSettings(kept_backends=("claude", "codex")))


@dataclass(frozen=True)
class Machine:
    """A user's machine: a home with the CLIs set up, a project, and the real CLIs on PATH.

    Nothing is set that clinvk itself has to see to, such as trust in the project. `IS_SANDBOX` is what a user who
    runs Claude Code as root has to set; a test of that takes it out of `env`.

    Attributes:
        outside: a directory beside the project, in no temporary folder, that no agent was given.
        env: the whole environment for a clinvk or an agent process.
        keeps_warm: its runs go to processes that are kept, where the settings have it so.
    """

    home: Path
    project: Path
    outside: Path
    env: dict[str, str]
    model_api: Address
    settings: Settings = SETTINGS
    keeps_warm: bool = False

    @classmethod
    def install(cls, root: Path, path: str, standin: Address, *, keeps_warm: bool = False) -> Self:
        """Set a machine up in a folder; `path` is the PATH on which the CLIs are."""
        home, project, outside = root / "home", root / "project", root / "outside"
        for place in (home / ".codex", home / ".gemini", project, outside):
            place.mkdir(parents=True)
        model_api = Address(standin.root, root.name)
        (home / ".codex" / "config.toml").write_text(CODEX_CONFIG.format(url=model_api.url))
        (home / ".gemini" / "settings.json").write_text(json.dumps(GEMINI_SETTINGS))
        env = _environment(home, path, model_api.url)
        return cls(home, project, outside, env, model_api, keeps_warm=keeps_warm)

    def requests(self, text: str = "") -> list[Record]:
        """Return the bodies of requests to the model API whose latest user text contains `text`.

        What a CLI asks on its own account, such as which model to take, is left out.
        """
        entries = [entry for entry in self.exchanges(text) if not entry["aside"]]
        return [body for entry in entries if isinstance(body := entry["body"], dict)]

    def exchanges(self, text: str = "") -> list[Record]:
        """Return all of them, with path, headers, status, outcome; see `standin.log`."""
        return self.model_api.requests(text)

    def runs(self, settings: Settings | None = None, store: SessionStore | None = None) -> LocalRuns:
        """Return `Runs` over the real CLIs, to be entered."""
        return LocalRuns(
            settings or self.settings, store or MemoryStore(), self.env, BACKENDS, keeps_warm=self.keeps_warm
        )

    def completed(self, request: RunRequest) -> RunRequest:
        """Complete a request as the front ends do; its directory is the project where it names none."""
        return complete(replace(request, workdir=request.workdir or str(self.project)), self.settings)

    async def run_in(self, runs: LocalRuns, request: RunRequest) -> tuple[list[Event], str]:
        """Run one prompt to its end; return its events and its session."""
        async with runs.run(self.completed(request)) as run:
            return [logged.event async for logged in run.log.follow()], run.session_id or ""

    async def run(self, request: RunRequest) -> RunResult:
        """Run one prompt to its end."""
        async with self.runs() as runs, runs.run(self.completed(request)) as run:
            return await run.log.result()

    async def events(self, request: RunRequest) -> list[Event]:
        """Run one prompt; return its events."""
        async with self.runs() as runs:
            return (await self.run_in(runs, request))[0]

    def leftover_processes(self) -> list[psutil.Process]:
        """Return the processes that still run in this home or in one of its directories."""
        found: list[psutil.Process] = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.cwd().startswith(str(self.home.parent)) or process.environ().get("HOME") == str(self.home):
                    found.append(process)
        return found

    def is_sleeping(self, seconds: int) -> bool:
        """Return whether a tool sleeps for that time."""
        for process in self.leftover_processes():
            with suppress(psutil.Error):
                if process.cmdline() == ["sleep", str(seconds)]:
                    return True
        return False


def text_of(events: list[Event]) -> str:
    """Return the text of an answer."""
    return "".join(event.text for event in events if isinstance(event, TextDelta))


def agent_path() -> str:
    """Return a PATH with the pinned CLIs in front."""
    folder = Path(os.environ.get("CLINVK_TEST_AGENTS", REPOSITORY / ".agents")).absolute() / "node_modules" / ".bin"
    missing = [name for name in CLIS if not (folder / name).exists()]
    assert not missing, f"no {', '.join(missing)} in {folder}: run `make test`, which installs them"
    node = shutil.which("node")
    assert node, "no `node` on PATH: the agent CLIs need Node.js 20 or later"
    places = (folder, Path(node).parent, "/usr/local/bin", "/usr/bin", "/bin", Path(sys.executable).parent)
    return os.pathsep.join(str(place) for place in places)


def _environment(home: Path, path: str, url: str) -> dict[str, str]:
    """Return the environment of a user's shell, with fake keys."""
    return {
        "PATH": path,
        "HOME": str(home),
        "LANG": "C.UTF-8",
        "TERM": "xterm-256color",
        "ANTHROPIC_BASE_URL": url,
        "ANTHROPIC_API_KEY": "test-key",
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "CLAUDE_CODE_MAX_RETRIES": "1",
        "IS_SANDBOX": "1",
        "STANDIN_KEY": "test-key",
        "GEMINI_API_KEY": "test-key",
        "GOOGLE_GEMINI_BASE_URL": url,
    }


def clinvk(
    machine: Machine, *arguments: str, stdin: str = "", within_s: float = 100
) -> "subprocess.CompletedProcess[str]":
    """Run the command in the project."""
    return subprocess.run(
        [Clinvk.command, *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        cwd=machine.project,
        env=machine.env,
        timeout=within_s,
        check=False,
    )


@contextmanager
def served(machine: Machine) -> Generator[str]:
    """Run a server of the machine's user inside the context, and yield its address."""
    log = machine.home / "server.log"
    with log.open("w") as file:
        process = subprocess.Popen(
            [Clinvk.command, "serve", "--port", "0"],
            cwd=machine.home,
            env=machine.env,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
        )
    try:
        until(lambda: "listens on" in log.read_text(), 60)
        yield re.findall(r"http://\S+", log.read_text())[0]
    finally:
        process.terminate()
        process.wait(30)


def interrupted_in_a_tool(machine: Machine, *arguments: str) -> tuple[int, bytes]:
    """Send Ctrl-C to the command during a tool call; return the exit code and stderr."""
    up = machine.project / "up"
    process = subprocess.Popen(
        [
            *(Clinvk.command, *arguments, "-o", "text", "--no-stdin"),
            *("--approval-mode", "none", "--sandbox-mode", "full"),
            'go [[tool=shell cmd="touch up; exec sleep 599" words=1]]',
        ],
        cwd=machine.project,
        env=machine.env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        until(up.exists, 60)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
    finally:
        process.kill()
    return process.returncode, stderr
