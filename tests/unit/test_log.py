import asyncio

from clinvk.runtime.run.event_log import HIGH_WATER_BYTES, EventLog
from clinvk.types.events import (
    Event,
    InteractionRequested,
    InteractionResolved,
    PlanStep,
    RunFailed,
    RunFinished,
    RunStarted,
    TextDelta,
    ThinkingDelta,
    ToolCall,
    ToolResult,
    plan,
)
from clinvk.types.interaction import Interaction


async def read(log: EventLog, after: int = 0) -> list[Event]:
    return [logged.event async for batch in log.batches(after) for logged in batch]


async def test_log_starts_with_run_started_and_ends_with_the_first_ending() -> None:
    log = EventLog(lambda: None)
    log.extend([TextDelta("a"), RunStarted("late"), RunFinished(), TextDelta("b"), RunFailed("x", "y")])
    assert await read(log) == [RunStarted(), TextDelta("a"), RunFinished()]


async def test_failure_before_the_start_is_the_only_event() -> None:
    log = EventLog(lambda: None)
    log.extend([RunFailed("x", "y")])
    assert await read(log) == [RunFailed("x", "y")]


async def test_events_are_numbered_from_one_and_readable_from_any_number() -> None:
    log = EventLog(lambda: None)
    log.extend([RunStarted(), TextDelta("a"), TextDelta("b"), RunFinished()])
    numbers = [logged.number async for batch in log.batches(2) for logged in batch]
    assert numbers == [3, 4]


async def test_reader_waits_for_new_events() -> None:
    log = EventLog(lambda: None)
    log.extend([RunStarted()])
    async with asyncio.TaskGroup() as group:
        reader = group.create_task(read(log))
        await asyncio.sleep(0)
        log.extend([TextDelta("late")])
        await asyncio.sleep(0)
        log.extend([RunFinished()])
    assert reader.result() == [RunStarted(), TextDelta("late"), RunFinished()]


async def test_log_is_ahead_until_its_fastest_reader_catches_up() -> None:
    calls: list[str] = []
    log = EventLog(lambda: calls.append("caught up"))
    log.extend([TextDelta("x")], size=HIGH_WATER_BYTES + 1)
    assert log.is_ahead
    batches = log.batches()
    assert len(await anext(batches)) == 2
    assert not log.is_ahead
    assert calls == ["caught up"]
    await batches.aclose()


async def test_reading_the_whole_log_resumes_a_waiting_run() -> None:
    calls: list[str] = []
    log = EventLog(lambda: calls.append("caught up"))
    log.extend([TextDelta("x")], size=HIGH_WATER_BYTES + 1)
    waiting = asyncio.create_task(log.result())
    await asyncio.sleep(0)
    assert not log.is_ahead
    assert calls == ["caught up"]
    log.extend([RunFinished()])
    assert (await waiting).text == "x"


async def test_released_log_is_never_ahead() -> None:
    log = EventLog(lambda: None)
    log.release()
    log.extend([RunStarted()])
    looking_on = log.batches()
    await anext(looking_on)
    log.extend([TextDelta("x")], size=HIGH_WATER_BYTES + 1)
    assert not log.is_ahead
    await looking_on.aclose()


def test_activity_is_what_the_agent_did_last_until_the_run_ends() -> None:
    log = EventLog(lambda: None)
    asked = Interaction(id="q", tool="Bash", title="Run pytest", choices=("allow", "deny"), created_at=0, expires_at=0)
    steps: tuple[tuple[Event, str], ...] = (
        (RunStarted(), ""),
        (ThinkingDelta("hm"), "thinking"),
        (ToolCall("1", "Bash", {"command": "pytest -q"}), "Bash pytest -q"),
        (InteractionRequested(asked), "Bash pytest -q"),
        (InteractionResolved(asked), "Bash pytest -q"),
        (ToolResult("1", "ok"), ""),
        (TextDelta("done"), "answering"),
        (RunFinished(), ""),
    )
    for event, activity in steps:
        log.extend([event])
        assert log.activity == activity


def test_plan_is_the_latest_one_until_the_run_ends() -> None:
    log = EventLog(lambda: None)
    first, second = PlanStep("read"), PlanStep("read", "completed", "high")
    steps: tuple[tuple[Event, tuple[PlanStep, ...]], ...] = (
        (RunStarted(), ()),
        (plan([first]), (first,)),
        (TextDelta("hm"), (first,)),
        (plan([second]), (second,)),
        (RunFinished(), ()),
    )
    for event, expected in steps:
        log.extend([event])
        assert log.plan == expected
