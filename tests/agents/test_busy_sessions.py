"""Prompts to a session whose agent works. The agents are real, the model is a stand-in."""

import asyncio

import pytest
from msgspec.structs import replace

from agents.machine import Machine
from clinvk.runtime.run.task import RunTask
from clinvk.types.choices import OnBusy
from clinvk.types.events import InteractionRequested, TextDelta, ToolCall, UserMessage
from clinvk.types.request import RunRequest

LIMIT_S = 60

each_agent = pytest.mark.parametrize("backend", ["claude", "codex"])
each_way = pytest.mark.parametrize("way", ["alone", "kept"], indirect=True)


async def reported(run: RunTask, kind: type[TextDelta | ToolCall | InteractionRequested]) -> None:
    """Wait until a run has reported an event of a kind."""
    async with asyncio.timeout(LIMIT_S):
        async for logged in run.log.follow():
            if isinstance(logged.event, kind):
                return
    raise AssertionError(f"no {kind.__name__}: {run.log.since(0)}")


def words(machine: Machine, backend: str, count: int) -> RunRequest:
    """Return a request for a number of words, twenty a second."""
    return machine.completed(RunRequest(prompt=f"[[words={count} delay=0.05]]", backend=backend))


@pytest.mark.first(4)
@pytest.mark.parametrize(
    ("backend", "on_busy", "count", "state"),
    [("claude", "queue", 40, "finished"), ("codex", "queue", 40, "finished"), ("claude", "steer", 2000, "cancelled")],
)
@each_way
async def test_prompt_to_a_busy_session_continues_its_conversation(
    machine: Machine, backend: str, on_busy: OnBusy, count: int, state: str
) -> None:
    async with machine.runs() as runs:
        first = await runs.start(words(machine, backend, count))
        await reported(first, TextDelta)
        request = replace(words(machine, backend, 2), session_id=first.session_id, on_busy=on_busy)
        async with asyncio.timeout(LIMIT_S), runs.run(request) as second:
            result = await second.log.result()
        assert (result.text.strip(), result.error) == ("word1 word2", None)
        assert first.state == state
        assert first.log.since(0)[0].event == result.started


@pytest.mark.parametrize("prompt", ["[[words=2000 delay=0.05]]", '[[tool=shell cmd="sleep 3" say=Done.]]'])
@pytest.mark.slow
@each_way
async def test_codex_receives_steering_prompts_within_its_turn(machine: Machine, prompt: str) -> None:
    """The model reads the prompts after the current tool, or at once while it writes; the later prompt decides."""
    first_request = machine.completed(RunRequest(prompt=prompt, backend="codex", approval_mode="none"))
    async with asyncio.timeout(LIMIT_S), machine.runs() as runs:
        run = await runs.start(first_request)
        await reported(run, TextDelta if "words" in prompt else ToolCall)
        steer = replace(first_request, session_id=run.session_id, on_busy="steer")
        prompts = ("first [[words=2000 delay=0.05]]", "second [[words=2]]")  # the first outlasts the second
        for text in prompts:
            steered = await runs.steer(replace(steer, prompt=text))
            assert steered
            assert (steered.run_id, steered.is_steered) == (run.id, True)
        result = await run.log.result()
        noted = [entry.event.text for entry in run.log.since(0) if isinstance(entry.event, UserMessage)]
        assert (result.text.endswith("word1 word2"), result.error) == (True, None)
        assert noted == [*prompts]
        async with runs.run(replace(steer, prompt="[[words=1]]")) as after:
            assert (await after.log.result()).text == "word1"


@each_agent
async def test_steering_prompt_withdraws_what_the_agent_asks(machine: Machine, backend: str) -> None:
    path = machine.project / "asked.txt"
    asks = RunRequest(prompt=f"[[tool=write path={path} content=x say=Done.]]", backend=backend, approval_mode="ask")
    async with machine.runs() as runs:
        first = await runs.start(machine.completed(asks))
        await reported(first, InteractionRequested)
        request = replace(words(machine, backend, 2), session_id=first.session_id, on_busy="steer")
        async with asyncio.timeout(LIMIT_S), runs.run(request) as second:
            assert (await second.log.result()).text.strip() == "word1 word2"
    assert first.state == "cancelled"
    assert not path.exists()
