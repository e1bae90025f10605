"""Warm processes of the real CLIs that are killed, hang, lose their model API or are replaced."""

import asyncio
import json

import psutil
import pytest
from msgspec.structs import replace

from agents.machine import Machine
from clinvk.backends import registry
from clinvk.config.model import WarmSettings
from clinvk.runtime.local import LocalRuns
from clinvk.runtime.pool.reaper import HealthTimeouts
from clinvk.runtime.run.task import RunTask
from clinvk.store.memory import MemoryStore
from clinvk.types.events import Event, RunFailed, RunFinished, TextDelta
from clinvk.types.request import RunRequest
from polling import until_told

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

BACKENDS = ("claude", "codex", "gemini")
ALL_BACKENDS = pytest.mark.parametrize("backend", BACKENDS)
TIMEOUT_S = 60


def warm_runs(machine: Machine, store: MemoryStore | None = None) -> LocalRuns:
    settings = replace(machine.settings, warm=WarmSettings(kept_backends=BACKENDS, max_processes=6))
    return LocalRuns(settings, store or MemoryStore(), machine.env, registry.BACKENDS, keeps_warm=True)


def ask(machine: Machine, backend: str, prompt: str, session: str | None = None) -> RunRequest:
    return machine.completed(RunRequest(prompt=prompt, backend=backend, session_id=session))


async def text(runs: LocalRuns, request: RunRequest) -> str:
    async with runs.run(request) as run:
        result = await run.log.result()
    assert isinstance(result.ending, RunFinished), result.ending
    return result.text


async def seen(run: RunTask, kind: type[Event]) -> None:
    """Wait until a run has told of something."""
    async for logged in run.log.follow():
        if isinstance(logged.event, kind):
            return


def kept(machine: Machine) -> list[psutil.Process]:
    """Return the agent processes that this process has started, the oldest first."""
    children = psutil.Process().children()
    return sorted(
        (process for process in machine.leftover_processes() if process in children), key=psutil.Process.create_time
    )


def elsewhere(machine: Machine) -> str:
    """Make a directory whose runs use other processes."""
    folder = machine.project / "elsewhere"
    folder.mkdir()
    return str(folder)


@ALL_BACKENDS
async def test_process_killed_mid_stream_fails_only_its_own_run(machine: Machine, backend: str) -> None:
    async with warm_runs(machine) as runs, runs.run(ask(machine, backend, "a [[words=6000 delay=0.05]]")) as run:
        await seen(run, TextDelta)
        victim = kept(machine)[0]
        bystander = replace(ask(machine, backend, "b [[words=60 delay=0.05]]"), workdir=elsewhere(machine))
        async with runs.run(bystander) as other:
            await seen(other, TextDelta)
            victim.kill()
            ending = (await run.log.result()).ending
            assert isinstance(ending, RunFailed)
            assert ending.code == "agent_crashed"
            assert "killed by signal 9" in ending.message or "exited with code 137" in ending.message
            assert (await other.log.result()).text.split() == [f"word{number}" for number in range(1, 61)]
        assert await text(runs, ask(machine, backend, "c [[words=2]]")) == "word1 word2"


@ALL_BACKENDS
async def test_turn_whose_process_is_killed_before_any_output_is_retried_and_counted_once(
    machine: Machine, backend: str
) -> None:
    """The session counts the turn once. The model may see the prompt twice: Claude Code and Codex had recorded it."""
    store = MemoryStore()
    async with warm_runs(machine, store) as runs:
        async with runs.run(ask(machine, backend, "the first [[words=2]]")) as first:
            await first.log.result()
        session = first.session_id
        assert session
        async with runs.run(ask(machine, backend, "the second [[hang=8]] [[info]]", session)) as second:
            await until_told(lambda: asyncio.to_thread(machine.requests, "the second"), within_s=TIMEOUT_S)
            for process in kept(machine):
                process.kill()
            result = await second.log.result()
        assert isinstance(result.ending, RunFinished), result.ending
        assert "prompts=" in result.text
        assert (await store.session(session)).turn_count == 2
        await text(runs, ask(machine, backend, "the third [[words=2]]", session))
        (asked,) = machine.requests("the third")
        assert "the first" in json.dumps(asked)
        assert "the second" in json.dumps(asked)


@ALL_BACKENDS
async def test_process_that_hangs_mid_stream_is_abandoned(machine: Machine, backend: str) -> None:
    async with warm_runs(machine) as runs, runs.run(ask(machine, backend, "a [[words=6000 delay=0.05]]")) as run:
        assert runs.pool
        patience, usual = runs.pool.timeouts, HealthTimeouts()
        await seen(run, TextDelta)
        patience.silence_s, patience.ping_timeout_s = 0.5, 2.0
        for process in (kept(machine)[0], *kept(machine)[0].children(recursive=True)):
            process.suspend()
        ending = (await run.log.result()).ending
        assert isinstance(ending, RunFailed)
        assert "did not answer within" in ending.message
        patience.silence_s, patience.ping_timeout_s = usual.silence_s, usual.ping_timeout_s
        assert await text(runs, ask(machine, backend, "c [[words=2]]")) == "word1 word2"


@ALL_BACKENDS
async def test_process_waiting_for_its_model_answers_health_checks(machine: Machine, backend: str) -> None:
    """The next check is sent after the answer to the previous one."""
    asked: set[float] = set()
    async with warm_runs(machine) as runs:
        assert runs.pool
        await text(runs, ask(machine, backend, "a [[words=2]]"))
        runs.pool.timeouts.silence_s, runs.pool.timeouts.ping_timeout_s = 0.5, 60.0
        answer = asyncio.create_task(text(runs, ask(machine, backend, "b [[hang=10]] [[words=2]]")))
        while not answer.done():
            agents = runs.pool._warm_set.agents  # pyright: ignore[reportPrivateUsage]
            asked |= {
                agent.pinged_at
                for agent in agents
                for seat in agent.handles.values()
                if agent.pinged_at > seat.began_at
            }
            await asyncio.sleep(0.05)
        assert await answer == "word1 word2"
    assert len(asked) > 1
