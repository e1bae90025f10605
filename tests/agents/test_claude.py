"""The real Claude Code answers through clinvk."""

import json
import signal
import subprocess
from pathlib import Path

import pytest
from msgspec.structs import replace

from acceptance.command import until
from agents.machine import Machine
from clinvk.backends.base import Host
from clinvk.backends.claude import Claude
from clinvk.types.events import (
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
from clinvk.types.request import RunRequest


def ask(prompt: str, **options: object) -> RunRequest:
    return replace(RunRequest(prompt=prompt, backend="claude"), **options)


def records(machine: Machine) -> list[Path]:
    """Return Claude Code's records of conversations."""
    return [*(machine.home / ".claude" / "projects").rglob("*.jsonl")]


async def test_answer_is_streamed_in_the_chunks_of_the_model(machine: Machine) -> None:
    events = await machine.events(ask("hello [[words=3]]"))
    assert isinstance(events[0], RunStarted)
    assert events[0].backend_session_id
    assert events[1:-1] == [TextDelta("word1 "), TextDelta("word2 "), TextDelta("word3")]
    assert isinstance(events[-1], RunFinished)


async def test_one_megabyte_prompt_reaches_the_model_unchanged(machine: Machine) -> None:
    prompt = "hello [[words=1]] " + "ü" * 500_000
    result = await machine.run(ask(prompt))
    assert result.text == "word1"
    assert "ü" * 500_000 in json.dumps(machine.requests("hello")[0], ensure_ascii=False)


@pytest.mark.first(2)
@pytest.mark.parametrize(
    "prompt", ["-x [[words=1]]", "--version [[words=1]]", " /cost [[words=1]]", "/a/b [[words=1]]"]
)
async def test_prompt_that_looks_like_a_flag_or_path_is_sent_as_text(machine: Machine, prompt: str) -> None:
    assert (await machine.run(ask(prompt))).text == "word1"


async def test_thinking_is_separate_from_the_answer(machine: Machine) -> None:
    events = await machine.events(ask("hello [[think=2 words=1]]", thinking=True))
    assert "".join(event.text for event in events if isinstance(event, ThinkingDelta)).split() == ["think1", "think2"]
    assert [event.text for event in events if isinstance(event, TextDelta)] == ["word1"]
    asked = machine.requests("hello")[0]["thinking"]
    assert isinstance(asked, dict)
    assert asked["display"] == "summarized"


async def test_tool_call_writes_the_file_and_is_reported_with_its_result(machine: Machine) -> None:
    path = machine.project / "made.txt"
    events = await machine.events(
        ask(f"hello [[tool=write path={path} content=hi]] [[say=done]]", approval_mode="auto")
    )
    (call,) = (event for event in events if isinstance(event, ToolCall))
    (result,) = (event for event in events if isinstance(event, ToolResult))
    assert (call.name, call.input) == ("Write", {"file_path": str(path), "content": "hi"})
    assert (result.id, result.is_error) == (call.id, False)
    assert path.read_text() == "hi"


async def test_usage_sums_all_requests_of_the_run(machine: Machine) -> None:
    prompt = 'hello [[usage=100,20,30,10]] [[call Read {"file_path": "/nowhere"}]] [[words=1]]'
    result = await machine.run(ask(prompt))
    assert len(machine.requests("hello")) == 2
    assert result.usage == Usage(input_tokens=200, output_tokens=60, cached_tokens=40)


@pytest.mark.first(3)
@pytest.mark.parametrize(
    ("status", "code"),
    [(400, "agent_rejected"), (401, "agent_unauthenticated"), (429, "agent_rate_limited"), (500, "agent_overloaded")],
)
async def test_model_api_error_fails_the_run_with_its_code(machine: Machine, status: int, code: str) -> None:
    events = await machine.events(ask(f"hello [[error={status}]]"))
    ending = events[-1]
    assert isinstance(ending, RunFailed)
    assert ending.code == code
    assert ending.message
    retried = any(isinstance(event, Progress) and event.stage == "retry" for event in events)
    assert retried is (status in (429, 500))


async def test_model_refusal_ends_the_run_and_keeps_the_text(machine: Machine) -> None:
    """Claude Code retries once, and gets a second refusal."""
    result = await machine.run(ask("x [[stop=refusal words=2]]"))
    assert isinstance(result.ending, RunFinished)
    assert (result.ending.stop_reason, result.text) == ("refusal", "word1 word2\n\nword1 word2")


async def test_answer_truncated_by_max_tokens_is_continued_automatically(machine: Machine) -> None:
    """The continuation has no new directive, so the stand-in truncates each answer at the same point."""
    result = await machine.run(ask("x [[stop=max_tokens words=2]]"))
    assert isinstance(result.ending, RunFinished)
    assert result.ending.stop_reason == "max_tokens"
    assert result.text.startswith("word1 word2\n\n")


@pytest.mark.slow
async def test_rejected_login_fails_without_waiting_for_retries(machine: Machine) -> None:
    machine.env["CLAUDE_CODE_MAX_RETRIES"] = "10"
    result = await machine.run(ask("hello [[error=401]]"))
    assert result.error
    assert result.error.code == "agent_unauthenticated"
    assert len(machine.exchanges("hello")) < 8, "all of them take three minutes"


async def test_missing_login_is_reported_as_unauthenticated(machine: Machine) -> None:
    del machine.env["ANTHROPIC_API_KEY"]
    result = await machine.run(ask("hello"))
    assert result.error
    assert result.error.code == "agent_unauthenticated"
    assert "Not logged in" in result.error.message


async def test_retry_after_a_dropped_stream_neither_repeats_nor_loses_text(machine: Machine) -> None:
    result = await machine.run(ask("hello [[drop=2 words=6]]"))
    assert result.text == "word1 word2 word3 word4 word5 word6"
    assert result.usage is not None
    assert result.usage.output_tokens > 0


async def test_error_within_a_stream_does_not_end_the_run(machine: Machine) -> None:
    assert (await machine.run(ask("hello [[midstream words=3]]"))).text == "word1 word2 word3"


async def test_run_ends_after_max_turns(machine: Machine) -> None:
    result = await machine.run(ask('hello [[tool=shell cmd="echo a" calls=9]]', max_turns=2))
    assert isinstance(result.ending, RunFinished)
    assert result.ending.stop_reason == "max_turns"
    assert len(machine.requests("hello")) == 2


async def test_system_prompt_is_appended_to_the_one_of_claude(machine: Machine) -> None:
    await machine.run(ask("hello", system_prompt="--speak like\na pirate"))
    sent = json.dumps(machine.requests("hello")[0]["system"])
    assert json.dumps("--speak like\na pirate")[1:-1] in sent
    assert "Claude Code" in sent


async def test_model_alias_and_effort_reach_the_model_api(machine: Machine) -> None:
    await machine.run(ask("hello", model="best", effort="low"))
    sent = machine.requests("hello")[0]
    assert str(sent["model"]).startswith("claude-opus")
    assert sent["output_config"] == {"effort": "low"}


async def test_schema_returns_structured_output(machine: Machine) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
    result = await machine.run(ask('x [[call StructuredOutput {"a": "b"}]]', output_schema=schema))
    assert isinstance(result.ending, RunFinished)
    assert result.ending.structured_output == {"a": "b"}
    assert result.tool_calls == ()


async def test_added_directory_can_be_read(machine: Machine) -> None:
    (machine.outside / "o.txt").write_text("OUTSIDE\n")
    prompt = f'hello [[call Read {{"file_path": "{machine.outside}/o.txt"}}]]'
    refused, read = [
        next(event for event in await machine.events(ask(prompt, add_dirs=dirs)) if isinstance(event, ToolResult))
        for dirs in ((), (str(machine.outside),))
    ]
    assert refused.is_error
    assert "OUTSIDE" in read.output


async def test_ephemeral_run_leaves_no_transcript(machine: Machine) -> None:
    await machine.run(ask("keep this hello"))
    kept = records(machine)
    assert kept
    await machine.run(ask("very-secret hello", ephemeral=True))
    assert records(machine) == kept
    left = [path for path in machine.home.rglob("*") if path.is_file() and b"very-secret" in path.read_bytes()]
    assert left == []


async def test_resumed_session_remembers_the_conversation(machine: Machine) -> None:
    async with machine.runs() as runs:
        async with runs.run(machine.completed(ask("first words [[words=1]]"))) as run:
            started = (await run.log.result()).started
            session = run.session_id
        async with runs.run(machine.completed(ask("second words [[words=1]]", session_id=session))) as run:
            again = (await run.log.result()).started
    assert started
    assert again
    assert started.backend_session_id == again.backend_session_id
    assert "first words" in json.dumps(machine.requests("second words")[0]["messages"])


async def test_unknown_slash_command_is_sent_to_the_model(machine: Machine) -> None:
    result = await machine.run(ask("/nonexistent"))
    assert result.text == "word1 word2 word3 word4 word5"
    assert len(machine.requests("/nonexistent")) == 1


@pytest.mark.first(2)
@pytest.mark.parametrize("prompt", ["/help", "/cost", "/clear"])
async def test_prompt_with_a_builtin_slash_command_fails(machine: Machine, prompt: str) -> None:
    result = await machine.run(ask(prompt))
    assert result.error
    assert result.error.code == "invalid_request"
    assert machine.requests() == []


async def test_run_waits_for_its_sub_agents(machine: Machine) -> None:
    call = {"description": "d", "prompt": "sub [[say=found]]", "subagent_type": "general-purpose"}
    events = await machine.events(ask(f"x [[call Task {json.dumps(call)}]]"))
    (told,) = (event for event in events if isinstance(event, ToolResult))
    assert "found" in told.output


async def test_custom_slash_command_of_the_user_is_run(machine: Machine) -> None:
    commands = machine.home / ".claude" / "commands"
    commands.mkdir(parents=True)
    (commands / "mine.md").write_text("Do it with $ARGUMENTS\n")
    assert (await machine.run(ask("/mine [[words=1]]"))).text == "word1"
    assert "Do it with" in json.dumps(machine.requests("words=1")[0]["messages"])


def test_sigint_stops_claude_and_its_tools(machine: Machine) -> None:
    """The stop signal of the launch: a SIGTERM would leave the tool behind."""
    mark = machine.project / "alive"
    prompt = f'hello [[tool=shell cmd="echo $$ > {mark}; sleep 60"]]'
    machine.env["IS_SANDBOX"] = "1"
    request = machine.completed(ask(prompt, approval_mode="none"))
    launch = Claude().launch(request, None, Host(env=machine.env))
    assert launch.stop_signal == signal.SIGINT
    process = subprocess.Popen(
        launch.argv, env={**machine.env, **launch.env}, cwd=launch.cwd, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
    )
    try:
        assert process.stdin
        process.stdin.write(prompt.encode())
        process.stdin.close()
        until(lambda: mark.exists() and bool(mark.read_text().strip()))
        process.send_signal(launch.stop_signal)
        process.wait(20)
        until(lambda: not Path(f"/proc/{mark.read_text().strip()}").exists())
    finally:
        process.kill()
        process.wait()
