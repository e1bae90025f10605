"""What `codex app-server` streams, and its conversations."""

import asyncio
import json
from itertools import pairwise

import pytest
from msgspec.structs import replace

from agents.machine import Machine
from clinvk.backends.registry import BACKENDS
from clinvk.runtime import sessions
from clinvk.runtime.local import LocalRuns
from clinvk.store.memory import MemoryStore
from clinvk.types.choices import SandboxMode
from clinvk.types.events import (
    Event,
    Progress,
    RunFinished,
    RunResult,
    RunStarted,
    TextDelta,
    ThinkingDelta,
    Usage,
)
from clinvk.types.request import RunRequest


def ask(prompt: str) -> RunRequest:
    return RunRequest(prompt=prompt, backend="codex")


def deltas(events: list[Event]) -> list[str]:
    return [event.text for event in events if isinstance(event, TextDelta)]


async def result(machine: Machine, runs: LocalRuns, request: RunRequest) -> tuple[RunResult, str | None]:
    async with runs.run(machine.completed(request)) as run:
        return await run.log.result(), run.session_id


@pytest.mark.first(4)
@pytest.mark.parametrize("sandbox", ["default", "read-only", "workspace", "full"])
async def test_text_and_thinking_are_streamed_in_the_chunks_of_the_model(
    machine: Machine, sandbox: SandboxMode
) -> None:
    events = await machine.events(replace(ask("x [[words=3 think=2]]"), sandbox_mode=sandbox))
    assert deltas(events) == ["word1 ", "word2 ", "word3"]
    assert [event.text for event in events if isinstance(event, ThinkingDelta)] == ["think1 ", "think2 "]
    assert isinstance(events[0], RunStarted)
    assert events[0].model == "gpt-5.5"


async def test_chunk_arrives_before_the_model_sends_the_next(machine: Machine) -> None:
    async with machine.runs() as runs, runs.run(machine.completed(ask("x [[words=3 delay=0.3]]"))) as run:
        at = [logged.at async for logged in run.log.follow() if isinstance(logged.event, TextDelta)]
    assert len(at) == 3
    assert at[1] - at[0] > 0.2
    assert at[2] - at[1] > 0.2


async def test_last_line_of_a_running_command_is_shown(machine: Machine) -> None:
    done = machine.project / "done"
    command = f"echo one; until [ -e {done} ]; do sleep 0.1; echo more; done"
    request = replace(ask(f"x [[tool=shell cmd='{command}']]"), approval_mode="auto", sandbox_mode="full")
    async with machine.runs() as runs, runs.run(machine.completed(request)) as run:
        at: list[float] = []
        async for logged in run.log.follow():
            if isinstance(logged.event, Progress) and logged.event.stage == "output":
                at.append(logged.at)
                if logged.event.message == "more":
                    done.touch()  # without the output of the running command, the command never ends
        assert isinstance(run.log.ending, RunFinished)
    assert all(later - earlier > 0.5 for earlier, later in pairwise(at))


async def test_message_repeated_after_a_dropped_stream_is_reported_once(machine: Machine) -> None:
    events = await machine.events(ask("x [[drop=2 times=1 words=4]]"))
    assert deltas(events) == ["word1 ", "word2 ", "word3 ", "word4"]
    assert isinstance(events[-1], RunFinished)


async def test_message_completed_before_a_dropped_stream_is_reported_once(machine: Machine) -> None:
    events = await machine.events(ask("x [[say=one say='two three' drop=2 times=1]]"))
    assert "".join(deltas(events)) == "one\n\ntwo three"
    assert isinstance(events[-1], RunFinished)
    assert len(machine.requests("x [[")) == 2


@pytest.mark.first(2)
@pytest.mark.parametrize("sandbox", ["read-only", "workspace"])
@pytest.mark.parametrize("where", [".codex", "../home/.codex"])
async def test_rules_cannot_leave_the_sandbox(machine: Machine, sandbox: SandboxMode, where: str) -> None:
    rules = machine.project / where / "rules" / "default.rules"
    rules.parent.mkdir(parents=True)
    rules.write_text('prefix_rule(pattern=["touch"], decision="allow")\n')
    prompt = f'x [[tool=shell cmd="touch {machine.outside}/out"]]'
    await machine.run(replace(ask(prompt), sandbox_mode=sandbox))
    assert len(machine.requests("x [[")) == 2
    assert not list(machine.outside.iterdir())


async def test_requests_with_denied_commands_count_as_turns(machine: Machine) -> None:
    prompt = 'x [[tool=shell cmd="touch made" calls=9]]'
    result = await machine.run(replace(ask(prompt), sandbox_mode="read-only", max_turns=2))
    assert isinstance(result.ending, RunFinished)
    assert result.ending.stop_reason == "max_turns"
    assert result.ending.usage
    assert len(machine.requests("x [[")) < 9, "some may be asked until the interrupt has come"


async def test_extra_settings_are_passed_on(machine: Machine) -> None:
    await machine.run(replace(ask("x"), extra=("-c", 'model_verbosity="low"')))
    assert '"verbosity": "low"' in json.dumps(machine.requests("x"))


async def conversation(machine: Machine, *turns: RunRequest) -> list[RunResult]:
    results: list[RunResult] = []
    session: str | None = None
    async with machine.runs() as runs:
        for turn in turns:
            told, session = await result(machine, runs, replace(turn, session_id=session))
            results.append(told)
    return results


async def test_each_turn_has_its_own_tokens_and_effort(machine: Machine) -> None:
    """Each turn is counted alone, and thinks as hard as it says, or as the settings do: not as the turn before."""
    results = await conversation(
        machine,
        replace(ask("one [[info usage=100,20,30,10]]"), effort="high"),
        ask("two [[info usage=200,50,40,5]]"),
        replace(ask("three [[info usage=7,6,5,4]]"), effort="low"),
        ask("four [[info usage=8,6,5,4]]"),
        ask("five [[info usage=9,6,5,4]]"),
    )
    assert [told.usage.input_tokens for told in results if told.usage] == [100, 200, 7, 8, 9]
    asked = [body for word in ("one", "two", "three", "four", "five") for body in machine.requests(f"{word} [[")]
    efforts = ("high", "medium", "low", "medium", "medium")
    assert [f'"effort": "{effort}"' in json.dumps(body) for effort, body in zip(efforts, asked, strict=True)] == [
        True
    ] * 5
    assert "one [[" in json.dumps(asked[-1])


async def test_turn_without_a_model_uses_the_model_from_the_settings(machine: Machine) -> None:
    await conversation(machine, replace(ask("one"), model="gpt-5.6-sol"), ask("two"))
    assert machine.requests("one")[0]["model"] == "gpt-5.6-sol"
    assert machine.requests("two")[-1]["model"] == "gpt-5.5"


async def test_fork_is_independent_and_counts_its_own_tokens(machine: Machine) -> None:
    store = MemoryStore()
    async with machine.runs(store=store) as runs:
        _, session = await result(machine, runs, ask("one [[words=1 usage=100,20,30,10]]"))
        assert session
        fork = await sessions.fork(store, session, "f" * 32, BACKENDS)
        forked, _ = await result(machine, runs, replace(ask("two [[words=1 usage=7,6,5,4]]"), session_id=fork.id))
        again, _ = await result(machine, runs, replace(ask("three [[words=1]]"), session_id=session))
    assert forked.usage == Usage(7, 5, 6, 4)
    assert forked.started
    assert again.started
    assert forked.started.backend_session_id != again.started.backend_session_id
    assert "one [[" in json.dumps(machine.requests("two [[")[0])
    assert "two [[" not in json.dumps(machine.requests("three [[")[0])


async def test_concurrent_runs_are_independent(machine: Machine) -> None:
    async with machine.runs() as runs:
        both = await asyncio.gather(
            *(result(machine, runs, ask(f"x [[words={count} delay=0.02]]")) for count in (3, 5))
        )
    assert [told.text for told, _ in both] == ["word1 word2 word3", "word1 word2 word3 word4 word5"]


async def test_invalid_codex_setting_is_reported(machine: Machine) -> None:
    config = machine.home / ".codex" / "config.toml"
    config.write_text(f'sandbox_mode = "nonsense"\n{config.read_text()}')
    told = await machine.run(ask("x"))
    assert told.error
    assert "unknown variant `nonsense`" in told.error.message
    assert not machine.exchanges("x")


async def test_git_repository_is_not_added_to_trusted_projects(machine: Machine) -> None:
    (machine.project / ".git").mkdir()
    config = machine.home / ".codex" / "config.toml"
    before = config.read_bytes()
    await machine.run(replace(ask("x"), approval_mode="auto"))
    await machine.run(replace(ask("x"), sandbox_mode="workspace"))
    assert config.read_bytes() == before
