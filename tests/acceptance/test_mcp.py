"""`clinvk mcp`: agents of this machine as the tools of an MCP client, with and without a running server."""

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from acceptance.command import Clinvk, until
from clinvk.api.endpoints.health import BackendList
from clinvk.api.mcp.tools import Run
from mcp_client import HANDSHAKES, over_stdio
from scripted.steps import claude_says, codex_streams, wait_for

PING = b'{"jsonrpc":"2.0","id":1,"method":"ping"}\n'


@pytest.mark.parametrize("handshake", HANDSHAKES)
async def test_client_runs_agents_and_continues_the_conversation(clinvk: Clinvk, handshake: str) -> None:
    clinvk.agent.play(claude_says("a prime is 7"))
    async with over_stdio(handshake, clinvk.command, str(clinvk.folder), clinvk.agent.env) as mcp:
        names = [tool.name for tool in (await mcp.client.list_tools()).tools]
        assert names[:2] == ["run_agent", "compare"]
        agents = (await mcp.call(BackendList, "list_agents")).backends
        assert [agent.name for agent in agents if agent.available] == ["claude", "codex", "gemini"]
        run = await mcp.call(Run, "run_agent", prompt="name a prime", backend="claude")
        assert (run.state, run.output, run.workdir) == ("finished", "a prime is 7", os.path.realpath(clinvk.folder))
        next_run = await mcp.call(Run, "run_agent", prompt="another", session_id=run.session_id)
        assert next_run.session_id == run.session_id
    assert clinvk.prompts == ["name a prime", "another"]


async def test_fallback_takes_the_prompt_of_an_agent_that_is_not_installed(clinvk: Clinvk) -> None:
    clinvk.settings("backends: {missing: {command: [no-such-program]}}\n")
    clinvk.agent.play(claude_says("7"))
    async with over_stdio("auto", clinvk.command, str(clinvk.folder), clinvk.agent.env) as mcp:
        run = await mcp.call(Run, "run_agent", prompt="a prime", backend="missing", fallback=["claude"])
        assert (run.backend, run.output) == ("claude", "7")


async def test_run_that_takes_long_is_waited_for_and_cancelled(clinvk: Clinvk, tmp_path: Path) -> None:
    clinvk.agent.play([wait_for(tmp_path / "go"), *claude_says("done")])
    async with over_stdio("auto", clinvk.command, str(clinvk.folder), clinvk.agent.env) as mcp:
        run = await mcp.call(Run, "run_agent", prompt="slow", backend="claude", wait_secs=0)
        assert run.state in ("queued", "running")
        (tmp_path / "go").touch()
        ended = await mcp.call(Run, "wait_run", run_id=run.id, wait_secs=30)
        assert (ended.state, ended.output) == ("finished", "done")
        (tmp_path / "go").unlink()
        run = await mcp.call(Run, "run_agent", prompt="slow", backend="claude", wait_secs=0)
        assert (await mcp.call(Run, "cancel_run", run_id=run.id)).state == "cancelled"
        assert "is cancelled" in await mcp.refused("cancel_run", run_id=run.id)


@pytest.mark.parametrize(("served", "handshake"), [(False, HANDSHAKES[0]), (True, HANDSHAKES[1])], indirect=["served"])
async def test_cancelled_call_stops_its_run(clinvk: Clinvk, tmp_path: Path, served: bool, handshake: str) -> None:
    clinvk.agent.play([wait_for(tmp_path / "go"), *claude_says("done")])
    async with over_stdio(handshake, clinvk.command, str(clinvk.folder), clinvk.agent.env) as mcp:
        calling, messages = await mcp.reporting("run_agent", prompt="slow", backend="claude", wait_secs=100)
        assert messages
        [listed] = json.loads(clinvk.run("runs", "list", "-o", "json").stdout)["runs"]
        calling.cancel()
        assert (await mcp.call(Run, "wait_run", run_id=listed["id"], wait_secs=30)).state == "cancelled"


async def test_errors_are_those_of_clinvk(clinvk: Clinvk) -> None:
    async with over_stdio("auto", clinvk.command, str(clinvk.folder), clinvk.agent.env) as mcp:
        assert "unknown backend 'nobody'" in await mcp.refused("run_agent", prompt="hi", backend="nobody")
        assert "no run" in await mcp.refused("get_run", run_id="0123abcd")
        assert "prompt is missing" in await mcp.refused("run_agent")
        assert "did you mean 'prompt'?" in await mcp.refused("run_agent", prompts="hi")
        assert "wait_secs must be a number" in await mcp.refused("run_agent", prompt="hi", wait_secs="long")
        assert "/etc" in await mcp.refused("run_agent", prompt="hi", workdir="/etc")


async def test_runs_end_with_the_command_unless_a_server_has_them(clinvk: Clinvk, tmp_path: Path, served: bool) -> None:
    clinvk.agent.play([wait_for(tmp_path / "go"), *claude_says("done")])
    async with over_stdio("auto", clinvk.command, str(clinvk.folder), clinvk.agent.env) as mcp:
        run = await mcp.call(Run, "run_agent", prompt="slow", backend="claude", wait_secs=0)
    (tmp_path / "go").touch()
    clinvk.run("runs", "follow", run.id)
    found = clinvk.json(Run, "runs", "show", run.id)
    assert found.state == ("finished" if served else "cancelled")


@pytest.mark.parametrize("depth", [0, 3])
async def test_agents_are_not_nested_without_end(clinvk: Clinvk, depth: int) -> None:
    clinvk.agent.play(claude_says("hello"))
    clinvk.agent.play(codex_streams("hello"), when="compare")
    env = {**clinvk.agent.env, "CLINVK_DEPTH": str(depth)}
    async with over_stdio("auto", clinvk.command, str(clinvk.folder), env) as mcp:
        if depth:
            for tool, more in (("run_agent", {"backend": "claude"}), ("compare", {"backends": ["codex"]})):
                assert "3 deep (CLINVK_DEPTH); unified_flags.max_depth allows 2" in await mcp.refused(
                    tool, prompt="hi", **more
                )
        else:
            await mcp.call(Run, "run_agent", prompt="hi", backend="claude")
    assert [call.env["CLINVK_DEPTH"] for call in clinvk.agent.calls()] == ([] if depth else ["1"])


def test_command_ends_with_stdin_although_a_tool_waits(clinvk: Clinvk, tmp_path: Path) -> None:
    clinvk.agent.play([wait_for(tmp_path / "go"), *claude_says("done")])
    client = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "x", "version": "1"}}
    arguments = {"prompt": "slow", "backend": "claude", "wait_secs": 100}
    with clinvk.started("mcp", stdin=subprocess.PIPE) as process:
        assert process.stdin
        for message in (
            {"id": 1, "method": "initialize", "params": client},
            {"method": "notifications/initialized"},
            {"id": 2, "method": "tools/call", "params": {"name": "run_agent", "arguments": arguments}},
        ):
            process.stdin.write(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")
        process.stdin.flush()
        until(lambda: bool(clinvk.prompts))
        process.stdin.close()
        assert process.wait(30) == 0
    (tmp_path / "go").touch()


@pytest.mark.parametrize("served", [False], ids=["here"], indirect=True)
def test_command_ends_with_stdin_although_nobody_reads_its_answers(clinvk: Clinvk) -> None:
    with clinvk.started("mcp", stdin=subprocess.PIPE) as process:
        assert process.stdin
        assert process.stdout
        assert process.stderr
        process.stdout.close()
        process.stdin.write(PING * 2)
        process.stdin.close()
        assert (process.wait(30), process.stderr.read()) == (0, b"")


@pytest.mark.parametrize("served", [False], ids=["here"], indirect=True)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_the_command_although_stdin_is_open(clinvk: Clinvk, number: signal.Signals) -> None:
    with clinvk.started("mcp", stdin=subprocess.PIPE) as process:
        assert process.stdin
        assert process.stdout
        process.stdin.write(PING)
        process.stdin.flush()
        assert json.loads(process.stdout.readline())["id"] == 1
        process.send_signal(number)
        assert process.wait(30) == 7
        process.stdin.close()


@pytest.mark.parametrize("served", [False], ids=["here"], indirect=True)
def test_long_line_is_refused_and_the_next_one_is_answered(clinvk: Clinvk) -> None:
    with clinvk.started("mcp", stdin=subprocess.PIPE) as process:
        assert process.stdin
        assert process.stdout
        process.stdin.write(b"x" * (80 << 20) + b"\n" + PING)
        process.stdin.flush()
        while json.loads(process.stdout.readline()).get("id") != 1:
            pass
        process.stdin.close()


@pytest.mark.parametrize("served", [False], ids=["here"], indirect=True)
def test_command_without_a_client_is_refused(clinvk: Clinvk) -> None:
    done = clinvk.run("mcp")
    assert (done.returncode, done.stdout) == (1, "")
    assert "an MCP client starts clinvk mcp" in done.stderr


@pytest.mark.parametrize("served", [False], ids=["here"], indirect=True)
def test_requests_before_the_end_of_stdin_are_answered(clinvk: Clinvk) -> None:
    asked = [{"id": number, "method": method} for number, method in enumerate(("ping", "tools/list", "no/such"))]
    lines = b"".join(json.dumps({"jsonrpc": "2.0", **each}).encode() + b"\n" for each in asked)
    done = clinvk.run("mcp", stdin=lines)
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert (done.returncode, [answer["id"] for answer in answers]) == (0, [0, 1, 2])
    assert answers[0]["result"] == {}
    assert answers[2]["error"]["code"] == -32601
