"""The examples of the help and of docs/cli.md are carried out as they stand, by a shell, as dry runs.

Left out are those that need a server, a service manager, a terminal, what an agent has left behind, or a user or a
directory that only their reader has.
"""

import json
import re
import sqlite3
import subprocess
from pathlib import Path

import pytest

from acceptance.command import TIMEOUT_S, Clinvk
from clinvk.backends.registry import BACKENDS
from clinvk.cli.parse.commands import COMMANDS, GROUPS, OVERVIEW, help_of, topics
from repositories import Repository
from scripted.steps import claude_says

PAGE = (Path(__file__).parents[2] / "docs" / "cli.md").read_text()
LEFT_OUT = (
    "serve",
    "worker",
    "cluster",
    "open",
    "acp",
    "doctor",
    "config edit",
    "completion fish",
    "keys revoke",
    "runs show",
    "approvals show",
    "worktrees discard",
    "worktrees show",
    "worktrees apply",
    "worktrees commit",
    "chain --resume-from",
    "runs cancel",
    "runs follow",
    "approvals answer",
    "resume --here",
    "keys create ci",
)
SESSION, DIGITS = "3f9c", 32


def examples() -> list[str]:
    helps = [help_of(name).examples for name in (OVERVIEW, "", *GROUPS, *COMMANDS)]
    helps += [page.partition("example")[2] for page in topics().values()]
    blocks = re.findall(r"^```sh\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    text = "\n".join([*helps, *blocks]).replace("\\\n", "")
    found = re.findall(r"^ *((?:[a-z -]+ \| |sudo )?clinvk .*)$", text, re.MULTILINE)
    return [example for example in dict.fromkeys(found) if not any(f"clinvk {word}" in example for word in LEFT_OUT)]


CHANGES = [example for example in examples() if example.startswith("clinvk config set")]
OTHERS = [example for example in examples() if example not in CHANGES]


def sample(epilog: str, name: str) -> str:
    """Return the sample file of a help text."""
    lines = f"\n{epilog}".partition(f"\n{name}:\n")[2].partition("\n\n")[0].splitlines()
    return "\n".join(line.removeprefix("  ") for line in lines)


@pytest.fixture
def prelude(clinvk: Clinvk) -> str:
    """Prepare the repository, files and conversation that the examples assume."""
    Repository(clinvk.folder, clinvk.agent.folder).commit()
    (clinvk.folder / "tasks.yaml").write_text(sample(help_of("parallel").epilog, "tasks.yaml"))
    (clinvk.folder / "steps.yaml").write_text(sample(help_of("chain").epilog, "steps.yaml"))
    (clinvk.folder / "tasks.json").write_text('[{"prompt": "x"}]')
    (clinvk.folder / "prompt.md").write_text("explain")
    clinvk.settings("notifications: {targets: {phone: {ntfy: 'http://127.0.0.1:9/topic'}}}")
    (clinvk.agent.folder / "project").mkdir()
    clinvk.agent.play(claude_says("x"))
    session = json.loads(clinvk.run("hello").stdout)["session_id"]
    with sqlite3.connect(clinvk.agent.folder / ".clinvk" / "clinvk.db") as db:
        db.execute("UPDATE sessions SET id = ? WHERE id = ?", (SESSION.ljust(DIGITS, "0"), session))
    db.close()
    dry = f'clinvk() {{ {clinvk.command} --dry-run "$@"; }}'
    return dry + """; producer-of-json-lines() { echo '{"prompt": "x"}'; }\n"""


def carried_out(clinvk: Clinvk, command: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        cwd=clinvk.folder,
        env=clinvk.agent.env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


@pytest.mark.first(20)
@pytest.mark.parametrize("example", OTHERS)
def test_help_example_runs(clinvk: Clinvk, prelude: str, example: str) -> None:
    done = carried_out(clinvk, prelude + example)
    assert done.returncode == 0, done.stderr
    assert len(clinvk.agent.calls()) == 1


@pytest.mark.first(2)
@pytest.mark.parametrize("example", CHANGES)
def test_config_set_example_keeps_every_agent_usable(clinvk: Clinvk, example: str) -> None:
    done = carried_out(clinvk, example.replace("clinvk", clinvk.command, 1))
    assert done.returncode == 0, done.stderr
    for backend in BACKENDS:
        shown = clinvk.run("--dry-run", "-b", backend, "hello")
        assert shown.returncode == 0, shown.stderr
