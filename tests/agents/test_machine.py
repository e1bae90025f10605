"""The machine of these tests: each real CLI starts, asks the stand-in and works in the project."""

import subprocess

import pytest

from agents.machine import Machine
from clinvk.types.request import RunRequest

DIRECT = {
    "claude": ("claude", "-p", "--permission-mode", "acceptEdits"),
    "codex": ("codex", "exec", "--skip-git-repo-check", "-s", "workspace-write"),
    "gemini": ("gemini", "--approval-mode", "yolo", "--skip-trust", "-m", "gemini-2.5-flash"),
}


@pytest.mark.parametrize("cli", DIRECT)
def test_cli_answers_and_writes_files_without_clinvk(machine: Machine, cli: str) -> None:
    prompt = f'hello [[say="the answer"]] [[tool=write path={machine.project}/made.txt content=hi]]'
    done = subprocess.run(
        DIRECT[cli], input=prompt, env=machine.env, cwd=machine.project, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr
    assert "the answer" in done.stdout
    assert (machine.project / "made.txt").read_text().strip() == "hi"
    assert len(machine.requests("hello")) == 2


@pytest.mark.parametrize("way", ["kept"], indirect=True)
@pytest.mark.parametrize("backend", ["claude", "codex"])
async def test_warm_machine_runs_prompts_in_warm_processes(machine: Machine, backend: str) -> None:
    async with machine.runs() as runs:
        async with runs.run(machine.completed(RunRequest(prompt="x [[words=1]]", backend=backend))) as run:
            assert (await run.log.result()).text == "word1"
        assert runs.warm_stats
        assert runs.warm_stats.backends[backend].processes


def test_agents_inherit_nothing_from_the_outer_environment(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-real")
    assert machine.env["ANTHROPIC_API_KEY"] == "test-key"
    assert machine.env["HOME"] == str(machine.home)
    assert set(machine.env) <= {
        *("PATH", "HOME", "LANG", "TERM", "ANTHROPIC_BASE_URL", "ANTHROPIC_API_KEY"),
        *("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "CLAUDE_CODE_MAX_RETRIES", "IS_SANDBOX", "STANDIN_KEY"),
        *("GEMINI_API_KEY", "GOOGLE_GEMINI_BASE_URL"),
    }
