"""`clinvk runs`: single prompts, and orchestrations with their parts."""

import json
import sys
from contextlib import ExitStack
from typing import TypeVar

import msgspec
import pytest

from acceptance.command import Clinvk, until
from acceptance.server import Server
from acceptance.sessions import run_here
from acceptance.terminal import on_terminal
from clinvk.backends.registry import BACKENDS
from clinvk.cli.parse.flags import Flags, JsonFlags, RunsFlags
from clinvk.cli.parse.settings import CommandContext
from clinvk.cli.sessions.runs import list_all, show
from clinvk.cli.terminal.output import Notes
from clinvk.cli.terminal.table import width
from clinvk.dialects.rest.views import RunItem, RunView
from scripted.steps import claude_says, exits, says, stderr, wait_for

T = TypeVar("T")


class RunsListed(msgspec.Struct, forbid_unknown_fields=True):
    runs: list[RunItem]
    has_more: bool


STEPS = 'steps: [{name: plan, prompt: "first"}, {backend: codex, prompt: "bad"}, {prompt: "last"}]'


def listed(clinvk: Clinvk, *arguments: str) -> list[RunItem]:
    return clinvk.json(RunsListed, "runs", "list", *arguments).runs


def list_in_process(clinvk: Clinvk, flags: RunsFlags) -> int:
    """Run `clinvk runs list` in this process."""
    return list_all(flags, context_of(clinvk, flags))


def context_of(clinvk: Clinvk, flags: Flags) -> CommandContext:
    return CommandContext(flags, clinvk.agent.env, Notes({}), BACKENDS)


def asked(clinvk: Clinvk, prompt: str, folder: str = "", backend: str = "claude") -> str:
    """Run a prompt; return the id of its run."""
    clinvk.agent.play(says(backend, f"the answer to {prompt}"), when=prompt)
    return run_here(clinvk, prompt, backend, folder).run_id


def failed_chain(clinvk: Clinvk) -> RunItem:
    """Run a chain whose second step fails; return its run."""
    clinvk.agent.play(claude_says("the plan"), when="first")
    clinvk.agent.play([stderr("boom\n"), exits(3)], when="bad")
    assert clinvk.run("chain", stdin=STEPS.encode()).returncode == 1
    return listed(clinvk)[0]


def test_list_prints_a_table_newest_first_with_usable_ids(clinvk: Clinvk) -> None:
    one = asked(clinvk, "the first\nprompt")
    two = asked(clinvk, "other", backend="codex")
    done = clinvk.run("runs", "list")
    assert done.stderr == ""
    head, *rows = done.stdout.splitlines()
    assert head.split() == ["ID", "BACKEND", "STATE", "CREATED", "DURATION", "DIRECTORY", "TOKENS", "COST", "PROMPT"]
    assert [row.split()[:3] for row in rows] == [[two[:8], "codex", "done"], [one[:8], "claude", "done"]]
    assert rows[1].split()[-6:] == [".", "17", "$0.01", "the", "first", "prompt"]
    assert rows[1].endswith("  the first prompt")
    assert [clinvk.json(RunView, "runs", "show", row.split()[0]).id for row in rows] == [two, one]


@pytest.mark.slow
def test_list_filters_runs(clinvk: Clinvk) -> None:
    (clinvk.folder / "there").mkdir()
    there = asked(clinvk, "one", "there")
    codex = asked(clinvk, "two", backend="codex")
    whole = failed_chain(clinvk)

    def ids(*arguments: str) -> list[str]:
        return [run.id for run in listed(clinvk, *arguments)]

    assert ids() == [whole.id, codex, there]
    assert ids("--here") == [whole.id, codex]
    assert ids("--workdir", "there") == [there]
    assert ids("-b", "codex") == [codex]
    assert ids("--state", "failed") == [whole.id]
    assert ids("--state", "done") == ids("--state", "finished") == [codex, there]
    assert ids("-n", "1") == [whole.id]
    assert [run.prompt for run in listed(clinvk, "--parts")] == ["bad", "first", "", "two", "one"]
    assert [run.prompt for run in listed(clinvk, "--parts", "-b", "codex", "-n", "0")] == ["bad", "two"]
    done = clinvk.run("runs", "list", "-n", "2")
    assert (len(done.stdout.splitlines()), done.stderr) == (3, "clinvk: the newest 2; --limit 0 shows all\n")
    assert clinvk.run("runs", "list", "-n", "3").stderr == ""
    assert [clinvk.json(RunsListed, "runs", "list", "-n", limit).has_more for limit in "230"] == [True, False, False]


def test_no_matching_runs_and_unknown_ids_are_reported(clinvk: Clinvk) -> None:
    done = clinvk.run("runs", "list")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "clinvk: no runs yet\n")
    done = clinvk.run("runs", "list", "--state", "running")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "clinvk: no runs match\n")
    done = clinvk.run("runs", "show", "abcd")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "clinvk: no run 'abcd'; clinvk runs list shows them\n"
    assert clinvk.run("runs", "list", "--state", "ok").returncode == 1
    assert clinvk.run("runs", "list", "-b", "cluade").returncode == 2
    assert clinvk.run("runs", "list", "-w", "nowhere").returncode == 1


def test_show_prints_prompt_and_answer(clinvk: Clinvk) -> None:
    run = asked(clinvk, "the first\nprompt")
    done = clinvk.run("runs", "show", run[:8])
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("\n── prompt ──\nthe first\nprompt\n\n── answer ──\nthe answer to the first\nprompt\n")
    lines = dict(line.split("  ", 1) for line in done.stdout.partition("\n\n")[0].splitlines())
    assert lines["id"].strip() == run[:8]
    assert lines["state"].strip() == "done"
    assert clinvk.json(RunView, "runs", "show", run).output == "the answer to the first\nprompt"


def test_chain_is_one_row_and_show_lists_its_steps(clinvk: Clinvk) -> None:
    whole = failed_chain(clinvk)
    (row,) = clinvk.run("runs", "list").stdout.splitlines()[1:]
    assert row.split()[1:3] == ["chain", "failed"]
    assert row.endswith("  3 steps")
    view = clinvk.json(RunView, "runs", "show", whole.id)
    assert (view.kind, view.total_runs, [part.index for part in view.runs]) == ("chain", 2, [0, 1])
    done = clinvk.run("runs", "show", whole.id)
    lines = done.stdout.splitlines()
    at = next(number for number, line in enumerate(lines) if line.startswith("STEP "))
    head, first, second = lines[at : at + 3]
    assert head.split() == ["STEP", "ID", "BACKEND", "STATE", "DURATION", "IN", "OUT", "PROMPT"]
    assert first.split()[:4] == ["1", view.runs[0].id[:8], "claude", "done"]
    assert first.endswith("  plan: first")
    assert second.split()[:4] == ["2", view.runs[1].id[:8], "codex", "failed"]
    part = clinvk.run("runs", "show", view.runs[1].id).stdout
    assert f"part of      {whole.id[:8]}\n" in part
    assert "boom" in part
    clinvk.agent.play(says("codex", "good"), when="bad")
    clinvk.agent.play(claude_says("end"), when="last")
    assert clinvk.run("chain", "--resume-from", row.split()[0]).returncode == 0


def test_paged_list_skips_parts_and_repeats_no_run(
    clinvk: Clinvk, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    runs = [asked(clinvk, "before")]
    clinvk.agent.play(claude_says("answer"), when="one")
    for tasks in (1, 3):
        assert clinvk.run("parallel", stdin=json.dumps([{"prompt": "one"}] * tasks).encode()).returncode == 0
        runs = [listed(clinvk)[0].id, *runs]
    monkeypatch.setattr("clinvk.cli.sessions.runs._PAGE", 2)
    for limit in (0, 2):
        assert list_in_process(clinvk, RunsFlags(json=True, limit=limit)) == 0
        told = msgspec.json.decode(capfd.readouterr().out, type=RunsListed)
        assert [run.id for run in told.runs] == runs[: limit or None]
    flags = JsonFlags(json=True)
    assert show(flags, context_of(clinvk, flags)) == 0
    assert msgspec.json.decode(capfd.readouterr().out, type=RunView).id == runs[0]


def test_run_of_another_process_is_listed_as_running_until_that_process_dies(clinvk: Clinvk) -> None:
    clinvk.agent.play([wait_for(clinvk.folder / "never")])
    with clinvk.started("hello") as process:
        until(lambda: [run.state for run in listed(clinvk)] == ["running"])
        assert len(listed(clinvk, "--state", "running")) == 1
        process.kill()
        process.wait()
        until(lambda: [run.state for run in listed(clinvk)] == ["interrupted"])


def running(clinvk: Clinvk) -> RunItem:
    """Wait for a run in progress; give it."""
    until(lambda: [run.state for run in listed(clinvk)] == ["running"])
    return listed(clinvk)[0]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells who holds a lock")
def test_cancel_ends_a_run_of_another_command(clinvk: Clinvk) -> None:
    clinvk.agent.play([wait_for(clinvk.folder / "never")])
    with clinvk.started("hello") as process:
        run = running(clinvk)
        dry = clinvk.run("runs", "cancel", run.id, "--dry-run")
        assert (dry.returncode, dry.stdout, running(clinvk).id) == (0, f"would cancel {run.id[:8]}  hello\n", run.id)
        done = clinvk.run("runs", "cancel", run.id[:6])
        assert (done.returncode, done.stdout, done.stderr) == (0, f"cancelled {run.id[:8]}  hello\n", "")
        assert process.wait(30) == 7
    again = clinvk.run("runs", "cancel", run.id)
    assert (again.returncode, again.stderr) == (1, f"clinvk: run {run.id[:8]} has already ended: cancelled\n")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells who holds a lock")
def test_cancel_ends_all_parts_of_another_command(clinvk: Clinvk) -> None:
    clinvk.agent.play([wait_for(clinvk.folder / "never")])
    with clinvk.started("compare", "--backends", "claude,claude", "hello") as process:
        whole = running(clinvk)
        until(lambda: len(listed(clinvk, "--parts")) == 3)
        part = next(run for run in listed(clinvk, "--parts") if run.id != whole.id)
        refused = clinvk.run("runs", "cancel", part.id)
        reason = f"run {part.id[:8]} is part of run {whole.id[:8]}; cancel that one"
        assert (refused.returncode, refused.stderr) == (1, f"clinvk: {reason}\n")
        assert clinvk.run("runs", "cancel", whole.id).stdout == f"cancelled {whole.id[:8]}  hello\n"
        assert process.wait(30) == 7


def test_cancel_ends_a_run_of_the_server(clinvk: Clinvk) -> None:
    clinvk.agent.play([wait_for(clinvk.folder / "never")])
    with Server(clinvk.agent) as server:
        run_id = server.ready().detached("hello")["run_id"]
        done = clinvk.run("runs", "cancel", run_id, "--json")
        assert (done.returncode, msgspec.json.decode(done.stdout, type=RunView).state) == (0, "cancelled")


def test_cancel_never_ends_a_server_that_has_no_socket(clinvk: Clinvk) -> None:
    clinvk.agent.play([wait_for(clinvk.folder / "never")])
    with ExitStack() as stack:
        stack.enter_context(Server(clinvk.agent)).ready()  # the first one has the socket
        second = stack.enter_context(Server(clinvk.agent))
        run_id = second.ready().detached("hello")["run_id"]
        done = clinvk.run("runs", "cancel", run_id)
        assert done.returncode == 1
        assert f"run {run_id[:8]} belongs to another" in done.stderr
        assert second.client.get(f"/api/v1/runs/{run_id}").json()["state"] in ("queued", "running")


@pytest.mark.parametrize("columns", [80, 41, 20])
def test_output_fits_the_terminal_and_escapes_control_characters(clinvk: Clinvk, columns: int) -> None:
    run = asked(clinvk, "長い" * 40 + "\x1b[31mred\x07")
    with on_terminal(clinvk, "runs", "list", columns=columns) as terminal:
        assert terminal.ended() == 0
    lines = terminal.read.decode().splitlines()
    assert len(lines) == 2
    assert max(map(width, lines)) <= columns
    with on_terminal(clinvk, "runs", "show", run, columns=columns) as shown:
        assert shown.ended() == 0
    assert b"\x1b" not in terminal.read + shown.read
    head = shown.read.decode().partition("── prompt ──")[0]
    assert "長" not in head
