"""The real Codex CLI through clinvk, against the stand-in model API, by each of its ways."""

import json
from base64 import b64decode
from pathlib import Path
from shutil import rmtree

import pytest
from msgspec.structs import replace

from agents.machine import PNG, Machine, text_of
from clinvk.store.memory import MemoryStore
from clinvk.types.events import (
    Context,
    Event,
    Progress,
    RunFailed,
    RunFinished,
    RunResult,
    RunStarted,
    TextDelta,
    ThinkingDelta,
    ToolCall,
    ToolResult,
    Usage,
)
from clinvk.types.request import Image, RunRequest
from polling import until


def ask(prompt: str) -> RunRequest:
    return RunRequest(prompt=prompt, backend="codex")


def comparable(events: list[Event]) -> list[Event]:
    """The events with pieces of one text put together, and calls numbered: in this the ways differ."""
    told: list[Event] = []
    calls: dict[str, str] = {}
    for event in events:
        match event, told[-1:]:
            case TextDelta(), [TextDelta(before)]:
                told[-1] = TextDelta(before + event.text)
            case ThinkingDelta(), [ThinkingDelta(before)]:
                told[-1] = ThinkingDelta(before + event.text)
            case ((ToolCall() | ToolResult()), _):
                told.append(replace(event, id=calls.setdefault(event.id, f"call-{len(calls)}")))
            case _:
                told.append(event)
    return told


def records(machine: Machine) -> list[Path]:
    """Return Codex's records of conversations."""
    return [path for path in (machine.home / ".codex").rglob("*rollout*") if path.is_file()]


async def conversation(machine: Machine, *requests: RunRequest) -> list[RunResult]:
    """Run the prompts of one session in order."""
    results: list[RunResult] = []
    session: str | None = None
    async with machine.runs() as runs:
        for request in requests:
            async with runs.run(machine.completed(replace(request, session_id=session))) as run:
                results.append(await run.log.result())
                session = run.session_id
    return results


async def test_answer_includes_thread_id_and_token_usage(machine: Machine) -> None:
    started, *rest = comparable(await machine.events(ask("hello [[words=3 think=2 usage=100,20,30,10]]")))
    assert isinstance(started, RunStarted)
    assert started.backend_session_id
    assert rest == [
        ThinkingDelta("think1 think2 "),
        TextDelta("word1 word2 word3"),
        RunFinished(
            usage=Usage(100, 30, cached_tokens=20, reasoning_tokens=10), turns=1, context=Context(130, 258_400)
        ),
    ]


async def test_command_and_its_output_are_reported_between_messages(machine: Machine) -> None:
    prompt = 'go [[tool=shell cmd="echo hi; sleep 0.2; false" before="Let me look." say="Done."]]'
    events = comparable(await machine.events(ask(prompt)))
    output = Progress("output", "hi")  # if the command takes a second on a busy machine
    assert [event for event in events if not isinstance(event, RunStarted | RunFinished) and event != output] == [
        TextDelta("Let me look."),
        ToolCall("call-0", "command_execution", {"command": "/bin/bash -lc 'echo hi; sleep 0.2; false'"}),
        ToolResult("call-0", "hi\n", is_error=True),
        TextDelta("\n\nDone."),
    ]


@pytest.mark.parametrize("model", ["gpt-5.5", "best"])
async def test_a_patch_writes_a_file(machine: Machine, model: str) -> None:
    path = machine.project / "made.txt"
    request = replace(ask(f"go [[tool=write path={path} content=made]]"), approval_mode="auto", model=model)
    events = comparable(await machine.events(request))
    assert path.read_text().strip() == "made"
    assert [event for event in events if isinstance(event, ToolCall | ToolResult)] == [
        ToolCall("call-0", "file_change", {"changes": [{"path": str(path), "kind": "add"}]}),
        ToolResult("call-0", f"add {path}"),
    ]


@pytest.mark.first(6)
@pytest.mark.parametrize(
    ("directive", "code", "words"),
    [
        ("error=400", "agent_rejected", ""),
        ("error=401", "agent_unauthenticated", "401"),
        ("error=429", "agent_rate_limited", "429"),
        ("error=500", "agent_overloaded", "high demand"),
        ("midstream=1", "agent_overloaded", "disconnected"),
        ("drop=1", "agent_overloaded", "disconnected"),
    ],
)
async def test_model_api_failure_is_reported_with_its_code(
    machine: Machine, directive: str, code: str, words: str
) -> None:
    result = await machine.run(ask(f"x [[{directive}]]"))
    assert result.error
    assert result.error.code == code
    assert words in result.error.message
    assert not result.error.message.startswith("{")
    assert result.exit_code == 1


async def test_answer_truncated_by_max_tokens_keeps_its_text_and_stop_reason(machine: Machine) -> None:
    first, second = await conversation(
        machine, ask("one [[words=1 usage=100,20,30,10]]"), ask("two [[words=2 stop=max_tokens usage=200,50,40,5]]")
    )
    assert first.usage == Usage(100, 30, 20, 10)
    assert isinstance(second.ending, RunFinished)
    assert (second.ending.stop_reason, second.text) == ("max_tokens", "word1 word2")
    assert second.usage == Usage(200, 40, 50, 5)


async def test_transient_failure_is_reported_as_progress_before_the_answer(machine: Machine) -> None:
    events = await machine.events(ask("x [[error=500 times=3 words=2]]"))
    assert [event.stage for event in events if isinstance(event, Progress)] == ["retry"]
    assert text_of(events) == "word1 word2"


async def test_unreachable_model_api_fails_the_run(machine: Machine) -> None:
    away = ("-c", 'model_providers.standin.base_url="http://127.0.0.1:1/v1"')
    result = await machine.run(replace(ask("x"), sandbox_mode="full", extra=away))
    assert result.error
    assert result.error.code == "agent_overloaded"
    assert "Connection failed" in result.error.message


async def test_missing_api_key_is_reported_as_unauthenticated(machine: Machine) -> None:
    del machine.env["STANDIN_KEY"]
    result = await machine.run(ask("x"))
    assert result.error
    assert result.error.code == "agent_unauthenticated"
    assert "STANDIN_KEY" in result.error.message


async def test_lost_codex_thread_is_reported(machine: Machine) -> None:
    store = MemoryStore()
    async with machine.runs(store=store) as runs, runs.run(machine.completed(ask("one"))) as run:
        await run.log.result()
    rmtree(machine.home / ".codex" / "sessions")
    for path in (machine.home / ".codex").glob("*.sqlite*"):
        path.unlink(missing_ok=True)
    again = machine.completed(replace(ask("two"), session_id=run.session_id))
    async with machine.runs(store=store) as runs, runs.run(again) as run:
        result = await run.log.result()
    assert result.error
    assert result.error.code == "session_not_found"
    assert not machine.requests("two")


async def test_run_ends_after_max_turns(machine: Machine) -> None:
    prompt = 'x [[tool=shell cmd="echo hi; sleep 0.3" calls=9]]'
    result = await machine.run(replace(ask(prompt), max_turns=2))
    assert isinstance(result.ending, RunFinished)
    assert result.ending.stop_reason == "max_turns"
    assert len(result.tool_calls) == 2


async def test_model_system_prompt_and_effort_reach_the_model(machine: Machine) -> None:
    system = 'Say "é" \\ always.\n\t🙂\x7f = [x]'
    await machine.run(replace(ask("hello"), model="fast", system_prompt=system, effort="high"))
    (body,) = machine.requests("hello")
    assert body["model"] == "gpt-6-luna"
    assert json.dumps(system)[1:-1] in json.dumps(body)
    assert '"effort": "high"' in json.dumps(body)


async def test_schema_returns_structured_output(machine: Machine) -> None:
    schema: dict[str, object] = {
        "type": "object",
        "properties": {"a": {"type": "string"}},
        "required": ["a"],
        "additionalProperties": False,
    }
    answer = json.dumps(json.dumps({"a": "b"}))
    result = await machine.run(replace(ask(f"x [[say={answer}]]"), output_schema=schema))
    assert isinstance(result.ending, RunFinished)
    assert result.ending.structured_output == {"a": "b"}
    assert json.dumps(schema) in json.dumps(machine.requests("x [[say=")[0])


async def test_images_reach_the_model_on_resume(machine: Machine) -> None:
    await conversation(machine, ask("one"), replace(ask("two"), images=(Image("image/png", b64decode(PNG)),) * 2))
    (body,) = machine.requests("two")
    assert json.dumps(body).count('"input_image"') == 2


async def test_ephemeral_run_leaves_no_transcript(machine: Machine) -> None:
    await machine.run(ask("kept"))
    kept = records(machine)
    assert len(kept) == 1
    await machine.run(replace(ask("gone"), ephemeral=True))
    assert machine.requests("gone")
    assert records(machine) == kept


@pytest.mark.parametrize("prompt", ["--help", "/quit", "!touch x @a.txt é\n\n🙂 "])
async def test_prompt_is_never_parsed_as_a_flag_or_command(machine: Machine, prompt: str) -> None:
    result = await machine.run(ask(prompt))
    assert result.text == "word1 word2 word3 word4 word5"
    assert prompt in [entry["user"] for entry in machine.exchanges()]
    assert not list(machine.project.iterdir())


async def test_one_megabyte_prompt_reaches_the_model(machine: Machine) -> None:
    result = await machine.run(ask("x" * 1_000_000 + "[[words=1]]"))
    assert result.text == "word1"


async def test_stopped_tool_leaves_no_files_in_the_project(machine: Machine) -> None:
    """During a sandboxed tool call, Codex makes empty folders such as `.git` in the project."""
    temporary = machine.outside / "temporary"
    temporary.mkdir()
    machine.env["TMPDIR"] = str(temporary)
    begun = machine.project / "begun"
    asked = replace(ask(f"[[tool=shell cmd='touch {begun}; sleep 300']]"), approval_mode="auto")
    async with machine.runs() as runs:
        for _ in range(2):
            async with runs.run(machine.completed(asked)) as run:
                await until(begun.exists)
                await runs.cancel(run.id)
                assert isinstance((await run.log.result()).ending, RunFailed)
            begun.unlink()
    assert [path.name for path in machine.project.iterdir()] == []
    assert not {path.name for path in temporary.iterdir()} & {".git", ".codex", ".agents", ".aws"}
