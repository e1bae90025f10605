"""The demo of `make demo`: the real Claude Code and Codex answer through clinvk, without an account.

Their model API is the stand-in of the tests on 127.0.0.1; everything else is real. All files are in one temporary
folder, which is also the agents' home and is removed at the end.
"""

import argparse
import contextlib
import importlib.util
import json
import os
import select
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
import urllib.request
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

REPOSITORY = Path(__file__).resolve().parents[1]
WHEELS = {"claude": ("claude_agent_sdk", "_bundled/claude"), "codex": ("codex_cli_bin", "bin/codex")}
"""The packages and paths of the executables in the wheels of requirements-demo.txt."""

SAYS = "The model is a stand-in, the agent is real."
PROMPT = "Who are you?"
TIMEOUT_S = 60

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

[analytics]
enabled = false

[feedback]
enabled = false

[features]
plugins = false
"""

SDK = """\
import sys, openai
client = openai.OpenAI(base_url=f"{sys.argv[1]}/openai/v1", api_key="not-needed")
answer = client.chat.completions.create(model="claude", messages=[{"role": "user", "content": "Who are you?"}])
print(answer.choices[0].message.content)
"""

OWN_LOGIN = """\
   pip install .                      # clinvk; then log in to an agent: run claude, or codex login
   clinvk "what is in this directory?"
   clinvk serve                       # then http://127.0.0.1:8080/docs"""


class DemoFailed(Exception):
    """A step did not do what it shows; the message says what."""


@dataclass(frozen=True)
class Place:
    """The temporary folder."""

    root: Path

    @property
    def home(self) -> Path:
        return self.root / "home"

    @property
    def project(self) -> Path:
        return self.root / "project"

    @property
    def programs(self) -> Path:
        """The only folder of the agents on PATH, with links named like the CLIs."""
        return self.root / "bin"

    def environment(self) -> dict[str, str]:
        """Return an environment without anything of the user: no home, no login, no key, no proxy."""
        path = [self.programs, Path(sys.executable).parent, "/usr/local/bin", "/usr/bin", "/bin"]
        return {
            "PATH": os.pathsep.join(map(str, path)),
            "HOME": str(self.home),
            "TMPDIR": str(self.root / "tmp"),
            "LANG": "C.UTF-8",
            "TERM": os.environ.get("TERM", "dumb"),
            "PYTHONDONTWRITEBYTECODE": "1",
        }

    def environment_with_agents(self, url: str) -> dict[str, str]:
        """Return the same environment, with the agents directed to the stand-in and invalid keys."""
        return self.environment() | {
            "ANTHROPIC_BASE_URL": url,
            "ANTHROPIC_API_KEY": "no-key-is-needed",
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
            "STANDIN_KEY": "no-key-is-needed",
            "IS_SANDBOX": "1",  # lets Claude Code run as root too: the stand-in decides what the agents do
        }


class Screen:
    """Prints the steps, with pauses on a terminal."""

    def __init__(self, is_paced: bool) -> None:
        self._pause_s = 1.2 if is_paced else 0.0
        self._bold, self._plain = ("\x1b[1m", "\x1b[0m") if sys.stdout.isatty() else ("", "")
        self._number = 0

    def say(self, text: str) -> None:
        print(text, flush=True)

    def step(self, title: str, remark: str = "") -> None:
        """Print the title of the next step."""
        time.sleep(self._pause_s)
        self._number += 1
        self.say(f"\n{self._bold}{self._number}. {title}{self._plain}")
        for line in textwrap.wrap(remark, 96):
            self.say(f"   {line}")
        self.say("")

    def command(self, line: str) -> None:
        """Print a command that is about to run."""
        self.say(f"{self._bold}$ {line}{self._plain}")
        time.sleep(self._pause_s / 2)


@dataclass
class Runner:
    """Prints commands and runs them."""

    place: Place
    screen: Screen
    environment: dict[str, str]
    first_output_s: float = 0.0
    """Seconds from the start of the latest command to its first output."""

    def run(self, line: str, *, is_quiet: bool = False) -> str:
        """Run a line of shell in the project, print its output as it arrives, and return the output.

        Raises:
            DemoFailed: the command failed or took too long.
        """
        if not is_quiet:
            self.screen.command(line)
        stderr = subprocess.DEVNULL if is_quiet else subprocess.STDOUT
        command = ["/bin/sh", "-c", line]
        with running(command, self.place.project, self.environment, subprocess.PIPE, stderr) as process:
            printed, self.first_output_s = _read(process, None if is_quiet else sys.stdout.buffer.fileno())
            if not is_quiet and not printed.endswith("\n"):
                self.screen.say("")
            if code := process.wait(TIMEOUT_S):
                raise DemoFailed(f"`{line}` exited with {code}{': ' + printed[-2000:] if is_quiet else ''}")
        return printed

    def expect(self, printed: str, text: str) -> None:
        """Raise DemoFailed if the output does not contain the text."""
        if text not in printed:
            raise DemoFailed(f"expected {text!r} in the output:\n{printed[-2000:]}")


def main() -> int:
    """Run the demo and return its exit code."""
    parser = argparse.ArgumentParser(description="Show clinvk with the real Claude Code and Codex, without an account.")
    parser.add_argument("--agents", type=Path, help="a folder with claude and codex (default: the installed wheels)")
    parser.add_argument("--fast", action="store_true", help="do not pause between steps")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGHUP, _stop)
    screen = Screen(is_paced=sys.stdout.isatty() and not options.fast)
    try:
        if importlib.util.find_spec("openai") is None:
            raise DemoFailed("the package openai is missing; make demo installs it")
        with temporary_place() as place:
            link_agents(place, options.agents)
            show(place, screen)
    except DemoFailed as exc:
        print(f"\ndemo: {exc}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ndemo: stopped; nothing is left running", file=sys.stderr)
        return 130
    screen.say("\nThe server and its agents have stopped, and the temporary folder is removed.")
    return 0


def _stop(number: int, _: object) -> NoReturn:
    """Handle a signal like Ctrl-C, so that everything is cleaned up."""
    raise KeyboardInterrupt


def show(place: Place, screen: Screen) -> None:
    """Run all steps.

    Raises:
        DemoFailed: a step did not do what it shows.
    """
    with stand_in(place) as models:
        (place.home / ".codex" / "config.toml").write_text(CODEX_CONFIG.format(url=models))
        environment = place.environment_with_agents(models)
        runner = Runner(place, screen, environment)
        screen.say(
            "One command line and one API for all your coding agents. This demo runs the real Claude Code and Codex."
        )
        screen.say("Only their model API is a stand-in on this machine, so no account is needed.")
        screen.step("The agents")
        for name in WHEELS:
            runner.run(f"{name} --version")
        port = free_port()
        screen.step("A server", "It listens on this machine only.")
        screen.command(f"clinvk serve --port {port}")
        with server(place, environment, port) as greeting:
            screen.say(greeting.partition("\n")[0])
            through_the_server(runner, f"http://127.0.0.1:{port}", screen)
        side_by_side(runner, screen)
        screen.step("With your own login")
        screen.say(OWN_LOGIN)


def through_the_server(runner: Runner, base: str, screen: Screen) -> None:
    """Compare a cold and a warm start, continue a conversation, and use an SDK."""
    screen.step(
        "A cold start beside a warm agent",
        "The server keeps Codex running between prompts, and the command line uses it.",
    )
    prompt = f'clinvk --new -b codex -o text "{PROMPT}"'
    runner.expect(runner.run(prompt.replace("clinvk ", "clinvk --no-server ", 1)), SAYS)
    cold_s = runner.first_output_s
    runner.run(prompt, is_quiet=True)  # the first prompt of a kind starts the warm process
    runner.expect(runner.run(prompt), SAYS)
    screen.say(f"\n   time to the first word: {cold_s:.2f} s cold, {runner.first_output_s:.2f} s warm")
    screen.step(
        "A conversation",
        "The second prompt continues the session of the first. [[info]] makes the stand-in report what it received.",
    )
    runner.run('clinvk --new -o text "Read the code in this directory"')
    runner.expect(runner.run('clinvk -c -o text "Which part has no tests? [[info]]"'), "2")
    screen.step("An SDK in three lines", "Any OpenAI or Anthropic SDK works with another base URL.")
    runner.expect(runner.run(f"cat sdk.py && python sdk.py {base}"), SAYS)


def side_by_side(runner: Runner, screen: Screen) -> None:
    """Let both agents change their own copy of a project, and apply one of the changes."""
    screen.step(
        "Two agents, each in its own git worktree",
        "The brackets tell the stand-in what a model would decide: to write a file with the agent's shell tool.",
    )
    task = 'Add a greeting [[tool=shell cmd=\\"echo hello > hello.txt\\" say=Done.]]'
    compare = "clinvk compare --backends claude,codex --isolation worktree --approval-mode none"
    runner.expect(runner.run(f'{compare} \\\n    --check "test -f hello.txt" "{task}"'), "passed")
    screen.say("")
    runner.run("clinvk worktrees list")
    listed = json.loads(runner.run("clinvk worktrees list --json", is_quiet=True))
    first, second = (tree["id"] for tree in listed["worktrees"])
    screen.say("")
    runner.run(f"clinvk worktrees apply {first} && clinvk worktrees discard --yes {second} && cat hello.txt")


def _read(process: subprocess.Popen[bytes], copy_to: int | None) -> tuple[str, float]:
    """Read to the end, copy each piece as it arrives, and return the text and the seconds to the first piece."""
    assert process.stdout
    fd = process.stdout.fileno()
    start = time.monotonic()
    first_s = 0.0
    pieces: list[bytes] = []
    while select.select([fd], [], [], max(0.0, start + TIMEOUT_S - time.monotonic()))[0]:
        piece = os.read(fd, 65536)
        if not piece:
            return b"".join(pieces).decode(errors="replace"), first_s
        first_s = first_s or time.monotonic() - start
        pieces.append(piece)
        if copy_to is not None:
            os.write(copy_to, piece)
    raise DemoFailed(f"no end after {TIMEOUT_S} s; output until then: {b''.join(pieces)[-2000:]!r}")


@contextlib.contextmanager
def temporary_place() -> Generator[Place]:
    """Create the temporary folder, and remove it at the end."""
    with tempfile.TemporaryDirectory(prefix="clinvk-demo-", ignore_cleanup_errors=True) as folder:
        place = Place(Path(folder).resolve())
        for inner in (place.home / ".codex", place.project, place.programs, place.root / "tmp"):
            inner.mkdir(parents=True)
        (place.project / "sdk.py").write_text(SDK)
        git = ["git", "-c", "user.name=demo", "-c", "user.email=demo@localhost"]
        for arguments in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "--message", "Start"]):
            subprocess.run([*git, *arguments], cwd=place.project, env=place.environment(), check=True)
        yield place


def link_agents(place: Place, folder: Path | None) -> None:
    """Link the agents into one folder, and Node.js for agents that come from npm.

    Raises:
        DemoFailed: an agent is missing.
    """
    for name, (package, inner) in WHEELS.items():
        if folder:
            program = (folder / name).absolute()
        else:
            spec = importlib.util.find_spec(package)
            places = spec.submodule_search_locations if spec else None
            program = Path(next(iter(places or ["(not installed)"]))) / inner
        if not program.exists():
            raise DemoFailed(f"{program} is missing: run `make demo`, which installs {name}")
        (place.programs / name).symlink_to(program)
    node = shutil.which("node")
    if folder and node:
        (place.programs / "node").symlink_to(node)


@contextlib.contextmanager
def stand_in(place: Place, directive: str = f"say={shlex.quote(SAYS)} delay=0.08") -> Generator[str]:
    """Run the model API of the tests and yield its address. `directive` says what a model answers."""
    command = [sys.executable, "-m", "standin", *(["--default", directive] if directive else [])]
    with running(command, REPOSITORY / "tests", place.environment(), subprocess.PIPE) as process:
        assert process.stdout
        line = process.stdout.readline()
        if not line:
            raise DemoFailed("the stand-in for the model API did not start")
        yield f"http://127.0.0.1:{json.loads(line)['port']}"


@contextlib.contextmanager
def server(place: Place, environment: dict[str, str], port: int) -> Generator[str]:
    """Run `clinvk serve` and yield its start message.

    Raises:
        DemoFailed: it did not start, or did not stop cleanly.
    """
    log = place.root / "server.log"
    command = ["clinvk", "serve", "--port", str(port)]
    with log.open("wb") as file, running(command, place.project, environment, file.fileno(), file.fileno()) as process:
        _await_health(f"http://127.0.0.1:{port}/health", process, log)
        try:
            yield log.read_text().rstrip()
        except DemoFailed as exc:
            raise DemoFailed(f"{exc}\noutput of the server:\n{log.read_text()[-4000:]}") from exc
    if process.returncode:
        raise DemoFailed(f"the server stopped with {process.returncode}:\n{log.read_text()[-4000:]}")


def _await_health(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    until = time.monotonic() + TIMEOUT_S
    while process.poll() is None and time.monotonic() < until:
        try:
            with opener.open(url, timeout=TIMEOUT_S):
                return
        except OSError:
            time.sleep(0.05)
    why = "did not answer" if process.returncode is None else f"exited with {process.returncode}"
    raise DemoFailed(f"the server {why}:\n{log.read_text()[-4000:]}")


@contextlib.contextmanager
def running(
    command: list[str], folder: Path, environment: dict[str, str], stdout: int, stderr: int | None = None
) -> Generator[subprocess.Popen[bytes]]:
    """Run a program in a new session, and end it at the end of the block.

    Signals wait until the program has started: an interrupted `Popen` would lose the process.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM, signal.SIGHUP))
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr,
        start_new_session=True,
        preexec_fn=lambda: signal.pthread_sigmask(signal.SIG_SETMASK, before),
    )
    try:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(TIMEOUT_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if process.stdout:
            process.stdout.close()


def free_port() -> int:
    """Return a free port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


if __name__ == "__main__":
    sys.exit(main())
