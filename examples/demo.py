"""The real Claude Code and Codex answer through clinvk, without an account: `make demo` runs this.

Their model API is the stand-in of the tests, on 127.0.0.1: what the models say is made up, all else is real.
Everything lives in one temporary folder, which is the agents' home too, and is gone at the end.
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
import urllib.error
import urllib.request
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

REPOSITORY = Path(__file__).resolve().parents[1]
WHEELS = {"claude": ("claude_agent_sdk", "_bundled/claude"), "codex": ("codex_cli_bin", "bin/codex")}
"""Where the wheels of requirements-demo.txt carry the programs."""

SAYS = "The model is a stand-in, the agent is real."
PROMPT = "Who are you?"
WITHIN_S = 60

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

OWN_LOGIN = """\
   pip install .                      # clinvk; then log in to an agent: run claude, or codex login
   clinvk -o text "what is in this directory?"
   clinvk serve                       # then http://127.0.0.1:8080/docs"""


class DemoFailed(Exception):
    """Something did not happen as it is shown here; the message says what."""


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
        """The only folder of the agents on PATH: links named as the CLIs are."""
        return self.root / "bin"

    def environment(self) -> dict[str, str]:
        """Give an environment with nothing of the user's: no home, no login, no key, no proxy."""
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
        """Give the same with the agents pointed at the stand-in, and keys that are none."""
        return self.environment() | {
            "ANTHROPIC_BASE_URL": url,
            "ANTHROPIC_API_KEY": "no-key-is-needed",
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
            "STANDIN_KEY": "no-key-is-needed",
        }


class Screen:
    """Tells the story, at a person's pace where a person looks on."""

    def __init__(self, is_paced: bool) -> None:
        self._pause_s = 1.2 if is_paced else 0.0
        self._bold, self._plain = ("\x1b[1m", "\x1b[0m") if sys.stdout.isatty() else ("", "")
        self._number = 0

    def say(self, text: str) -> None:
        print(text, flush=True)

    def step(self, title: str, remark: str = "") -> None:
        """Begin the next step."""
        time.sleep(self._pause_s)
        self._number += 1
        self.say(f"\n{self._bold}{self._number}. {title}{self._plain}")
        for line in textwrap.wrap(remark, 96):
            self.say(f"   {line}")
        self.say("")

    def command(self, line: str) -> None:
        """Show a command that is about to run."""
        self.say(f"{self._bold}$ {line}{self._plain}")
        time.sleep(self._pause_s / 2)


@dataclass(frozen=True)
class Runner:
    """Shows commands and really runs them."""

    place: Place
    screen: Screen
    environment: dict[str, str]

    def run(self, line: str, *, is_shown: bool = True) -> str:
        """Run a line of shell in the project, show what it prints as it prints it, and give that.

        Raises:
            DemoFailed: it failed, or took too long.
        """
        self.screen.command(line)
        process = subprocess.Popen(
            ["/bin/sh", "-c", line],
            cwd=self.place.project,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        with ended(process):
            printed = _read(process, sys.stdout.buffer.fileno() if is_shown else None)
            if is_shown and not printed.endswith("\n"):
                self.screen.say("")
            if code := process.wait(WITHIN_S):
                raise DemoFailed(f"`{line}` exited with {code}{'' if is_shown else ': ' + printed[-2000:]}")
        return printed

    def post(self, url: str, body: dict[str, str], *, indent: bool = False) -> str:
        """Send a JSON body by curl, and by Python where there is none; show and give the answer.

        Raises:
            DemoFailed: there was no answer.
        """
        curl = "curl -s" if indent else "curl -sN"
        line = f"{curl} {url} \\\n    -H 'Content-Type: application/json' \\\n    -d {shlex.quote(json.dumps(body))}"
        if shutil.which("curl", path=self.environment["PATH"]):
            answer = self.run(line, is_shown=not indent)
        else:
            self.screen.command(line)
            self.screen.say("(there is no curl here: Python sends it)")
            answer = _post(url, body, is_shown=not indent)
        if indent:
            self.screen.say(json.dumps(_decoded(answer), indent=2))
        return answer

    def expect(self, printed: str, text: str) -> None:
        """Fail where what was printed does not have the text."""
        if text not in printed:
            raise DemoFailed(f"{text!r} was to be expected, not:\n{printed[-2000:]}")


def main() -> int:
    """Show it; give the exit code."""
    parser = argparse.ArgumentParser(description="Show clinvk with the real Claude Code and Codex, without an account.")
    parser.add_argument("--agents", type=Path, help="a folder with claude and codex (default: those that pip brought)")
    parser.add_argument("--fast", action="store_true", help="make no pauses")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGHUP, _stop)
    screen = Screen(is_paced=sys.stdout.isatty() and not options.fast)
    try:
        with temporary_place() as place:
            link_agents(place, options.agents)
            show(place, screen)
    except DemoFailed as exc:
        print(f"\ndemo: {exc}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ndemo: stopped; nothing is left running", file=sys.stderr)
        return 130
    screen.say("\nThe server has stopped, its agents with it, and the temporary folder is gone.")
    return 0


def _stop(number: int, _: object) -> NoReturn:
    """End by a signal as by Ctrl-C: everything is put away."""
    raise KeyboardInterrupt


def show(place: Place, screen: Screen) -> None:
    """Tell the whole story.

    Raises:
        DemoFailed: it went otherwise.
    """
    with stand_in(place) as models:
        (place.home / ".codex" / "config.toml").write_text(CODEX_CONFIG.format(url=models))
        environment = place.environment_with_agents(models)
        runner = Runner(place, screen, environment)
        screen.say("clinvk runs the coding agents of your machine. Here it runs the real Claude Code and Codex;")
        screen.say(f"only their model API is a stand-in, on {models}. No account is used,")
        screen.say(f"and all files are in {place.root}.")
        screen.step("The agents")
        for name in WHEELS:
            runner.run(f"{name} --version")
        port = free_port()
        screen.step("A server", "It listens on this machine only.")
        screen.command(f"clinvk serve --port {port}")
        with server(place, environment, port) as greeting:
            screen.say(greeting)
            over_http(runner, f"http://127.0.0.1:{port}", screen)
        screen.step("The same on the command line", "The answer streams.")
        runner.expect(runner.run(f'clinvk --new -o text "{PROMPT}"'), SAYS)
        runner.expect(runner.run(f'clinvk --new -b codex -o text "{PROMPT}"'), SAYS)
        screen.step("With your own login")
        screen.say(OWN_LOGIN)


def over_http(runner: Runner, base: str, screen: Screen) -> None:
    """Ask both agents, stream one, and let one write a file."""
    screen.step("A prompt over HTTP", "Codex answers in JSON when it has finished.")
    answer = runner.post(f"{base}/api/v1/prompt", {"backend": "codex", "prompt": PROMPT}, indent=True)
    runner.expect(answer, SAYS)
    screen.step("The same as a stream", "Claude Code, one event a line, each as it arrives.")
    streamed = runner.post(
        f"{base}/api/v1/prompt", {"backend": "claude", "prompt": PROMPT, "output_format": "stream-json"}
    )
    runner.expect("".join(_texts(streamed)), SAYS)
    file = runner.place.project / "hello.txt"
    screen.step(
        "An agent that writes a file",
        "approval_mode says what it may do unasked: auto is edits. The brackets tell the stand-in, which cannot think, "
        "what a model would decide: to use the agent's tool for writing files.",
    )
    work = f"Write a greeting. [[tool=write path={file} content=hello-from-claude say=Done.]]"
    body = {"backend": "claude", "workdir": str(runner.place.project), "approval_mode": "auto", "prompt": work}
    runner.expect(runner.post(f"{base}/api/v1/prompt", body, indent=True), "Done.")
    screen.say("")
    runner.expect(runner.run(f"cat {shlex.quote(str(file))}"), "hello-from-claude")


def _texts(stream: str) -> Iterator[str]:
    for line in stream.splitlines():
        event = json.loads(line)
        if event["type"] == "message":
            yield event["content"]["text"]


def _decoded(answer: str) -> object:
    try:
        return json.loads(answer)
    except ValueError as exc:
        raise DemoFailed(f"the answer is no JSON: {answer[:2000]!r}") from exc


def _post(url: str, body: dict[str, str], *, is_shown: bool) -> str:
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    lines: list[bytes] = []
    try:
        with opener.open(request, timeout=WITHIN_S) as answer:
            for line in answer:
                lines.append(line)
                if is_shown:
                    print(line.decode(), end="", flush=True)
    except urllib.error.HTTPError as exc:
        raise DemoFailed(f"POST {url} was answered {exc.code}: {exc.read().decode(errors='replace')}") from exc
    except OSError as exc:
        raise DemoFailed(f"POST {url}: {exc}") from exc
    return b"".join(lines).decode()


def _read(process: subprocess.Popen[bytes], copy_to: int | None) -> str:
    """Read to the end, copying each piece as it comes."""
    assert process.stdout
    fd = process.stdout.fileno()
    until = time.monotonic() + WITHIN_S
    pieces: list[bytes] = []
    while select.select([fd], [], [], max(0.0, until - time.monotonic()))[0]:
        piece = os.read(fd, 65536)
        if not piece:
            return b"".join(pieces).decode(errors="replace")
        pieces.append(piece)
        if copy_to is not None:
            os.write(copy_to, piece)
    raise DemoFailed(f"no end after {WITHIN_S} s; so far: {b''.join(pieces)[-2000:]!r}")


@contextlib.contextmanager
def temporary_place() -> Generator[Place]:
    """Make the temporary folder, and remove it."""
    with tempfile.TemporaryDirectory(prefix="clinvk-demo-", ignore_cleanup_errors=True) as folder:
        place = Place(Path(folder).resolve())
        for inner in (place.home / ".codex", place.project, place.programs, place.root / "tmp"):
            inner.mkdir(parents=True)
        yield place


def link_agents(place: Place, folder: Path | None) -> None:
    """Put links to the agents, and to the Node.js that those of npm want, into one folder.

    Raises:
        DemoFailed: one is not there.
    """
    for name, (package, inner) in WHEELS.items():
        if folder:
            program = (folder / name).absolute()
        else:
            spec = importlib.util.find_spec(package)
            places = spec.submodule_search_locations if spec else None
            program = Path(next(iter(places or ["(not installed)"]))) / inner
        if not program.exists():
            raise DemoFailed(f"there is no {name} at {program}: start the demo by `make demo`, which brings it")
        (place.programs / name).symlink_to(program)
    node = shutil.which("node")
    if folder and node:
        (place.programs / "node").symlink_to(node)


@contextlib.contextmanager
def stand_in(place: Place) -> Generator[str]:
    """Run the model API of the tests; give its address."""
    command = [sys.executable, "-m", "standin", "--default", f"say={shlex.quote(SAYS)} delay=0.08"]
    process = subprocess.Popen(
        command,
        cwd=REPOSITORY / "tests",
        env=place.environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    with ended(process):
        assert process.stdout
        line = process.stdout.readline()
        if not line:
            raise DemoFailed("the stand-in for the model API did not start")
        yield f"http://127.0.0.1:{json.loads(line)['port']}"


@contextlib.contextmanager
def server(place: Place, environment: dict[str, str], port: int) -> Generator[str]:
    """Run `clinvk serve`; give what it says at its start.

    Raises:
        DemoFailed: it did not start, or did not stop cleanly.
    """
    log = place.root / "server.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            ["clinvk", "serve", "--port", str(port)],
            cwd=place.project,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
    with ended(process):
        _await_health(f"http://127.0.0.1:{port}/health", process, log)
        try:
            yield log.read_text().rstrip()
        except DemoFailed as exc:
            raise DemoFailed(f"{exc}\nthe server said:\n{log.read_text()[-4000:]}") from exc
    if process.returncode:
        raise DemoFailed(f"the server stopped with {process.returncode}:\n{log.read_text()[-4000:]}")


def _await_health(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    until = time.monotonic() + WITHIN_S
    while process.poll() is None and time.monotonic() < until:
        try:
            with opener.open(url, timeout=WITHIN_S):
                return
        except OSError:
            time.sleep(0.05)
    why = "gave no answer" if process.returncode is None else f"ended with {process.returncode}"
    raise DemoFailed(f"the server {why}:\n{log.read_text()[-4000:]}")


@contextlib.contextmanager
def ended(process: subprocess.Popen[bytes]) -> Generator[None]:
    """End the process, which leads a session of its own, when the block is left."""
    try:
        yield
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(WITHIN_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if process.stdout:
            process.stdout.close()


def free_port() -> int:
    """Give a port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


if __name__ == "__main__":
    sys.exit(main())
