"""`clinvk chain`: the steps of a file in order."""

import json
import re

import pytest

from acceptance.command import Clinvk, until
from acceptance.outcomes import ChainOutcome
from acceptance.server import in_both_ways
from acceptance.terminal import on_terminal
from scripted.steps import claude_says, exits, says, stderr, wait_for

STEPS = """\
input: a town
steps:
  - name: plan
    backend: claude
    prompt: first of {{input}} {{other}}
  - backend: codex
    prompt: then {{previous}}
  - {backend: claude, prompt: "last {{steps.plan}} and {{previous}}"}
"""


@pytest.fixture(autouse=True)
def agents(clinvk: Clinvk) -> None:
    (clinvk.folder / "steps.yaml").write_text(STEPS)
    clinvk.agent.play(claude_says("the {{previous}} plan"), when="first")
    clinvk.agent.play(says("codex", "the deed"), when="then")
    clinvk.agent.play(claude_says("the end"), when="last")


def resume(clinvk: Clinvk, run: str) -> ChainOutcome:
    """Resume a chain to its end."""
    hint = "clinvk: to resume this chain after an interruption: clinvk chain --resume-from [0-9a-f]{8}\n"
    return clinvk.json(ChainOutcome, "chain", "--resume-from", run, notes=hint)


def breaks(clinvk: Clinvk, when: str) -> None:
    clinvk.agent.play([stderr("boom\n"), exits(3)], when=when)


def test_step_prompt_gets_earlier_answers_expanded_once(clinvk: Clinvk) -> None:
    done = clinvk.run("chain", "-f", "steps.yaml")
    assert done.returncode == 0
    *answers, _, _, _, third, totals = done.stdout.splitlines()
    assert answers[:2] == ["── step 1 claude plan ──", "the {{previous}} plan"]
    assert answers[-2:] == ["the end", ""]
    assert third.split()[:3] == ["3", "claude", "done"]
    assert totals.startswith("3 steps: 3 done in ")
    prompts = clinvk.prompts
    assert prompts[0] == "first of a town {{other}}"
    assert "then the {{previous}} plan" in prompts[-2]
    assert prompts[-1] == "last the {{previous}} plan and the deed"


def test_the_json_is_that_of_the_interface(clinvk: Clinvk) -> None:
    breaks(clinvk, "then")
    done = clinvk.run("chain", "-f", "steps.yaml", "--json")
    assert done.returncode == 1
    outcome = json.loads(done.stdout)
    assert (outcome["total_steps"], outcome["completed_steps"], outcome["failed_step"]) == (3, 1, 2)
    assert outcome["total_duration_seconds"] > 0
    first, second = outcome["results"]
    assert (first["step"], first["name"], first["backend"], first["output"]) == (
        1,
        "plan",
        "claude",
        "the {{previous}} plan",
    )
    assert (second["step"], second["name"], second["exit_code"]) == (2, "", 1)
    assert "boom" in second["error"]
    assert {"duration_seconds", "exit_code"} <= set(first)


@in_both_ways
def test_failed_chain_resumes_at_the_unfinished_step(clinvk: Clinvk) -> None:
    breaks(clinvk, "then")
    done = clinvk.run("chain", "-f", "steps.yaml")
    assert done.returncode == 1
    *_, hint = done.stderr.splitlines()
    before = len(clinvk.agent.calls())
    clinvk.agent.play(says("codex", "the deed"), when="then")
    begun_in = clinvk.folder
    clinvk.folder = clinvk.folder / "elsewhere"
    clinvk.folder.mkdir()
    outcome = resume(clinvk, hint.rpartition("--resume-from ")[2])
    assert [(result.step, result.output) for result in outcome.results] == [
        (1, "the {{previous}} plan"),
        (2, "the deed"),
        (3, "the end"),
    ]
    assert {call.cwd for call in clinvk.agent.calls()[before:]} == {str(begun_in)}
    assert not any("first of" in prompt for prompt in clinvk.prompts[before:])
    again = clinvk.run("chain", "--resume-from", outcome.run_id)
    assert (again.returncode, again.stdout) == (1, "")
    assert "no unfinished step" in again.stderr


def test_interrupted_chain_prints_the_command_that_resumes(clinvk: Clinvk) -> None:
    clinvk.agent.play([wait_for(clinvk.folder / "never")], when="last")
    with clinvk.started("chain", "-f", "steps.yaml", "-q") as process:
        until(lambda: any(prompt.startswith("last") for prompt in clinvk.prompts))
        process.terminate()
        stdout, stderr = process.communicate()
    assert process.returncode == 7
    assert [line.split()[:3] for line in stdout.decode().splitlines()[1:4]] == [
        ["1", "claude", "done"],
        ["2", "codex", "done"],
        ["3", "claude", "cancelled"],
    ]
    *_, hint = stderr.decode().splitlines()
    clinvk.agent.play(claude_says("the end"), when="last")
    outcome = resume(clinvk, hint.rpartition("--resume-from ")[2])
    assert outcome.completed_steps == 3


def test_killed_chain_resumes_by_the_id_printed_at_its_start(clinvk: Clinvk) -> None:
    clinvk.agent.play([wait_for(clinvk.folder / "never")], when="then")
    with clinvk.started("chain", "-f", "steps.yaml", "-q") as process:
        until(lambda: any(prompt.startswith("then") for prompt in clinvk.prompts))
        process.kill()
        _, stderr = process.communicate()
    (line,) = stderr.decode().splitlines()
    found = re.fullmatch(
        r"clinvk: to resume this chain after an interruption: clinvk chain --resume-from ([0-9a-f]{8})", line
    )
    assert found
    clinvk.agent.play(says("codex", "the deed"), when="then")
    assert resume(clinvk, found[1]).completed_steps == 3
    assert len([prompt for prompt in clinvk.prompts if prompt.startswith("first")]) == 1


def test_chain_on_a_terminal_prints_how_to_resume_only_if_it_ends_early(clinvk: Clinvk) -> None:
    for plan, is_hinted in ((STEPS, False), (STEPS.replace("then", "none"), True)):
        (clinvk.folder / "steps.yaml").write_text(plan)
        clinvk.agent.play([stderr("boom\n"), exits(3)], when="none")
        with on_terminal(clinvk, "chain", "-f", "steps.yaml") as terminal:
            terminal.ended()
            assert ("to resume" in terminal.plain().decode()) == is_hinted


def test_chain_that_cannot_be_resumed_prints_no_id(clinvk: Clinvk) -> None:
    assert clinvk.run("chain", "-q", "--ephemeral", "-f", "steps.yaml").stderr == ""


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--resume-from", "0" * 32], 1, "no run "),
        (["--resume-from", "x", "-f", "steps.yaml"], 1, "--resume-from runs the original steps; remove --file"),
        (["--resume-from", "x", "--ephemeral"], 1, "original steps; remove --ephemeral\n"),
        (["--resume-from", "x", "-m", "opus"], 1, "original steps; remove --model\n"),
        (["--resume-from", "x", "-b", "codex"], 1, "original steps; remove --backend\n"),
        (["--resume-from", "x", "-w", "."], 1, "original steps; remove --workdir\n"),
        (["-f", "nothing.yaml"], 2, "nothing.yaml: cannot be read: No such file or directory"),
        (["-f", "wrong.yaml"], 2, "wrong.yaml: unknown field 'steps[0].promt'; did you mean 'prompt'?"),
        (["-f", "resumed.yaml"], 2, "resumed.yaml: resume_from is not allowed in a file; use --resume-from ID"),
    ],
)
def test_invalid_request_is_reported_and_starts_no_agent(
    clinvk: Clinvk, arguments: list[str], code: int, said: str
) -> None:
    (clinvk.folder / "wrong.yaml").write_text("steps:\n  - backend: claude\n    promt: x\n")
    (clinvk.folder / "resumed.yaml").write_text("resume_from: abc\n")
    done = clinvk.run("chain", *arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert said in done.stderr
    assert clinvk.agent.calls() == []


def test_a_dry_run_shows_the_commands_of_all_steps(clinvk: Clinvk) -> None:
    done = clinvk.run("chain", "--dry-run", "-f", "steps.yaml")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("# Would execute:\n── ")
    assert done.stdout.count(f"cd {clinvk.folder} && ") == 3
    assert clinvk.agent.calls() == []


def test_on_a_terminal_a_line_a_step_is_drawn(clinvk: Clinvk) -> None:
    clinvk.agent.play([wait_for(clinvk.folder / "go"), *says("codex", "the deed")], when="then")
    with on_terminal(clinvk, "chain", "-f", "steps.yaml") as terminal:
        terminal.until("1 done, 1 running, 1 queued")
        (clinvk.folder / "go").touch()
        assert terminal.ended() == 0
    assert b"3 steps: 3 done in " in terminal.plain()
