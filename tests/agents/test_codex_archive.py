"""Threads in Codex's archive; Codex archives a thread before closing it."""

import asyncio
import subprocess
from pathlib import Path

import pytest

from agents.machine import Machine, text_of
from clinvk.backends.base import Launch
from clinvk.backends.codex.app_server import AppServerChannel
from clinvk.backends.codex.flags import PING
from clinvk.backends.registry import BACKENDS
from clinvk.runtime import sessions
from clinvk.runtime.local import LocalRuns
from clinvk.store.memory import MemoryStore
from clinvk.types.events import RunFailed
from clinvk.types.record import Resume
from clinvk.types.request import RunRequest


def ask(prompt: str, session: str | None = None) -> RunRequest:
    return RunRequest(prompt=prompt, backend="codex", session_id=session)


def rollouts(machine: Machine, folder: str) -> list[Path]:
    return [*(machine.home / ".codex" / folder).rglob("rollout-*.jsonl")]


def thread(machine: Machine) -> str:
    """Return the only thread."""
    (rollout,) = rollouts(machine, "sessions")
    return rollout.stem[-36:]


def archive(machine: Machine) -> None:
    """Put the only thread into the archive."""
    subprocess.run(
        ["codex", "archive", thread(machine)], env=machine.env, cwd=machine.project, check=True, capture_output=True
    )
    assert rollouts(machine, "archived_sessions")
    assert not rollouts(machine, "sessions")


@pytest.mark.first(2)
@pytest.mark.parametrize("keeps", [False, True])
@pytest.mark.parametrize("fork", [False, True])
async def test_archived_conversation_can_be_resumed(machine: Machine, fork: bool, keeps: bool) -> None:
    store = MemoryStore()
    async with LocalRuns(machine.settings, store, machine.env, BACKENDS) as runs:
        _, session = await machine.run_in(runs, ask("first [[words=2]]"))
    archive(machine)
    async with LocalRuns(machine.settings, store, machine.env, BACKENDS, keeps_warm=keeps) as runs:
        after = (await sessions.fork(store, session, "f" * 32, BACKENDS)).id if fork else session
        second, _ = await machine.run_in(runs, ask("second [[info]]", after))
        assert "prompts=2" in text_of(second)
        third, _ = await machine.run_in(runs, ask("third [[info]]", session))
        assert f"prompts={2 if fork else 3}" in text_of(third)


async def closing(machine: Machine, runs: LocalRuns) -> "asyncio.Task[None]":
    """Make the warm process begin to close its thread, as it does some seconds after a turn."""
    assert runs.pool
    closed = asyncio.create_task(runs.pool.forget(thread(machine)))
    await asyncio.sleep(0)
    return closed


async def test_fork_waits_for_a_thread_that_is_being_closed(machine: Machine) -> None:
    store = MemoryStore()
    async with LocalRuns(machine.settings, store, machine.env, BACKENDS, keeps_warm=True) as runs:
        _, session = await machine.run_in(runs, ask("first [[words=2]]"))
        fork = await sessions.fork(store, session, "f" * 32, BACKENDS)
        closed = await closing(machine, runs)
        second, _ = await machine.run_in(runs, ask("second [[info]]", fork.id))
        await closed
    assert "prompts=2" in text_of(second)


async def test_process_finishes_closing_its_thread_before_it_exits(machine: Machine) -> None:
    store = MemoryStore()
    async with LocalRuns(machine.settings, store, machine.env, BACKENDS, keeps_warm=True) as runs:
        await machine.run_in(runs, ask("first [[words=2]]"))
        closed = await closing(machine, runs)
    await closed
    assert rollouts(machine, "sessions")
    assert not rollouts(machine, "archived_sessions")


def talk(process: "subprocess.Popen[bytes]", channel: AppServerChannel, request: bytes) -> None:
    """Talk with a server until a run has failed."""
    assert process.stdin
    assert process.stdout
    process.stdin.write(request)
    process.stdin.flush()
    for line in process.stdout:
        for delivery in channel.receive(line):
            if not isinstance(delivery, bytes):
                assert isinstance(delivery[1], RunFailed)
                return
            process.stdin.write(delivery)
        process.stdin.flush()


async def test_thread_opened_for_a_cancelled_run_can_be_resumed_by_another_process(machine: Machine) -> None:
    channel = AppServerChannel(
        Launch(argv=(), session_params={"cwd": str(machine.project), "approvalPolicy": "never"}, ping=PING)
    )
    pipe, server = subprocess.PIPE, ("codex", "app-server")
    async with machine.runs() as runs:
        _, session = await machine.run_in(runs, ask("first [[words=2]]"))
        request = channel.start("dropped", ask("dropped"), Resume(thread(machine)))
        assert channel.interrupt("dropped") == b""
        with subprocess.Popen(server, stdin=pipe, stdout=pipe, env=machine.env, cwd=machine.project) as process:
            await asyncio.to_thread(talk, process, channel, request)
            second, _ = await machine.run_in(runs, ask("second [[info]]", session))
            assert process.poll() is None
            process.kill()
    assert "prompts=2" in text_of(second)
