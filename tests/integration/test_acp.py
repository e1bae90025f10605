"""Agents that speak ACP, well and badly: a scripted agent in real processes."""

import asyncio
import json
import os
import pwd
import shutil
import socket
import sys
import tempfile
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from msgspec.structs import replace

from clinvk.backends.acp import AcpBackend
from clinvk.backends.base import Host
from clinvk.config.model import Settings, WarmSettings
from clinvk.runtime.local import LocalRuns
from clinvk.runtime.run import execution
from clinvk.store.memory import MemoryStore
from clinvk.types.errors import Unsupported
from clinvk.types.events import (
    Context,
    Event,
    InteractionRequested,
    Progress,
    RunFailed,
    RunFinished,
    RunStarted,
    TextDelta,
    ThinkingDelta,
    ToolCall,
    ToolResult,
    Usage,
)
from clinvk.types.interaction import Interaction, InteractionAnswer
from clinvk.types.request import Image, McpServer, RunRequest
from polling import until
from serving import serving

SCRIPT = str(Path(__file__).parents[1] / "scripted" / "acp_agent.py")
MODULES = Path(__file__).parents[2] / ".agents" / "node_modules"
CHAT = "/openai/v1/chat/completions"
LIMIT_S = 20


def fake(mode: str) -> AcpBackend:
    return AcpBackend("fake", (sys.executable, "-I", "-S", SCRIPT, mode), ())


@asynccontextmanager
async def running(folder: Path, mode: str = "plain", keeps_warm: bool = False) -> AsyncGenerator[LocalRuns]:
    """Run the agent with a home of its own."""
    settings = Settings(warm=WarmSettings(kept_backends=("fake",)))
    env = {"PATH": "/usr/bin:/bin", "HOME": str(folder)}
    async with LocalRuns(settings, MemoryStore(), env, {"fake": fake(mode)}, keeps_warm=keeps_warm) as runs:
        yield runs


def request(folder: Path, *commands: str) -> RunRequest:
    return RunRequest(prompt="\n".join(commands), backend="fake", workdir=str(folder), approval_mode="default")


async def events(runs: LocalRuns, asked: RunRequest) -> list[Event]:
    async with asyncio.timeout(LIMIT_S), runs.run(asked) as run:
        return [logged.event async for logged in run.log.follow()]


async def session(runs: LocalRuns, asked: RunRequest) -> str:
    async with asyncio.timeout(LIMIT_S), runs.run(asked) as run:
        await run.log.result()
        assert run.recorder.session
        return run.recorder.session.id


def text(found: Sequence[Event]) -> str:
    return "".join(event.text for event in found if isinstance(event, TextDelta))


def failure(found: Sequence[Event]) -> RunFailed:
    ending = found[-1]
    assert isinstance(ending, RunFailed), found
    return ending


async def test_next_run_of_a_session_knows_the_commands_and_each_run_its_context(tmp_path: Path) -> None:
    listed = json.dumps({"availableCommands": [{"name": "review", "description": "Review", "input": None}]})
    used = json.dumps({"used": 1200, "size": 200_000})
    async with running(tmp_path, keeps_warm=True) as runs:
        first = await session(runs, request(tmp_path, f"update available_commands_update {listed}"))
        asked = replace(request(tmp_path, f"update usage_update {used}"), session_id=first)
        started, *_, ending = await events(runs, asked)
        assert isinstance(started, RunStarted)
        assert started.commands == ("review",)
        assert isinstance(ending, RunFinished)
        assert ending.context == Context(used=1200, size=200_000)


async def test_text_thinking_tools_and_usage_are_events(tmp_path: Path) -> None:
    async with running(tmp_path) as runs:
        asked = replace(request(tmp_path, "think hm", "say one", "tool", "say two"), thinking=True)
        found = await events(runs, asked)
    assert isinstance(found[0], RunStarted)
    assert (found[0].model, text(found)) == ("small", "one\n\ntwo"), found
    assert ThinkingDelta("hm") in found
    (call,) = (event for event in found if isinstance(event, ToolCall))
    assert (call.name, call.input["title"]) == ("edit", "Edit")
    assert call.input["diff"] == "--- f.txt\n+++ f.txt\n@@ -1 +1 @@\n-a\n+b\n"
    assert ToolResult("t1", "") in found
    assert found[-1] == RunFinished("end_turn", Usage(7, 2), turns=2)


async def test_garbage_foreign_sessions_and_unknown_requests_do_no_harm(tmp_path: Path) -> None:
    async with running(tmp_path) as runs:
        found = await events(runs, request(tmp_path, "garbage", "foreign no", "request fs/write_text_file", "oddity"))
    assert "-32601" in text(found)
    assert "cancelled" in text(found)
    assert "no" not in text(found).split("-32601")[0]
    assert isinstance(found[-1], RunFinished)


async def test_update_of_megabytes_is_one_delta(tmp_path: Path) -> None:
    async with running(tmp_path) as runs:
        assert len(text(await events(runs, request(tmp_path, f"long {5 << 20}")))) == 5 << 20


@pytest.mark.parametrize(("mode", "message"), [("mute", "did not answer within 0.5 s"), ("broken", "no such option")])
async def test_program_that_does_not_speak_acp_fails_clearly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str, message: str
) -> None:
    async with running(tmp_path, mode) as runs:
        if mode == "mute":
            monkeypatch.setattr(execution, "START_TIMEOUT_S", 0.5)
        assert message in failure(await events(runs, request(tmp_path, "say hi"))).message


async def test_another_version_of_the_protocol_is_refused(tmp_path: Path) -> None:
    async with running(tmp_path, "newer") as runs:
        assert "version 2 of ACP" in failure(await events(runs, request(tmp_path, "say hi"))).message


async def test_missing_login_is_reported_with_the_way_to_log_in(tmp_path: Path) -> None:
    async with running(tmp_path, "locked") as runs:
        asked = request(tmp_path, "say hi")
        for images in ((), (Image("image/png", b"x"),)):
            ending = failure(await events(runs, replace(asked, images=images)))
            assert ending.code == "agent_unauthenticated"
            assert "Run `agent login`" in ending.message


@pytest.mark.parametrize(
    ("error", "code"),
    [
        ('{"code": -32603, "message": "Internal error", "data": {"details": "401 {}"}}', "agent_unauthenticated"),
        ('{"code": -32603, "message": "429 Too Many Requests"}', "agent_rate_limited"),
        ('{"code": 429, "message": "quota exceeded"}', "agent_rate_limited"),
        ('{"code": -32603, "message": "Internal error: 529 overloaded"}', "agent_overloaded"),
        ('{"code": -32603, "message": "Internal error", "data": {"details": "4290 files"}}', "agent_failed"),
        ('{"code": -32603, "message": "read 401 lines"}', "agent_failed"),
    ],
)
async def test_http_status_of_the_model_api_is_the_error_code(tmp_path: Path, error: str, code: str) -> None:
    async with running(tmp_path) as runs:
        ending = failure(await events(runs, request(tmp_path, f"refuse {error}")))
    assert ending.code == code, ending.message


async def test_crash_in_a_turn_has_the_last_words(tmp_path: Path) -> None:
    async with running(tmp_path) as runs:
        found = await events(runs, request(tmp_path, "say part", "crash"))
    assert text(found) == "part"
    assert (failure(found).code, failure(found).exit_code) == ("agent_crashed", 7)
    assert "out of luck" in failure(found).message


async def test_child_that_keeps_stdout_open_is_ended_with_the_run(tmp_path: Path) -> None:
    async with running(tmp_path) as runs:
        assert isinstance((await events(runs, request(tmp_path, "child", "say hi")))[-1], RunFinished)


@pytest.mark.parametrize("keeps_warm", [False, True])
async def test_session_continues_without_its_history_in_the_answer(tmp_path: Path, keeps_warm: bool) -> None:
    async with running(tmp_path, keeps_warm=keeps_warm) as runs:
        first = await session(runs, request(tmp_path, "say one"))
        found = await events(runs, replace(request(tmp_path, "recall"), session_id=first))
    assert text(found) == "say one"
    assert isinstance(found[-1], RunFinished)


async def test_session_of_another_process_can_be_resumed_without_load(tmp_path: Path) -> None:
    async with running(tmp_path, "resumes") as runs:
        first = await session(runs, request(tmp_path, "say one"))
        assert text(await events(runs, replace(request(tmp_path, "recall"), session_id=first))) == "say one"


async def test_agent_that_has_lost_the_conversation_does_not_start_another(tmp_path: Path) -> None:
    async with running(tmp_path, "forgetful") as runs:
        first = await session(runs, request(tmp_path, "say one"))
        found = await events(runs, replace(request(tmp_path, "say two"), session_id=first))
    assert failure(found).code == "session_not_resumable"
    assert text(found) == ""


async def test_agent_that_claims_to_load_sessions_and_cannot_is_believed_no_further(tmp_path: Path) -> None:
    async with running(tmp_path, "liar") as runs:
        first = await session(runs, request(tmp_path, "say one"))
        found = await events(runs, replace(request(tmp_path, "say two"), session_id=first))
    assert failure(found).code == "session_not_resumable"
    assert "Method not found" in failure(found).message


async def test_session_without_an_id_fails(tmp_path: Path) -> None:
    async with running(tmp_path, "nameless") as runs:
        assert "without an id" in failure(await events(runs, request(tmp_path, "say hi"))).message


async def test_agent_that_never_opens_a_session_is_cancelled_or_times_out(tmp_path: Path) -> None:
    async with running(tmp_path, "silent") as runs:
        async with asyncio.timeout(LIMIT_S), runs.run(request(tmp_path, "say hi")) as run:
            await until(lambda: run.started_at)
            runs.stop(run.id)
            await run.log.result()
            assert run.state == "cancelled"
        found = await events(runs, replace(request(tmp_path, "say hi"), timeout_s=0.5))
    assert failure(found).code == "timed_out"


@pytest.mark.parametrize(
    ("reason", "ending"), [("max_tokens", "max_tokens"), ("refusal", "refusal"), ("bored", "'bored'"), ("", "''")]
)
async def test_turn_ends_as_the_agent_says(tmp_path: Path, reason: str, ending: str) -> None:
    async with running(tmp_path) as runs:
        last = (await events(runs, request(tmp_path, "say part", f"end {reason}")))[-1]
    assert ending in (last.stop_reason if isinstance(last, RunFinished) else failure([last]).message)


async def test_permission_without_options_is_withdrawn(tmp_path: Path) -> None:
    async with running(tmp_path) as runs:
        found = await events(runs, replace(request(tmp_path, "bare"), approval_mode="none"))
    assert '"outcome": "cancelled"' in text(found)


async def test_model_is_set_by_name_or_refused(tmp_path: Path) -> None:
    async with running(tmp_path) as runs:
        found = await events(runs, replace(request(tmp_path, "say hi"), model="Large"))
        assert isinstance(found[-1], RunFinished)
        refused = failure(await events(runs, replace(request(tmp_path, "say hi"), model="huge")))
    assert refused.code == "agent_rejected"
    assert "refused model huge: " in refused.message
    assert "no model huge" in refused.message


async def test_images_are_sent_only_to_an_agent_that_accepts_them(tmp_path: Path) -> None:
    asked = replace(request(tmp_path, "blocks"), images=(Image("image/png", b"x"),))
    async with running(tmp_path, "images") as runs:
        assert text(await events(runs, asked)) == "text,image"
    async with running(tmp_path) as runs:
        assert "accepts no images" in failure(await events(runs, asked)).message


@pytest.mark.parametrize(
    ("approval_mode", "kind", "option"),
    [
        ("default", "edit", "reject_once"),
        ("auto", "edit", "allow_once"),
        ("auto", "execute", "reject_once"),
        ("none", "execute", "allow_once"),
        ("none", "sub", "allow_once"),
    ],
)
async def test_permission_follows_the_approval_mode(tmp_path: Path, approval_mode: str, kind: str, option: str) -> None:
    async with running(tmp_path) as runs:
        asked = replace(request(tmp_path, f"permission {kind}"), approval_mode=approval_mode)
        found = await events(runs, asked)
    assert f'"o-{option}"' in text(found)
    assert (Progress("denied", "1 action was denied: Do it") in found) == (option == "reject_once")


@pytest.mark.parametrize(("choice", "option"), [("allow", "allow_once"), ("deny", "reject_once")])
async def test_answer_of_the_user_reaches_the_agent(tmp_path: Path, choice: str, option: str) -> None:
    async with running(tmp_path) as runs:
        asked = replace(request(tmp_path, "permission sub"), approval_mode="ask")
        async with asyncio.timeout(LIMIT_S), runs.run(asked) as run:
            found: list[Event] = []
            async for logged in run.log.follow():
                found.append(logged.event)
                if isinstance(logged.event, InteractionRequested):
                    assert logged.event.interaction.title == "Do it"
                    answer = replace(InteractionAnswer(choice="allow"), choice=choice)
                    await runs.interactions.answer(logged.event.interaction.id, answer)
    assert f'"o-{option}"' in text(found)


async def answered(runs: LocalRuns, asked: RunRequest, *answers: InteractionAnswer) -> tuple[list[Interaction], str]:
    """Run a prompt with approval mode `ask`; answer the interactions in order, and return them and the text."""
    requested: list[Interaction] = []
    found: list[Event] = []
    async with asyncio.timeout(LIMIT_S), runs.run(replace(asked, approval_mode="ask")) as run:
        async for logged in run.log.follow():
            found.append(logged.event)
            if isinstance(logged.event, InteractionRequested):
                requested.append(logged.event.interaction)
                await runs.interactions.answer(requested[-1].id, answers[len(requested) - 1])
    return requested, text(found)


async def test_allow_session_covers_all_edits_and_the_same_action(tmp_path: Path) -> None:
    commands = ("permission edit", "permission edit", "permission execute", "permission sub", "permission fetch")
    allowed, denied = InteractionAnswer(choice="allow_session"), InteractionAnswer(choice="deny")
    async with running(tmp_path) as runs:
        requested, said = await answered(runs, request(tmp_path, *commands), allowed, allowed, denied)
    assert [each.tool for each in requested] == ["edit", "execute", "fetch"]
    assert said.count('"o-allow_once"') == 4
    assert said.count('"o-reject_once"') == 1


@pytest.mark.parametrize("kind", ["edit", "execute", "other", None])
async def test_only_a_tool_that_runs_commands_asks_for_a_command(tmp_path: Path, kind: str | None) -> None:
    piece = {"type": "diff", "path": "/h/.bashrc", "oldText": None, "newText": "evil\n"}
    text = {"type": "content", "content": {"type": "text", "text": "in /etc"}}
    given = {"file_path": "/h/.bashrc", "content": "evil\n", "command": "pytest -x", "diff": "none"}
    tool = {"kind": kind, "title": "Writing", "content": [piece, text], "rawInput": given}
    async with running(tmp_path) as runs:
        denied = InteractionAnswer(choice="deny")
        [asked], _ = await answered(runs, request(tmp_path, f"ask {json.dumps(tool)}"), denied)
    assert asked.command == ("pytest -x" if kind == "execute" else None)
    assert asked.diff == "--- /dev/null\n+++ /h/.bashrc\n@@ -0,0 +1 @@\n+evil\n"
    fact = f"clinvk: /h/.bashrc is outside of the directory {tmp_path}"
    assert (asked.title, asked.note) == ("Add .bashrc", f"Writing\nin /etc\n{fact}")
    assert asked.input == {"title": "Writing", **given}


HARMLESS = "--- /dev/null\n+++ {0}/a\n@@ -0,0 +1 @@\n+good\n"
EVIL = "--- /dev/null\n+++ {0}/a\n@@ -0,0 +1 @@\n+evil\n"


@pytest.mark.parametrize(
    ("given", "diff"),
    [
        ({"file_path": "a", "content": "good\n"}, ""),
        ({"file_path": "{0}/a", "content": "good"}, ""),
        ({"old_string": "", "new_string": "goo"}, ""),
        ({"cwd": "{0}/b", "limit": 3}, ""),
        ({"content": "evil\n"}, EVIL),
        ({"old_string": "good\n", "new_string": ""}, "--- {0}/a\n+++ {0}/a\n@@ -1 +0,0 @@\n-good\n"),
        ({"filePath": "{0}/a", "oldString": "", "newString": "evil\n"}, EVIL),
        ({"old_string": "x\n", "new_string": "good\n"}, "--- {0}/a\n+++ {0}/a\n@@ -1 +1 @@\n-x\n+good\n"),
        ({"edits": [{"old_string": "", "new_string": "good\n"}, {"old_string": "", "new_string": "evil\n"}]}, EVIL),
        ({"edits": [{"old_string": "", "new_string": "evil\n"}, 5]}, EVIL),
        ({"path": "{0}/b", "content": "good\n"}, HARMLESS.replace("/a", "/b")),
    ],
)
async def test_edit_of_the_input_that_differs_from_the_displayed_edit_is_shown(
    tmp_path: Path, given: dict[str, object], diff: str
) -> None:
    piece = {"type": "diff", "path": f"{tmp_path}/a", "oldText": None, "newText": "good\n"}
    given = json.loads(json.dumps(given).replace("{0}", str(tmp_path)))
    tool = {"kind": "edit", "title": "Add a", "content": [piece], "rawInput": given}
    async with running(tmp_path) as runs:
        denied = InteractionAnswer(choice="deny")
        [asked], _ = await answered(runs, request(tmp_path, f"ask {json.dumps(tool)}"), denied)
    assert asked.diff == (HARMLESS + diff).replace("{0}", str(tmp_path))
    assert ("clinvk: its input has another edit than the agent shows" in asked.note) == bool(diff)
    assert asked.input.get("diff", asked.diff) == asked.diff


async def test_deletion_that_the_displayed_edit_lacks_is_shown(tmp_path: Path) -> None:
    piece = {"type": "diff", "path": f"{tmp_path}/a", "oldText": "check()\nx\n", "newText": "check()\ny\n"}
    given = {"old_string": "check()\n", "new_string": ""}
    tool = {"kind": "edit", "title": "Edit a", "content": [piece], "rawInput": given}
    async with running(tmp_path) as runs:
        denied = InteractionAnswer(choice="deny")
        [asked], _ = await answered(runs, request(tmp_path, f"ask {json.dumps(tool)}"), denied)
    assert "\n-check()\n" in (asked.diff or "")
    assert "clinvk: its input has another edit than the agent shows" in asked.note


async def test_command_has_one_title_and_the_words_of_the_agent_are_a_note(tmp_path: Path) -> None:
    tool = {"kind": "execute", "title": "Runs the tests", "rawInput": {"command": "pytest -x"}}
    async with running(tmp_path) as runs:
        denied = InteractionAnswer(choice="deny")
        [asked], _ = await answered(runs, request(tmp_path, f"ask {json.dumps(tool)}"), denied)
    assert (asked.title, asked.command, asked.note) == ("Run a command", "pytest -x", "Runs the tests")


async def test_request_without_options_can_only_be_denied(tmp_path: Path) -> None:
    async with running(tmp_path) as runs:
        [asked], said = await answered(runs, request(tmp_path, "bare"), InteractionAnswer(choice="deny"))
    assert asked.choices == ("deny", "deny_and_stop")
    assert '"outcome": "cancelled"' in said


async def test_form_of_the_agent_is_a_question(tmp_path: Path) -> None:
    filled = InteractionAnswer(choice="answer", answers={"color": "b", "count": "3"})
    denied = InteractionAnswer(choice="deny")
    async with running(tmp_path) as runs:
        [question, _], said = await answered(runs, request(tmp_path, "form", "form"), filled, denied)
        assert (question.kind, question.title) == ("question", "Which?")
        assert [(field.label, len(field.options)) for field in question.fields] == [("color", 2), ("How many?", 0)]
        assert said == '{"action": "accept", "content": {"color": "b", "count": 3}}{"action": "decline"}'
        assert text(await events(runs, request(tmp_path, "form"))) == '{"action": "cancel"}'
        for other in ("[1]", "null", "1.5", "many"):
            wrong = replace(filled, answers={"color": "b", "count": other})
            assert (await answered(runs, request(tmp_path, "form"), wrong))[1].endswith('{"color": "b"}}'), other


@pytest.mark.parametrize("command", ["hang", "permission edit", "form"])
async def test_cancel_ends_the_turn(tmp_path: Path, command: str) -> None:
    async with running(tmp_path) as runs:
        asked = replace(request(tmp_path, "say hi", command, "hang"), approval_mode="ask")
        async with asyncio.timeout(LIMIT_S), runs.run(asked) as run:
            async for logged in run.log.follow():
                if isinstance(logged.event, InteractionRequested if command != "hang" else TextDelta):
                    runs.stop(run.id)
            assert run.state == "cancelled"


@pytest.mark.parametrize("mode", ["read-only", "workspace"])
def test_sandbox_mode_is_refused_without_bubblewrap(tmp_path: Path, mode: str) -> None:
    asked = replace(request(tmp_path, "say hi"), sandbox_mode=mode)
    with pytest.raises(Unsupported, match="apt install bubblewrap"):
        fake("plain").launch(asked, None, Host())
    [remark] = fake("plain").checkup(Host()).remarks
    assert remark.packages == ("bubblewrap",)
    assert "install" not in remark.text
    assert fake("plain").checkup(Host(commands=frozenset({"bwrap"}))).remarks == ()


async def test_options_that_an_agent_lacks_are_refused(tmp_path: Path) -> None:
    async with running(tmp_path) as runs:
        for change in ({"allowed_tools": ("Read",)}, {"own_tools": False}, {"approval_mode": "always"}):
            with pytest.raises(Unsupported):
                async with runs.run(replace(request(tmp_path, "say hi"), **change)):
                    pass


@pytest.mark.parametrize("sandbox_mode", ["default", "read-only"])
async def test_tools_of_a_client_are_called_through_the_bridge(sandbox_mode: str) -> None:
    weather = {"type": "function", "function": {"name": "get weather", "description": "of a city"}}
    with tempfile.TemporaryDirectory(dir=pwd.getpwuid(os.getuid()).pw_dir, prefix=".acp-test-") as place:
        home = Path(place)
        (home / ".own").mkdir()
        backend = sandboxed(home)
        headers = {"x-clinvk-tools": "both", "x-clinvk-sandbox-mode": sandbox_mode}
        async with serving(sandbox_env(home), {"fake": backend}, default_workdir=place) as server:
            messages: list[object] = [{"role": "user", "content": 'call get_weather {"city": "Rome"}'}]
            body = {"model": "fake", "messages": messages, "tools": [weather]}
            first = (await server.client.post(CHAT, json=body, headers=headers)).json()["choices"][0]
            assert first["finish_reason"] == "tool_calls"
            [call] = first["message"]["tool_calls"]
            assert call["function"] == {"name": "get weather", "arguments": '{"city":"Rome"}'}
            [stored] = (await server.client.get("/api/v1/runs")).json()["runs"]
            run = server.runs.live(stored["id"])
            assert run
            assert [entry.event.name for entry in run.log.since(0) if isinstance(entry.event, ToolCall)] == [
                "get weather"
            ]
            messages += [first["message"], {"role": "tool", "tool_call_id": call["id"], "content": "sun"}]
            second = (await server.client.post(CHAT, json=body, headers=headers)).json()["choices"][0]["message"]
            assert '"text": "sun"' in second["content"]
            assert '"description": "of a city"' in second["content"]
            assert (await server.client.get("/api/v1/runs")).json()["total"] == 1


async def test_tools_of_a_client_are_refused_if_the_own_tools_cannot_be_turned_off(tmp_path: Path) -> None:
    env = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    tools = [{"type": "function", "function": {"name": "f"}}]
    body = {"model": "fake", "messages": [{"role": "user", "content": "say hi"}], "tools": tools}
    async with serving(env, {"fake": fake("plain")}, default_workdir=str(tmp_path)) as server:
        refused = await server.client.post(CHAT, json=body)
        assert refused.status_code == 400
        assert "x-clinvk-tools: both" in refused.json()["error"]["message"]
        own = await server.client.post(CHAT, json=body, headers={"x-clinvk-tools": "agent"})
        assert own.json()["choices"][0]["message"]["content"] == "hi"


async def test_permission_is_denied_without_own_tools(tmp_path: Path) -> None:
    """The preset turns the own tools off; the agent asks all the same."""
    backend = AcpBackend("qwen", (sys.executable, "-I", "-S", SCRIPT, "plain"), ())
    env = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    async with LocalRuns(Settings(), MemoryStore(), env, {"qwen": backend}) as runs:
        asked = replace(request(tmp_path, "permission execute"), backend="qwen", approval_mode="none", own_tools=False)
        assert '"o-reject_once"' in text(await events(runs, asked))


HOSTILE = (
    "touch {outside}/a",
    "ln -s {outside} link && touch link/b",
    "mount -o remount,rw / && touch {outside}/c",
    "umount -l {outside} && touch {outside}/d",
    "chmod 700 {outside}",
    "mv $HOME/.own/agent.py {outside}",
    'unshare -Urm sh -c "mount -o remount,bind,rw /; touch {outside}/e"',
    "echo changed > /proc/sys/kernel/domainname",
    "touch $HOME/f",
    "kill -0 $PPID && kill -0 {pid}",
    "python3 -c 'import socket; socket.socket(socket.AF_UNIX).connect(\"{socket}\")'",
    *(
        f'python3 -c \'import socket; a, _ = socket.socketpair(1, socket.{kind}); a.sendto(b"x", "{{datagrams}}")\''
        for kind in ("SOCK_DGRAM", "SOCK_RAW")
    ),
    "python3 -c 'import resource; resource.prlimit({pid}, resource.RLIMIT_CORE)'",
)


def sandboxed(home: Path) -> AcpBackend:
    """Return an agent whose program and folder are in a home outside /tmp, which the sandbox hides."""
    script = home / ".own" / "agent.py"
    shutil.copy(SCRIPT, script)
    return AcpBackend("fake", (os.path.realpath(sys.executable), "-I", "-S", str(script), "plain"), ("~/.own",))


def sandbox_env(home: Path) -> dict[str, str]:
    """Return an environment with the bubblewrap of Codex."""
    (bwrap,) = MODULES.glob("@openai/codex-*/vendor/*/codex-resources/bwrap")
    return {"PATH": f"{bwrap.parent}:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": str(home)}


@pytest.mark.parametrize("mode", ["read-only", "workspace"])
async def test_hostile_agent_writes_nothing_outside_its_sandbox(mode: str) -> None:
    """The folders and Python are outside /tmp and /var/tmp, which bubblewrap hides."""
    with tempfile.TemporaryDirectory(dir=pwd.getpwuid(os.getuid()).pw_dir, prefix=".acp-test-") as place:
        home, project, outside = (Path(place) / name for name in ("home", "project", "outside"))
        for folder in (home, project, outside, home / ".clinvk", home / ".own"):
            folder.mkdir()
        path, datagrams = (home / ".clinvk" / name for name in ("clinvk.sock", "datagrams.sock"))
        backend = sandboxed(home)
        facts = {"outside": outside, "pid": os.getpid(), "socket": path, "datagrams": datagrams}
        asked = replace(
            request(project, *(f"sh {command.format_map(facts)}" for command in HOSTILE), "sh touch $HOME/.own/g"),
            sandbox_mode=mode,
        )
        asked = replace(asked, prompt=asked.prompt + "\nsh touch made")
        before = Path("/proc/sys/kernel/domainname").read_text()
        with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
            listener.bind(str(path))
            listener.listen()
            receiver.bind(str(datagrams))
            async with LocalRuns(Settings(), MemoryStore(), sandbox_env(home), {"fake": backend}) as runs:
                codes = text(await events(runs, asked)).split()
        assert not list(outside.iterdir())
        names = [".clinvk", ".own", "agent.py", "clinvk.sock", "datagrams.sock", "g", "sessions.json"]
        assert sorted(path.name for path in home.rglob("*")) == names
        assert Path("/proc/sys/kernel/domainname").read_text() == before
        assert [code == "0" for code in codes] == [False] * len(HOSTILE) + [True, mode == "workspace"]
        assert (project / "made").exists() == (mode == "workspace")


def swap(place: Path, target: Path) -> None:
    """Replace a directory by a link."""
    place.rename(place.with_name(f"{place.name}-aside"))
    place.symlink_to(target)


def swap_back(place: Path) -> None:
    place.unlink()
    place.with_name(f"{place.name}-aside").rename(place)


SWAPPING_BWRAP = """#!/bin/sh
mv {place} {place}-aside
ln -s {target} {place}
exec {bwrap} "$@"
"""


@pytest.mark.parametrize("moment", ["before the check", "after the check"])
@pytest.mark.parametrize("which", ["project", "other"])
async def test_sandbox_is_made_of_the_directories_that_were_checked(moment: str, which: str) -> None:
    """The agent of another run may replace a directory by a link at any moment."""
    with tempfile.TemporaryDirectory(dir=pwd.getpwuid(os.getuid()).pw_dir, prefix=".acp-test-") as folder:
        home, project, other, outside, programs = (
            Path(folder, name) for name in ("home", "project", "other", "outside", "bin")
        )
        for each in (home, project, other, outside, programs, home / ".own"):
            each.mkdir()
        swapped, env = Path(folder, which), sandbox_env(home)
        bwrap = shutil.which("bwrap", path=env["PATH"])
        if moment == "after the check":
            (programs / "bwrap").write_text(SWAPPING_BWRAP.format(place=swapped, target=outside.name, bwrap=bwrap))
            (programs / "bwrap").chmod(0o755)
            env["PATH"] = f"{programs}:{env['PATH']}"
        else:
            swap(swapped, outside)

        async def admit(_: RunRequest) -> str:
            if moment == "before the check":
                await asyncio.to_thread(swap_back, swapped)
            return str(project)

        asked = request(project, f"sh touch {swapped}/made; touch {outside}/made; touch ../{which}/made; touch made")
        asked = replace(asked, sandbox_mode="workspace", add_dirs=(str(other),))
        runs = LocalRuns(Settings(), MemoryStore(), env, {"fake": sandboxed(home)}, admit_dirs=admit)
        async with runs:
            found = await events(runs, asked)
        assert list(outside.iterdir()) == []
        if moment == "before the check":
            assert failure(found).message == f"cannot work in '{outside}': it leads elsewhere since it was checked"


MCP_PROGRAM = """\
import json, pathlib, sys
for path in sys.argv[1:]:
    try:
        pathlib.Path(path).touch()
    except OSError:
        pass
for line in sys.stdin:
    print(json.dumps({"jsonrpc": "2.0", "id": json.loads(line)["id"], "result": {}}), flush=True)
"""
"""An MCP server that touches the files of its arguments when it starts."""


@pytest.mark.parametrize(("mode", "expected"), [("read-only", []), ("workspace", ["made"]), ("full", ["made", "out"])])
async def test_mcp_server_of_an_editor_is_inside_the_sandbox(mode: str, expected: list[str]) -> None:
    with tempfile.TemporaryDirectory(dir=pwd.getpwuid(os.getuid()).pw_dir, prefix=".acp-test-") as folder:
        home, project = Path(folder, "home"), Path(folder, "project")
        for each in (home, project, home / ".own"):
            each.mkdir()
        files = [project / "made", Path(folder, "out")]
        arguments = ("-I", "-S", "-c", MCP_PROGRAM, *map(str, files))
        server = McpServer("files", command=os.path.realpath(sys.executable), args=arguments)
        asked = replace(request(project, "call write {}"), sandbox_mode=mode, mcp_servers=(server,))
        async with LocalRuns(Settings(), MemoryStore(), sandbox_env(home), {"fake": sandboxed(home)}) as runs:
            found = await events(runs, asked)
        assert isinstance(found[-1], RunFinished), found
        assert [file.name for file in files if file.exists()] == expected


async def test_sandboxed_agent_has_no_descriptor_of_a_directory_outside() -> None:
    """Such a descriptor would lead to all files as they are outside of the sandbox."""
    with tempfile.TemporaryDirectory(dir=pwd.getpwuid(os.getuid()).pw_dir, prefix=".acp-test-") as folder:
        home, project = Path(folder, "home"), Path(folder, "project")
        for each in (home, project, home / ".own"):
            each.mkdir()
        command = (
            "sh for p in self 1 2 3 4; do for fd in /proc/$p/fd/*; do test -d $fd && readlink $fd; done; done >fds"
        )
        asked = replace(request(project, command), sandbox_mode="workspace")
        async with LocalRuns(Settings(), MemoryStore(), sandbox_env(home), {"fake": sandboxed(home)}) as runs:
            await events(runs, asked)
        assert not [line for line in (project / "fds").read_text().splitlines() if line != str(project)]
