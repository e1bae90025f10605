"""A project's AGENTS.md reaches the model under all words, though its `.codex` stays closed."""

import json
import subprocess
from pathlib import Path

import pytest
from msgspec.structs import replace

from agents.machine import Machine
from clinvk.types.choices import ApprovalMode, SandboxMode
from clinvk.types.events import RunFinished
from clinvk.types.request import RunRequest

pytestmark = pytest.mark.slow

WORDS: list[tuple[ApprovalMode, SandboxMode]] = [
    ("default", "default"),
    ("auto", "default"),
    ("none", "default"),
    ("default", "read-only"),
    ("default", "workspace"),
    ("default", "full"),
]
ORDERED = "of the root\n\nof the directory"


@pytest.fixture
def below(machine: Machine) -> Path:
    """A directory inside a git repository, each with instructions, and with a `.codex` that leaves marks."""
    below = machine.project / "a" / "b"
    below.mkdir(parents=True)
    subprocess.run(("git", "init", "-q", machine.project), check=True)
    (machine.project / "AGENTS.md").write_text("of the root")
    (below / "AGENTS.md").write_text("hidden")
    (below / "AGENTS.override.md").write_text("of the directory")
    for folder in (machine.project, below):
        (folder / ".codex").mkdir()
        server = f'[mcp_servers.x]\ncommand = "touch"\nargs = ["{machine.outside}/mark"]\n'
        (folder / ".codex" / "config.toml").write_text(f'model = "of-the-project"\n{server}')
    return below


async def request_to_model(machine: Machine, request: RunRequest) -> str:
    """Run a request; return everything that the model received."""
    result = await machine.run(request)
    assert isinstance(result.ending, RunFinished), result.ending
    return json.dumps(machine.requests(request.prompt)[-1])


def extend(machine: Machine, settings: str, top: str = "") -> None:
    config = machine.home / ".codex" / "config.toml"
    config.write_text(f"{top}{config.read_text()}\n{settings}")


def trust(machine: Machine, folder: Path, level: str = "trusted") -> None:
    extend(machine, f'[projects."{folder}"]\ntrust_level = "{level}"\n')


@pytest.mark.parametrize(("approval", "sandbox"), WORDS)
async def test_unlisted_project_instructs_the_model_and_has_no_other_effect(
    machine: Machine, below: Path, approval: ApprovalMode, sandbox: SandboxMode
) -> None:
    request = RunRequest(prompt="go", backend="codex", workdir=str(below))
    sent = await request_to_model(machine, replace(request, approval_mode=approval, sandbox_mode=sandbox))
    assert sent.count(json.dumps(ORDERED)[1:-1]) == 1
    assert f"# AGENTS.md instructions for {below}" in sent
    assert "hidden" not in sent
    assert "of-the-project" not in sent
    assert not (machine.outside / "mark").exists()


@pytest.mark.parametrize(("approval", "sandbox"), WORDS)
async def test_trusted_project_instructs_the_model_once(
    machine: Machine, below: Path, approval: ApprovalMode, sandbox: SandboxMode
) -> None:
    trust(machine, machine.project)
    request = RunRequest(prompt="go", backend="codex", workdir=str(below), approval_mode=approval)
    sent = await request_to_model(machine, replace(request, sandbox_mode=sandbox))
    assert sent.count(json.dumps(ORDERED)[1:-1]) == 1
    assert ("of-the-project" in sent) == (sandbox != "read-only")


async def test_untrusted_project_does_not_instruct_the_model(machine: Machine, below: Path) -> None:
    trust(machine, machine.project, "untrusted")
    request = RunRequest(prompt="go", backend="codex", workdir=str(below), sandbox_mode="workspace")
    assert "of the root" not in await request_to_model(machine, request)


async def test_instructions_from_clinvk_match_those_that_codex_reads_itself(machine: Machine, below: Path) -> None:
    """In default modes Codex reads the instructions itself; both texts are identical."""
    extend(machine, "", 'project_doc_max_bytes = 2001\nproject_doc_fallback_filenames = ["OTHER.md"]\n')
    (machine.project / "a" / "OTHER.md").write_text("é" * 990 + "  \n")
    request = RunRequest(prompt="go", backend="codex", workdir=str(below))
    by_codex, by_clinvk = (
        await request_to_model(machine, request),
        await request_to_model(machine, replace(request, sandbox_mode="workspace")),
    )
    text = by_codex[by_codex.index("# AGENTS.md") : by_codex.index("</INSTRUCTIONS>")]
    assert len(text) > 1000
    assert text in by_clinvk


async def test_system_prompt_and_user_instructions_are_preserved(machine: Machine, below: Path) -> None:
    extend(machine, "", 'developer_instructions = "of the user"\n')
    request = RunRequest(prompt="go", backend="codex", workdir=str(below), sandbox_mode="workspace")
    sent = await request_to_model(machine, request)
    assert "of the user" in sent
    assert "of the root" in sent
    sent = await request_to_model(machine, replace(request, prompt="go on", system_prompt="of the request"))
    assert "of the request" in sent
    assert "of the root" in sent


async def turns(machine: Machine, below: Path, *sandboxes: SandboxMode) -> str:
    """Run a turn of one conversation under each word; give what the model was sent with the last."""
    session = None
    async with machine.runs() as runs:
        for index, sandbox in enumerate(sandboxes):
            turn = RunRequest(prompt=f"turn-{index}", backend="codex", workdir=str(below), sandbox_mode=sandbox)
            async with runs.run(machine.completed(replace(turn, session_id=session))) as run:
                assert isinstance((await run.log.result()).ending, RunFinished)
            session = run.session_id
    return json.dumps(machine.requests(f"turn-{len(sandboxes) - 1}")[-1])


async def test_later_turn_does_not_repeat_the_instructions(machine: Machine, below: Path) -> None:
    sent = await turns(machine, below, "workspace", "read-only", "workspace")
    assert sent.count(json.dumps(ORDERED)[1:-1]) == 1
    assert "no longer apply" not in sent


@pytest.mark.parametrize("former", [("default",), ("workspace", "default")])
async def test_instructions_that_codex_revokes_are_sent_again(
    machine: Machine, below: Path, former: tuple[SandboxMode, ...]
) -> None:
    """Codex revokes instructions that it read itself in a turn with default modes."""
    sent = await turns(machine, below, *former, "workspace")
    assert json.dumps(ORDERED)[1:-1] in sent[sent.index("no longer apply") :]
