"""The samples of the pages are run as a reader would: in order, in one project, with the commands as they stand.

sh          is run by bash. Lines of `clinvk serve` alone start the page's server, in place of the one before.
js, python  are run, and print what the agent answered.
json        has the fields and types of what the sample above it printed; jsonl so for each kind of event.
text        is what the sample above it printed.
yaml        is read as settings with which the server would start.
yml         is a workflow of GitHub Actions, and has steps.

There is no other language, and none of them is skipped. A block without a language is a drawing. What is put in place
of the page's words: a free port for 8080 and 3000, and 127.0.0.1 for 0.0.0.0, lest a test opens a port to others. The
agents are scripted; `make` only says what it would do.
"""

import base64
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from clinvk.api.access import auth
from clinvk.backends.registry import BACKENDS
from clinvk.config.load import load
from scripted import Scripted
from scripted.steps import claude_reports_limit, codex_streams, says, touch
from standin.document import JSON

REPOSITORY = Path(__file__).parents[2]
ANSWER = ("It works, ", "says the agent.")
PROBLEM = '"type":"/docs#'
"""How a refusal begins; a sample that gets one is followed by it."""
TIMEOUT_S = 60
FIX = "Fix the failing test"
"""The prompt after which an agent has changed a file."""

PICTURE = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
"""What a reader has at hand as `picture.png`."""

FENCE = re.compile(r"^```(.*)\n((?:.*\n)*?)```$", re.MULTILINE)
SERVE = re.compile(r"(?:(?P<variables>(?:\w+=\S+ )*)clinvk (?P<arguments>serve(?: --[a-z-]+ \S+)*)\n)")
ADDRESS = re.compile(r"\b(127\.0\.0\.1|localhost):(8080|3000)\b")
IN_THE_CLONE = re.compile(r"^(make|pip) ", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    place: str
    language: str
    text: str


def blocks(page: str) -> list[Block]:
    text = (REPOSITORY / page).read_text()
    return [
        Block(f"{page}:{text.count(chr(10), 0, match.start()) + 1}", match[1], match[2])
        for match in FENCE.finditer(text)
    ]


class Reader:
    """Works through a page; `printed` is what the latest sample printed."""

    def __init__(self, folder: Path, agents: Iterable[Scripted]) -> None:
        self.home, self.project, self.programs = folder / "home", folder / "project", folder / "venv" / "bin"
        for place in (self.home, self.project):
            place.mkdir()
        (self.project / "picture.png").write_bytes(base64.b64decode(PICTURE))
        _make_venv(folder / "venv")
        node = shutil.which("node")
        assert node, "no `node` on PATH: the samples in JavaScript need it"
        path = [self.programs, *(agent.folder for agent in agents), Path(node).parent, "/usr/bin", "/bin"]
        self.env = {
            "CLINVK_WARM__MAX_PROCESSES": "0",  # the scripted agents serve one prompt
            "PATH": os.pathsep.join(map(str, path)),
            "HOME": str(self.home),
            "LANG": "C.UTF-8",
            "MAKEFLAGS": "n",
            **_PIP,
        }
        self.port = 0
        self.server: subprocess.Popen[str] | None = None
        self.printed = ""

    def work_through(self, block: Block) -> None:
        """Run the commands of a block, or compare the block with the file."""
        match block.language:
            case "":
                pass
            case "sh" if words := SERVE.fullmatch(block.text):
                self.serve(words["variables"].split(), words["arguments"].split())
            case "sh":
                self.run(
                    "bash", "-euo", "pipefail", "-c", self.here(block.text), in_clone=IN_THE_CLONE.search(block.text)
                )
            case "js" | "python" as language:
                interpreter = {"js": ["node", "--input-type=module", "--eval"], "python": [sys.executable, "-c"]}[
                    language
                ]
                self.run(*interpreter, self.here(block.text))
                assert "".join(ANSWER) in self.printed
            case "json":
                assert shape(json.loads(block.text)) == shape(json.loads(self.printed)), self.printed
            case "jsonl":
                assert shapes(block.text) == shapes(self.printed)
            case "text":
                assert block.text == self.printed.replace(f":{self.port}\n", ":8080\n")
            case "yaml":
                (self.home / "sample.yaml").write_text(block.text)
                auth.check_access(load(str(self.home / "sample.yaml"), self.env, {}, BACKENDS).server)
            case "yml":
                jobs = yaml.safe_load(block.text)["jobs"].values()
                assert all({"run", "uses"} & step.keys() for job in jobs for step in job["steps"])
            case language:
                pytest.fail(f"{block.place}: no rule for a block of language {language!r}")

    def here(self, text: str) -> str:
        return ADDRESS.sub(rf"\1:{self.port}", text)

    def run(self, *command: str, in_clone: object = None) -> None:
        done = subprocess.run(
            command,
            cwd=REPOSITORY if in_clone else self.project,
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE if "curl" in command[-1] else subprocess.STDOUT,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        assert done.returncode == 0, done.stdout + (done.stderr or "")
        self.printed = done.stdout

    def serve(self, variables: Sequence[str], arguments: Sequence[str]) -> None:
        """Start the server and wait for the line about /docs."""
        self.stop()
        given = [{"0.0.0.0": "127.0.0.1", "3000": "0"}.get(word, word) for word in arguments]
        env = {**self.env, "CLINVK_SERVER__PORT": "0", **dict(word.split("=", 1) for word in variables)}
        self.server = subprocess.Popen(
            [str(self.programs / "clinvk"), *given],
            cwd=self.project,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert self.server.stdout
        self.printed = ""
        while "/docs" not in self.printed:
            line = self.server.stdout.readline()
            assert line, f"the server ended: {self.printed}"
            self.printed += line
        (port,) = set(re.findall(r"http://127\.0\.0\.1:(\d+)", self.printed))
        self.port = int(port)
        for path in ("/health", "/docs"):
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=TIMEOUT_S) as answer:
                assert answer.status == 200

    def stop(self) -> None:
        """Stop the server as the pages say."""
        if self.server is None:
            return
        self.server.send_signal(signal.SIGTERM)
        rest, _ = self.server.communicate(timeout=TIMEOUT_S)
        assert (self.server.returncode, rest) == (0, "")
        self.server = None


_PIP = {
    "PIP_NO_INDEX": "1",
    "PIP_NO_DEPS": "1",
    "PIP_NO_BUILD_ISOLATION": "0",  # pip takes this for: no isolation, `no` being what is set
    "PIP_IGNORE_INSTALLED": "1",
    "PIP_NO_CACHE_DIR": "1",
    "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    "PIP_ROOT_USER_ACTION": "ignore",
}
"""Lets `pip install .` build and install clinvk with what this environment has: a test asks no registry."""


def _make_venv(folder: Path) -> None:
    """Make a virtual environment with this one's pip and dependencies, without clinvk."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    own = [place for place in sys.path if place.endswith("site-packages")]
    (packages / "from-the-tests.pth").write_text("\n".join(own))
    pip = folder / "bin" / "pip"
    pip.write_text(f'#!/bin/sh\nexec "{folder}/bin/python" -m pip "$@"\n')
    pip.chmod(0o755)


def shape(value: JSON) -> JSON:
    """Return the fields and types of a value; numbers are of one type, and of a list the kinds of items count."""
    match value:
        case dict():
            return {key: shape(inner) for key, inner in value.items()}
        case list():
            return [json.loads(kind) for kind in sorted({json.dumps(shape(inner), sort_keys=True) for inner in value})]
        case bool() | None | str():
            return type(value).__name__
        case _:
            return "number"


def shapes(lines: str) -> list[JSON]:
    """Return kind and shape of each event, once for consecutive events of a kind."""
    events = [json.loads(line) for line in lines.splitlines()]
    return [[kind for kind, _ in itertools.groupby([event["type"], shape(event)] for event in events)]]


@pytest.fixture
def agents(tmp_path: Path) -> Generator[list[Scripted]]:
    found: list[Scripted] = []
    for name in BACKENDS:
        (tmp_path / name).mkdir()
        agent = Scripted(tmp_path / name, [name])
        start, *rest = says(name, *ANSWER)
        limits = [claude_reports_limit(time.time() + 3600)] if name == "claude" else []
        agent.play([start, *limits, *rest])
        if name == "codex":
            agent.play(codex_streams(*ANSWER))
        agent.play([touch(Path("fixed.py")), start, *rest], when=FIX)
        found.append(agent)
    yield found
    for agent in found:
        agent.end()


@contextmanager
def reading(folder: Path, agents: Iterable[Scripted]) -> Generator[Reader]:
    reader = Reader(folder, agents)
    git = ["git", "-C", reader.project, "-c", "user.name=reader", "-c", "user.email=reader@localhost"]
    for arguments in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "--message", "Start"]):
        subprocess.run([*git, *arguments], env=reader.env, check=True)
    try:
        yield reader
        reader.stop()
    finally:
        if reader.server:
            reader.server.kill()
            reader.server.communicate()


@pytest.mark.first(5)
@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    "page",
    [
        "README.md",
        "docs/agents.md",
        "docs/sessions.md",
        "docs/server.md",
        "docs/rest.md",
        "docs/openai.md",
        "docs/anthropic.md",
        pytest.param("docs/google.md", marks=pytest.mark.slow),  # docs/guides/sdk.md has a sample
        "docs/warm.md",
        "docs/watching.md",
        "docs/troubleshooting.md",
        "docs/upgrading.md",
        *sorted(str(guide.relative_to(REPOSITORY)) for guide in (REPOSITORY / "docs" / "guides").iterdir()),
    ],
)
def test_samples_of_a_page_work_as_documented(page: str, tmp_path: Path, agents: list[Scripted]) -> None:
    with reading(tmp_path, agents) as reader:
        if page not in ("README.md", "docs/upgrading.md"):
            reader.run("pip", "install", "--quiet", ".", in_clone=True)
        for block, following in itertools.pairwise([*blocks(page), Block(page, "", "")]):
            try:
                reader.work_through(block)
                if block.language == "sh" and PROBLEM in reader.printed:
                    assert following.language == "json"
                    assert PROBLEM in following.text.replace(" ", "")
            except Exception as exc:
                exc.add_note(f"This is the sample at {block.place}.")
                raise
