"""Another agent takes the prompt of an agent that cannot, or the run waits for the reset of the limit."""

import asyncio
import os
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from clinvk.config.model import ServerSettings, Settings, complete
from clinvk.runtime.local import LocalRuns
from clinvk.runtime.run import turn_end
from clinvk.store.memory import MemoryStore
from clinvk.store.protocol import SessionQuery
from clinvk.types.errors import AgentRateLimited, BackendUnavailable, QueueFull, Unsupported
from clinvk.types.events import Progress, RunFailed, RunStarted
from clinvk.types.record import LimitWindow
from clinvk.types.request import FailedAgent, RunRequest, fallback_of
from polling import until
from shell_backend import CALL, DONE, RESULT, TEXT, Shell

DEFAULTS = Settings()
ENV = {"PATH": os.environ["PATH"]}
STARTED = """echo '{"type":"run_started","model":"m","backend_session_id":"abc"}'\n"""
LIMITED = """echo '{"type":"run_failed","code":"agent_rate_limited","message":"limit reached"}'\n"""
LOGGED_OUT = """echo '{"type":"run_failed","code":"agent_unauthenticated","message":"not logged in"}'\n"""
REJECTED = """echo '{"type":"run_failed","code":"agent_rejected","message":"no such model"}'\n"""
PROGRESS = """echo '{{"type":"progress","stage":"retry","message":"{}"}}'\n"""
ANSWER = STARTED + TEXT + DONE
LIMIT = FailedAgent("first", "limit reached", "agent_rate_limited")


class Missing(Shell):
    executable = "no-such-agent"


class Restricted(Shell):
    def launch(self, *_: object) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        raise Unsupported("it has no sandbox", "sandbox_mode")


def runs_of(
    store: MemoryStore, agents: Mapping[str, str | Shell], settings: Settings = DEFAULTS, **options: object
) -> LocalRuns:
    registry = {name: Shell(name, agent) if isinstance(agent, str) else agent for name, agent in agents.items()}
    return LocalRuns(settings, store, ENV, registry, **options)  # pyright: ignore[reportArgumentType]


def prompt(*fallback: str, settings: Settings = DEFAULTS, **fields: object) -> RunRequest:
    """Return a request to `first`, completed from the settings."""
    names = fallback_of(fallback)
    request = RunRequest(prompt="hi", backend="first", fallback=names, **fields)  # pyright: ignore[reportArgumentType]
    return complete(request, settings)


def window(backend: str, resets_in_s: float, name: str = "5h", age_s: float = 0) -> LimitWindow:
    now = time.time()
    return LimitWindow(
        backend=backend,
        window=name,
        used_percent=100,
        status="rejected",
        resets_at=now + resets_in_s,
        updated_at=now - age_s,
    )


@pytest.mark.parametrize(
    ("first", "failed"),
    [
        (STARTED + LIMITED, LIMIT),
        (LOGGED_OUT, FailedAgent("first", "not logged in", "agent_unauthenticated")),
        (Missing("first"), FailedAgent("first", "first is not installed: it is there", "backend_unavailable")),
    ],
)
async def test_next_agent_takes_the_prompt_of_an_agent_that_cannot(first: str | Shell, failed: FailedAgent) -> None:
    store = MemoryStore()
    async with runs_of(store, {"first": first, "second": ANSWER}) as runs:
        async with runs.run(prompt("second/large", model="mine", tags=("a",))) as run:
            result = await run.log.result()
        assert result.text == "hello"
        assert [type(entry.event) for entry in run.log.since(0)][:2] == [RunStarted, Progress]
        assert (run.request.backend, run.request.model) == ("second", "large")
        assert run.request.fell_back[0].error_code == failed.error_code
        record, session = await store.run(run.id), await store.session(run.session_id or "")
        assert (record.backend, record.state, record.fallback) == ("second", "finished", run.request.fell_back)
        assert (session.backend, session.turn_count, session.status) == ("second", 1, "completed")
        for query in (SessionQuery(backend="second"), SessionQuery(backend="second", tag="a")):
            assert (await store.sessions(query)).total == 1
        assert (await store.sessions(SessionQuery(backend="first"))).total == 0
        async with runs.run(RunRequest(prompt="more", backend="second", session_id=run.session_id)) as further:
            assert (await further.log.result()).text == "hello"


@pytest.mark.parametrize(
    "first",
    [
        STARTED + TEXT + LIMITED,
        STARTED + CALL + RESULT + LIMITED,
        STARTED + REJECTED,
        "exit 3",
        STARTED + PROGRESS.format("retry") * 100 + LIMITED,
        STARTED + PROGRESS.format("x" * 40_000) * 2 + LIMITED,
    ],
)
async def test_agent_that_may_have_acted_or_was_refused_for_the_request_keeps_the_prompt(first: str) -> None:
    async with runs_of(MemoryStore(), {"first": first, "second": ANSWER}) as runs:
        async with runs.run(prompt("second")) as run:
            ending = (await run.log.result()).ending
        assert isinstance(ending, RunFailed)
        assert (run.request.backend, run.conversation) == ("first", "abc" if STARTED in first else None)


async def test_agent_without_the_capability_is_passed_over() -> None:
    agents = {"first": LIMITED, "second": Restricted("second"), "third": ANSWER}
    async with runs_of(MemoryStore(), agents) as runs, runs.run(prompt("second", "third")) as run:
        assert (await run.log.result()).text == "hello"
        assert [each.error_code for each in run.request.fell_back] == ["agent_rate_limited", "unsupported_option"]


async def test_error_names_all_agents_if_none_can_take_the_prompt() -> None:
    agents = {"first": STARTED + LIMITED, "second": STARTED + LOGGED_OUT}
    async with runs_of(MemoryStore(), agents) as runs, runs.run(prompt("second")) as run:
        ending = (await run.log.result()).ending
        assert isinstance(ending, RunFailed)
        assert ending.code == AgentRateLimited.code
        assert ending.message == "first: limit reached; second: not logged in"
    async with runs_of(MemoryStore(), {"first": Missing("first"), "second": Missing("second")}) as runs:
        with pytest.raises(BackendUnavailable, match=r"first: .*; second: "):
            await runs.start(prompt("second"))


async def test_session_stays_with_its_agent(tmp_path: Path) -> None:
    mark = tmp_path / "used-up"
    first = f"if [ -e {mark} ]; then\n{LIMITED}else\n{ANSWER}fi"
    async with runs_of(MemoryStore(), {"first": first, "second": ANSWER}) as runs:
        async with runs.run(prompt("second")) as run:
            await run.log.result()
        mark.touch()
        async with runs.run(prompt("second", session_id=run.session_id)) as run:
            ending = (await run.log.result()).ending
    assert isinstance(ending, RunFailed)
    assert (ending.code, ending.message, run.request.backend) == (AgentRateLimited.code, "limit reached", "first")


@pytest.mark.parametrize(
    ("limit", "is_skipped"),
    [
        (window("first", 600), True),
        (window("first", 600, "7d_opus"), False),
        (window("first", 9999, age_s=1200), False),
        (window("second", 600), False),
    ],
)
async def test_agent_with_a_used_up_limit_is_not_started(tmp_path: Path, limit: LimitWindow, is_skipped: bool) -> None:
    store, mark = MemoryStore(), tmp_path / "started"
    await store.update_limit(limit)
    async with runs_of(store, {"first": f"touch {mark}\n{LIMITED}", "second": ANSWER}) as runs:
        async with runs.run(prompt("second")) as run:
            assert (await run.log.result()).text == "hello"
        assert run.request.backend == "second"
    assert mark.exists() != is_skipped


async def test_next_agent_waits_for_a_slot_of_its_backend(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    busy = f"while [ ! -e {gate} ]; do sleep 0.02; done\n{ANSWER}"
    settings = Settings(server=ServerSettings(max_concurrent_per_backend=1))
    async with runs_of(MemoryStore(), {"first": LIMITED, "second": busy}, settings) as runs:
        holder = await runs.start(RunRequest(prompt="hi", backend="second"))
        run = await runs.start(prompt("second"))
        await until(lambda: runs.queued == 1)
        assert run.slot.position == 1
        gate.touch()
        for each in (holder, run):
            assert (await each.log.result()).text == "hello"


async def test_waiting_run_starts_when_the_limit_has_reset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first agent fails for a limit that the store knows to reset soon, and is asked again afterwards."""
    monkeypatch.setattr(turn_end, "RESET_MARGIN_S", 0.1)
    store, tried = MemoryStore(), tmp_path / "tried"
    first = f"if [ -e {tried} ]; then\n{ANSWER}else touch {tried}\n{LIMITED}fi"
    await store.update_limit(window("first", 1.5, age_s=1200))
    async with runs_of(store, {"first": first, "second": LOGGED_OUT}) as runs:
        run = await runs.start(prompt("second", on_limit="wait"))
        await until(lambda: tried.exists() and runs.busy == 0 and run.state == "queued")
        record = await store.run(run.id)
        assert record.state == "queued"
        assert record.waits_until == pytest.approx(time.time(), abs=2)
        assert (await run.log.result()).text == "hello"
    record = await store.run(run.id)
    assert (record.backend, record.state, record.waits_until, record.fallback) == ("first", "finished", None, ())


async def test_run_waits_in_a_session_and_can_be_cancelled() -> None:
    store = MemoryStore()
    async with runs_of(store, {"first": ANSWER}) as runs:
        async with runs.run(prompt()) as run:
            await run.log.result()
        await store.update_limit(window("first", 600))
        waiting = await runs.start(prompt(on_limit="wait", session_id=run.session_id))
        await until(lambda: waiting.slot.position == 1)
        assert runs.busy == 0
        await asyncio.wait_for(runs.cancel(waiting.id), 5)
        assert (await store.run(waiting.id)).state == "cancelled"
        assert runs.queued == 0


async def test_waiting_runs_count_in_the_queue() -> None:
    store = MemoryStore()
    await store.update_limit(window("first", 600))
    settings = Settings(server=ServerSettings(max_queued_runs=1))
    async with runs_of(store, {"first": ANSWER}, settings) as runs:
        await runs.start(prompt(on_limit="wait"))
        await until(lambda: runs.queued == 1)
        refused = await runs.start(prompt(on_limit="wait"))
        ending = (await refused.log.result()).ending
        assert isinstance(ending, RunFailed)
        assert ending.code == QueueFull.code


async def test_run_does_not_wait_for_a_limit_without_a_known_reset() -> None:
    async with runs_of(MemoryStore(), {"first": LIMITED}) as runs:
        ending = (await (await runs.start(prompt(on_limit="wait"))).log.result()).ending
    assert isinstance(ending, RunFailed)
    assert ending.code == AgentRateLimited.code
    assert "no agent has reported when its limit resets" in ending.message
