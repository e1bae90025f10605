"""Runs of `codex app-server`: what it prints, and what it does when it does not speak the protocol, or crashes."""

import pytest
from msgspec.structs import replace

from clinvk.backends.registry import BACKENDS
from clinvk.config.model import Settings, complete
from clinvk.runtime.local import LocalRuns
from clinvk.runtime.run import execution
from clinvk.store.memory import MemoryStore
from clinvk.types.events import Event, RunFailed, RunFinished, RunStarted, TextDelta, Usage
from clinvk.types.request import RunRequest
from polling import until
from scripted import Scripted
from scripted.steps import codex_streams, exits, hang, line, spawn

THREAD = "01a20000-0000-7000-8000-000000000001"
REQUEST = complete(RunRequest(prompt="hello", backend="codex", workdir="/"), Settings())


def local_runs(scripted: Scripted) -> LocalRuns:
    return LocalRuns(Settings(), MemoryStore(), scripted.env, BACKENDS)


async def events(runs: LocalRuns, request: RunRequest = REQUEST) -> list[Event]:
    async with runs.run(request) as run:
        return [logged.event async for logged in run.log.follow()]


def install(scripted: Scripted, script: str) -> None:
    """Install another program as Codex, which may start the agent as `$0-itself`."""
    codex = scripted.folder / "codex"
    codex.rename(scripted.folder / "codex-itself")
    codex.write_text(f"#!/bin/sh\n{script}\n")
    codex.chmod(0o755)


async def test_deltas_come_from_the_app_server_which_exits_by_itself(
    scripted: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(execution, "LINGER_S", 600.0)  # after which it would be stopped
    scripted.play(codex_streams("one ", "two"))
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


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo \"error: unrecognized subcommand 'app-server'\" >&2; exit 2", "unrecognized subcommand 'app-server'"),
        ("cat", "does not speak its protocol: it refused `initialize`"),
        ("echo Usage: codex; sleep 600", "does not speak its protocol: it did not answer within 0.5 s"),
    ],
)
async def test_codex_that_does_not_speak_the_protocol_fails_clearly(
    scripted: Scripted, monkeypatch: pytest.MonkeyPatch, script: str, message: str
) -> None:
    monkeypatch.setattr(execution, "START_TIMEOUT_S", 0.5)
    install(scripted, script)
    async with local_runs(scripted) as runs:
        (failed,) = await events(runs)
    assert isinstance(failed, RunFailed)
    assert message in failed.message


async def test_banner_before_the_server_answers_is_ignored(scripted: Scripted) -> None:
    install(scripted, 'echo Welcome; echo; exec "$0-itself" "$@"')
    scripted.play(codex_streams("one ", "two"))
    async with local_runs(scripted) as runs:
        told = await events(runs)
    assert "".join(event.text for event in told if isinstance(event, TextDelta)) == "one two"


async def test_run_cancelled_before_the_server_answers_is_cancelled(scripted: Scripted) -> None:
    install(scripted, f"touch {scripted.folder}/up; exec sleep 600")
    async with local_runs(scripted) as runs, runs.run(REQUEST) as run:
        await until((scripted.folder / "up").exists)
    assert run.state == "cancelled"


async def test_server_that_crashes_mid_turn_is_not_retried(scripted: Scripted) -> None:
    scripted.play([*codex_streams("one")[:3], exits(3)])
    async with local_runs(scripted) as runs:
        started, delta, ending = await events(runs)
    assert (started, delta) == (RunStarted("codex-scripted", THREAD), TextDelta("one"))
    assert isinstance(ending, RunFailed)
    assert (ending.code, ending.exit_code) == ("agent_crashed", 3)
    assert len(scripted.calls()) == 1


async def test_cancelled_run_leaves_no_server_process(scripted: Scripted) -> None:
    scripted.play([*codex_streams("one")[:3], spawn("all"), hang()])
    async with local_runs(scripted) as runs, runs.run(REQUEST) as run:
        async for logged in run.log.follow():
            if isinstance(logged.event, TextDelta):
                await until(scripted.grandchildren)
                break
    assert run.state == "cancelled"
    assert scripted.alive() == []


async def test_noise_between_messages_is_ignored(scripted: Scripted) -> None:
    noise = [line("noise"), line('{"method":"of/the/future"}'), line("{")]
    scripted.play([step for told in codex_streams("one ", "two") for step in (*noise, told)])
    async with local_runs(scripted) as runs:
        told = await events(runs)
    assert "".join(event.text for event in told if isinstance(event, TextDelta)) == "one two"
