"""Real agents that speak ACP: opencode, Qwen Code and the ACP adapter of Codex, with a stand-in model."""

import asyncio
import json
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest
from msgspec.structs import replace
from openai import AsyncOpenAI

from agents.machine import INSTALLED, MCP_SERVER, Machine, text_of
from clinvk.backends.acp import AcpBackend
from clinvk.cli.prompt.interaction_text import headline
from clinvk.config.model import BackendSettings, Settings, WarmSettings
from clinvk.runtime.local import LocalRuns
from clinvk.runtime.run import execution
from clinvk.store.memory import MemoryStore
from clinvk.types.events import (
    Event,
    InteractionRequested,
    RunFailed,
    RunFinished,
    RunStarted,
    ToolCall,
    ToolResult,
)
from clinvk.types.interaction import Interaction, InteractionAnswer
from clinvk.types.interaction_text import content, subject
from clinvk.types.request import RunRequest
from serving import serving
from standin.document import records

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

LIMIT_S = 90
BACKENDS = {
    "opencode": AcpBackend("opencode", (), ()),
    "qwen": AcpBackend("qwen", ("qwen", "--acp", "--auth-type", "anthropic"), ()),
    "codex-acp": AcpBackend("codex-acp", ("codex-acp",), ("~/.codex",)),
}
SHELL = {"opencode": "bash", "qwen": "run_shell_command", "codex-acp": "exec_command"}
WEATHER = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS = [{"type": "function", "function": {"name": "get_weather", "description": "W", "parameters": WEATHER}}]
CLIENT_TOOL = {"opencode": "client_get_weather", "qwen": "mcp__client__get_weather"}
ALL = pytest.mark.parametrize("name", BACKENDS)


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait longer: opencode creates its database at the first start."""
    monkeypatch.setattr(execution, "START_TIMEOUT_S", LIMIT_S)


@asynccontextmanager
async def running(machine: Machine, keeps_warm: bool = False) -> AsyncGenerator[LocalRuns]:
    settings = Settings(warm=WarmSettings(kept_backends=tuple(BACKENDS)))
    async with LocalRuns(settings, MemoryStore(), environment(machine), BACKENDS, keeps_warm=keeps_warm) as runs:
        yield runs


def environment(machine: Machine) -> dict[str, str]:
    """Return the environment of a user who has set the agents up.

    opencode asks for permission only if its settings say so, and the adapter of Codex asks a model by default.
    """
    folder = machine.home / ".config" / "opencode"
    folder.mkdir(parents=True, exist_ok=True)
    options = {"baseURL": f"{machine.model_api.url}/v1", "apiKey": "k"}
    models = {"m1": dict[str, str](), "m2": dict[str, str]()}
    provider: dict[str, object] = {"npm": "@ai-sdk/anthropic", "name": "standin", "options": options, "models": models}
    config = {"provider": {"standin": provider}, "model": "standin/m1", "permission": {"bash": "ask", "edit": "ask"}}
    (folder / "opencode.json").write_text(json.dumps(config))
    return {
        **machine.env,
        "PATH": f"{INSTALLED / 'node_modules' / '.bin'}:{machine.env['PATH']}",
        "ANTHROPIC_MODEL": "m1",
        "INITIAL_AGENT_MODE": "workspace-write",
        "OPENCODE_DISABLE_MODELS_FETCH": "1",
        "OPENCODE_DISABLE_AUTOUPDATE": "1",
    }


def request(machine: Machine, name: str, prompt: str) -> RunRequest:
    return RunRequest(prompt=prompt, backend=name, workdir=str(machine.project), approval_mode="default")


def touch(machine: Machine, name: str) -> str:
    """Return a prompt that makes the model call the agent's shell tool."""
    calls = machine.home / "calls.json"
    arguments: dict[str, object] = {"command": "touch made", "description": "d", "is_background": False}
    if name == "codex-acp":
        arguments = {"cmd": "touch made", "sandbox_permissions": "require_escalated", "justification": "j"}
    calls.write_text(json.dumps([[[SHELL[name], arguments]]]))
    return f"go [[script {calls}]]"


async def events(runs: LocalRuns, asked: RunRequest) -> list[Event]:
    async with asyncio.timeout(LIMIT_S), runs.run(asked) as run:
        return [logged.event async for logged in run.log.follow()]


@ALL
@pytest.mark.parametrize("keeps_warm", [False, True])
async def test_conversation_continues(machine: Machine, name: str, keeps_warm: bool) -> None:
    async with running(machine, keeps_warm) as runs:
        # Qwen Code writes its history in the background, and exits without waiting for the write
        first = request(machine, name, "hello [[words=4]] [[hang=2]]")
        async with asyncio.timeout(LIMIT_S), runs.run(first) as run:
            await run.log.result()
            assert run.recorder.session
            session = run.recorder.session.id
        asked = replace(request(machine, name, "again [[words=3]]"), session_id=session)
        found = await events(runs, asked)
    assert text_of(found) == "word1 word2 word3", found
    ending = found[-1]
    assert isinstance(ending, RunFinished)
    assert ending.usage
    assert "hello [[words=4]]" in json.dumps(machine.requests("again")[-1])


@ALL
@pytest.mark.parametrize("mode", ["default", "none"])
async def test_shell_runs_only_if_permitted(machine: Machine, name: str, mode: str) -> None:
    async with running(machine) as runs:
        found = await events(runs, replace(request(machine, name, touch(machine, name)), approval_mode=mode))
    assert (machine.project / "made").exists() == (mode == "none")
    (call,) = (event for event in found if isinstance(event, ToolCall))
    assert (call.name, call.input["command"]) == ("execute", "touch made")
    (result,) = (event for event in found if isinstance(event, ToolResult))
    assert result.is_error == (mode == "default")


@ALL
@pytest.mark.parametrize("choice", ["allow", "deny"])
async def test_agent_asks_and_acts_on_the_answer(machine: Machine, name: str, choice: str) -> None:
    async with running(machine) as runs:
        asked = replace(request(machine, name, touch(machine, name)), approval_mode="ask")
        async with asyncio.timeout(LIMIT_S), runs.run(asked) as run:
            async for logged in run.log.follow():
                if isinstance(logged.event, InteractionRequested):
                    assert logged.event.interaction.command == "touch made"
                    answer = replace(InteractionAnswer(choice="allow"), choice=choice)
                    await runs.interactions.answer(logged.event.interaction.id, answer)
            assert run.state in ("finished", "cancelled")  # a denial cancels a turn of Codex
    assert (machine.project / "made").exists() == (choice == "allow")


async def test_argument_named_command_does_not_hide_a_write(machine: Machine) -> None:
    calls, file = machine.home / "calls.json", machine.project / "made"
    arguments = {"file_path": str(file), "content": "alias sudo=evil\n", "command": "pytest -x"}
    calls.write_text(json.dumps([[["write_file", arguments]]]))
    async with running(machine) as runs:
        asked = replace(request(machine, "qwen", f"go [[script {calls}]]"), approval_mode="ask")
        requested: list[Interaction] = []
        async with asyncio.timeout(LIMIT_S), runs.run(asked) as run:
            async for logged in run.log.follow():
                if isinstance(logged.event, InteractionRequested):
                    requested.append(logged.event.interaction)
                    await runs.interactions.answer(requested[-1].id, InteractionAnswer(choice="deny"))
    (write,) = requested
    assert write.command is None
    assert (headline(write, "qwen", ""), subject(write)) == ("qwen wants to create a file:", f"edit {file}")
    assert f"+++ {file}\n@@ -0,0 +1 @@\n+alias sudo=evil" in content(write)
    assert '"command": "pytest -x"' in content(write)
    assert write.note == "Writing to made"  # the input has the same edit as the diff


@ALL
async def test_cancel_while_the_agent_waits_for_an_answer(machine: Machine, name: str) -> None:
    async with running(machine) as runs:
        asked = replace(request(machine, name, touch(machine, name)), approval_mode="ask")
        async with asyncio.timeout(LIMIT_S), runs.run(asked) as run:
            async for logged in run.log.follow():
                if isinstance(logged.event, InteractionRequested):
                    runs.stop(run.id)
            assert run.state == "cancelled"
    assert not machine.leftover_processes()


async def test_question_of_the_model_reaches_the_user(machine: Machine) -> None:
    """The adapter of Codex shows the questions of Codex as a form."""
    options = [{"label": name, "description": "d"} for name in ("Red", "Blue")]
    question = {"id": "color", "header": "Color", "question": "Which color?", "options": options}
    calls = machine.home / "calls.json"
    calls.write_text(json.dumps([[["request_user_input", {"questions": [question]}]]]))
    machine.env["CODEX_CONFIG"] = '{"features": {"default_mode_request_user_input": true}}'
    async with running(machine) as runs:
        asked = replace(request(machine, "codex-acp", f"go [[script {calls}]]"), approval_mode="ask")
        async with asyncio.timeout(LIMIT_S), runs.run(asked) as run:
            async for logged in run.log.follow():
                if isinstance(logged.event, InteractionRequested):
                    fields = logged.event.interaction.fields
                    assert fields[0].label == "Which color? (Color)"
                    answers: dict[str, str | list[str]] = {field.id: "" for field in fields}
                    answers[fields[0].id] = fields[0].options[1].value
                    answer = InteractionAnswer(choice="answer", answers=answers)
                    await runs.interactions.answer(logged.event.interaction.id, answer)
            result = await run.log.result()
    assert "Blue" in result.text


async def test_opencode_changes_the_model(machine: Machine) -> None:
    async with running(machine) as runs:
        found = await events(runs, replace(request(machine, "opencode", "hi [[words=1]]"), model="standin/m2"))
        assert isinstance(found[0], RunStarted)
        assert (found[0].model, text_of(found)) == ("standin/m2", "word1")
        assert machine.requests("hi")[-1]["model"] == "m2"
        found = await events(runs, replace(request(machine, "opencode", "hi"), model="nobody/none"))
    assert isinstance(found[-1], RunFailed)


async def test_qwen_with_a_refused_key_is_not_logged_in(machine: Machine) -> None:
    async with running(machine) as runs:
        ending = (await events(runs, request(machine, "qwen", "hi [[error=401]]")))[-1]
    assert isinstance(ending, RunFailed)
    assert ending.code == "agent_unauthenticated", ending.message


def add_user_tool(machine: Machine, name: str) -> None:
    """Add an MCP server to the user's settings of an agent, and a permission for all tools, also to the project's."""
    server = machine.home / "server.py"
    server.write_text(MCP_SERVER)
    command = [sys.executable, str(server), str(machine.home / "called")]
    if name == "opencode":
        file = machine.home / ".config" / "opencode" / "opencode.json"
        servers: dict[str, object] = {"mcp": {"mine": {"type": "local", "command": command}}}
        file.write_text(json.dumps(json.loads(file.read_text()) | servers | {"permission": "allow"}))
        agent = {"clinvk": {"permission": {"*": "allow"}}}
        (machine.project / "opencode.json").write_text(json.dumps({"agent": agent, "permission": "allow"}))
    else:
        servers = {"mcpServers": {"mine": {"command": command[0], "args": command[1:]}}}
        for folder in (machine.home, machine.project):
            (folder / ".qwen").mkdir()
            settings = {**servers, "tools": {"core": ["run_shell_command"], "allowed": ["agent"]}}
            (folder / ".qwen" / "settings.json").write_text(json.dumps(settings))


@pytest.mark.parametrize("name", CLIENT_TOOL)
@pytest.mark.parametrize("mode", ["client", "both"])
async def test_tools_of_a_client_are_called(machine: Machine, name: str, mode: str) -> None:
    """Without tools of their own, the agents offer the model only the client's."""
    call = f'[[call {CLIENT_TOOL[name]} {{"city": "Rome"}}]] [[call {CLIENT_TOOL[name]} {{"city": "Oslo"}}]]'
    messages: list[Any] = [{"role": "user", "content": call}]
    env = environment(machine)
    add_user_tool(machine, name)
    async with (
        serving(env, BACKENDS, {name: BackendSettings()}, default_workdir=str(machine.project)) as server,
        AsyncOpenAI(
            base_url=f"http://127.0.0.1:{server.port}/openai/v1", api_key="k", default_headers={"x-clinvk-tools": mode}
        ) as client,
    ):
        for city, text in (("Rome", "42"), ("Oslo", "sun in Oslo")):
            done = await client.chat.completions.create(model=name, messages=messages, tools=cast("Any", TOOLS))
            message = done.choices[0].message
            [made] = message.tool_calls or []
            assert made.type == "function"
            assert (made.function.name, json.loads(made.function.arguments)) == ("get_weather", {"city": city})
            [stored] = (await server.client.get("/api/v1/runs")).json()["runs"]
            run = server.runs.live(stored["id"])
            assert run
            calls = [entry.event.name for entry in run.log.since(0) if isinstance(entry.event, ToolCall)]
            assert calls == ["get_weather"] * (1 if city == "Rome" else 2)
            output = {"role": "tool", "tool_call_id": made.id, "content": text}
            messages += [message.model_dump(exclude_none=True), output]
        stream = await client.chat.completions.create(
            model=name, messages=messages, tools=cast("Any", TOOLS), stream=True
        )
        said = "".join([part.choices[0].delta.content or "" async for part in stream if part.choices])
        assert "sun in Oslo" in said
        assert '"42"' in said, said
    offered = {str(tool["name"]) for body in machine.requests(call) for tool in records(body, "tools")}
    assert (offered == {CLIENT_TOOL[name]}) == (mode == "client"), offered
    assert not machine.leftover_processes()
