"""The examples run as they stand, against the installed server, and print what the agent answered."""

import itertools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from acceptance.server import Server
from network import reserved_port
from scripted import Scripted
from scripted.steps import claude_says, client_calls, codex_streams, exits

REPOSITORY = Path(__file__).parents[2]
EXAMPLES = REPOSITORY / "examples"
PROGRAMS = {".py": sys.executable, ".mjs": "node", ".sh": "sh"}
FIRST, SECOND = ("It runs ", "agents."), ("More ", "of it.")
TOOLS = ("client_tools.py", "client_tools.mjs")
NAMES = sorted(
    path.name
    for path in EXAMPLES.iterdir()
    if path.suffix in PROGRAMS and path.name not in ("demo.py", "record.py", "screenshots.py", *TOOLS)
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where a user would have the examples in JavaScript: beside the packages that they need."""
    agents = Path(os.environ.get("CLINVK_TEST_AGENTS", REPOSITORY / ".agents")).absolute()
    (tmp_path / "node_modules").symlink_to(agents / "node_modules")
    for name in (*NAMES, *TOOLS):
        shutil.copy(EXAMPLES / name, tmp_path)
    return tmp_path


def run(folder: Path, name: str, url: str, *arguments: str, key: str = "") -> "subprocess.CompletedProcess[str]":
    node = shutil.which("node")
    assert node, "no `node` on PATH: the examples in JavaScript need it"
    path = os.pathsep.join([str(Path(node).parent), "/usr/bin", "/bin"])
    env = {"PATH": path, "HOME": str(folder), "CLINVK_URL": url, **({"CLINVK_KEY": key} if key else {})}
    command = [PROGRAMS[Path(name).suffix], name, *arguments]
    return subprocess.run(
        command, cwd=folder, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=100, check=False
    )


@pytest.mark.parametrize("name", ["openai_chat.py", "prompt.mjs"])
def test_example_resumes_a_session(scripted: Scripted, folder: Path, name: str) -> None:
    scripted.play(claude_says(*FIRST))
    scripted.play(claude_says(*SECOND), when="next?")
    with Server(scripted).ready() as server:
        done = run(folder, name, server.url)
        turns = [session["turn_count"] for session in server.client.get("/api/v1/sessions").json()["sessions"]]
    assert done.stdout.startswith("It runs agents.\nMore of it.\n")
    assert turns == [2]
    assert b"It runs" not in (scripted.calls()[1].stdin or b"")


def test_curl_example_prints_the_response_of_each_api(scripted: Scripted, folder: Path) -> None:
    scripted.play(claude_says(*FIRST))
    with Server(scripted).ready() as server:
        done = run(folder, "prompt.sh", server.url)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    below = dict(itertools.pairwise(lines))
    assert json.loads(below["clinvk's own API, one JSON object:"])["output"] == "It runs agents."
    assert json.loads(below["OpenAI's API:"])["choices"][0]["message"]["content"] == "It runs agents."
    assert json.loads(below["Anthropic's API:"])["content"][0]["text"] == "It runs agents."
    assert '"type":"done"' in done.stdout
    assert "event: response.completed" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_example_uses_the_given_agent_and_api_key(scripted: Scripted, folder: Path, name: str) -> None:
    scripted.play(codex_streams("".join(FIRST)))
    with Server(scripted, {"CLINVK_API_KEYS": "one-key,a-key-of-some-length"}).ready() as server:
        done = run(folder, name, server.url, "codex", key="a-key-of-some-length")
        refused = run(folder, name, server.url, "codex")
    assert done.returncode == 0, done.stderr
    assert "It runs agents." in done.stdout
    assert {call.name for call in scripted.calls()} == {"codex"}
    assert refused.returncode != 0
    assert "API key" in refused.stdout + refused.stderr


@pytest.mark.first(2)
@pytest.mark.parametrize("name", NAMES)
def test_example_fails_when_the_agent_fails(scripted: Scripted, folder: Path, name: str) -> None:
    scripted.play([exits(3)])
    with Server(scripted).ready() as server:
        done = run(folder, name, server.url)
    assert done.returncode != 0
    assert "claude" in done.stdout + done.stderr


@pytest.mark.parametrize("name", TOOLS)
def test_example_of_client_tools_executes_the_call_of_the_model(scripted: Scripted, folder: Path, name: str) -> None:
    calls = client_calls({"call_1": ("free_space", {"path": "/tmp"})})
    scripted.play([calls, *codex_streams("There is ", "room.", answers=2)])
    with Server(scripted, {"CLINVK_API_KEYS": "a-key-of-some-length"}).ready() as server:
        done = run(folder, name, server.url, "codex", key="a-key-of-some-length")
        refused = run(folder, name, server.url, "codex")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == 'free_space {"path":"/tmp"}\nThere is room.\n'
    [(_, output)] = scripted.outputs()
    assert output.endswith(" GB")
    assert len(scripted.calls()) == 1
    assert refused.returncode != 0


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NAMES if name.endswith(".py")])
def test_python_example_reports_a_missing_server_or_agent_in_one_line(
    scripted: Scripted, folder: Path, name: str
) -> None:
    with reserved_port() as port:
        url = f"http://127.0.0.1:{port}"
        alone = run(folder, name, url)
    assert (alone.returncode, alone.stdout) == (1, "")
    assert alone.stderr == f"claude at {url} failed: Connection error.\n"
    (scripted.folder / "claude").unlink()
    with Server(scripted).ready() as server:
        url = server.url
        done = run(folder, name, url)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"claude at {url} failed: ")
    assert "'claude' is not installed" in done.stderr
    assert done.stderr.count("\n") == 1
