"""Kept processes: which carries a run, what a run leaves in them, and what becomes of them when they fail."""

import asyncio
import os
import signal
from contextlib import AsyncExitStack
from pathlib import Path

import psutil
import pytest
from msgspec.structs import replace

from clinvk.backends.base import Host, Launch
from clinvk.config.model import Settings, WarmSettings
from clinvk.runtime.local import LocalRuns
from clinvk.runtime.run.task import RunTask
from clinvk.types.events import RunFailed, RunFinished, TextDelta, ToolCall
from clinvk.types.request import RunRequest
from clinvk.types.session import Resume
from integration.pool_server import ENV, Server, begun, request, sleeping
from lasting_backend import Lasting
from polling import until


async def test_runs_of_one_kind_share_a_process(tmp_path: Path) -> None:
    async with Server(Lasting(tmp_path)) as server:
        told = [(await server.ask("pid")).text for _ in range(3)]
        assert len(set(told)) == 1
        assert (server.processes, server.misses) == (1, 1)


async def test_runs_that_come_at_once_share_the_one_that_is_just_starting(tmp_path: Path) -> None:
    async with Server(Lasting(tmp_path)) as server:
        told = await asyncio.gather(*(server.ask("pid") for _ in range(5)))
        assert len({result.text for result in told}) == 1


async def test_more_runs_than_a_process_takes_get_another(tmp_path: Path) -> None:
    async with Server(Lasting(tmp_path, capacity=2)) as server, AsyncExitStack() as stack:
        for _ in range(2):
            await begun(await stack.enter_async_context(server.runs.run(request("wait"))))
        assert (await server.ask("say hi")).text == "hi"
        assert server.processes >= 2


async def test_another_command_or_directory_is_another_process(tmp_path: Path) -> None:
    async with Server(Lasting(tmp_path)) as server:
        told = [await server.ask("pid"), await server.ask("pid", model="m"), await server.ask("pid", workdir="/")]
        assert len({result.text for result in told}) == 3


async def test_a_run_that_wants_none_gets_a_process_of_its_own(tmp_path: Path) -> None:
    async with Server(Lasting(tmp_path)) as server:
        for told in (await server.ask("pid", warm=False), await server.ask("pid", verbose=True)):
            assert told.started
            assert told.started.backend_session_id == "h-alone"
        assert server.processes == 0


async def test_none_is_kept_where_the_settings_say_so(tmp_path: Path) -> None:
    async with Server(Lasting(tmp_path), WarmSettings(enabled=False)) as server:
        assert server.runs.pool is None
        assert (await server.ask("say hi")).text == "hi"
    async with Server(Lasting(tmp_path), WarmSettings(max_processes=0)) as server:
        assert (await server.ask("say hi")).text == "hi"
        assert server.processes == 0


async def test_nothing_is_left_after_the_end(tmp_path: Path) -> None:
    async with Server(Lasting(tmp_path)) as server:
        pid = int((await server.ask("pid")).text)
        assert psutil.pid_exists(pid)
    assert not psutil.pid_exists(pid)


async def test_a_follow_up_goes_to_the_process_that_holds_the_conversation(tmp_path: Path) -> None:
    async with Server(Lasting(tmp_path, capacity=1)) as server:
        first, session = await server.asked("pid")
        second, _ = await server.asked("recall", session)
        third, _ = await server.asked("pid", session)
        assert second.text == "pid"
        assert third.text == first.text


async def test_a_process_that_holds_a_conversation_is_not_ready_for_another(tmp_path: Path) -> None:
    async with Server(Lasting(tmp_path, capacity=1)) as server:
        _, session = await server.asked("say x")
        await until(lambda: server.pool.standing.ready == 1)
        for _ in range(3):
            await server.ask("pid", session)
            await asyncio.sleep(0.5)
            assert server.pool.standing.ready < server.processes


async def test_a_conversation_is_not_seen_by_others(tmp_path: Path) -> None:
    async with Server(Lasting(tmp_path, capacity=1)) as server:
        await server.ask("say secret")
        assert (await server.ask("recall")).text == ""


async def test_a_process_of_one_ephemeral_run_is_gone_with_it(tmp_path: Path) -> None:
    async with Server(Lasting(tmp_path, capacity=1)) as server:
        pid = int((await server.ask("pid", ephemeral=True)).text)
        await until(lambda: not psutil.pid_exists(pid))


async def test_after_its_first_use_one_is_ready(tmp_path: Path) -> None:
    async with Server(Lasting(tmp_path, capacity=1)) as server:
        await server.ask("say x", ephemeral=True)
        assert server.runs.pool
        await until(lambda: server.runs.pool is not None and server.runs.pool.standing.ready == 1)
        await server.ask("say y", ephemeral=True)
        assert server.runs.pool.standing.hits == 1


async def test_the_next_turns_of_a_conversation_have_no_more_be_ready(tmp_path: Path) -> None:
    async with Server(Lasting(tmp_path, capacity=1)) as server:
        _, session = await server.asked("say x")
        await until(lambda: server.pool.standing.ready == 1)
        before = server.runs.spawner.spawned
        for _ in range(3):
            await server.ask("say y", session)
        await asyncio.sleep(1.5)  # it is looked each second what is wanted
        assert server.runs.spawner.spawned == before


async def test_more_than_one_that_is_ready_takes_no_place_of_a_conversation(tmp_path: Path) -> None:
    async with Server(Lasting(tmp_path, capacity=1), WarmSettings(max_processes=4)) as server:
        pid, session = await server.asked("pid")
        await asyncio.sleep(2.1)  # what was used just now has its place anyway
        for _ in range(2):
            await until(lambda: server.pool.standing.ready >= 1)
            await server.ask("say x")
        await until(lambda: server.processes == 4)
        await asyncio.sleep(1.5)  # it is looked each second what is wanted
        assert (await server.ask("pid", session)).text == pid.text


async def test_the_log_says_which_process_has_failed_and_why(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with Server(Lasting(tmp_path)) as server:
        pid = (await server.ask("pid")).text
        await server.ask("die")
    told = [record.message for record in caplog.records if "a kept process" in record.message]
    assert len(told) == 1
    assert f"(pid {pid}) failed, 1 in a row: the agent's process exited with code" in told[0]


async def test_a_run_that_had_told_nothing_when_its_process_died_begins_anew(tmp_path: Path) -> None:
    async with Server(Lasting(tmp_path)) as server:
        await server.ask("say x")
        result, session = await server.asked("die")
        assert result.text == "alone"
        assert isinstance(result.ending, RunFinished)
        assert session
        kept = await server.store.session(session)
        assert (kept.turn_count, kept.backend_session_id) == (1, "h-alone")


async def test_a_run_that_had_told_something_when_its_process_died_fails(tmp_path: Path) -> None:
    async with Server(Lasting(tmp_path)) as server:
        result = await server.ask("speak_and_die half")
        assert isinstance(result.ending, RunFailed)
        assert result.ending.code == "agent_crashed"
        assert result.text == "half"
        assert (await server.ask("say x")).text == "x"


async def test_a_process_that_is_killed_while_it_is_idle_is_replaced(tmp_path: Path) -> None:
    async with Server(Lasting(tmp_path)) as server:
        pid = int((await server.ask("pid")).text)
        os.kill(pid, signal.SIGKILL)
        told = await server.ask("pid")
        assert told.text.isdigit()
        assert int(told.text) != pid


async def test_one_that_dies_fails_its_own_runs_alone(tmp_path: Path) -> None:
    async with Server(Lasting(tmp_path)) as server, server.runs.run(request("wait", model="other")) as other:
        await begun(other)
        await server.ask("die")
        assert other.state == "running"


async def test_garbage_between_lines_is_nobodys(tmp_path: Path) -> None:
    async with Server(Lasting(tmp_path)) as server:
        assert isinstance((await server.ask("garbage")).ending, RunFinished)


async def test_a_process_that_does_not_answer_is_given_up(tmp_path: Path) -> None:
    async with Server(Lasting(tmp_path)) as server:
        pid = int((await server.ask("pid")).text)
        server.runs.fallbacks.answer_within_s = 0.5
        os.kill(pid, signal.SIGSTOP)
        result = await server.ask("say x")
        assert result.text == "x"
        await until(lambda: not psutil.pid_exists(pid))


async def test_a_cli_that_does_not_speak_it_is_noticed_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with Server(Lasting(tmp_path, mode="mute")) as server:
        assert [(await server.ask("say x")).text for _ in range(3)] == ["x"] * 3
    assert sum("does not speak" in record.message for record in caplog.records) == 1


async def test_a_cancelled_run_leaves_no_tool_and_harms_nobody(tmp_path: Path) -> None:
    async with Server(Lasting(tmp_path)) as server, server.runs.run(request("tool")) as other:
        await begun(other, ToolCall)
        async with server.runs.run(request("tool")) as run:
            await begun(run, ToolCall)
            await until(lambda: sleeping(run.id))
            await server.runs.cancel(run.id)
        assert not sleeping(run.id)
        await until(lambda: sleeping(other.id))  # it is not at once what it is to become
        assert other.state == "running"
        await server.runs.cancel(other.id)
        assert not sleeping(other.id)


async def test_a_process_with_an_interrupted_tool_takes_no_more_runs(tmp_path: Path) -> None:
    async with Server(Lasting(tmp_path)) as server, server.runs.run(request("wait")) as other:
        await begun(other)
        pid = (await server.ask("pid")).text
        async with server.runs.run(request("tool")) as run:
            await begun(run, ToolCall)
        assert (await server.ask("pid")).text != pid
        assert other.state == "running"


async def test_a_cancelled_run_without_a_tool_leaves_the_process_to_others(tmp_path: Path) -> None:
    async with Server(Lasting(tmp_path)) as server:
        pid = (await server.ask("pid")).text
        async with server.runs.run(request("wait")) as run:
            await begun(run)
        assert (await server.ask("pid")).text == pid


async def test_no_more_are_kept_than_the_settings_allow(tmp_path: Path) -> None:
    async with Server(Lasting(tmp_path), WarmSettings(max_processes=2)) as server:
        for number in range(5):
            await server.ask("say x", model=f"m{number}")
            assert server.processes <= 3  # one may be leaving
        await until(lambda: server.processes <= 2)


async def test_what_takes_too_much_memory_goes(tmp_path: Path) -> None:
    async with Server(Lasting(tmp_path), WarmSettings(max_memory_mb=1)) as server:
        assert (await server.ask("say x")).text == "x"
        await until(lambda: server.processes == 0)


async def test_what_is_idle_for_long_goes(tmp_path: Path) -> None:
    async with Server(Lasting(tmp_path), WarmSettings(idle_secs=1)) as server:
        await server.ask("say x")
        await until(lambda: server.processes == 0)


async def test_what_dies_at_its_start_is_not_started_again_and_again(tmp_path: Path) -> None:
    async with Server(Lasting(tmp_path, mode="brittle")) as server:
        assert (await server.ask("say x")).text == "x"
        before = server.runs.spawner.spawned
        await asyncio.sleep(0.5)
        assert server.runs.spawner.spawned - before <= 2


async def test_a_backend_is_started_with_the_server_where_the_settings_say_so(tmp_path: Path) -> None:
    async with Server(Lasting(tmp_path), WarmSettings(prestart=("lasting",))) as server:
        await until(lambda: server.runs.pool is not None and server.runs.pool.standing.ready == 1)


async def test_a_conversation_that_went_on_elsewhere_is_not_taken_up_where_it_was(tmp_path: Path) -> None:
    async with Server(Lasting(tmp_path, capacity=1)) as server:
        first, session = await server.asked("pid")
        await server.asked("say alone", session, warm=False)
        assert (await server.ask("pid", session)).text != first.text


async def test_a_conversation_that_another_clinvk_went_on_with_is_not_taken_up_where_it_was(tmp_path: Path) -> None:
    """Not even at once, when what both have written down cannot be told apart yet."""
    backend, settings = Lasting(tmp_path, capacity=1), Settings(warm=WarmSettings(kept_backends=("lasting",)))
    async with (
        Server(backend) as server,
        LocalRuns(settings, server.store, ENV, {"lasting": backend}, keeps_warm=True) as others,
    ):
        first, session = await server.asked("pid")
        async with others.run(request("say x", session)) as run:
            assert (await run.result()).text == "x"
        third = await server.ask("pid", session)
        assert third.text != first.text
        assert (await server.ask("pid", session)).text == third.text


class Telling(Lasting):
    """It tells each conversation at its beginning what is in a file."""

    def launch(self, request: RunRequest, resume: Resume | None, host: Host) -> Launch:
        launch = super().launch(request, resume, host)
        assert launch.warm
        told = (f"{self.executable}.told",)
        return replace(launch, warm=replace(launch.warm, begins_with=told))


async def test_what_only_a_beginning_is_told_ends_no_conversation_when_it_changes(tmp_path: Path) -> None:
    backend = Telling(tmp_path, capacity=1)
    async with Server(backend) as server:
        first, session = await server.asked("pid")
        await until(lambda: server.pool.standing.ready == 1)
        Path(f"{backend.executable}.told").write_text("another branch")
        await server.ask("say x")
        assert server.pool.standing.hits == 0
        assert (await server.ask("pid", session)).text == first.text


async def test_limits_of_the_run_hold(tmp_path: Path) -> None:
    async with Server(Lasting(tmp_path)) as server:
        result = await server.ask("wait", timeout_s=0.3)
        assert isinstance(result.ending, RunFailed)
        assert result.ending.code == "timed_out"
        cut = await server.ask("say one STOP two", stop=("STOP",))
        assert cut.text == "one "


async def test_a_slow_reader_holds_up_nobody(tmp_path: Path) -> None:
    async with Server(Lasting(tmp_path)) as server, server.runs.run(request(f"long {6 * 1024 * 1024}")) as slow:
        assert isinstance(slow, RunTask)
        await until(lambda: any(isinstance(logged.event, TextDelta) for logged in slow.entries))  # nobody has read it
        assert (await server.ask("say x")).text == "x"
        assert len((await slow.result()).text) == 6 * 1024 * 1024
