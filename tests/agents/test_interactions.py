"""Agents ask for approval, and act on the answer. The agents are real, the model is a stand-in."""

import asyncio
import json
import subprocess
import time
from contextlib import ExitStack

import pytest
from msgspec.structs import replace

from acceptance.command import Clinvk, until
from acceptance.terminal import started_on_terminal
from agents.machine import Machine, clinvk, served
from clinvk.config.model import Settings, WarmSettings
from clinvk.runtime.local import LocalRuns
from clinvk.runtime.run.task import RunTask
from clinvk.types.events import Event, InteractionRequested, InteractionResolved, RunFailed, RunFinished
from clinvk.types.interaction import Choice, Interaction, InteractionAnswer
from clinvk.types.request import RunRequest

LIMIT_S = 60
SETTINGS = Settings(warm=WarmSettings(kept_backends=("claude", "codex")))

each_agent = pytest.mark.parametrize("backend", ["claude", "codex", "gemini"])
each_way = pytest.mark.parametrize("way", ["alone", "kept"], indirect=True)


def writes(machine: Machine, backend: str, times: int = 1) -> RunRequest:
    """Return a request whose agent writes the file `asked.txt`."""
    path = machine.project / "asked.txt"
    prompt = f"[[tool=write path={path} content=x calls={times} say=Done.]]"
    return machine.completed(RunRequest(prompt=prompt, backend=backend, approval_mode="ask", warm=True))


async def asked(run: RunTask) -> Interaction:
    """Return the first interaction of a run."""
    async with asyncio.timeout(LIMIT_S):
        async for logged in run.log.follow():
            if isinstance(logged.event, InteractionRequested):
                return logged.event.interaction
    raise AssertionError(f"nothing was asked: {run.log.since(0)}")


async def answered(runs: LocalRuns, run: RunTask, choice: Choice, reason: str = "") -> list[Event]:
    """Answer the interactions of a run, and return all events."""
    events: list[Event] = []
    async with asyncio.timeout(LIMIT_S):
        async for logged in run.log.follow():
            events.append(logged.event)
            if isinstance(logged.event, InteractionRequested):
                assert run.state == "waiting"
                assert runs.busy == 0
                answer = InteractionAnswer(choice=choice, reason=reason)
                await runs.interactions.answer(logged.event.interaction.id, answer)
    return events


def statuses(events: list[Event]) -> list[str]:
    return [event.interaction.status for event in events if isinstance(event, InteractionResolved)]


@each_way
@each_agent
async def test_allowed_write_is_done(machine: Machine, backend: str) -> None:
    async with machine.runs(SETTINGS) as runs, runs.run(writes(machine, backend)) as run:
        events = await answered(runs, run, "allow")
    assert isinstance(events[-1], RunFinished)
    assert statuses(events) == ["answered"]
    assert (machine.project / "asked.txt").read_text().strip() == "x"
    (interaction,) = [event.interaction for event in events if isinstance(event, InteractionRequested)]
    assert interaction.diff
    assert "+x" in interaction.diff


@pytest.mark.parametrize("backend", ["claude", "codex"])  # Gemini CLI refuses the file without asking
async def test_file_outside_of_the_directory_is_named_by_clinvk(machine: Machine, backend: str) -> None:
    """Also a directory below the working directory is outside of another one."""
    (folder := machine.project / "below").mkdir()
    fact = f"clinvk: {machine.project}/asked.txt is outside of the directory {folder}"
    for workdir, facts in ((machine.project, []), (folder, [fact])):
        request = replace(writes(machine, backend), workdir=str(workdir))
        async with machine.runs(SETTINGS) as runs, runs.run(request) as run:
            note = (await asked(run)).note
            assert [line for line in note.split("\n") if line.startswith("clinvk: ")] == facts


@each_way
@each_agent
async def test_denied_write_is_not_done(machine: Machine, backend: str) -> None:
    async with machine.runs(SETTINGS) as runs, runs.run(writes(machine, backend)) as run:
        events = await answered(runs, run, "deny", "not on a Friday")
    assert isinstance(events[-1], RunFinished)
    assert not (machine.project / "asked.txt").exists()
    if backend == "claude":  # the other agents have no place for a reason
        assert "not on a Friday" in json.dumps(machine.requests())


@each_way
@each_agent
async def test_deny_and_stop_cancels_the_run(machine: Machine, backend: str) -> None:
    async with machine.runs(SETTINGS) as runs, runs.run(writes(machine, backend)) as run:
        events = await answered(runs, run, "deny_and_stop")
    assert isinstance(events[-1], RunFailed)
    assert run.state == "cancelled"
    assert not (machine.project / "asked.txt").exists()


@pytest.mark.parametrize(("choice", "times"), [("allow", 2), ("allow_session", 1)])
@each_way
@each_agent
async def test_second_write_is_asked_about_unless_allowed_for_the_session(
    machine: Machine, backend: str, choice: Choice, times: int
) -> None:
    async with machine.runs(SETTINGS) as runs, runs.run(writes(machine, backend, times=2)) as run:
        events = await answered(runs, run, choice)
    assert isinstance(events[-1], RunFinished)
    assert statuses(events) == ["answered"] * times
    assert (machine.project / "asked.txt").exists()


@each_way
@each_agent
async def test_run_that_waits_can_be_cancelled(machine: Machine, backend: str) -> None:
    async with machine.runs(SETTINGS) as runs, runs.run(writes(machine, backend)) as run:
        await asked(run)
        began = time.monotonic()
        runs.stop(run.id)
        async with asyncio.timeout(LIMIT_S):
            events = [logged.event async for logged in run.log.follow()]
        assert time.monotonic() - began < 10
    assert isinstance(events[-1], RunFailed)
    assert statuses(events) == ["withdrawn"]
    assert not (machine.project / "asked.txt").exists()


@pytest.mark.parametrize("sandbox", ["read-only", "workspace"])
@each_agent
async def test_sandboxed_run_asks_nothing(machine: Machine, backend: str, sandbox: str) -> None:
    path = machine.outside / "asked.txt"
    prompt = f"[[tool=write path={path} content=x say=Done.]]"
    request = RunRequest(prompt=prompt, backend=backend, approval_mode="ask", sandbox_mode=sandbox)  # type: ignore[arg-type]
    async with machine.runs(SETTINGS) as runs, runs.run(machine.completed(request)) as run, asyncio.timeout(LIMIT_S):
        events = [logged.event async for logged in run.log.follow()]
    assert not any(isinstance(event, InteractionRequested) for event in events)
    assert not path.exists()


@pytest.mark.parametrize("backend", ["claude", "codex"])
def test_session_can_be_resumed_after_clinvk_was_killed_while_the_run_waited(machine: Machine, backend: str) -> None:
    prompt = writes(machine, backend).prompt
    command = [Clinvk.command, "-b", backend, "--approval-mode", "ask", "--no-stdin", prompt]
    with subprocess.Popen(command, cwd=machine.project, env=machine.env, stdin=subprocess.DEVNULL) as process:
        try:
            until(lambda: '"waiting"' in clinvk(machine, "runs", "list", "--json").stdout, LIMIT_S)
        finally:
            process.kill()
    until(lambda: machine.leftover_processes() == [])
    assert '"interrupted"' in clinvk(machine, "runs", "list", "--json").stdout
    resumed = clinvk(machine, "resume", "--last", "and then? [[words=2]]", "-o", "text", "--no-stdin")
    assert resumed.stdout.strip() == "word1 word2", resumed.stderr
    assert "asked.txt" in json.dumps(machine.requests("and then?")[0])
    assert not (machine.project / "asked.txt").exists()


@pytest.mark.parametrize("way", ["kept"], indirect=True)
@each_agent
async def test_approval_for_a_session_does_not_hold_for_another(machine: Machine, backend: str) -> None:
    request = writes(machine, backend)
    if backend == "gemini":  # Gemini CLI itself keeps what is allowed only for its shell
        request = replace(request, prompt='[[tool=shell cmd="touch asked.txt" say=Done.]]')
    async with machine.runs(SETTINGS) as runs:
        for _ in range(2):
            async with runs.run(request) as run:
                assert statuses(await answered(runs, run, "allow_session")) == ["answered"]


async def test_question_of_claude_is_answered(machine: Machine) -> None:
    question = {"question": "Which colour?", "header": "Colour", "multiSelect": False}
    options = [{"label": "Red", "description": "warm"}, {"label": "Blue", "description": "cold"}]
    call = json.dumps({"questions": [{**question, "options": options}]})
    prompt = f"[[call AskUserQuestion {call}]][[say=Done.]]"
    request = machine.completed(RunRequest(prompt=prompt, backend="claude", approval_mode="ask"))
    async with machine.runs() as runs, runs.run(request) as run:
        interaction = await asked(run)
        answers: dict[str, str | list[str]] = {interaction.fields[0].id: "Blue"}
        await runs.interactions.answer(interaction.id, InteractionAnswer(choice="answer", answers=answers))
        assert isinstance((await run.log.result()).ending, RunFinished)
    assert '\\"Which colour?\\"=\\"Blue\\"' in json.dumps(machine.requests())


@pytest.mark.first(2)
@pytest.mark.parametrize("is_served", [False, True])
@pytest.mark.parametrize(("typed", "is_written"), [(b"y", True), (b"n", False)])
def test_write_is_asked_for_on_a_terminal(machine: Machine, typed: bytes, is_written: bool, is_served: bool) -> None:
    file = machine.project / "asked.txt"
    prompt = f"[[tool=write path={file} content=x say=Done.]]"
    with ExitStack() as stack:
        if is_served:
            stack.enter_context(served(machine))
        arguments = ["-v", prompt]  # on a terminal, the default mode asks
        terminal = stack.enter_context(started_on_terminal(arguments, machine.project, machine.env))
        shown = terminal.until("[?]: ")
        assert ("through the server of this home" in shown) == is_served
        assert f"+++ {file}\r\n" in shown
        assert not file.exists()
        terminal.type(typed)
        if typed == b"n":
            terminal.until("Reason for the agent")
            terminal.type(b"\n")
        assert terminal.ended() == 0
        said = terminal.plain().decode()
        assert "Done." in said
        assert ("changed: asked.txt" in said) == is_written
        assert terminal.present_mode() == terminal.mode
    assert file.exists() == is_written
