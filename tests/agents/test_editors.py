"""Real agents in an editor: the official Python and TypeScript SDKs of the protocol drive `clinvk acp`."""

import asyncio
import json
import sys
from collections.abc import Generator
from contextlib import contextmanager, nullcontext
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import ClassVar

import pytest
from acp import RequestError, text_block
from acp.connection import StreamDirection, StreamEvent
from acp.schema import EnvVariable, HttpHeader, HttpMcpServer, McpServerStdio
from jsonschema_rs import validator_for

from acceptance.command import Clinvk
from acceptance.editor import Editor, editing
from agents.machine import MCP_SERVER, Machine, served
from agents.test_frameworks import CLIENTS, INSTALLED
from clients import finished
from polling import until

SCRIPT = Path(__file__).parents[1] / "scripted" / "acp_agent.py"
AGENTS = ("claude", "codex", "gemini", "fake")
SCHEMA = INSTALLED / "node_modules" / "@agentclientprotocol" / "sdk" / "schema" / "v1" / "schema.unstable.json"
SECRET = "sesame-4711"

each_agent = pytest.mark.parametrize("backend", ["claude", "codex"])


def installed(machine: Machine) -> dict[str, list[str]]:
    """Add an agent that speaks ACP to the settings, and return three prompts for each agent.

    The second and the third prompt make the agent ask whether to write a file.
    """
    command = [sys.executable, "-I", "-S", str(SCRIPT), "plain"]
    (machine.home / ".clinvk").mkdir()
    (machine.home / ".clinvk" / "config.yaml").write_text(f"backends: {{fake: {{acp: {json.dumps(command)}}}}}\n")

    def writing(agent: str, text: str) -> str:
        file = machine.project / f"{agent}-{text}"
        return f"{text} [[tool=write path={file} content=x say=Done.]]"

    own = {agent: ["one [[words=1]]", writing(agent, "two"), writing(agent, "three")] for agent in AGENTS[:-1]}
    return {**own, "fake": ["say one", "permission edit\nsay two", "permission edit\nsay three"]}


def written(machine: Machine) -> list[str]:
    return sorted(path.name for path in machine.project.iterdir())


def invalid(traffic: list[StreamEvent]) -> list[str]:
    """Return how the messages of clinvk differ from the published schema of the protocol; no field may be unknown."""
    definitions = json.loads(SCHEMA.read_text())["$defs"]
    names = {
        (definition["x-method"], name.endswith("Response")): name
        for name, definition in definitions.items()
        if "x-method" in definition
    }
    sent = [event.message for event in traffic if event.direction is StreamDirection.OUTGOING]
    methods = {message["id"]: message["method"] for message in sent if "method" in message and "id" in message}
    found: list[str] = []
    for message in (event.message for event in traffic if event.direction is StreamDirection.INCOMING):
        method = message.get("method") or methods[message["id"]]
        name = names[method, "result" in message]
        value = message["result" if "result" in message else "params"]
        validator = validator_for({"$ref": f"#/$defs/{name}", "$defs": definitions})
        found += [f"{name}: {error.instance_path} {error.message}" for error in validator.iter_errors(value)]
        found += [f"{name}: unknown {key}" for key in value.keys() - definitions[name]["properties"].keys()]
    return found


@pytest.mark.timeout(120)
async def test_python_sdk_takes_three_prompts_with_each_agent_in_the_default_mode(machine: Machine) -> None:
    prompts, editor = installed(machine), Editor("deny")
    async with editing(editor, machine.project, machine.env) as agent:
        sessions = {name: (await agent.new_session(cwd=str(machine.project))).session_id for name in prompts}
        for name, session in sessions.items():
            await agent.set_config_option("backend", session, name)
        for turn, choice in enumerate(("deny", "deny", "allow")):
            editor.choice = choice
            done = (agent.prompt(sessions[name], [text_block(texts[turn])]) for name, texts in prompts.items())
            assert {result.stop_reason for result in await asyncio.gather(*done)} == {"end_turn"}
        await agent.list_sessions()
        await agent.load_session(cwd=str(machine.project), session_id=sessions["claude"])
        await agent.close_session(sessions["claude"])
        await agent.resume_session(cwd=str(machine.project), session_id=sessions["claude"])
        await agent.set_session_mode(sessions["claude"], "auto")
    assert not (problems := invalid(editor.traffic)), problems
    assert len(editor.asked) == 2 * len(AGENTS)
    assert written(machine) == [f"{name}-three" for name in AGENTS[:-1]]
    for request in machine.requests("three"):
        assert all(text in str(request) for text in ("one [[words=1]]", "two [[tool"))
    await until(lambda: not machine.leftover_processes())


@pytest.mark.timeout(120)
@pytest.mark.parametrize("scheme", ["", "http", "ws"], ids=["command", "bridge", "websocket"])
async def test_typescript_sdk_drives_each_agent(machine: Machine, scheme: str) -> None:
    prompts = installed(machine)
    folder = machine.home.parent / "client"
    folder.mkdir()
    (folder / "node_modules").symlink_to(INSTALLED / "node_modules")
    program = folder / "acp.mjs"
    program.write_text((CLIENTS / "acp.mjs").read_text())
    command = ("node", str(program), Clinvk.command, str(machine.project), json.dumps(prompts))
    with served(machine) if scheme else nullcontext("") as url:
        address = {"http": url, "ws": f"{url.replace('http', 'ws', 1)}/acp"}.get(scheme)
        arguments = (*command, address) if address else command
        done = await finished(*arguments, cwd=folder, env=machine.env, within_s=100)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert found["agentCapabilities"]["mcpCapabilities"] == {"http": True, "sse": False}
    assert [method["id"] for method in found.get("authMethods", [])] == ([] if scheme else ["agent-login"])
    assert found["elsewhere"] == []
    for name, session in found["sessions"].items():
        assert (session["mode"], session["changed"]) == ("ask", "none"), name
        assert {"default", "ask", "none"} <= {*session["modes"]}
        assert session["stops"] == ["end_turn"] * 3
        assert session["asked"] == [["allow_once", "allow_always", "reject_once"]] * 2
        assert session["isListed"]
        assert session["isReplayed"]
        assert session["prompts"] == "".join(prompts[name])
    assert written(machine) == [f"{name}-three" for name in AGENTS[:-1]]
    await until(lambda: not machine.leftover_processes())


@pytest.mark.slow
@each_agent
@pytest.mark.parametrize("choice", ["allow", "deny"])
async def test_editor_decides_whether_a_file_is_written(machine: Machine, backend: str, choice: str) -> None:
    file = machine.project / "asked.txt"
    editor = Editor(choice)
    async with editing(editor, machine.project, machine.env, "-b", backend) as agent:
        session = (await agent.new_session(cwd=str(machine.project))).session_id
        prompt = f"[[tool=write path={file} content=x say=Done.]]"
        assert (await agent.prompt(session, [text_block(prompt)])).stop_reason == "end_turn"
    (asked,) = editor.asked
    assert [piece.path for piece in asked.content or () if piece.type == "diff"] == [str(file)]
    assert file.exists() == (choice == "allow")
    assert editor.tools[0] == ("edit", "in_progress")
    assert editor.tools[-1][1] == ("completed" if choice == "allow" else "failed")


@pytest.mark.slow
@pytest.mark.parametrize("choice", ["later", "allow"])
async def test_session_of_gemini_survives_a_failure_and_a_cancelled_prompt(machine: Machine, choice: str) -> None:
    editor, up = Editor(choice), machine.project / "up"
    async with editing(editor, machine.project, machine.env, "-b", "gemini") as agent:
        session = (await agent.new_session(cwd=str(machine.project))).session_id
        with pytest.raises(RequestError, match="too many requests"):
            await agent.prompt(session, [text_block("one [[error=429 times=9]]")])
        await agent.prompt(session, [text_block("two [[words=1]]")])
        prompt = f'three [[tool=shell cmd="touch {up}; sleep 600"]]'
        turn = asyncio.create_task(agent.prompt(session, [text_block(prompt)]))
        await until(lambda: up.exists() if choice == "allow" else editor.asked, 60)
        await agent.cancel(session)
        assert (await turn).stop_reason == "cancelled"
        assert (await agent.prompt(session, [text_block("four [[words=2]]")])).stop_reason == "end_turn"
    assert "two [[words=1]]" in str(machine.requests("four")[-1])
    await until(lambda: not machine.leftover_processes())


class McpHandler(BaseHTTPRequestHandler):
    """An MCP server with the tool `write`, for clients that send a secret; `calls` are the methods that were called."""

    calls: ClassVar[list[str]] = []

    def do_POST(self) -> None:
        message = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.headers["X-Key"] != SECRET:
            self.send_error(403)
            return
        self.calls.append(message["method"])
        nothing: dict[str, object] = {}
        about = {"protocolVersion": "2025-06-18", "serverInfo": {"name": "e", "version": "1"}}
        results: dict[str, object] = {
            "initialize": {**about, "capabilities": {"tools": nothing}},
            "tools/list": {"tools": [{"name": "write", "description": "w", "inputSchema": {"type": "object"}}]},
            "tools/call": {"content": [{"type": "text", "text": "written"}]},
        }
        result = results.get(message["method"], nothing)
        body = json.dumps({"jsonrpc": "2.0", "id": message.get("id"), "result": result}).encode()
        self.send_response(200 if "id" in message else 202)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body) if "id" in message else 0))
        self.end_headers()
        if "id" in message:
            self.wfile.write(body)

    def do_GET(self) -> None:
        self.send_error(405)

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing."""


@contextmanager
def mcp_server() -> Generator[tuple[str, list[str]]]:
    """Serve the tool over HTTP, and yield the address and the methods that are called."""
    McpHandler.calls.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), McpHandler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/mcp", McpHandler.calls
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    "backend", ["codex", pytest.param("claude", marks=pytest.mark.slow), pytest.param("gemini", marks=pytest.mark.slow)]
)
async def test_agent_calls_the_tools_of_the_mcp_servers_of_the_editor(machine: Machine, backend: str) -> None:
    script, called = machine.home / "server.py", machine.home / "started-called"
    script.write_text(MCP_SERVER)
    tools: dict[str, list[tuple[str, ...]]] = {
        "claude": [("mcp__remote__write",), ("mcp__my_files__write",)],
        "codex": [("write", "mcp__remote"), ("write", "mcp__my_files")],
        "gemini": [("mcp_remote_write",), ("mcp_my_files_write",)],
    }
    turns = machine.home / "turns.json"
    turns.write_text(json.dumps([[[name, {}, *namespace]] for name, *namespace in tools[backend]]))
    editor = Editor("allow")
    with mcp_server() as (url, methods):
        remote = HttpMcpServer(type="http", name="remote", url=url, headers=[HttpHeader(name="X-Key", value=SECRET)])
        env = [EnvVariable(name="TOKEN", value=SECRET)]
        arguments = ["-I", str(script), str(machine.home / "started")]
        program = McpServerStdio(name="my files", command=sys.executable, args=arguments, env=env)
        async with editing(editor, machine.project, machine.env, "-b", backend) as agent:
            new = await agent.new_session(cwd=str(machine.project), mcp_servers=[remote, program])
            if backend == "gemini":
                await agent.set_session_mode(new.session_id, "none")
            result = await agent.prompt(new.session_id, [text_block(f"hi [[script {turns}]]")])
            assert result.stop_reason == "end_turn"
            assert "tools/call" in methods
            assert called.exists()
            if backend != "gemini":
                await agent.set_config_option("sandbox_mode", new.session_id, "workspace")
                with pytest.raises(RequestError, match="the MCP server 'remote' of the editor cannot be used"):
                    await agent.prompt(new.session_id, [text_block("hi")])
    stored = [path.read_bytes() for path in (machine.home / ".clinvk").rglob("*") if path.is_file()]
    assert stored
    assert not any(SECRET.encode() in data for data in stored)
    await until(lambda: not machine.leftover_processes())


@pytest.mark.timeout(60)
@pytest.mark.parametrize("has_key", [False, pytest.param(True, marks=pytest.mark.slow)])
async def test_authentication_succeeds_only_with_a_login(machine: Machine, has_key: bool) -> None:
    env = {name: value for name, value in machine.env.items() if has_key or name != "ANTHROPIC_API_KEY"}
    async with editing(Editor(), machine.project, env, "-b", "claude") as agent:
        with pytest.raises(RequestError, match="unknown methodId 'oauth'") as failed:
            await agent.authenticate("oauth")
        assert failed.value.code == -32602
        if has_key:
            await agent.authenticate("agent-login")
            return
        with pytest.raises(RequestError, match=r"claude: .* not logged in.* \(claude /login\)") as failed:
            await agent.authenticate("agent-login")
        assert failed.value.code == -32000
