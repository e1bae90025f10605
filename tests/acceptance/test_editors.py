"""`clinvk acp` as an editor uses it: through the Python library of the protocol, and with raw lines."""

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from acp import RequestError, text_block
from acp.schema import HttpHeader, HttpMcpServer, SseMcpServer, UserMessageChunk

from acceptance.command import TIMEOUT_S, Clinvk
from acceptance.editor import Editor, editing
from acceptance.server import in_both_ways
from clinvk.runtime.process.process_tags import TAG_VARIABLE
from polling import until
from scripted.steps import Step, ask_approval, claude_says, codex_streams, exits, hang, line, spawn, touch

COMMAND = "pytest -x"
SCRIPT = Path(__file__).parents[1] / "scripted" / "acp_agent.py"


def ask(clinvk: Clinvk) -> None:
    """Make the agent ask for approval of a command before its answer."""
    asked: Step = {"tool_name": "Bash", "input": {"command": COMMAND}, "title": "Run the tests", "tool_use_id": "t1"}
    suggestions: Step = {
        "permission_suggestions": [{"type": "addRules", "rules": [{"toolName": "Bash"}], "behavior": "allow"}]
    }
    begins, *answers = claude_says("All ", "done.")
    clinvk.agent.play([begins, ask_approval({**asked, **suggestions}), *answers], reads=False)


def answers(clinvk: Clinvk, *deltas: str) -> None:
    clinvk.agent.play(claude_says(*deltas), reads=False)


async def shown(editor: Editor, text: str) -> None:
    await until(lambda: editor.text() == text)


@in_both_ways
async def test_session_of_an_editor_continues_in_a_terminal_and_loads_again(clinvk: Clinvk, served: bool) -> None:
    answers(clinvk, "Hel", "lo")
    editor = Editor()
    async with editing(editor, clinvk.folder, clinvk.agent.env) as agent:
        session = (await agent.new_session(cwd=str(clinvk.folder))).session_id
        result = await agent.prompt(session, [text_block("hi")])
        assert (result.stop_reason, result.usage and result.usage.output_tokens) == ("end_turn", 5)
        await shown(editor, "Hello")
        await agent.prompt(session, [text_block("more")])
    assert clinvk.run("-c", "-o", "text", "--approval-mode", "ask", "in the terminal").stdout == "Hello\n"
    assert [any(word.startswith("--resume") for word in call.argv) for call in clinvk.agent.calls()] == [
        False,
        True,
        True,
    ]
    assert clinvk.json(dict[str, Any], "sessions", "show", session)["turn_count"] == 3

    loading, resuming = Editor(), Editor()
    async with editing(loading, clinvk.folder, clinvk.agent.env) as agent:
        (listed,) = (await agent.list_sessions(cwd=str(clinvk.folder))).sessions
        assert (listed.session_id, listed.title) == (session, "hi")
        await agent.load_session(cwd=str(clinvk.folder), session_id=session)
        await shown(loading, "Hello" * 3)
        assert loading.text(UserMessageChunk) == "himorein the terminal"
    async with editing(resuming, clinvk.folder, clinvk.agent.env) as agent:
        await agent.resume_session(cwd=str(clinvk.folder), session_id=session)
        await agent.prompt(session, [text_block("again")])
        await shown(resuming, "Hello")
        await agent.close_session(session)
        with pytest.raises(RequestError, match="is not open"):
            await agent.prompt(session, [text_block("once more")])


@in_both_ways
@pytest.mark.parametrize(
    ("choice", "behavior"), [("allow", "allow"), ("allow_session", "allow"), ("deny", "deny"), (None, "deny")]
)
async def test_editor_answers_what_the_agent_asks(
    clinvk: Clinvk, served: bool, choice: str | None, behavior: str
) -> None:
    ask(clinvk)
    editor = Editor(choice)
    async with editing(editor, clinvk.folder, clinvk.agent.env) as agent:
        session = (await agent.new_session(cwd=str(clinvk.folder))).session_id
        assert (await agent.prompt(session, [text_block("fix it")])).stop_reason == "end_turn"
    (asked,) = editor.asked
    assert (asked.kind, asked.title, asked.raw_input) == ("execute", "Bash pytest -x", {"command": COMMAND})
    assert editor.offered == ["allow", "allow_session", "deny"]
    assert editor.tools[-1][1] == ("completed" if behavior == "allow" else "failed")
    assert [answer["behavior"] for answer in clinvk.agent.approvals()] == [behavior]


async def test_answer_from_elsewhere_closes_the_question_of_the_editor(clinvk: Clinvk) -> None:
    ask(clinvk)
    editor = Editor("later")
    async with editing(editor, clinvk.folder, clinvk.agent.env) as agent:
        session = (await agent.new_session(cwd=str(clinvk.folder))).session_id
        turn = asyncio.create_task(agent.prompt(session, [text_block("fix it")]))
        await until(lambda: editor.asked)
        (pending,) = clinvk.json(dict[str, Any], "approvals", "list")["interactions"]
        assert clinvk.run("approvals", "answer", pending["id"], "allow").returncode == 0
        assert (await turn).stop_reason == "end_turn"


async def test_cancelled_turn_ends_the_agent_and_says_so(clinvk: Clinvk, tmp_path: Path) -> None:
    up = tmp_path / "up"
    clinvk.agent.play([*claude_says("x")[:1], touch(up), spawn("setsid"), hang()], reads=False)
    editor = Editor()
    async with editing(editor, clinvk.folder, clinvk.agent.env) as agent:
        session = (await agent.new_session(cwd=str(clinvk.folder))).session_id
        turn = asyncio.create_task(agent.prompt(session, [text_block("slow")]))
        await until(up.exists)
        with pytest.raises(RequestError, match="has a prompt in progress"):
            await agent.prompt(session, [text_block("a second one")])
        await agent.cancel(session)
        assert (await turn).stop_reason == "cancelled"
        assert clinvk.agent.alive() == []
        answers(clinvk, "back")
        assert (await agent.prompt(session, [text_block("again")])).stop_reason == "end_turn"
        await shown(editor, "back")


async def test_options_choose_agent_model_and_modes(clinvk: Clinvk) -> None:
    clinvk.settings(
        "unified_flags: {approval_mode: auto}\n"
        "backends: {claude: {allowed_tools: [Read]}, codex: {sandbox_mode: workspace}}\n"
    )
    editor = Editor()
    async with editing(editor, clinvk.folder, clinvk.agent.env, "-b", "claude", "-m", "opus") as agent:
        new = await agent.new_session(cwd=str(clinvk.folder), mcp_servers=[])
        chosen = {option.id: option.current_value for option in new.config_options or ()}
        assert chosen == {"backend": "claude", "model": "opus", "approval_mode": "auto", "sandbox_mode": "default"}
        changed = await agent.set_config_option("backend", new.session_id, "codex")
        assert changed
        chosen = {option.id: option.current_value for option in changed.config_options}
        assert chosen == {"backend": "codex", "model": "default", "approval_mode": "auto", "sandbox_mode": "workspace"}
        await agent.set_config_option("backend", new.session_id, "claude")
        await agent.set_config_option("sandbox_mode", new.session_id, "read-only")
        await agent.set_session_mode(new.session_id, "default")
        with pytest.raises(RequestError, match="unknown sandbox_mode 'loose'"):
            await agent.set_config_option("sandbox_mode", new.session_id, "loose")
        with pytest.raises(RequestError, match="unknown option 'colour'"):
            await agent.set_config_option("colour", new.session_id, "red")
        clinvk.agent.play(claude_says("ok"))
        await agent.prompt(new.session_id, [text_block("hi")])
        with pytest.raises(RequestError, match="the agent of a conversation is fixed"):
            await agent.set_config_option("backend", new.session_id, "codex")
        assert "--model=opus" in clinvk.agent.calls()[-1].argv
        other = await agent.new_session(cwd=str(clinvk.folder))
        await agent.set_config_option("backend", other.session_id, "codex")
        clinvk.agent.play(codex_streams("ok"))
        await agent.prompt(other.session_id, [text_block("hi")])
    runs = clinvk.json(dict[str, Any], "runs", "list")["runs"]
    assert [(run["backend"], run["session_id"]) for run in runs] == [
        ("codex", other.session_id),
        ("claude", new.session_id),
    ]


async def test_paths_have_to_be_absolute(clinvk: Clinvk) -> None:
    here = str(clinvk.folder)
    async with editing(Editor(), clinvk.folder, clinvk.agent.env) as agent:
        session = (await agent.new_session(cwd=here)).session_id
        for path in (".", "", "src"):
            for refused in (
                agent.new_session(cwd=path),
                agent.load_session(cwd=path, session_id=session),
                agent.resume_session(cwd=path, session_id=session),
                agent.list_sessions(cwd=path),
            ):
                with pytest.raises(RequestError, match="cwd must be an absolute path") as failed:
                    await refused
                assert failed.value.code == -32602
            with pytest.raises(RequestError, match="additionalDirectories must be an absolute path"):
                await agent.new_session(cwd=here, additional_directories=[path])


REMOTE = HttpMcpServer(type="http", name="remote", url="http://127.0.0.1:9", headers=[HttpHeader(name="K", value="s")])


@in_both_ways
async def test_mcp_servers_of_the_editor_reach_the_agent_and_no_server_of_clinvk(clinvk: Clinvk, served: bool) -> None:
    answers(clinvk, "Hello")
    async with editing(Editor(), clinvk.folder, clinvk.agent.env) as agent:
        session = (await agent.new_session(cwd=str(clinvk.folder), mcp_servers=[REMOTE])).session_id
        await agent.prompt(session, [text_block("hi")])
        await agent.load_session(cwd=str(clinvk.folder), session_id=session, mcp_servers=[])
        await agent.prompt(session, [text_block("more")])
    given = [[word for word in call.argv if word.startswith("--mcp-config")] for call in clinvk.agent.calls()]
    assert [len(words) for words in given] == [1, 0]
    first, second = (call.env[TAG_VARIABLE].partition("-")[0] for call in clinvk.agent.calls())
    assert (first != second) == served


async def test_mcp_servers_that_cannot_be_used_are_refused_by_name(clinvk: Clinvk) -> None:
    command = [sys.executable, "-I", "-S", str(SCRIPT), "plain"]
    clinvk.settings(f"backends: {{fake: {{acp: {json.dumps(command)}}}}}\n")
    async with editing(Editor(), clinvk.folder, clinvk.agent.env, "-b", "fake") as agent:
        with pytest.raises(RequestError, match="MCP server 'old' of type 'sse' must be type http") as failed:
            await agent.new_session(
                cwd=str(clinvk.folder), mcp_servers=[SseMcpServer(type="sse", name="old", url="http://x", headers=[])]
            )
        assert failed.value.code == -32602
        for names, error in (
            (["my files", "my_files"], "'my files' and 'my_files' are both 'my_files'"),
            ([""], "empty name"),
        ):
            servers: list[Any] = [REMOTE.model_copy(update={"name": name}) for name in names]
            with pytest.raises(RequestError, match=error) as failed:
                await agent.new_session(cwd=str(clinvk.folder), mcp_servers=servers)
            assert failed.value.code == -32602
        session = (await agent.new_session(cwd=str(clinvk.folder), mcp_servers=[REMOTE])).session_id
        with pytest.raises(RequestError, match="'remote' of the editor cannot be used: fake accepts only programs"):
            await agent.prompt(session, [text_block("say x")])


async def test_open_session_is_loaded_and_resumed_before_its_first_prompt(clinvk: Clinvk) -> None:
    editor = Editor()
    async with editing(editor, clinvk.folder, clinvk.agent.env) as agent:
        new = await agent.new_session(cwd=str(clinvk.folder))
        await agent.set_config_option("backend", new.session_id, "codex")
        loaded = await agent.load_session(cwd=str(clinvk.folder), session_id=new.session_id)
        resumed = await agent.resume_session(cwd=str(clinvk.folder), session_id=new.session_id)
        for found in (loaded, resumed):
            assert found
            assert {each.id: each.current_value for each in found.config_options or ()}["backend"] == "codex"
    assert editor.text() == ""


async def test_missing_login_and_other_failures_are_errors_of_the_protocol(clinvk: Clinvk, tmp_path: Path) -> None:
    async with editing(Editor(), clinvk.folder, clinvk.agent.env) as agent:
        session = (await agent.new_session(cwd=str(clinvk.folder))).session_id
        *begins, result = claude_says("x")
        refused = {
            **json.loads(str(result["line"])),
            "is_error": True,
            "api_error_status": 401,
            "result": "Invalid key",
        }
        clinvk.agent.play([*begins[:1], line(json.dumps(refused))], reads=False)
        with pytest.raises(RequestError, match="not logged in") as failed:
            await agent.prompt(session, [text_block("hi")])
        assert failed.value.code == -32000
        clinvk.agent.play([exits(3)], reads=False)
        with pytest.raises(RequestError, match="exited with code 3") as failed:
            await agent.prompt(session, [text_block("hi")])
        assert failed.value.code == -32603
        with pytest.raises(RequestError, match="cwd: no directory") as failed:
            await agent.new_session(cwd=str(tmp_path / "none"))
        assert failed.value.code == -32602
        with pytest.raises(RequestError) as failed:
            await agent.load_session(cwd="/", session_id="0" * 32)
        assert failed.value.code == -32002
        answers(clinvk, "fine")
        assert (await agent.prompt(session, [text_block("hi")])).stop_reason == "end_turn"


@pytest.mark.parametrize(
    ("setting", "error"),
    [("{claude: {enabled: false}}", "claude: disabled"), ("{fake: {acp: [none-such]}}", "fake: not installed")],
)
async def test_authentication_fails_for_an_agent_that_cannot_be_used(clinvk: Clinvk, setting: str, error: str) -> None:
    clinvk.settings(f"backends: {setting}\n")
    async with editing(Editor(), clinvk.folder, clinvk.agent.env, "-b", error.partition(":")[0]) as agent:
        with pytest.raises(RequestError, match=error) as failed:
            await agent.authenticate("agent-login")
        assert failed.value.code == -32000


@contextmanager
def raw(clinvk: Clinvk) -> "Generator[subprocess.Popen[bytes]]":
    """Start `clinvk acp` for a test that writes lines by itself."""
    with clinvk.started("acp", stdin=subprocess.PIPE) as process:
        assert process.stdin
        with process.stdin:
            yield process


def exchange(process: "subprocess.Popen[bytes]", *lines: bytes) -> list[dict[str, Any]]:
    """Write lines, and return the messages until `clinvk acp` has exited."""
    written, _ = process.communicate(b"".join(each + b"\n" for each in lines), timeout=TIMEOUT_S)
    assert process.returncode == 0
    return [json.loads(each) for each in written.splitlines()]


def encoded(method: str, id_: object = None, **params: object) -> bytes:
    message = {"jsonrpc": "2.0", "method": method, "params": params}
    return json.dumps(message if id_ is None else {**message, "id": id_}).encode()


def test_bad_lines_are_refused_and_the_next_ones_are_answered(clinvk: Clinvk) -> None:
    with raw(clinvk) as process:
        found = exchange(
            process,
            b"garbage",
            b"\xff\xfe",
            b"[" * 100_000,
            b"",
            b"[1]",
            b"7",
            b'{"jsonrpc": "2.0", "id": 1, "method": "session/new", "params": ["x"]}',
            encoded("session/new", 2, cwd=5),
            encoded("fs/none", "three"),
            encoded("session/none"),
            encoded("session/cancel", sessionId="none"),
            encoded("session/cancel", sessionId=[]),
            b'{"jsonrpc": "2.0", "id": 99, "result": {"outcome": "stray"}}',
            encoded("session/prompt", 4, sessionId="none", prompt=[{"type": "text", "text": "x"}]),
            b'{"id": 5, "method": "session/prompt", "params": {"prompt": "' + b"x" * (65 << 20) + b'"}}',
            encoded("initialize", 6, protocolVersion=99),
        )
    errors = [(message["id"], message["error"]["code"]) for message in found[:-1]]
    assert errors[:9] == [*[(None, -32700)] * 5, *[(1, -32602), (2, -32602), ("three", -32601), (4, -32002)]]
    assert set(errors[9:]) == {(None, -32700)}  # the long line; its end may be a line of its own
    assert (found[-1]["id"], found[-1]["result"]["protocolVersion"]) == (6, 1)


@in_both_ways
@pytest.mark.parametrize("how", ["stdin", "signal"])
async def test_editor_that_goes_away_in_a_turn_leaves_no_agent(
    clinvk: Clinvk, served: bool, how: str, tmp_path: Path
) -> None:
    up = tmp_path / "up"
    clinvk.agent.play([*claude_says("x")[:1], touch(up), spawn("setsid"), hang()], reads=False)
    with raw(clinvk) as process:
        assert process.stdin
        assert process.stdout
        process.stdin.write(encoded("session/new", 1, cwd=str(clinvk.folder)) + b"\n")
        process.stdin.flush()
        session = json.loads(process.stdout.readline())["result"]["sessionId"]
        prompt = [{"type": "text", "text": "slow"}]
        process.stdin.write(encoded("session/prompt", 2, sessionId=session, prompt=prompt) + b"\n")
        process.stdin.flush()
        await until(up.exists)
        if how == "stdin":
            process.stdin.close()
            assert [json.loads(each) for each in process.stdout.readlines()][-1]["result"] == {
                "stopReason": "cancelled"
            }
        else:
            process.send_signal(signal.SIGTERM)
        assert process.wait(TIMEOUT_S) == (7 if how == "signal" else 0)
    await until(lambda: not clinvk.agent.alive())
    (run,) = clinvk.json(dict[str, Any], "runs", "list")["runs"]
    assert run["state"] == "cancelled"


def test_command_without_an_editor_explains_itself(clinvk: Clinvk) -> None:
    done = clinvk.run("acp")
    assert done.returncode == 1
    assert "docs/editors.md" in done.stderr
