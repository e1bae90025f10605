"""`clinvk compare`: one prompt for several agents."""

import json
from pathlib import Path

import msgspec
import pytest

from acceptance.command import Clinvk
from acceptance.outcomes import CompareOutcome
from acceptance.server import in_both_ways
from acceptance.terminal import on_terminal
from clinvk.cli.terminal.table import width
from repositories import Repository
from scripted.steps import claude_says, exits, says, stderr, touch

LONG = "words that are wrapped where a column ends, and not before it"


@pytest.fixture(autouse=True)
def agents(clinvk: Clinvk) -> None:
    clinvk.agent.play(claude_says(f"one\ntwo\n\nthree {LONG}"), when="ask")
    clinvk.agent.play(claude_says("same"), when="same")


def codex_alone(clinvk: Clinvk) -> None:
    """Make `codex` the only installed agent."""
    for name in ("claude", "gemini"):
        (clinvk.agent.folder / name).unlink()
    clinvk.agent.play(says("codex", "codex answers"), when="ask")


def test_the_json_is_that_of_the_interface(clinvk: Clinvk) -> None:
    done = clinvk.run("compare", "--backends", "claude,codex", "--json", "ask")
    assert done.returncode == 1  # Codex cannot speak like Claude Code
    outcome = json.loads(done.stdout)
    assert (outcome["prompt"], outcome["backends"]) == ("ask", ["claude", "codex"])
    assert outcome["total_duration_seconds"] > 0
    first, second = outcome["results"]
    assert (first["backend"], first["model"], first["exit_code"]) == ("claude", "claude-scripted", 0)
    assert first["output"].startswith("one\ntwo")
    assert (second["backend"], second["exit_code"]) == ("codex", 1)
    assert second["error"]
    assert "duration_seconds" in second


def test_answers_are_side_by_side_only_on_a_wide_terminal(clinvk: Clinvk) -> None:
    arguments = ("compare", "--backends", "claude,claude", "ask")
    done = clinvk.run(*arguments)
    assert done.returncode == 0
    assert done.stdout.startswith(f"── [1] claude ──\none\ntwo\n\nthree {LONG}\n\n── [2] claude ──\none\n")
    with on_terminal(clinvk, *arguments, columns=90) as terminal:
        assert terminal.ended() == 0
    lines = terminal.read.rpartition(b"\x1b[2K")[2].decode().splitlines()
    assert lines[0].split("  │  ") == ["── [1] claude ──".ljust(42), "── [2] claude ──"]
    assert lines[1].split("  │  ") == ["one".ljust(42), "one"]
    assert lines[4].split("  │  ") == [
        "three words that are wrapped where a".ljust(42),
        "three words that are wrapped where a",
    ]
    assert max(map(width, lines[:6])) <= 90


def test_the_differences_of_the_answers_are_shown(clinvk: Clinvk) -> None:
    clinvk.agent.play(claude_says("same"), when="same")
    done = clinvk.run("compare", "--backends", "claude,claude", "--diff", "same")
    assert "[1] claude and [2] claude gave the same answer\n" in done.stdout


def test_all_backends_leaves_out_missing_ones_with_a_note(clinvk: Clinvk) -> None:
    codex_alone(clinvk)
    clinvk.settings("backends: {gemini: {enabled: false}}\n")
    done = clinvk.run("compare", "--all-backends", "--json", "ask")
    assert done.returncode == 0
    assert msgspec.json.decode(done.stdout, type=CompareOutcome).backends == ["codex"]
    lines = done.stderr.splitlines()
    assert lines[0].startswith("clinvk: skipping claude: backend 'claude' is not installed")
    assert lines[1].startswith("clinvk: skipping gemini: backend 'gemini' is disabled")
    (clinvk.agent.folder / "codex").unlink()
    done = clinvk.run("compare", "--all-backends", "ask")
    assert (done.returncode, done.stdout) == (2, "")


@pytest.mark.first(4)
@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--backends", "codex,claude", "ask"], 2, "backend 'claude' is not installed"),
        (["--backends", "codex,nope", "ask"], 2, "unknown backend 'nope' (available: claude, codex, gemini)"),
        (["--backends", "codex", "--judge", "claude", "ask"], 2, "judge: backend 'claude' is not installed"),
        (["ask"], 1, "compare needs either --backends A,B or --all-backends"),
        (["--backends", "codex", "--all-backends", "ask"], 1, "compare needs either"),
        (["--backends", ",", "ask"], 1, "--backends"),
        (["-b", "codex", "ask"], 1, "compare takes several agents: --backends A,B\n"),
        (["-b", "claude,codex", "ask"], 1, "compare takes several agents: --backends claude,codex\n"),
        (["--backends", "codex", "--check", "true", "ask"], 1, "--check requires --isolation worktree"),
        (["--backends", "codex", "--judge-prompt", "x", "ask"], 1, "--judge-prompt requires --judge"),
        (["--backends", "codex", "--isolation", "worktree", "ask"], 1, "worktrees need a git repository"),
        (["--backends", "codex", ""], 1, "the prompt is empty"),
    ],
)
def test_invalid_request_is_reported_and_starts_no_agent(
    clinvk: Clinvk, arguments: list[str], code: int, said: str
) -> None:
    codex_alone(clinvk)
    done = clinvk.run("compare", *arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert said in done.stderr
    assert clinvk.agent.calls() == []


def test_the_prompt_comes_from_stdin_too_and_flags_reach_each_agent(clinvk: Clinvk) -> None:
    arguments = ("--backends", "claude,claude", "-m", "opus", "--effort", "high", "--sequential")
    done = clinvk.run("compare", "-q", *arguments, "ask", stdin=b"context")
    assert done.returncode == 0
    assert clinvk.prompts == ["ask\n\n<stdin>\ncontext\n</stdin>"] * 2
    for call in clinvk.agent.calls():
        assert {"--model=opus", "--effort=high"} <= set(call.argv)


@in_both_ways
def test_a_judge_names_the_best_answer(clinvk: Clinvk) -> None:
    clinvk.agent.play(claude_says("the answer"), when="ask")
    clinvk.agent.play(claude_says('{"best": "A", "reasons": "it is\\nshorter"}'), when="Judge the answers")
    arguments = ("--backends", "claude,claude", "--judge", "claude", "--judge-prompt", "brevity", "ask")
    outcome = clinvk.json(CompareOutcome, "compare", *arguments)
    assert outcome.judge
    best = outcome.judge.order[0]
    assert (outcome.judge.best, outcome.judge.best_backend, outcome.judge.backend) == (best, "claude", "claude")
    assert outcome.judge.reasons == "it is\nshorter"
    part = outcome.results[0]
    assert (outcome.judge.usage, outcome.judge.cost_usd) == (part.usage, part.cost_usd)
    assert outcome.judge.run_id not in ("", outcome.run_id, *(result.run_id for result in outcome.results))
    assert any("What counts besides: brevity" in prompt for prompt in clinvk.prompts)
    done = clinvk.run("compare", "-q", *arguments)
    *_, named, reasons = done.stdout.splitlines()
    assert named in ("best: [1] claude (A is [1], B is [2])", "best: [2] claude (A is [2], B is [1])")
    assert reasons == "it is shorter"


def test_failing_judge_exits_with_1_and_prints_the_answers(clinvk: Clinvk) -> None:
    clinvk.agent.play([stderr("no opinion\n"), exits(3)], when="Judge the answers")
    done = clinvk.run("compare", "--backends", "claude,claude", "--judge", "claude", "same")
    assert done.returncode == 1
    assert "── [2] claude ──\nsame\n" in done.stdout
    assert "no opinion" in done.stdout.splitlines()[-1]
    assert "clinvk: judge (claude): failed after " in done.stderr


def test_check_has_the_environment_of_the_agents(clinvk: Clinvk) -> None:
    Repository(clinvk.folder / "project", Path(clinvk.agent.env["HOME"])).commit(**{"a.txt": "a\n"})
    clinvk.config.parent.mkdir(exist_ok=True)
    clinvk.config.write_text("agents: {env_allow: [NAMED_*]}\n")
    arguments = ("--backends", "claude", "--isolation", "worktree", "--check", "env", "-w", "project", "--json", "ask")
    done = clinvk.run("compare", *arguments, env={"NAMED_ONE": "1", "OTHER_TOKEN": "2"})
    assert done.returncode == 0, done.stderr
    (result,) = msgspec.json.decode(done.stdout, type=CompareOutcome).results
    assert result.check
    assert "NAMED_ONE=1" in result.check.output
    assert "OTHER_TOKEN" not in result.check.output


@in_both_ways
@pytest.mark.slow
def test_changes_of_isolated_agents_are_checked_and_kept(clinvk: Clinvk) -> None:
    repository = Repository(clinvk.folder / "project", Path(clinvk.agent.env["HOME"]))
    repository.commit(**{"a.txt": "a\n"})
    arguments = ("--backends", "claude,claude", "--isolation", "worktree", "-w", "project")
    outcome = clinvk.json(CompareOutcome, "compare", *arguments, "--check", "test -f a.txt && echo fine", "ask")
    for result in outcome.results:
        assert result.check
        assert (result.check.passed, result.check.output) == (True, "fine\n")
        assert (result.diff, result.files, result.worktree) == ("", (), None)
    done = clinvk.run("compare", *arguments, "--check", "false", "--diff", "ask")
    assert done.returncode == 0
    assert [line.split()[4:7] for line in done.stdout.splitlines() if line.split()[1:3] == ["claude", "done"]] == [
        ["s", "0", "failed"]
    ] * 2
    assert done.stdout.count("changes\n(none)\n") == 2
    assert repository.worktrees() == []


def test_on_a_terminal_differences_are_colored(clinvk: Clinvk) -> None:
    repository = Repository(clinvk.folder / "project", Path(clinvk.agent.env["HOME"]))
    repository.commit(**{"a.txt": "a\n"})
    clinvk.agent.play([touch(Path("b.txt")), *claude_says("x")], when="touch")
    arguments = (
        "compare",
        "--backends=claude",
        "--isolation=worktree",
        "-w",
        "project",
        "--diff",
        "--no-stdin",
        "touch",
    )
    for env, head in (
        ({}, "\x1b[1mdiff --git a/b.txt b/b.txt\x1b[m"),
        ({"NO_COLOR": "1"}, "diff --git a/b.txt b/b.txt"),
    ):
        with on_terminal(clinvk, *arguments, env=env) as terminal:
            assert terminal.ended() == 0
        assert f"\r\n{head}\r\n" in terminal.all_read.decode()
    assert "\ndiff --git a/b.txt b/b.txt\n" in clinvk.run(*arguments).stdout


def test_failed_check_is_printed_and_shared_warnings_appear_once(clinvk: Clinvk) -> None:
    repository = Repository(clinvk.folder / "project", Path(clinvk.agent.env["HOME"]))
    repository.commit(**{"a.txt": "a\n"})
    repository.write("a.txt", "b\n")
    arguments = ("--backends", "claude,claude", "--isolation", "worktree", "-w", "project", "--no-stdin")
    done = clinvk.run("compare", *arguments, "--check", "seq 1000; echo no such test; exit 3", "ask")
    assert done.returncode == 0
    for number in (1, 2):
        said = [*map(str, range(982, 1001)), "no such test"]
        assert "\n".join([f"── [{number}] claude ── check failed (exit code 3)", *said, ""]) in done.stdout
    (warned,) = [line for line in done.stderr.splitlines() if "uncommitted changes" in line]
    assert warned.startswith("clinvk: [1] claude and 1 more: the worktree begins with the commit ")
    quiet = clinvk.run("compare", *arguments, "--check", "echo said; exit 3", "-q", "ask")
    assert "said" not in quiet.stdout


def test_a_dry_run_shows_the_command_of_each(clinvk: Clinvk) -> None:
    done = clinvk.run("compare", "--all-backends", "--dry-run", "ask")
    assert (done.returncode, done.stderr) == (0, "")
    assert clinvk.run("compare", "--all-backends", "--dry-run", "--diff", "ask").stdout == done.stdout
    assert done.stdout.startswith("# Would execute:\n── ")
    assert done.stdout.count(f"cd {clinvk.folder} && ") == 3
    assert clinvk.agent.calls() == []


def test_dry_run_of_one_backend_names_no_judge(clinvk: Clinvk) -> None:
    arguments = ("--backends", "claude", "--judge", "gemini", "--dry-run", "ask")
    done = clinvk.run("compare", *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    assert "judge" not in done.stdout
    assert "judge" not in json.loads(clinvk.run("compare", *arguments, "--json").stdout)
