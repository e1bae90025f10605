"""The three real CLIs at once, each in a git worktree of one repository, through the installed `clinvk`."""

import json
from functools import partial

import msgspec
import pytest

from acceptance.outcomes import ParallelOutcome
from agents.machine import Machine
from agents.machine import clinvk as _clinvk
from clinvk.types.orchestration import ChangedFile
from repositories import Repository

CLIS = ("claude", "codex", "gemini")

pytestmark = pytest.mark.timeout(240)

clinvk = partial(_clinvk, within_s=200)
"""Runs three agents at once, each of which takes its time."""


@pytest.mark.slow
def test_agents_change_their_own_worktrees_and_their_diffs_can_be_applied(machine: Machine) -> None:
    repository = Repository(machine.project, machine.home)
    repository.commit(**{"shared.txt": "as it was\n"})
    tasks = [
        {
            "backend": name,
            "name": name,
            "prompt": f'change it [[tool=shell cmd="echo by {name} | tee shared.txt > {name}.txt" say="did {name}"]]',
            "approval_mode": "none",
            "sandbox_mode": "full",
            "isolation": "worktree",
        }
        for name in CLIS
    ]
    done = clinvk(machine, "parallel", "--json", stdin=json.dumps({"tasks": tasks, "max_parallel": 3}))
    assert done.returncode == 0, done.stderr
    outcome = msgspec.json.decode(done.stdout, type=ParallelOutcome)
    assert [(result.backend, result.output) for result in outcome.results] == [(name, f"did {name}") for name in CLIS]
    for name, result in zip(CLIS, outcome.results, strict=True):
        changed = {ChangedFile(f"{name}.txt", "added"), ChangedFile("shared.txt", "modified")}
        assert set(result.files or ()) == changed
        assert f"-as it was\n+by {name}\n" in str(result.diff)
        assert f"+++ b/{name}.txt\n" in str(result.diff)
    assert repository.files() == {"shared.txt": b"as it was\n"}
    assert len({result.branch for result in outcome.results}) == 3

    applied, *others = [result.branch for result in outcome.results]
    shown = clinvk(machine, "worktrees", "show", applied).stdout
    assert f"\nrun          {outcome.results[0].run_id[:8]} (done)\nbackend      claude " in shown
    assert shown.endswith(str(outcome.results[0].diff))
    assert clinvk(machine, "worktrees", "apply", applied).returncode == 0
    assert repository.files() == {"shared.txt": b"by claude\n", "claude.txt": b"by claude\n"}
    assert clinvk(machine, "worktrees", "discard", "--yes", *others).returncode == 0
    assert repository.worktrees() == []


@pytest.mark.slow
def test_compare_checks_the_worktree_of_each_agent(machine: Machine) -> None:
    Repository(machine.project, machine.home).commit(**{"a.txt": "a\n"})
    prompt = 'go [[tool=shell cmd="echo new > new.txt" say="done"]]'
    done = clinvk(
        machine,
        *("compare", "--all-backends", "--isolation", "worktree", "--check", "grep -q new new.txt"),
        *("--approval-mode", "none", "--sandbox-mode", "full", "--diff", "--no-stdin", prompt),
    )
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines() if line.split()[1:3] in [[name, "done"] for name in CLIS]]
    assert [(row[0], row[1], row[-3:]) for row in rows] == [
        (str(number), name, ["1", "passed", "done"]) for number, name in enumerate(CLIS, 1)
    ]
    assert done.stdout.count("\n+new\n") == 3
