"""Codex by its server, and by `exec` where there is no server: found out once, and without a run being lost."""

import asyncio
import logging

import pytest
from msgspec.structs import replace

from clinvk.backends.registry import BACKENDS
from clinvk.config.model import Settings, complete
from clinvk.runtime.local import LocalRuns
from clinvk.runtime.pool.agent_programs import ProtocolSupport
from clinvk.runtime.run import execution
from clinvk.store.memory import MemoryStore
from clinvk.types.events import Event, RunFailed, RunFinished, RunStarted, TextDelta, Usage
from clinvk.types.request import RunRequest
from polling import until
from scripted import Scripted
from scripted.steps import codex_says, codex_streams, exits, hang, line, spawn

THREAD = "01a20000-0000-7000-8000-000000000001"
REQUEST = complete(RunRequest(prompt="hello", backend="codex", workdir="/"), Settings())
BY_EXEC = [RunStarted(backend_session_id=THREAD), TextDelta("by exec"), RunFinished(usage=Usage(12, 5, 2), turns=1)]


def local_runs(scripted: Scripted) -> LocalRuns:
    return LocalRuns(Settings(), MemoryStore(), scripted.env, BACKENDS)


async def events(runs: LocalRuns, request: RunRequest = REQUEST) -> list[Event]:
    async with runs.run(request) as run:
        return [logged.event async for logged in run.follow()]


def instead_of_a_server(scripted: Scripted, script: str) -> None:
    """Install another program as Codex: it has `exec`, and runs this script for everything else."""
    codex = scripted.folder / "codex"
    codex.rename(scripted.folder / "codex-of-exec")
    codex.write_text(f'#!/bin/sh\ncase "$*" in app-server*) {script};; *) exec "$0-of-exec" "$@";; esac\n')
    codex.chmod(0o755)


async def test_deltas_come_from_the_app_server_which_exits_by_itself(
    scripted: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(execution, "LINGER_S", 600.0)  # after which it would be stopped
    scripted.play(codex_streams("one ", "two"), server=True)
    async with local_runs(scripted) as runs:
        told = await events(runs, replace(REQUEST, prompt="say it"))
    assert told == [
        RunStarted("codex-scripted", THREAD),
        TextDelta("one "),
        TextDelta("two"),
        RunFinished(usage=Usage(12, 5, 2), turns=1),
    ]
    (call,) = scripted.calls()
    assert call.argv[0] == "app-server"
    assert b'"text":"say it"' in (call.stdin or b"")


async def test_codex_without_app_server_is_detected_once(scripted: Scripted, caplog: pytest.LogCaptureFixture) -> None:
    scripted.play(codex_says("by exec"))
    async with local_runs(scripted) as runs:
        with caplog.at_level(logging.WARNING, "clinvk.runtime.pool.agent_programs"):
            assert [await events(runs) for _ in range(3)] == [BY_EXEC] * 3
    assert (scripted.refusals(), len(scripted.calls())) == (1, 3)
    assert [record.message for record in caplog.records] == [
        f"{scripted.folder}/codex does not speak its long-lived protocol: it exited with code 1: "
        "error: unrecognized subcommand 'app-server'; it is run one-shot from now on"
    ]


async def test_concurrent_runs_that_detect_the_missing_server_all_succeed(scripted: Scripted) -> None:
    scripted.play(codex_says("by exec"))
    async with local_runs(scripted) as runs:
        assert await asyncio.gather(*(events(runs) for _ in range(8))) == [BY_EXEC] * 8


@pytest.mark.parametrize("script", ["exec codex-of-exec", "cat"])
async def test_non_protocol_output_is_detected_at_once(scripted: Scripted, script: str) -> None:
    """The output of `exec`, or an echo of the input, is no protocol either."""
    instead_of_a_server(scripted, script)
    scripted.play(codex_says("by exec"), reads=False)
    async with local_runs(scripted) as runs:
        runs.fallbacks = ProtocolSupport(answer_timeout_s=600)
        assert await events(runs) == BY_EXEC


@pytest.mark.parametrize("script", ["sleep 600", "echo Usage: codex; sleep 600"])
async def test_silent_program_is_waited_for_once_and_briefly(scripted: Scripted, script: str) -> None:
    instead_of_a_server(scripted, script)
    scripted.play(codex_says("by exec"))
    async with local_runs(scripted) as runs:
        runs.fallbacks = ProtocolSupport(answer_timeout_s=0.5)
        assert await events(runs) == BY_EXEC
        runs.fallbacks.answer_timeout_s = 600
        assert await events(runs) == BY_EXEC


@pytest.mark.slow
async def test_timeout_covers_both_processes_together(scripted: Scripted) -> None:
    instead_of_a_server(scripted, "sleep 600")
    scripted.play([hang()])
    async with local_runs(scripted) as runs:
        runs.fallbacks = ProtocolSupport(answer_timeout_s=10)
        async with runs.run(replace(REQUEST, timeout_s=12)) as run:
            result = await run.result()
    assert isinstance(result.ending, RunFailed)
    assert result.ending.message.startswith("timed out after 12 s")
    assert run.started_at
    assert run.ended_at
    assert run.ended_at - run.started_at < 20


async def test_banner_before_the_server_answers_is_ignored(scripted: Scripted) -> None:
    instead_of_a_server(scripted, 'echo Welcome; echo; exec "$0-of-exec" "$@"')
    scripted.play(codex_streams("one ", "two"), server=True)
    async with local_runs(scripted) as runs:
        told = await events(runs)
    assert "".join(event.text for event in told if isinstance(event, TextDelta)) == "one two"


async def test_failure_of_both_modes_is_reported_by_exec_and_not_remembered(scripted: Scripted) -> None:
    scripted.play([exits(2)])
    async with local_runs(scripted) as runs:
        for _ in range(2):
            (ending,) = await events(runs)
            assert isinstance(ending, RunFailed)
            assert ending.exit_code == 2
    assert scripted.refusals() == 2


async def test_run_cancelled_before_the_server_answers_is_not_started_by_exec(scripted: Scripted) -> None:
    instead_of_a_server(scripted, f"touch {scripted.folder}/up; exec sleep 600")
    scripted.play(codex_says("by exec"))
    async with local_runs(scripted) as runs, runs.run(REQUEST) as run:
        await until((scripted.folder / "up").exists)
    assert run.state == "cancelled"
    assert scripted.calls() == []


async def test_server_that_crashes_mid_turn_is_not_retried(scripted: Scripted) -> None:
    scripted.play([*codex_streams("one")[:3], exits(3)], server=True)
    scripted.play(codex_says("by exec"))
    async with local_runs(scripted) as runs:
        started, delta, ending = await events(runs)
    assert (started, delta) == (RunStarted("codex-scripted", THREAD), TextDelta("one"))
    assert isinstance(ending, RunFailed)
    assert (ending.code, ending.exit_code) == ("agent_crashed", 3)
    assert len(scripted.calls()) == 1


async def test_cancelled_run_leaves_no_server_process(scripted: Scripted) -> None:
    scripted.play([*codex_streams("one")[:3], spawn("all"), hang()], server=True)
    async with local_runs(scripted) as runs, runs.run(REQUEST) as run:
        async for logged in run.follow():
            if isinstance(logged.event, TextDelta):
                await until(scripted.grandchildren)
                break
    assert run.state == "cancelled"
    assert scripted.alive() == []


async def test_noise_between_messages_is_ignored(scripted: Scripted) -> None:
    noise = [line("noise"), line('{"method":"of/the/future"}'), line("{")]
    scripted.play([step for told in codex_streams("one ", "two") for step in (*noise, told)], server=True)
    async with local_runs(scripted) as runs:
        told = await events(runs)
    assert "".join(event.text for event in told if isinstance(event, TextDelta)) == "one two"


async def test_run_that_asks_fails_without_a_server(scripted: Scripted) -> None:
    """`exec` cannot ask, so it must not take over."""
    scripted.play(codex_says("by exec", session=THREAD))
    instead_of_a_server(scripted, "echo \"error: unrecognized subcommand 'app-server'\" >&2; exit 2")
    async with local_runs(scripted) as runs:
        (failed,) = await events(runs, replace(REQUEST, approval_mode="ask"))
    assert isinstance(failed, RunFailed)
    assert "cannot be talked to for approval_mode ask: it exited with code 2" in failed.message
    assert not scripted.calls()
