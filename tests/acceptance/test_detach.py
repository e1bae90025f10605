"""`--detach`: a prompt, `parallel`, `chain` and `compare` in the background, through a server that is up."""

import json
import re
from collections.abc import Generator
from pathlib import Path

import pytest

from acceptance.command import Clinvk, until
from acceptance.server import Server
from acceptance.terminal import on_terminal
from repositories import Repository
from scripted import Scripted
from scripted.steps import claude_says, codex_streams, hang, receive_steering, touch, wait_for

STEPS = b'steps: [{prompt: "first"}, {prompt: "second {{previous}}"}]'


@pytest.fixture
def server(scripted: Scripted) -> Generator[Server]:
    with Server(scripted, {"WINDOWID": "of-the-server"}) as server:
        yield server.ready()


def state(clinvk: Clinvk, run_id: str) -> str:
    return json.loads(clinvk.run("runs", "show", run_id, "--json").stdout)["state"]


def test_prompt_in_the_background_prints_its_id_and_can_be_followed(clinvk: Clinvk, server: Server) -> None:
    go = clinvk.folder / "go"
    clinvk.agent.play([wait_for(go), *claude_says("done")])
    done = clinvk.run("--detach", "-o", "text", "hello", env={"WINDOWID": "mine", "DATABASE_URL": "db://mine"})
    run_id = done.stdout.strip()
    note = f"running in the background; to follow: clinvk runs follow {run_id[:8]}"
    assert (done.returncode, done.stderr) == (0, f"clinvk: {note}\n")
    assert state(clinvk, run_id) in ("queued", "running")
    go.touch()
    followed = clinvk.run("runs", "follow", run_id)
    assert (followed.returncode, followed.stdout, followed.stderr) == (0, "done\n", "")
    (call,) = clinvk.agent.calls()
    assert (call.cwd, call.env["DATABASE_URL"]) == (str(clinvk.folder), "db://mine")
    assert call.env["WINDOWID"] == "of-the-server"


def test_followed_prompt_on_a_terminal_shows_a_status_line_until_its_answer_and_a_footer(
    clinvk: Clinvk, server: Server
) -> None:
    go = clinvk.folder / "go"
    clinvk.agent.play([wait_for(go), *claude_says("done")])
    run_id = clinvk.run("--detach", "hello").stdout.strip()
    with on_terminal(clinvk, "runs", "follow", run_id) as terminal:
        terminal.until("claude · 1 s")
        go.touch()
        assert terminal.ended() == 0
    lines = terminal.screen()
    assert lines[0] == "done"
    assert re.fullmatch(r"\S+ · [0-9.]+ s · 17 tokens · \$0\.01 · session [0-9a-f]{8}", lines[-1]), lines
    with on_terminal(clinvk, "runs", "follow", run_id, "-o", "stream-json") as terminal:
        assert terminal.ended() == 0
    assert "·" not in terminal.all_read.decode()


def test_prompt_in_the_background_prints_json_if_the_flags_say_so(clinvk: Clinvk, server: Server) -> None:
    clinvk.agent.play(claude_says("x"))
    told = json.loads(clinvk.run("--detach", "-o", "json", "hello").stdout)
    assert told == {"run_id": told["run_id"], "session_id": told["session_id"], "state": "running"}
    until(lambda: state(clinvk, told["run_id"]) == "finished")
    resumed = json.loads(clinvk.run("resume", told["session_id"], "more", "--detach", "-o", "json").stdout)
    assert resumed["session_id"] == told["session_id"]


def test_prompt_of_the_command_line_steers_a_run_of_the_server(clinvk: Clinvk, server: Server) -> None:
    clinvk.agent.play([*claude_says("x")[:4], hang()], when="hello")
    clinvk.agent.play(claude_says("steered"), when="more")
    first = json.loads(clinvk.run("--detach", "-o", "json", "hello").stdout)
    until(lambda: server.client.get(f"/api/v1/sessions/{first['session_id']}").json()["backend_session_id"])
    local = clinvk.run("resume", first["session_id"], "--no-server", "--on-busy", "steer", "more")
    assert (local.returncode, "cannot be steered" in local.stderr) == (4, True)
    done = clinvk.run("resume", first["session_id"], "--on-busy", "steer", "-o", "text", "more")
    assert (done.returncode, done.stdout) == (0, "steered\n"), done.stderr
    assert state(clinvk, first["run_id"]) == "cancelled"


def test_command_reports_that_the_running_codex_has_received_the_prompt(clinvk: Clinvk, server: Server) -> None:
    said = codex_streams("one ", "two")
    clinvk.agent.play([*said[:3], *[receive_steering()] * 3, *said[3:]])
    first = json.loads(clinvk.run("-b", "codex", "--detach", "-o", "json", "hello").stdout)
    until(lambda: server.client.get(f"/api/v1/sessions/{first['session_id']}").json()["backend_session_id"])
    steer = ("resume", first["session_id"], "--on-busy", "steer", "more")
    hint = f"to follow: clinvk runs follow {first['run_id'][:8]}"
    note = f"clinvk: steered: the running agent has received the prompt; {hint}\n"
    done = clinvk.run(*steer, "-o", "text")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", note)
    done = clinvk.run(*steer, "--detach", "-o", "text")
    assert (done.returncode, done.stdout, done.stderr.endswith(note)) == (0, f"{first['run_id']}\n", True)
    done = clinvk.run(*steer, "-o", "json")
    assert (done.returncode, json.loads(done.stdout)) == (0, {**first, "state": "running", "steered": True})
    until(lambda: state(clinvk, first["run_id"]) == "finished")


@pytest.mark.parametrize(
    ("arguments", "stdin"),
    [
        (("compare", "--backends", "claude,claude", "hello"), b""),
        (("parallel",), b'[{"prompt": "first"}, {"prompt": "second"}]'),
        (("parallel",), b'{"tasks": [{"prompt": "first"}, {"prompt": "second"}], "detach": true}'),
        (("chain",), STEPS),
    ],
)
def test_several_agents_in_the_background_continue_without_the_command(
    clinvk: Clinvk, server: Server, arguments: tuple[str, ...], stdin: bytes
) -> None:
    clinvk.agent.play(claude_says("x"))
    done = clinvk.run(*arguments, "--detach", "--json", stdin=stdin, env={"DATABASE_URL": "db://mine"})
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    run_id = json.loads(done.stdout)["run_id"]
    until(lambda: state(clinvk, run_id) == "finished")
    calls = clinvk.agent.calls()
    assert [call.env["DATABASE_URL"] for call in calls] == ["db://mine"] * 2
    followed = clinvk.run("runs", "follow", run_id)
    assert (followed.returncode, followed.stderr) == (0, "")
    assert followed.stdout.startswith(f"id           {run_id[:8]}\n")
    assert len(followed.stdout.partition("\n\n")[2].partition("\n\n")[0].splitlines()) == 3


def test_follow_reports_each_part_as_it_ends(clinvk: Clinvk, server: Server) -> None:
    go = clinvk.folder / "go"
    clinvk.agent.play(claude_says("x"), when="first")
    clinvk.agent.play([wait_for(go), *claude_says("y")], when="second")
    run_id = clinvk.run("chain", "--detach", stdin=STEPS).stdout.strip()
    with on_terminal(clinvk, "runs", "follow", run_id) as terminal:
        terminal.until("step 1 claude: done after ")
        go.touch()
        assert terminal.ended() == 0
    assert "── step 2 claude ──\r\ny" in terminal.read.decode()


def test_resumed_chain_can_run_in_the_background(clinvk: Clinvk, server: Server) -> None:
    clinvk.agent.play(claude_says("x"), when="first")
    clinvk.agent.play([hang()], when="second")
    first = clinvk.run("chain", "--detach", stdin=STEPS).stdout.strip()
    until(lambda: len(clinvk.agent.calls()) == 2)
    assert clinvk.run("runs", "cancel", first).stdout.startswith("cancelled ")
    clinvk.agent.play(claude_says("y"), when="second")
    again = clinvk.run("chain", "--detach", "--resume-from", first).stdout.strip()
    assert "── step 2 claude ──\ny" in clinvk.run("runs", "follow", again).stdout


def test_isolated_agent_in_the_background_leaves_its_changes_in_a_worktree(clinvk: Clinvk, server: Server) -> None:
    Repository(clinvk.folder, clinvk.agent.folder).commit()
    clinvk.agent.play([touch(Path("new.txt")), *claude_says("x")])
    arguments = ("compare", "--detach", "--backends", "claude", "--isolation", "worktree", "--check", "test -f new.txt")
    run_id = clinvk.run(*arguments, "hello").stdout.strip()
    assert clinvk.run("runs", "follow", run_id).stdout.endswith("── answer ──\n[1] claude: check passed\n")
    (worktree,) = json.loads(clinvk.run("worktrees", "list", "--json").stdout)["worktrees"]
    assert clinvk.run("worktrees", "apply", worktree["id"]).returncode == 0
    assert (clinvk.folder / "new.txt").exists()


def test_without_a_server_the_error_names_the_command_that_starts_one(clinvk: Clinvk) -> None:
    error = "clinvk: --detach needs the server of this home, and none is running: start one with clinvk serve\n"
    for arguments in (("hello",), ("compare", "--backends", "claude", "hello")):
        done = clinvk.run("--detach", *arguments)
        assert (done.returncode, done.stdout, done.stderr) == (1, "", error)
    assert clinvk.agent.calls() == []


def test_prompt_in_the_background_runs_with_the_variables_of_any_shell(clinvk: Clinvk, server: Server) -> None:
    clinvk.agent.play(claude_says("x"))
    own = {"ANTHROPIC_API_KEY": "another", "PATH": f"{clinvk.agent.path}:/venv/bin"}
    done = clinvk.run("--detach", "hello", env=own)
    assert done.returncode == 0, done.stderr
    until(lambda: state(clinvk, done.stdout.strip()) == "finished")
    (call,) = clinvk.agent.calls()
    assert {name: call.env[name] for name in own} == own


def test_server_with_another_umask_is_an_error(clinvk: Clinvk, server: Server) -> None:
    done = clinvk.run("--detach", "hello", before="umask 027")
    why = "--detach needs the server of this home, which does not run this: umask differs"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"clinvk: {why}\n")
    assert clinvk.agent.calls() == []


@pytest.mark.parametrize("flag", ["--ephemeral", "--no-server"])
def test_flags_that_exclude_detach(clinvk: Clinvk, flag: str) -> None:
    done = clinvk.run("--detach", flag, "hello")
    assert (done.returncode, done.stderr) == (1, f"clinvk: --detach and {flag} exclude each other\n")


def test_dry_run_starts_nothing_in_the_background(clinvk: Clinvk) -> None:
    assert clinvk.run("--detach", "--dry-run", "hello").stdout.startswith("# Would execute:\n")
    assert clinvk.run("chain", "--detach", "--dry-run", stdin=STEPS).stdout.startswith("# Would execute:\n")


def test_output_folder_and_background_exclude_each_other(clinvk: Clinvk, server: Server) -> None:
    body = json.dumps({"tasks": [{"prompt": "x"}], "output_dir": "out"}).encode()
    done = clinvk.run("parallel", "--detach", stdin=body)
    assert done.returncode == 2
    assert "output_dir: nothing is written by agents in the background" in done.stderr
    assert not Path(clinvk.folder / "out").exists()


def test_waiting_run_reports_its_position(scripted: Scripted, clinvk: Clinvk) -> None:
    clinvk.agent.play([hang()])
    with Server(scripted, {"CLINVK_SERVER__MAX_CONCURRENT_RUNS": "1"}) as server:
        server.ready()
        assert clinvk.run("--detach", "hello").returncode == 0
        until(lambda: len(clinvk.agent.calls()) == 1)
        assert clinvk.run("--detach", "--new", "hello").returncode == 0
        done = clinvk.run("--detach", "--new", "hello")
        assert "clinvk: queued (position 2) in the background; to follow: clinvk runs follow" in done.stderr
        with on_terminal(clinvk, "runs", "follow", done.stdout.strip()) as terminal:
            terminal.until("queued")
