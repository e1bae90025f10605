"""A prompt on the command line while a server of the same user and home is up: it goes through it, and is as without.

The agents of the server are known by `WINDOWID`: a variable of the terminal alone is the server's.
"""

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import msgspec
import pytest

from acceptance.command import Clinvk, read_until, until
from acceptance.server import Server
from clinvk.remote.environment import own_variables
from clinvk.remote.messages import BeginPrompt
from clinvk.remote.socket_path import connected, path_of
from clinvk.types.request import RunRequest
from scripted import Call, Scripted
from scripted.steps import (
    claude_says,
    codex_streams,
    exits,
    hang,
    letters,
    says,
    spawn,
    stderr,
    touch,
    wait_for,
)

OF_SERVER = {"WINDOWID": "of-the-server"}
BEGUN = claude_says("begun ")[:4]


@pytest.fixture
def server(scripted: Scripted) -> Generator[Server]:
    with Server(scripted, OF_SERVER) as server:
        yield server.ready()


def is_of_server(call: Call) -> bool:
    return call.env.get("WINDOWID") == OF_SERVER["WINDOWID"]


def socket_of(agent: Scripted) -> Path:
    return agent.folder / ".clinvk" / "serve.sock"


@pytest.mark.parametrize(("backend", "form"), [("claude", "text"), ("codex", "json"), ("gemini", "stream-json")])
def test_answer_is_the_same_with_and_without_a_server(clinvk: Clinvk, server: Server, backend: str, form: str) -> None:
    clinvk.agent.play(says(backend, "two words"))
    served, own = (clinvk.run("-b", backend, "-o", form, "--new", *more, "x") for more in ((), ("--no-server",)))
    assert [is_of_server(call) for call in clinvk.agent.calls()] == [True, False]
    assert (served.returncode, served.stderr) == (own.returncode, own.stderr) == (0, "")
    assert _without_ids(served.stdout) == _without_ids(own.stdout) != []


def _without_ids(text: str) -> list[object]:
    """Return the output without ids and times."""
    if not text.startswith("{"):
        return [text]
    return [json.loads(line, object_hook=_without_changing) for line in text.splitlines()]


def _without_changing(item: dict[str, object]) -> dict[str, object]:
    changing = ("session_id", "timestamp", "duration_seconds", "total_duration_seconds", "run_id", "duration")
    return {name: value for name, value in item.items() if name not in changing}


def test_socket_is_private_and_removed_with_the_server(clinvk: Clinvk, server: Server) -> None:
    found = socket_of(clinvk.agent).stat()
    assert (stat.S_ISSOCK(found.st_mode), stat.S_IMODE(found.st_mode)) == (True, 0o600)
    assert server.stop() == 0
    assert list(socket_of(clinvk.agent).parent.glob("serve.*")) == []


def test_agent_runs_in_the_directory_and_environment_of_the_command(clinvk: Clinvk, server: Server) -> None:
    clinvk.agent.play(claude_says("x"))
    own = {"DATABASE_URL": "db://mine", "TRACEPARENT": f"00-{1:032x}-{1:016x}-01", "TRACESTATE": "a=1"}
    clinvk.run("hello", env={**own, "WINDOWID": "mine"})
    call = clinvk.agent.calls()[0]
    assert is_of_server(call)
    assert (call.cwd, {name: call.env[name] for name in own}) == (str(clinvk.folder), own)


def test_agent_has_the_path_the_keys_and_the_undecodable_variables_of_the_command(
    clinvk: Clinvk, server: Server
) -> None:
    clinvk.agent.play(claude_says("x"))
    own = {"PATH": f"{clinvk.agent.path}:/venv/bin", "GITHUB_TOKEN": "mine", "https_proxy": "http://127.0.0.1:1"}
    own |= {"CODEX_HOME": "/tmp", "PLACE": os.fsdecode(b"caf\xe9")}
    done = clinvk.run("-o", "text", "hello", env=own)
    assert (done.returncode, done.stdout, done.stderr) == (0, "x\n", "")
    (call,) = clinvk.agent.calls()
    assert is_of_server(call)
    assert {name: call.env[name] for name in own} == own


def test_agent_is_found_on_the_path_of_the_command(clinvk: Clinvk, server: Server) -> None:
    other = clinvk.folder / "bin"
    other.mkdir()
    (clinvk.agent.folder / "claude").rename(other / "claude")
    clinvk.agent.play(claude_says("x"))
    (other / "plays.json").symlink_to(clinvk.agent.folder / "plays.json")
    done = clinvk.run("-o", "text", "hello", env={"PATH": f"{other}:{clinvk.agent.path}"})
    assert (done.returncode, done.stdout, done.stderr) == (0, "x\n", "")
    assert f'"WINDOWID": "{OF_SERVER["WINDOWID"]}"' in (other / "calls.jsonl").read_text()


TOKEN = "hush-0123456789"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux shows the environment of a process")
def test_token_of_a_shell_reaches_no_other_client_and_no_file(scripted: Scripted, clinvk: Clinvk) -> None:
    """The agents are kept, and one fails with the token in its message."""
    kept = {"CLINVK_WARM__ENABLED": "true"}
    shell = {**kept, "DEPLOY_TOKEN": TOKEN}
    go, files = clinvk.folder / "go", ("calls.jsonl", "plays.json")
    scripted.play([wait_for(go), *codex_streams("x")])
    scripted.play(codex_streams("x"), when="mine")
    scripted.play([stderr(f"{TOKEN} is refused\n"), exits(1)], when="failing")
    with Server(scripted, {**OF_SERVER, **kept, "CLINVK_LOG__LEVEL": "debug"}) as server:
        server.ready()
        prompt = ("-b", "codex", "-o", "json", "--new")
        assert clinvk.run(*prompt, "mine", env=shell).returncode == 0
        until(lambda: server.client.get("/health").json()["warm"]["ready"])
        assert clinvk.run(*prompt, "mine too", env=shell).returncode == 0
        failed = clinvk.run(*prompt, "failing", env=shell)
        assert (failed.returncode, "[redacted] is refused" in failed.stdout) == (1, True), failed.stdout
        over_http = server.detached("over http", "codex")
        with clinvk.started(*prompt, "in another shell", env={**kept, "DEPLOY_TOKEN": "another"}) as other:
            until(lambda: {"over http", "in another shell"} <= _served(scripted).keys())
            environ_of_http, environ_of_other = (
                Path(f"/proc/{_served(scripted)[text]}/environ").read_bytes()
                for text in ("over http", "in another shell")
            )
            go.touch()
            assert other.wait(30) == 0
        hits = server.client.get("/health").json()["warm"]["hits"]
        events = [
            server.client.get(f"/api/v1/runs/{run_id}/events", headers={"accept": "application/x-ndjson"}).text
            for run_id in (json.loads(failed.stdout)["run_id"], over_http["run_id"])
        ]
        said = server.said
        assert server.stop() == 0
    assert hits >= 1
    assert b"DEPLOY_TOKEN" not in environ_of_http
    assert b"DEPLOY_TOKEN=another\0" in environ_of_other
    assert [call.env.get("DEPLOY_TOKEN") for call in scripted.calls()].count(TOKEN) >= 3
    places = [path for path in scripted.folder.rglob("*") if path.is_file() and path.name not in files]
    assert {"clinvk.db", "codex"} <= {path.name for path in places}
    assert [path for path in places if TOKEN.encode() in path.read_bytes()] == []
    assert TOKEN not in "".join((said, failed.stdout, failed.stderr, *events))


def _served(agent: Scripted) -> dict[str, int]:
    """Return the process of each prompt that `codex app-server` has received."""
    asked = [(call, json.loads(call.stdin.splitlines()[-1])) for call in agent.calls() if call.stdin]
    return {message["params"]["input"][-1]["text"]: call.pid for call, message in asked}


def test_different_settings_run_locally_and_one_line_says_so(clinvk: Clinvk, server: Server) -> None:
    clinvk.agent.play(claude_says("x"))
    changed = {"CLINVK_BACKENDS__CLAUDE__ENV__X": "1"}
    for verbose in ((), ("-v",)):
        done = clinvk.run(*verbose, "-o", "text", "--new", "hello", env=changed)
        assert (done.stdout, done.stderr) == ("x\n", "clinvk: not through the server: backends.claude.env differs\n")
    assert [is_of_server(call) for call in clinvk.agent.calls()] == [False, False]


PLANS = [
    ("compare", "--backends", "claude,claude", "hello"),
    ("parallel", "-f", "plan.json"),
    ("chain", "-f", "plan.json"),
]


def plan(clinvk: Clinvk) -> None:
    """Write the file of `PLANS`."""
    (clinvk.folder / "plan.json").write_text('[{"prompt": "hello"}, {"prompt": "hello"}]')


@pytest.mark.parametrize("command", PLANS)
def test_parts_go_through_the_server_unless_disabled(clinvk: Clinvk, server: Server, command: tuple[str, ...]) -> None:
    plan(clinvk)
    clinvk.agent.play(claude_says("x"))
    served, own = (clinvk.run(*command, "--json", *more) for more in ((), ("--no-server",)))
    assert [is_of_server(call) for call in clinvk.agent.calls()] == [True, True, False, False]
    assert (served.returncode, served.stderr.count("\n")) == (own.returncode, own.stderr.count("\n"))
    first, second = (json.loads(done.stdout, object_hook=_without_changing) for done in (served, own))
    assert first == second
    assert [run["state"] for run in _runs(clinvk)] == ["finished"] * 6


def test_verbose_compare_reports_server_use_once(clinvk: Clinvk, server: Server) -> None:
    clinvk.agent.play(claude_says("x"))
    compare = ("compare", "--backends", "claude,claude", "-q", "-v", "hello")
    assert clinvk.run(*compare).stderr == "clinvk: through the server of this home\n"
    differs = clinvk.run(*compare, before="umask 027")
    assert (differs.returncode, differs.stderr) == (0, "clinvk: not through the server: umask differs\n")
    assert [is_of_server(call) for call in clinvk.agent.calls()] == [True, True, False, False]


def test_parts_without_a_free_slot_run_locally_at_once(scripted: Scripted, clinvk: Clinvk) -> None:
    clinvk.agent.play([wait_for(clinvk.folder / "go"), *claude_says("x")])
    with Server(scripted, {**OF_SERVER, "CLINVK_SERVER__MAX_CONCURRENT_RUNS": "1"}) as server:
        server.ready()
        with clinvk.started("compare", "--backends", "claude,claude,claude", "--json", "hello") as process:
            until(lambda: len(clinvk.agent.calls()) == 3)
            (clinvk.folder / "go").touch()
            assert process.wait(30) == 0
    assert sorted(map(is_of_server, clinvk.agent.calls())) == [False, False, True]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells who holds a lock")
def test_cancel_ends_a_part_in_the_server_or_the_whole_command(clinvk: Clinvk, server: Server) -> None:
    clinvk.agent.play([*BEGUN, hang()])
    with clinvk.started("compare", "--backends", "claude,claude", "--json", "hello") as process:
        until(lambda: len(clinvk.agent.calls()) == 2)
        part = next(run for run in _runs(clinvk) if run["parent_id"])
        assert clinvk.run("runs", "cancel", part["id"]).returncode == 0
        until(lambda: len(clinvk.agent.alive()) == 1)
        assert clinvk.run("runs", "cancel", part["parent_id"]).returncode == 0
        stdout, _ = process.communicate(timeout=30)
    assert process.returncode == 7
    assert [part["error_code"] for part in json.loads(stdout)["results"]] == ["cancelled", "cancelled"]
    assert {run["state"] for run in _runs(clinvk)} == {"cancelled"}
    assert clinvk.agent.alive() == []


def _runs(clinvk: Clinvk) -> list[dict[str, str]]:
    return json.loads(clinvk.run("runs", "list", "--parts", "--json").stdout)["runs"]


@pytest.mark.parametrize(
    ("before", "what"),
    [("umask 027", "umask"), ("ulimit -t 1000", "ulimit CPU"), ("renice -n 15 $$ >/dev/null", "nice")],
)
def test_different_process_attributes_run_locally_and_one_line_says_so(
    clinvk: Clinvk, server: Server, before: str, what: str
) -> None:
    clinvk.agent.play(claude_says("x"))
    done = clinvk.run("-o", "text", "hello", before=before)
    assert (done.returncode, done.stderr) == (0, f"clinvk: not through the server: {what} differs\n")
    assert not is_of_server(clinvk.agent.calls()[0])


@pytest.mark.parametrize("how", [["--no-server"], []])
def test_flag_and_setting_disable_server_use(clinvk: Clinvk, server: Server, how: list[str]) -> None:
    clinvk.agent.play(claude_says("x"))
    env = {} if how else {"CLINVK_WARM__COMMAND_LINE": "false"}
    done = clinvk.run("-v", "-o", "text", *how, "hello", env=env)
    why = "not through the server: disabled by --no-server or warm.command_line: false"
    assert (done.stdout, done.stderr) == ("x\n", f"clinvk: {why}\n")
    assert not is_of_server(clinvk.agent.calls()[0])


def test_session_continues_locally_and_through_the_server(clinvk: Clinvk, server: Server) -> None:
    clinvk.agent.play(claude_says("x"))
    sessions = [
        json.loads(clinvk.run(*arguments).stdout)["session_id"]
        for arguments in (("one",), ("--no-server", "two"), ("-c", "three"), ("resume", "--last", "four"))
    ]
    assert len(set(sessions)) == 1
    assert [is_of_server(call) for call in clinvk.agent.calls()] == [True, False, True, True]
    shown = json.loads(clinvk.run("sessions", "show", sessions[0], "--json").stdout)
    assert shown["turn_count"] == 4


def test_ephemeral_run_through_the_server_leaves_no_session(clinvk: Clinvk, server: Server) -> None:
    clinvk.agent.play(claude_says("x"))
    assert json.loads(clinvk.run("--ephemeral", "hello").stdout)["session_id"] is None
    assert is_of_server(clinvk.agent.calls()[0])
    assert json.loads(clinvk.run("sessions", "list", "--json").stdout)["sessions"] == []


def test_dry_run_server_still_runs_prompts_of_commands(scripted: Scripted, clinvk: Clinvk) -> None:
    """Whether a prompt of a command is run is up to the command's own flags and settings."""
    clinvk.agent.play(claude_says("x"))
    with Server(scripted, {**OF_SERVER, "CLINVK_UNIFIED_FLAGS__DRY_RUN": "true"}) as server:
        assert "claude" in server.ready().prompt("hello").json()["output"]
        assert clinvk.agent.calls() == []
        assert clinvk.run("-o", "text", "--new", "hello").stdout == "x\n"
        assert clinvk.run("--dry-run", "--new", "hello").stdout.endswith("# prompt: 5 bytes on stdin\n")
    assert [is_of_server(call) for call in clinvk.agent.calls()] == [True]


@pytest.mark.slow
def test_slow_reader_applies_backpressure_and_receives_everything(clinvk: Clinvk, server: Server) -> None:
    up, done = clinvk.folder / "up", clinvk.folder / "done"
    says = claude_says("\0")
    before, _, after = str(says[3]["line"]).partition("\\u0000")
    clinvk.agent.play([*says[:3], touch(up), *[letters(100_000, before, after)] * 400, touch(done), *says[4:]])
    with clinvk.started("-o", "text", "hello") as process:
        until(up.exists)
        time.sleep(1)  # it would be done long before
        assert not done.exists()
        assert process.stdout
        read = 0
        while chunk := os.read(process.stdout.fileno(), 1 << 20):
            read += len(chunk)
        assert process.wait(30) == 0
    assert read >= 400 * 100_000


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_signal_ends_the_agent_in_the_server(clinvk: Clinvk, server: Server, number: signal.Signals) -> None:
    clinvk.agent.play([*BEGUN, spawn("all"), spawn("setsid"), hang()])
    with clinvk.started("-o", "text", "hello") as process:
        until(lambda: len(clinvk.agent.grandchildren()) == 2)
        assert is_of_server(clinvk.agent.calls()[0])
        assert process.stdout
        read_until(process.stdout.fileno(), b"begun ")
        process.send_signal(number)
        stdout, stderr = process.communicate(timeout=30)
        if number == signal.SIGKILL:
            until(lambda: clinvk.agent.alive() == [])
        assert clinvk.agent.alive() == []
    if number != signal.SIGKILL:
        assert (process.returncode, stdout, stderr) == (7, b"\n", b"clinvk: cancelled\n")
    assert server.client.get("/api/v1/runs").json()["runs"][0]["state"] == "cancelled"


@pytest.mark.slow
def test_closed_stdout_ends_the_agent(clinvk: Clinvk, server: Server) -> None:
    clinvk.agent.play([*BEGUN, wait_for(clinvk.folder / "go"), *claude_says("x", "more")[4:], hang()])
    with clinvk.started("-o", "stream-json", "hello") as process:
        assert process.stdout
        read_until(process.stdout.fileno(), b"begun")
        process.stdout.close()
        (clinvk.folder / "go").touch()
        assert process.wait(30) == 7
        process.stdout = None
    assert clinvk.agent.alive() == []


@pytest.mark.parametrize("form", ["text", "json", "stream-json"])
def test_killed_server_fails_the_command_with_a_clear_message(clinvk: Clinvk, server: Server, form: str) -> None:
    clinvk.agent.play([*BEGUN, touch(clinvk.folder / "up"), hang()])
    with clinvk.started("-o", form, "hello") as process:
        until((clinvk.folder / "up").exists)
        server.kill()
        stdout, stderr = process.communicate(timeout=30)
    assert process.returncode == 1
    assert b"the server that ran this is gone" in stderr
    assert form == "text" or b"the server that ran this is gone" in stdout
    until(lambda: clinvk.agent.alive() == [])


def test_killed_server_fails_the_part_and_the_next_step_runs_locally(clinvk: Clinvk, server: Server) -> None:
    steps = {"steps": [{"prompt": "first"}, {"prompt": "second"}], "stop_on_failure": False}
    (clinvk.folder / "plan.json").write_text(json.dumps(steps))
    clinvk.agent.play(claude_says("x"))
    clinvk.agent.play([*BEGUN, touch(clinvk.folder / "up"), hang()], when="first")
    with clinvk.started("chain", "-f", "plan.json", "--json") as process:
        until((clinvk.folder / "up").exists)
        server.kill()
        stdout, _ = process.communicate(timeout=30)
    assert process.returncode == 1
    first, second = json.loads(stdout)["results"]
    assert "the server that ran this is gone, and its agent with it" in first["error"]
    assert second["output"] == "x"
    until(lambda: clinvk.agent.alive() == [])


def test_files_of_a_killed_server_block_neither_commands_nor_the_next_server(clinvk: Clinvk) -> None:
    clinvk.agent.play(claude_says("x"))
    with Server(clinvk.agent) as first:
        first.ready().kill()
    assert socket_of(clinvk.agent).exists()
    done = clinvk.run("-v", "-o", "text", "--new", "hello")
    assert (done.stdout, done.stderr) == ("x\n", "")
    with Server(clinvk.agent, OF_SERVER) as second:
        second.ready()
        clinvk.run("--new", "hello")
    assert [is_of_server(call) for call in clinvk.agent.calls()] == [False, True]


def test_command_bypasses_a_hanging_server(clinvk: Clinvk, server: Server) -> None:
    clinvk.agent.play(claude_says("x"))
    clinvk.run("--new", "hello")  # after this the server is at rest, and holds no lock of the database
    server.process.send_signal(signal.SIGSTOP)
    try:
        done = clinvk.run("-v", "-o", "text", "--new", "hello")
    finally:
        server.process.send_signal(signal.SIGCONT)
    assert (done.stdout, done.stderr) == ("x\n", "clinvk: not through the server: the server does not answer\n")


@contextmanager
def stopped_in_a_run(clinvk: Clinvk, server: Server, *arguments: str) -> Generator["subprocess.Popen[bytes]"]:
    """A command that is being answered by a server that stops; the server goes on at the end, and ends the agent."""
    clinvk.agent.play([*BEGUN, hang()])
    with clinvk.started("-o", "text", *arguments, "hello") as process:
        assert process.stdout
        read_until(process.stdout.fileno(), b"begun ")
        assert is_of_server(clinvk.agent.calls()[0])
        server.process.send_signal(signal.SIGSTOP)
        try:
            yield process
            assert len(clinvk.agent.alive()) == 1
        finally:
            server.process.send_signal(signal.SIGCONT)
    until(lambda: clinvk.agent.alive() == [])
    assert server.stop() == 0


@pytest.mark.slow
def test_ctrl_c_ends_the_command_while_the_server_hangs_and_the_run_afterwards(clinvk: Clinvk, server: Server) -> None:
    with stopped_in_a_run(clinvk, server) as process:
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=30)
    unknown = b"clinvk: the server does not tell whether its agent is gone\n"
    assert (process.returncode, stderr) == (7, unknown + b"clinvk: cancelled\n")


@pytest.mark.slow
def test_ctrl_c_ends_a_compare_while_the_server_hangs(clinvk: Clinvk, server: Server) -> None:
    clinvk.agent.play([*BEGUN, touch(clinvk.folder / "up"), hang()])
    with clinvk.started("compare", "--backends", "claude", "--json", "hello") as process:
        until((clinvk.folder / "up").exists)
        server.process.send_signal(signal.SIGSTOP)
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=30)
        server.process.send_signal(signal.SIGCONT)
    assert (process.returncode, json.loads(stdout)["results"][0]["error_code"]) == (7, "cancelled")
    assert b"clinvk: the server does not tell whether its agent is gone\n" in stderr
    until(lambda: clinvk.agent.alive() == [])


@pytest.mark.slow
def test_timeout_applies_while_the_server_hangs(clinvk: Clinvk, server: Server) -> None:
    with stopped_in_a_run(clinvk, server, "--timeout", "3") as process:
        _, stderr = process.communicate(timeout=40)
    unknown = b"clinvk: the server does not tell whether its agent is gone\n"
    assert (process.returncode, stderr) == (6, b"clinvk: the server does not answer, and the 3 s are over\n" + unknown)


@pytest.mark.slow
def test_reader_that_pauses_past_the_timeout_receives_everything(clinvk: Clinvk, server: Server) -> None:
    says = claude_says("\0")
    before, _, after = str(says[3]["line"]).partition("\\u0000")
    clinvk.agent.play([*says[:3], *[letters(100_000, before, after)] * 60, *says[4:]])
    with clinvk.started("-o", "text", "--timeout", "5", "hello") as process:
        assert process.stdout
        until((clinvk.agent.folder / ".clinvk").exists)
        time.sleep(16)  # what it has to read was told long before
        read = 0
        while chunk := os.read(process.stdout.fileno(), 1 << 20):
            read += len(chunk)
        assert process.stderr
        assert b"does not answer" not in process.stderr.read()
        assert process.wait(30) in (0, 6)
    assert read > 1_000_000


def test_second_server_takes_the_socket_after_the_first_exits(clinvk: Clinvk, server: Server) -> None:
    clinvk.agent.play(claude_says("x"))
    with Server(clinvk.agent, {"WINDOWID": "of-the-second"}) as second:
        second.ready()
        until(lambda: "commands go through another server" in second.said)
        clinvk.run("--new", "hello")
        server.stop()
        until(socket_of(clinvk.agent).exists)
        clinvk.run("--new", "hello")
    assert [call.env["WINDOWID"] for call in clinvk.agent.calls()] == ["of-the-server", "of-the-second"]


@pytest.mark.slow
@pytest.mark.parametrize("removed", ["serve.*", "serve.sock"])
def test_server_recreates_a_removed_socket(clinvk: Clinvk, server: Server, removed: str) -> None:
    clinvk.agent.play(claude_says("x"))
    files = [*socket_of(clinvk.agent).parent.glob(removed)]
    assert files
    for file in files:
        file.unlink()
    until(socket_of(clinvk.agent).exists)
    assert clinvk.run("-o", "text", "--new", "hello").stdout == "x\n"
    assert is_of_server(clinvk.agent.calls()[0])
    assert server.stop() == 0
    assert list(socket_of(clinvk.agent).parent.glob("serve.*")) == []


def test_stopping_server_finishes_its_prompt_and_accepts_no_other(clinvk: Clinvk, server: Server) -> None:
    clinvk.agent.play([touch(clinvk.folder / "up"), wait_for(clinvk.folder / "go"), *claude_says("slow")], when="slow")
    clinvk.agent.play(claude_says("x"), when="quick")
    with clinvk.started("-o", "text", "--new", "slow") as process:
        until((clinvk.folder / "up").exists)
        server.process.send_signal(signal.SIGTERM)
        until(lambda: not socket_of(clinvk.agent).exists())
        assert clinvk.run("-v", "-o", "text", "--new", "quick").stdout == "x\n"
        (clinvk.folder / "go").touch()
        assert process.communicate(timeout=30) == (b"slow\n", b"")
    assert server.process.wait(30) == 0
    assert [is_of_server(call) for call in clinvk.agent.calls()] == [True, False]


def test_command_runs_locally_when_the_server_has_no_free_slot(scripted: Scripted, clinvk: Clinvk) -> None:
    clinvk.agent.play([touch(clinvk.folder / "up"), hang()], when="long")
    clinvk.agent.play(claude_says("x"), when="short")
    with Server(scripted, {**OF_SERVER, "CLINVK_SERVER__MAX_CONCURRENT_RUNS": "1"}) as server:
        server.ready().detached("long")
        until((clinvk.folder / "up").exists)
        done = clinvk.run("-v", "-o", "text", "--new", "short")
    assert done.stdout == "x\n"
    assert "not through the server: no slot is free" in done.stderr


def test_server_restrictions_do_not_apply_to_its_own_user(scripted: Scripted, clinvk: Clinvk) -> None:
    clinvk.agent.play(claude_says("x"))
    narrow = {
        **OF_SERVER,
        "CLINVK_API_KEYS": "0123456789abcdef0123456789abcdef",
        "CLINVK_SERVER__ALLOWED_WORKDIR_PREFIXES": "/srv",
        "CLINVK_POLICY__MAX_APPROVAL_MODE": "default",
        "CLINVK_POLICY__ALLOWED_BACKENDS": "codex",
    }
    with Server(scripted, narrow) as server:
        server.ready()
        assert clinvk.run("-o", "text", "--approval-mode", "auto", "hello").stdout == "x\n"
    call = clinvk.agent.calls()[0]
    assert is_of_server(call)
    assert "CLINVK_API_KEYS" not in call.env


UNMARK = "import os, resource, sys; resource.setrlimit(15, (-1, -1)); os.execvp(sys.argv[1], sys.argv[1:])"
"""Takes off the mark that all bear that came of an agent, then runs a command."""


@pytest.mark.parametrize("by", ["", f"{sys.executable} -c '{UNMARK}'"], ids=["marked", "unmarked"])
def test_command_started_by_an_agent_does_not_use_the_server(clinvk: Clinvk, server: Server, by: str) -> None:
    """The agent may also hide its depth and its owner."""
    clinvk.agent.play(says("codex", "inner answer"), when="inner")
    nested = _output_in_an_agent(clinvk, f"{by} {clinvk.command} -v -o text -b codex --new inner")
    assert "not through the server: it was started by an agent" in nested


def test_agent_gets_no_login_link(clinvk: Clinvk, scripted: Scripted) -> None:
    assert clinvk.run("keys", "create", "ana").returncode == 0
    with Server(scripted) as server:
        port = server.ready().url.rpartition(":")[2]
        assert "#login=" in clinvk.run("open", "--dry-run", "--port", port).stdout
        nested = _output_in_an_agent(clinvk, f"{clinvk.command} open --dry-run --port {port}")
    assert nested == f"http://127.0.0.1:{port}/\n"


def _output_in_an_agent(clinvk: Clinvk, command: str) -> str:
    """Return the output of a command that an agent runs, which hides its depth and its server."""
    agent = Path(clinvk.agent.folder / "claude")
    output = clinvk.folder / "nested"
    plain = agent.read_text()
    hidden = f"env -u CLINVK_DEPTH WINDOWID= {command} >{output} 2>&1 </dev/null"
    clinvk.agent.play(claude_says("outer answer"))
    # The server asks a changed program for its version, which must not write the output again.
    agent.write_text(f'#!/bin/sh\n[ "$1" = --version ] || {hidden}\nexec {agent}.py "$@"\n')
    beside = Path(f"{agent}.py")
    beside.write_text(plain)
    beside.chmod(0o755)
    assert clinvk.run("-o", "text", "outer").returncode == 0
    return output.read_text()


def test_socket_of_a_home_with_a_long_path_is_placed_elsewhere(scripted: Scripted, clinvk: Clinvk) -> None:
    clinvk.agent.play(claude_says("x"))
    home = scripted.folder / ("long" * 30)
    moved = {"CLINVK_HOME": str(home)}
    place = path_of(home)
    with Server(scripted, {**OF_SERVER, **moved}) as server:
        server.ready()
        clinvk.run("hello", env=moved)
        assert place.is_socket()
        assert stat.S_IMODE(place.parent.stat().st_mode) == 0o700
        server.stop()
    assert list(place.parent.glob(f"{place.stem}.*")) == []
    assert is_of_server(clinvk.agent.calls()[0])


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_server_and_command_reject_another_user(clinvk: Clinvk, server: Server) -> None:
    """The modes of the files would permit access."""
    path = socket_of(clinvk.agent)
    clinvk.agent.folder.chmod(0o755)
    path.parent.chmod(0o755)
    path.chmod(0o666)
    with socket.socket(socket.AF_UNIX) as other:
        other.settimeout(15)
        os.seteuid(65534)
        try:
            other.connect(str(path))
            assert connected(path.parent) is None
        finally:
            os.seteuid(0)
        assert other.recv(1) == b""
    with connected(path.parent) or pytest.fail("the user's own command is let in"):
        pass


INVALID = (
    b"\xff\xff\xff\xff",
    b"\x00\x00\x00\x02{}",
    b"\x00\x00\x00\x05stuff",
    b"\x00\x00",
    b"GET / HTTP/1.1\r\n\r\n",
    b"",
)


def test_invalid_socket_messages_do_not_disturb_the_server(clinvk: Clinvk, server: Server) -> None:
    clinvk.agent.play(claude_says("x"))
    for said in INVALID:
        with socket.socket(socket.AF_UNIX) as other:
            other.settimeout(15)
            other.connect(str(socket_of(clinvk.agent)))
            other.sendall(said)
            other.shutdown(socket.SHUT_WR)
            while other.recv(1 << 16):
                pass
    clinvk.run("hello")
    assert is_of_server(clinvk.agent.calls()[0])
    assert server.stop() == 0


def test_command_that_disconnects_cancels_only_its_own_run(clinvk: Clinvk, server: Server) -> None:
    clinvk.agent.play(claude_says("fine"))
    for moment in range(60):
        with _begun(clinvk):
            time.sleep(moment % 10 * 0.003)
    assert clinvk.run("-o", "text", "--new", "x").stdout == "fine\n"
    assert is_of_server(clinvk.agent.calls()[-1])
    assert "failed inside clinvk" not in server.said


@pytest.mark.parametrize("moment", ["at once", "while the run begins", "while the agent answers"])
def test_command_that_disconnects_leaves_no_agent_and_no_connection(
    clinvk: Clinvk, server: Server, moment: str
) -> None:
    up, path = clinvk.folder / "up", str(socket_of(clinvk.agent))
    says = claude_says("\0")
    before, _, after = str(says[3]["line"]).partition("\\u0000")
    clinvk.agent.play([*says[:3], *[letters(100_000, before, after)] * 5, touch(up), hang()])
    with _begun(clinvk):
        assert path in _connections()
        if moment == "while the agent answers":
            until(up.exists)
        elif moment == "while the run begins":
            time.sleep(0.003)
    until(lambda: path not in _connections())
    until(lambda: {run["state"] for run in server.client.get("/api/v1/runs").json()["runs"]} <= {"cancelled"})
    until(lambda: clinvk.agent.alive() == [])


def _connections() -> list[str]:
    """Return the paths of the connected Unix sockets of this machine."""
    entries = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()]
    return [entry[7] for entry in entries if len(entry) > 7 and entry[5] == "03"]


@contextmanager
def _begun(clinvk: Clinvk) -> Generator[None]:
    """Begin a run in the server, and disconnect at the end without reading."""
    request = RunRequest(prompt="x", backend="claude", workdir=str(clinvk.folder))
    message = msgspec.json.encode(BeginPrompt(os.urandom(16).hex(), request, own_variables(clinvk.agent.env)))
    with socket.socket(socket.AF_UNIX) as ours:
        ours.connect(str(socket_of(clinvk.agent)))
        assert ours.recv(1 << 16)
        ours.sendall(len(message).to_bytes(4, "big") + message)
        yield


def test_idle_connection_does_not_delay_shutdown(clinvk: Clinvk, server: Server) -> None:
    with socket.socket(socket.AF_UNIX) as other:
        other.connect(str(socket_of(clinvk.agent)))
        assert other.recv(1)
        assert server.stop() == 0


def test_concurrent_commands_each_receive_their_own_answer(clinvk: Clinvk, server: Server) -> None:
    words = [f"word{number}" for number in range(8)]
    for word in words:
        clinvk.agent.play(claude_says(word), when=word)
    with ExitStack() as stack:
        started = [stack.enter_context(clinvk.started("-o", "text", "--new", word)) for word in words]
        assert [process.communicate(timeout=30)[0] for process in started] == [f"{word}\n".encode() for word in words]
    assert all(map(is_of_server, clinvk.agent.calls()))
