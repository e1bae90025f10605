"""The real Gemini CLI through clinvk, against the stand-in model API."""

import json
from contextlib import suppress
from pathlib import Path

import pytest
from msgspec.structs import replace

from agents.machine import Machine
from clinvk.types.choices import ApprovalMode, SandboxMode
from clinvk.types.events import RunFailed, RunFinished, RunStarted, StopReason, TextDelta, ToolCall, ToolResult, Usage
from clinvk.types.request import RunRequest
from standin.document import record


def _ask(
    prompt: str, approval: ApprovalMode = "default", sandbox: SandboxMode = "default", model: str | None = "fast"
) -> RunRequest:
    return RunRequest(prompt=prompt, backend="gemini", model=model, approval_mode=approval, sandbox_mode=sandbox)


def _call(tool: str, /, **arguments: object) -> str:
    return f"[[call {tool} {json.dumps(arguments)}]]"


async def test_answer_streams_with_session_id_and_usage(machine: Machine) -> None:
    events = await machine.events(_ask("hello [[words=3 think=2 usage=100,20,30,10]]"))
    started = events[0]
    assert isinstance(started, RunStarted)
    assert started.backend_session_id
    assert [event.text for event in events if isinstance(event, TextDelta)] == ["word1 ", "word2 ", "word3"]
    ending = events[-1]
    assert isinstance(ending, RunFinished)
    assert ending.stop_reason == "end_turn"
    assert ending.usage == Usage(input_tokens=100, output_tokens=30, cached_tokens=20, reasoning_tokens=10)
    assert "flash-lite" in str(machine.exchanges("hello")[-1]["path"])


async def test_permitted_agent_writes_files_and_runs_commands(machine: Machine) -> None:
    shell = _call("run_shell_command", command=f"echo hi; touch {machine.project}/ran", description="x")
    write = _call("write_file", file_path=f"{machine.project}/made.txt", content="made")
    events = await machine.events(_ask(f'go {shell}{write} [[before="Look. "]] [[say="Done."]]', "none"))
    assert (machine.project / "ran").exists()
    assert (machine.project / "made.txt").read_text() == "made"
    assert [event.name for event in events if isinstance(event, ToolCall)] == ["run_shell_command", "write_file"]
    results = [event for event in events if isinstance(event, ToolResult)]
    assert not any(result.is_error for result in results)
    assert "hi" in results[0].output
    text = "".join(event.text for event in events if isinstance(event, TextDelta))
    assert text == "Look. \n\nLook. \n\nDone."


@pytest.mark.first(2)
@pytest.mark.parametrize(
    ("status", "code"),
    [(400, "agent_rejected"), (401, "agent_unauthenticated"), (429, "agent_rate_limited"), (500, "agent_overloaded")],
)
async def test_model_api_error_maps_to_its_error_code(machine: Machine, status: int, code: str) -> None:
    result = await machine.run(_ask(f"x [[error={status}]]"))
    assert isinstance(result.ending, RunFailed)
    assert result.ending.code == code
    assert result.ending.exit_code == 1
    assert result.ending.message
    assert "API Error" not in result.ending.message
    assert "{" not in result.ending.message


async def test_dropped_stream_fails_the_run_and_keeps_partial_text(machine: Machine) -> None:
    result = await machine.run(_ask("x [[drop=2 words=9]]"))
    assert result.text == "word1 word2 "
    assert isinstance(result.ending, RunFailed)
    assert result.ending.exit_code == 1


async def test_repetitive_answer_fails_with_loop_detected(machine: Machine) -> None:
    result = await machine.run(_ask("x [[bytes=1000]]"))
    assert isinstance(result.ending, RunFailed)
    assert (result.ending.code, result.ending.message) == ("agent_failed", "Loop detected, stopping execution")


@pytest.mark.first(1)
@pytest.mark.parametrize("approval", ["default", "none"])
@pytest.mark.parametrize(
    ("model", "thinking"), [("gemini-2.5-pro", {"thinkingBudget": 1024}), ("best", {"thinkingLevel": "LOW"})]
)
async def test_effort_reaches_the_model(
    machine: Machine, approval: ApprovalMode, model: str, thinking: dict[str, object]
) -> None:
    await machine.run(replace(_ask("hello", approval, model=model), effort="low"))
    (sent,) = [record(body, "generationConfig") for body in machine.requests("hello")]
    assert sent["thinkingConfig"] == {"includeThoughts": True, **thinking}


@pytest.mark.slow
async def test_timed_out_run_reports_the_model_api_error(machine: Machine) -> None:
    path = machine.home / ".gemini" / "settings.json"
    settings = json.loads(path.read_text())
    settings["general"]["maxAttempts"] = 10
    path.write_text(json.dumps(settings))
    result = await machine.run(replace(_ask("x [[error=503 times=99]]"), timeout_s=30))
    assert isinstance(result.ending, RunFailed)
    assert result.ending.code == "timed_out"
    assert "stderr: Attempt " in result.ending.message
    assert "status 503" in result.ending.message


@pytest.mark.parametrize("reason", ["max_tokens", "refusal"])
async def test_answer_stopped_before_any_text_finishes_with_its_stop_reason(
    machine: Machine, reason: StopReason
) -> None:
    result = await machine.run(_ask(f'x [[stop={reason} say=""]]'))
    assert isinstance(result.ending, RunFinished)
    assert result.ending.stop_reason == reason


async def test_max_turns_ends_the_run(machine: Machine) -> None:
    result = await machine.run(replace(_ask('x [[tool=shell cmd="echo a" calls=9]]', "none"), max_turns=2))
    assert isinstance(result.ending, RunFinished)
    assert result.ending.stop_reason == "max_turns"
    assert len(result.tool_calls) == 2


async def test_users_own_turn_limit_finishes_with_max_turns(machine: Machine) -> None:
    path = machine.home / ".gemini" / "settings.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "model": {"maxSessionTurns": 1}}))
    result = await machine.run(_ask(f"x {_call('list_directory', dir_path='.')}"))
    assert isinstance(result.ending, RunFinished)
    assert result.ending.stop_reason == "max_turns"


@pytest.mark.parametrize("approval", ["default", "none"])
async def test_system_prompt_and_project_context_reach_the_model(machine: Machine, approval: ApprovalMode) -> None:
    (machine.project / "GEMINI.md").write_text("the project speaks: tabs")
    (machine.home / ".gemini" / "GEMINI.md").write_text("the user speaks: spaces")
    await machine.run(replace(_ask("hello [[words=1]]", approval), system_prompt="You are a pirate: arr."))
    sent = json.dumps(machine.requests("hello")[-1])
    assert "<system_prompt>\\nYou are a pirate: arr.\\n</system_prompt>\\n\\nhello" in sent
    assert "the project speaks: tabs" in sent
    assert "the user speaks: spaces" in sent
    assert "You are Gemini CLI" in sent


async def test_prompt_that_looks_like_a_command_is_sent_to_the_model(machine: Machine) -> None:
    """As a CLI command, `/init` would write GEMINI.md; a project's command would run its shell text."""
    commands = machine.project / ".gemini" / "commands"
    commands.mkdir(parents=True)
    (commands / "evil.toml").write_text(f'prompt = "do !{{touch {machine.outside}/ran}} [[words=2]]"\n')
    for name in ("init", "evil"):
        result = await machine.run(_ask(f"/{name} [[words=1]]", "none"))
        assert result.text == "word1"
        assert machine.requests(f"/{name}")
    assert list(machine.outside.iterdir()) == []
    assert [path.name for path in machine.project.iterdir()] == [".gemini"]


async def test_file_named_in_the_prompt_is_read(machine: Machine) -> None:
    (machine.project / "note.txt").write_text("the note says 42")
    await machine.run(_ask("see @note.txt [[words=1]]", sandbox="read-only"))
    assert "the note says 42" in json.dumps(machine.requests("see")[-1])


@pytest.mark.first(1)
@pytest.mark.parametrize("approval", ["default", "none"])
async def test_conversation_resumes(machine: Machine, approval: ApprovalMode) -> None:
    """Turns may have different modes: the record is the same in every home."""
    async with machine.runs() as runs:
        async with runs.run(machine.completed(_ask("first [[words=1]]"))) as run:
            await run.log.result()
        second = replace(machine.completed(_ask("second [[info]]", approval)), session_id=run.session_id)
        async with runs.run(second) as run:
            result = await run.log.result()
    assert "prompts=2" in result.text or "users=2" in result.text, result.text


async def test_missing_conversation_fails_with_session_not_found(machine: Machine) -> None:
    async with machine.runs() as runs:
        async with runs.run(machine.completed(_ask("first [[words=1]]"))) as run:
            await run.log.result()
        for chat in machine.home.glob(".gemini/tmp/*/chats/*"):
            chat.unlink()
        again = replace(machine.completed(_ask("second [[words=1]]")), session_id=run.session_id)
        async with runs.run(again) as run:
            result = await run.log.result()
    assert isinstance(result.ending, RunFailed)
    assert result.ending.code == "session_not_found"
    assert result.ending.exit_code == 42


def _files(*folders: Path) -> set[str]:
    return {str(path) for folder in folders for path in folder.rglob("*")}


@pytest.mark.slow
@pytest.mark.parametrize("approval", ["default", "none"])
async def test_ephemeral_run_leaves_no_files(machine: Machine, approval: ApprovalMode) -> None:
    """Nor does one that fails, of which the CLI writes a report with the whole conversation."""
    await machine.run(_ask("kept [[words=1]]", approval))
    before = _files(machine.home, machine.project)
    secret = f"secret-of-{machine.home.parent.name}"
    done = await machine.run(replace(_ask("gone [[words=1]]", approval), ephemeral=True))
    assert done.text == "word1"
    failed = await machine.run(replace(_ask(f"{secret} [[error=400]]", approval), ephemeral=True))
    assert failed.error
    assert _files(machine.home, machine.project) == before
    reports: list[str] = []
    for path in Path("/tmp").glob("gemini-client-error-*"):
        with suppress(FileNotFoundError):  # of a test beside this one
            reports.append(path.read_text())
    assert not [report for report in reports if secret in report]


async def test_ephemeral_run_uses_the_users_configuration(machine: Machine) -> None:
    """With `none` the run uses the user's hooks, skills and context."""
    _merge(machine.home / ".gemini" / "settings.json", _hook(f"touch {machine.outside}/hook"))
    (machine.home / ".gemini" / "GEMINI.md").write_text("the user speaks")
    await machine.run(replace(_ask("hello [[words=1]]", "none"), ephemeral=True))
    assert (machine.outside / "hook").exists()
    assert "the user speaks" in json.dumps(machine.requests("hello")[-1])


def _hook(command: str) -> dict[str, object]:
    return {"hooks": {"SessionStart": [{"hooks": [{"type": "command", "command": command}]}]}}


def _merge(path: Path, settings: dict[str, object]) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))


async def test_added_directories_are_accessible_and_others_are_not(machine: Machine) -> None:
    added, other = machine.outside / "added", machine.outside / "other"
    added.mkdir()
    other.mkdir()
    (added / "in.txt").write_text("inside")
    calls = "".join(_call("write_file", file_path=f"{folder}/f.txt", content="x") for folder in (added, other))
    read = _call("read_file", file_path=f"{added}/in.txt")
    request = replace(_ask(f"go {calls}{read}", "auto", "workspace"), add_dirs=(str(added),))
    events = await machine.events(request)
    results = [event for event in events if isinstance(event, ToolResult)]
    assert [result.is_error for result in results] == [False, True, False]
    assert (added / "f.txt").read_text() == "x"
    assert not list(other.iterdir())
    assert "inside" in json.dumps(machine.requests("go")[-1])


async def test_long_prompt_arrives_complete(machine: Machine) -> None:
    body = "a" * 1_000_000
    await machine.run(_ask(f"start {body} end [[words=1]]"))
    assert f"start {body} end" in str(machine.exchanges("start")[-1]["user"])


async def test_missing_login_fails_with_agent_unauthenticated(machine: Machine) -> None:
    del machine.env["GEMINI_API_KEY"]
    result = await machine.run(_ask("hello"))
    assert isinstance(result.ending, RunFailed)
    assert (result.ending.code, result.ending.exit_code) == ("agent_unauthenticated", 41)
    assert "GEMINI_API_KEY" in result.ending.message
