"""`make demo`, with the agent CLIs of the tests."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from xml.etree import ElementTree

import psutil
import pytest

from chromium import executable

REPOSITORY = Path(__file__).parents[2]
AGENTS = Path(os.environ.get("CLINVK_TEST_AGENTS", REPOSITORY / ".agents")).absolute() / "node_modules" / ".bin"
RECORDING = REPOSITORY / "docs" / "terminal.svg"
TIMEOUT_S = 110
SHOWN = (
    "$ claude --version\n2.",
    "$ codex --version\ncodex-cli 0.",
    "$ clinvk compare --backends claude,codex --isolation worktree",
    "is 299.7, not 300\n",
    "passed",
    "$ clinvk worktrees apply codex\napplied codex-",
    "+    return round(",
    "\n2 tests passed\n",
    "claude wants to run a command in ~/shop:\n",
    ": yes\n2 tests passed.\n",
    "http://127.0.0.1:",
    '-o text "Who are you?"\nThe model is a stand-in, the agent is real.\n',
    " s cold, ",
    '$ clinvk -c -o text "Which part has no tests? [[info]]"\n',
    "prompts=2",
    "print(answer.choices[0].message.content)\nThe model is a stand-in, the agent is real.\n",
    "With your own login",
    "The server and its agents have stopped",
)


@pytest.fixture
def folder() -> Generator[Path]:
    """The folder for the demo's temporary folder; the user's home is beside it. The browser needs a short path."""
    with tempfile.TemporaryDirectory(prefix="demo-") as root:
        for name in ("temporary", "home"):
            Path(root, name).mkdir()
        yield Path(root)


@contextmanager
def demo(folder: Path, agents: Path, path: str = os.environ["PATH"]) -> Generator["subprocess.Popen[str]"]:
    """Start the demo; kill it at the end if it is still running."""
    environment = {
        "PATH": path,
        "HOME": str(folder / "home"),
        "TMPDIR": str(folder / "temporary"),
        "ANTHROPIC_API_KEY": "the-user's-own",
        "CODEX_HOME": "/nonexistent",
    }
    arguments = ["--agents", agents, "--picture", folder / "console.png"]
    process = subprocess.Popen(
        [sys.executable, REPOSITORY / "examples" / "demo.py", *arguments],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def running(folder: Path) -> list[psutil.Process]:
    """Return the processes whose temporary folder is in the folder."""
    found: list[psutil.Process] = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("TMPDIR", "").startswith(str(folder)):
                found.append(process)
        except psutil.Error:
            continue
    return found


def leftovers(folder: Path) -> list[object]:
    """Return the processes and files that are left; a process that is just ending has half a minute."""
    until = time.monotonic() + 30
    while (processes := running(folder)) and time.monotonic() < until:
        time.sleep(0.05)
    return [*processes, *(folder / "temporary").iterdir(), *(folder / "home").iterdir()]


def test_demo_without_the_openai_package_names_the_command_that_installs_it() -> None:
    demo = [sys.executable, "-S", REPOSITORY / "examples" / "demo.py"]
    done = subprocess.run(demo, capture_output=True, text=True, timeout=TIMEOUT_S)
    assert (done.returncode, done.stderr) == (1, "\ndemo: the package openai is missing; make demo installs it\n")


@pytest.mark.slow
def test_demo_shows_each_part_and_cleans_up(folder: Path) -> None:
    with demo(folder, AGENTS) as process:
        shown, complaints = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, complaints
    at = 0
    for part in SHOWN:
        at = shown.find(part, at)
        assert at >= 0, f"{part!r} is missing, or not in its place, in:\n{shown}"
    assert (folder / "console.png").exists() == bool(executable()) == (f"{folder}/console.png" in shown)
    assert leftovers(folder) == []


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_demo_cleans_up_when_interrupted_during_a_run(folder: Path, number: signal.Signals) -> None:
    with demo(folder, AGENTS) as process:
        assert process.stdout
        assert any(line.startswith("$ clinvk --no-server") for line in process.stdout)
        assert running(folder)
        process.send_signal(number)
        _, complaints = process.communicate(timeout=TIMEOUT_S)
    assert (process.returncode, complaints) == (130, "\ndemo: stopped; nothing is left running\n")
    assert leftovers(folder) == []


@pytest.mark.slow
def test_recording_is_an_animated_picture_of_the_comparison(folder: Path) -> None:
    command = [sys.executable, REPOSITORY / "examples" / "record.py", "--agents", AGENTS]
    env = {"PATH": os.environ["PATH"], "HOME": str(folder / "home"), "TMPDIR": str(folder / "temporary")}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=TIMEOUT_S, check=True)
    for picture in (done.stdout, RECORDING.read_text()):
        assert len(picture) < 300_000
        shown = ["".join(text.itertext()) for text in ElementTree.fromstring(picture).iterfind("{*}text")]
        for part in (
            "$ clinvk compare ",
            "  running ",
            "total([333], discount=10) is 299.7",
            "applied codex-",
            "2 tests passed",
        ):
            assert any(part in text for text in shown), part
    assert leftovers(folder) == []


def test_demo_without_an_agent_names_the_missing_agent_and_the_fix(folder: Path) -> None:
    with demo(folder, folder) as process:
        shown, complaints = process.communicate(timeout=TIMEOUT_S)
    assert (process.returncode, shown) == (1, "")
    assert complaints == f"\ndemo: {folder}/claude is missing: run `make demo`, which installs claude\n"
    assert leftovers(folder) == []


def test_demo_without_git_names_git(folder: Path) -> None:
    agents = folder / "agents"
    agents.mkdir()
    for name in ("claude", "codex"):
        (agents / name).touch()
    with demo(folder, agents, path=str(agents)) as process:
        shown, complaints = process.communicate(timeout=TIMEOUT_S)
    assert (process.returncode, shown) == (1, "")
    assert complaints == "\ndemo: git is missing: install git, so that it is on PATH\n"
    assert leftovers(folder) == []
