"""The demo of `make demo`: the real Claude Code and Codex answer through clinvk, without an account.

Their model APIs are stand-ins of the tests on 127.0.0.1; everything else is real. All files are in one temporary
folder, which is also the agents' home and is removed at the end. Only the picture of the console is kept.
"""

import argparse
import asyncio
import base64
import contextlib
import importlib.util
import json
import os
import pty
import select
import shlex
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import termios
import textwrap
import time
import urllib.request
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from fcntl import ioctl
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, NoReturn

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from chromium import Page

REPOSITORY = Path(__file__).resolve().parents[1]
INSTALLED = Path(sys.prefix) / "node_modules" / ".bin"
"""Where `make demo` installs the agents."""

PICTURE = Path(sys.prefix) / "console.png"

AGENTS = ("claude", "codex")
NEEDED = ("git", "make", "node")
ON_CONSOLE = ("Allow for the session", "waits for you", "done")
"""What the console shows when all lists are there."""

COLUMNS = 100
TIMEOUT_S = 60

SAYS = "The model is a stand-in, the agent is real."
PROMPT = "Who are you?"

PRICES = '''\
"""Prices in cents."""


def total(prices, discount=0):
    """Return the sum of the prices, less a discount in percent."""
    return sum(prices) - discount
'''
TESTS = """\
from prices import total

for prices, expected in ([5000, 5000], 9000), ([333], 300):
    if (found := total(prices, discount=10)) != expected:
        raise SystemExit(f"total({prices}, discount=10) is {found}, not {expected}")
print("2 tests passed")
"""
MAKEFILE = "test:\n\t@python test_prices.py\n"
COMPARE = """\
clinvk compare --backends claude,codex --isolation worktree --approval-mode auto \\
    --check "make test" "Fix the failing test"
"""
APPLY = "clinvk worktrees apply codex"

_BUG = "sum(prices) - discount"
ROUGH, EXACT = "sum(prices) * (1 - discount / 100)", "round(sum(prices) * (100 - discount) / 100)"
READ = json.dumps({"file_path": "prices.py"})
_EDIT = json.dumps({"file_path": "prices.py", "old_string": _BUG, "new_string": ROUGH})
_PATCH = json.dumps(
    f"*** Begin Patch\n*** Update File: prices.py\n@@\n-    return {_BUG}\n+    return {EXACT}\n*** End Patch\n"
)
_MAKE_TEST = json.dumps({"command": "make test", "description": "Run the tests"})
_RUN_TESTS = f'[[call Bash {_MAKE_TEST}]][[say="2 tests passed."]]'
ANSWERS = {
    "claude": {
        "Fix the failing test": (
            f"[[call Read {READ}]][[call Edit {_EDIT}]]"
            '[[say="The discount is a percentage of the sum, not an amount in cents." delay=0.05]]'
        ),
        "Run the tests": _RUN_TESTS,
        "Check that": _RUN_TESTS,
    },
    "codex": {
        "Fix the failing test": (
            f"[[call apply_patch {_PATCH}]]"
            '[[say="The discount is a percentage, and the total is rounded to whole cents." delay=0.05]]'
        ),
    },
}
"""What the models decide, by words of the prompt. Any other prompt is answered with `SAYS`."""

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
   clinvk serve                       # then clinvk open, for the console in the browser"""


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
        return self.home / "shop"

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
            "TERM": os.environ.get("TERM", "dumb") if sys.stdout.isatty() else "dumb",
            "PYTHONDONTWRITEBYTECODE": "1",
        }

    def environment_with_agents(self, url: str) -> dict[str, str]:
        """Return the same environment, with the agents directed to the stand-in and invalid keys."""
        return self.environment() | {
            "ANTHROPIC_BASE_URL": url,
            "ANTHROPIC_API_KEY": "no-key-is-needed",
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
            "STANDIN_KEY": "no-key-is-needed",
        }


class Screen:
    """Prints the steps, with pauses on a terminal."""

    def __init__(self, is_paced: bool) -> None:
        self.pause_s = 1.2 if is_paced else 0.0
        self._bold, self._plain = ("\x1b[1m", "\x1b[0m") if sys.stdout.isatty() else ("", "")
        self._number = 0

    def say(self, text: str) -> None:
        print(text, flush=True)

    def step(self, title: str, remark: str = "") -> None:
        """Print the title of the next step."""
        time.sleep(self.pause_s)
        self._number += 1
        self.say(f"\n{self._bold}{self._number}. {title}{self._plain}")
        for line in textwrap.wrap(remark, 96):
            self.say(f"   {line}")
        self.say("")

    def command(self, line: str) -> None:
        """Print a command that is about to run."""
        self.say(f"{self._bold}$ {line}{self._plain}")
        time.sleep(self.pause_s / 2)


class Piece(NamedTuple):
    """Output of a command, and the seconds from its start."""

    at_s: float
    data: bytes


class Key(NamedTuple):
    """A key to press when the output ends with a text, after a pause."""

    after: str
    key: str
    pause_s: float


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
            assert process.stdout
            pieces = read_to_end(process.stdout.fileno(), None if is_quiet else sys.stdout.fileno())
            self.first_output_s = pieces[0].at_s if pieces else 0.0
            return self._printed(line, process, pieces, is_quiet)

    def run_on_terminal(self, line: str, *keys: Key) -> str:
        """Run a line of shell on a terminal, press the keys, and return the output. Otherwise like `run`."""
        self.screen.command(line)
        with on_terminal(line, self.place.project, self.environment) as (process, fd):
            pieces = read_to_end(fd, sys.stdout.fileno(), keys)
            return self._printed(line, process, pieces, is_quiet=False)

    def _printed(self, line: str, process: "subprocess.Popen[bytes]", pieces: Sequence[Piece], is_quiet: bool) -> str:
        printed = b"".join(piece.data for piece in pieces).decode(errors="replace")
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
    parser.add_argument("--agents", type=Path, default=INSTALLED, help="a folder with claude and codex")
    parser.add_argument("--picture", type=Path, default=PICTURE, help="file for the picture of the console")
    parser.add_argument("--fast", action="store_true", help="do not pause between steps")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGHUP, _stop)
    screen = Screen(is_paced=sys.stdout.isatty() and not options.fast)
    try:
        if importlib.util.find_spec("openai") is None:
            raise DemoFailed("the package openai is missing; make demo installs it")
        with temporary_place(options.agents) as place:
            show(place, screen, options.picture)
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


def show(place: Place, screen: Screen, picture: Path) -> None:
    """Run all steps.

    Raises:
        DemoFailed: a step did not do what it shows.
    """
    with stand_ins(place) as environment:
        runner = Runner(place, screen, environment)
        screen.say(
            "One command line and one API for all your coding agents. This demo runs the real Claude Code and Codex."
        )
        screen.say("Only their model APIs are stand-ins on this machine, so no account is needed.")
        screen.step("The agents")
        for name in AGENTS:
            runner.run(f"{name} --version")
        side_by_side(runner, screen)
        approval(runner, screen)
        port = free_port()
        screen.step("A server", "It listens on this machine only.")
        screen.command(f"clinvk serve --port {port}")
        with server(place, environment, port) as greeting:
            screen.say(greeting.partition("\n")[0])
            through_the_server(runner, f"http://127.0.0.1:{port}", screen)
            console(runner, screen, f"http://127.0.0.1:{port}/", picture)
        screen.step("With your own login")
        screen.say(OWN_LOGIN)


def side_by_side(runner: Runner, screen: Screen) -> None:
    """Let both agents mend a bug in their own copy of the project, and apply the change that passes the tests."""
    screen.step(
        "One bug, two agents",
        "Both fix the bug, each in its own git worktree. The tests run on both changes, and one command applies the "
        "winner.",
    )
    printed = runner.run_on_terminal(COMPARE.strip())
    for outcome in ("failed", "passed"):
        runner.expect(printed, outcome)
    screen.say("")
    runner.run(APPLY)
    runner.run("git diff --unified=0 && make test")
    runner.run("clinvk worktrees discard --yes claude", is_quiet=True)


def approval(runner: Runner, screen: Screen) -> None:
    """Let an agent ask, and press a key."""
    screen.step("An approval", "The agent asks before it runs a command. The demo presses y.")
    key = Key("[?]: ", "y", screen.pause_s)
    printed = runner.run_on_terminal('clinvk --new "Run the tests"', key)
    runner.expect(printed, "2 tests passed.")


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
    runner.expect(runner.run(f"cat ../sdk.py && python ../sdk.py {base}"), SAYS)


def console(runner: Runner, screen: Screen, url: str, picture: Path) -> None:
    """Take a picture of the console while an agent asks. Without a browser, do nothing."""
    sys.path.append(str(REPOSITORY / "tests"))
    import chromium  # of the tests; needs the packages of clinvk

    if not chromium.executable():
        return
    runner.run('clinvk --detach --new --approval-mode ask "Check that the tests pass"', is_quiet=True)
    until = time.monotonic() + TIMEOUT_S
    while not (waiting := json.loads(runner.run("clinvk approvals list --json", is_quiet=True))["interactions"]):
        if time.monotonic() > until:
            raise DemoFailed(f"the agent has not asked for approval within {TIMEOUT_S} s")
    if take_picture(runner.place, url, picture):
        screen.step("The console in a browser", "This picture was taken while an agent asked for approval:")
        screen.say(f"   {picture}")
    interaction = waiting[0]
    runner.run(f"clinvk approvals answer {interaction['id']} allow", is_quiet=True)
    runner.run(f"clinvk runs follow {interaction['run_id']}", is_quiet=True)


def take_picture(place: Place, url: str, picture: Path) -> bool:
    """Take a picture of the console, and return whether the browser could."""
    import chromium

    picture.unlink(missing_ok=True)
    for _ in range(3):  # a page that is just loading refuses questions
        try:
            picture.write_bytes(asyncio.run(_screenshot(chromium.browsing(place.root), url)))
        except* (AssertionError, OSError):
            pass
        if picture.exists():
            return True
    return False


async def _screenshot(browsing: "AbstractAsyncContextManager[Page]", url: str) -> bytes:
    async with browsing as page:
        await page.call("Page.navigate", url=url)
        await page.until(f"{json.dumps(ON_CONSOLE)}.every((text) => document.body?.innerText.includes(text))")
        shot = await page.call("Page.captureScreenshot")
        return base64.b64decode(str(shot["data"]))


def read_to_end(fd: int, copy_to: int | None = None, keys: Sequence[Key] = ()) -> list[Piece]:
    """Read to the end and press the keys. Copy each piece as it arrives, with plain line ends."""
    start = time.monotonic()
    pieces: list[Piece] = []
    waiting, unanswered = list(keys), b""
    while select.select([fd], [], [], max(0.0, start + TIMEOUT_S - time.monotonic()))[0]:
        try:
            data = os.read(fd, 65536)
        except OSError:  # the other end of the terminal is closed
            data = b""
        if not data:
            return pieces
        pieces.append(Piece(time.monotonic() - start, data))
        if copy_to is not None:
            os.write(copy_to, data if os.isatty(copy_to) else data.replace(b"\r\n", b"\n"))
        unanswered += data
        if waiting and unanswered.endswith(waiting[0].after.encode()):
            key = waiting.pop(0)
            time.sleep(key.pause_s)
            unanswered = b""
            os.write(fd, key.key.encode())
    raise DemoFailed(f"no end after {TIMEOUT_S} s; output until then: {[piece.data for piece in pieces][-20:]!r}")


@contextlib.contextmanager
def temporary_place(agents: Path) -> Generator[Place]:
    """Create the temporary folder with the agents, the programs and the project; remove it at the end.

    Raises:
        DemoFailed: a program is missing.
    """
    with tempfile.TemporaryDirectory(prefix="clinvk-demo-", ignore_cleanup_errors=True) as folder:
        place = Place(Path(folder).resolve())
        for inner in (place.home / ".codex", place.project, place.programs, place.root / "tmp"):
            inner.mkdir(parents=True)
        link_programs(place, agents)
        (place.home / "sdk.py").write_text(SDK)
        (place.project / "prices.py").write_text(PRICES)
        (place.project / "test_prices.py").write_text(TESTS)
        (place.project / "Makefile").write_text(MAKEFILE)
        git = ["git", "-c", "user.name=demo", "-c", "user.email=demo@localhost"]
        for arguments in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "--message", "Start"]):
            subprocess.run([*git, *arguments], cwd=place.project, env=place.environment(), check=True)
        yield place


def link_programs(place: Place, agents: Path) -> None:
    """Link the agents and the programs that they need into one folder.

    Raises:
        DemoFailed: a program is missing.
    """
    for name in AGENTS:
        program = (agents / name).absolute()
        if not program.exists():
            raise DemoFailed(f"{program} is missing: run `make demo`, which installs {name}")
        (place.programs / name).symlink_to(program)
    for name in NEEDED:
        found = shutil.which(name)
        if not found:
            raise DemoFailed(f"{name} is missing: install {name}, so that it is on PATH")
        (place.programs / name).symlink_to(found)


@contextlib.contextmanager
def stand_ins(place: Place, of_claude: Mapping[str, str] = ANSWERS["claude"]) -> Generator[dict[str, str]]:
    """Run a model API for each agent, and yield an environment that directs the agents to these.

    `of_claude` are the answers of the model of Claude Code.
    """
    with stand_in(place, of_claude) as claude, stand_in(place, ANSWERS["codex"]) as codex:
        (place.home / ".codex" / "config.toml").write_text(CODEX_CONFIG.format(url=codex))
        yield place.environment_with_agents(claude)


@contextlib.contextmanager
def stand_in(place: Place, answers: Mapping[str, str]) -> Generator[str]:
    """Run the model API of the tests and yield its address."""
    command = [sys.executable, "-m", "standin", "--default", f"say={shlex.quote(SAYS)} delay=0.08"]
    for words, directives in answers.items():
        command += ["--answer", words, directives]
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
def on_terminal(
    line: str, folder: Path, environment: dict[str, str], rows: int = 40
) -> Generator[tuple[subprocess.Popen[bytes], int]]:
    """Run a line of shell on a terminal; yield the process and the descriptor of the terminal."""
    leader, follower = pty.openpty()
    try:
        ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", rows, COLUMNS, 0, 0))
        with running(["/bin/sh", "-c", line], folder, environment, follower, follower, follower) as process:
            os.close(follower)
            yield process, leader
    finally:
        os.close(leader)


@contextlib.contextmanager
def running(
    command: list[str],
    folder: Path,
    environment: dict[str, str],
    stdout: int,
    stderr: int | None = None,
    stdin: int = subprocess.DEVNULL,
) -> Generator[subprocess.Popen[bytes]]:
    """Run a program in a new session, and end it at the end of the block.

    Signals wait until the program has started: an interrupted `Popen` would lose the process.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM, signal.SIGHUP))
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdin=stdin,
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
