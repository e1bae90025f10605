"""Warm processes: which process carries a run, what a run leaves in a process, and how failures are handled."""

import asyncio
import gc
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
from clinvk.runtime.run import execution
from clinvk.runtime.run.task import RunTask
from clinvk.types.events import RunFailed, RunFinished, TextDelta, ToolCall
from clinvk.types.record import Resume
from clinvk.types.request import RunRequest
from integration.pool_server import ENV, Server, begun, gone, request, sleeping
from lasting_backend import Lasting
from polling import until


async def test_concurrent_runs_share_a_starting_process(tmp_path: Path) -> None:
    async with Server(Lasting(tmp_path)) as server:
        answers = await asyncio.gather(*(server.ask("pid") for _ in range(5)))
        assert len({result.text for result in answers}) == 1


async def test_runs_beyond_capacity_get_another_process(tmp_path: Path) -> None:
    async with Server(Lasting(tmp_path, capacity=2)) as server, AsyncExitStack() as stack:
        for _ in range(2):
            await begun(await stack.enter_async_context(server.runs.run(request("wait"))))
        assert (await server.ask("say hi")).text == "hi"
        assert server.processes >= 2


async def test_another_command_or_directory_gets_another_process(tmp_path: Path) -> None:
    async with Server(Lasting(tmp_path)) as server:
        answers = [await server.ask("pid"), await server.ask("pid", model="m"), await server.ask("pid", workdir="/")]
        assert len({result.text for result in answers}) == 3


async def test_run_without_warm_start_gets_its_own_process(tmp_path: Path) -> None:
    async with Server(Lasting(tmp_path)) as server:
        for answer in (await server.ask("pid", warm=False), await server.ask("pid", verbose=True)):
            assert answer.started
            assert answer.started.backend_session_id == "h-alone"
        assert server.processes == 0


async def test_settings_can_disable_warm_processes(tmp_path: Path) -> None:
    async with Server(Lasting(tmp_path), WarmSettings(enabled=False)) as server:
        assert server.runs.pool is None
        assert (await server.ask("say hi")).text == "hi"
    async with Server(Lasting(tmp_path), WarmSettings(max_processes=0)) as server:
        assert (await server.ask("say hi")).text == "hi"
        assert server.processes == 0


async def test_shutdown_leaves_no_processes(tmp_path: Path) -> None:
    async with Server(Lasting(tmp_path)) as server:
        pid = int((await server.ask("pid")).text)
        assert psutil.pid_exists(pid)
    assert not psutil.pid_exists(pid)


async def test_follow_up_uses_the_process_that_holds_its_conversation(tmp_path: Path) -> None:
    async with Server(Lasting(tmp_path, capacity=1)) as server:
        first, session = await server.ask_in_session("pid")
        second, _ = await server.ask_in_session("recall", session)
        third, _ = await server.ask_in_session("pid", session)
        assert second.text == "pid"
        assert third.text == first.text


async def test_a_process_that_holds_a_conversation_is_not_ready_for_another(tmp_path: Path) -> None:
    async with Server(Lasting(tmp_path, capacity=1)) as server:
        _, session = await server.ask_in_session("say x")
        await until(lambda: server.pool.stats.ready == 1)
        for _ in range(3):
            await server.ask("pid", session)
            await asyncio.sleep(0.5)
            assert server.pool.stats.ready < server.processes


async def test_conversation_is_hidden_from_other_runs(tmp_path: Path) -> None:
    async with Server(Lasting(tmp_path, capacity=1)) as server:
        await server.ask("say secret")
        assert (await server.ask("recall")).text == ""


async def test_process_of_an_ephemeral_run_exits_with_it(tmp_path: Path) -> None:
    async with Server(Lasting(tmp_path, capacity=1)) as server:
        pid = int((await server.ask("pid", ephemeral=True)).text)
        await until(lambda: not psutil.pid_exists(pid))


async def test_process_is_ready_after_the_first_run(tmp_path: Path) -> None:
    async with Server(Lasting(tmp_path, capacity=1)) as server:
        await server.ask("say x", ephemeral=True)
        assert server.runs.pool
        await until(lambda: server.runs.pool is not None and server.runs.pool.stats.ready == 1)
        await server.ask("say y", ephemeral=True)
        assert server.runs.pool.stats.hits == 1


async def test_follow_up_turns_start_no_more_processes(tmp_path: Path) -> None:
    async with Server(Lasting(tmp_path, capacity=1)) as server:
        _, session = await server.ask_in_session("say x")
        await until(lambda: server.pool.stats.ready == 1)
        before = server.runs.spawner.spawned
        for _ in range(3):
            await server.ask("say y", session)
        await asyncio.sleep(1.5)  # it is looked each second what is wanted
        assert server.runs.spawner.spawned == before


@pytest.mark.slow
async def test_extra_ready_processes_do_not_displace_a_conversation(tmp_path: Path) -> None:
    async with Server(Lasting(tmp_path, capacity=1), WarmSettings(max_processes=4)) as server:
        pid, session = await server.ask_in_session("pid")
        await asyncio.sleep(2.1)  # what was used just now has its place anyway
        for _ in range(2):
            await until(lambda: server.pool.stats.ready >= 1)
            await server.ask("say x")
        await until(lambda: server.processes == 4)
        await asyncio.sleep(1.5)  # it is looked each second what is wanted
        assert (await server.ask("pid", session)).text == pid.text


async def test_log_reports_which_process_failed_and_why(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with Server(Lasting(tmp_path)) as server:
        pid = (await server.ask("pid")).text
        await server.ask("die")
    answers = [record.message for record in caplog.records if "a kept process" in record.message]
    assert len(answers) == 1
    assert f"(pid {pid}) failed, 1 in a row: the agent's process exited with code" in answers[0]


async def test_run_without_output_is_retried_when_its_process_dies(tmp_path: Path) -> None:
    async with Server(Lasting(tmp_path)) as server:
        await server.ask("say x")
        result, session = await server.ask_in_session("die")
        assert result.text == "alone"
        assert isinstance(result.ending, RunFinished)
        assert session
        kept = await server.store.session(session)
        assert (kept.turn_count, kept.backend_session_id) == (1, "h-alone")


async def test_run_with_output_fails_when_its_process_dies(tmp_path: Path) -> None:
    async with Server(Lasting(tmp_path)) as server:
        result = await server.ask("speak_and_die half")
        assert isinstance(result.ending, RunFailed)
        assert result.ending.code == "agent_crashed"
        assert result.text == "half"
        assert (await server.ask("say x")).text == "x"


async def test_dying_process_fails_only_its_own_runs(tmp_path: Path) -> None:
    async with Server(Lasting(tmp_path)) as server, server.runs.run(request("wait", model="other")) as other:
        await begun(other)
        await server.ask("die")
        assert other.state == "running"


async def test_garbage_between_lines_is_ignored(tmp_path: Path) -> None:
    async with Server(Lasting(tmp_path)) as server:
        assert isinstance((await server.ask("garbage")).ending, RunFinished)


async def test_unresponsive_process_is_abandoned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with Server(Lasting(tmp_path)) as server:
        pid = int((await server.ask("pid")).text)
        monkeypatch.setattr(execution, "ANSWER_TIMEOUT_S", 0.5)
        os.kill(pid, signal.SIGSTOP)
        result = await server.ask("say x")
        assert result.text == "x"
        await until(lambda: not psutil.pid_exists(pid))


async def test_runs_of_a_cli_without_protocol_support_have_processes_of_their_own(tmp_path: Path) -> None:
    async with Server(Lasting(tmp_path, mode="mute")) as server:
        assert [(await server.ask("say x")).text for _ in range(3)] == ["x"] * 3


async def test_cancelled_run_leaves_no_tool_and_does_not_affect_other_runs(tmp_path: Path) -> None:
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


async def test_cancelled_run_without_a_tool_leaves_its_process_reusable(tmp_path: Path) -> None:
    async with Server(Lasting(tmp_path)) as server:
        pid = (await server.ask("pid")).text
        async with server.runs.run(request("wait")) as run:
            await begun(run)
        assert (await server.ask("pid")).text == pid


async def test_pool_keeps_at_most_max_processes(tmp_path: Path) -> None:
    async with Server(Lasting(tmp_path), WarmSettings(max_processes=2)) as server:
        for number in range(5):
            await server.ask("say x", model=f"m{number}")
            assert server.processes <= 3  # one may be leaving
        await until(lambda: server.processes <= 2)


async def test_process_over_the_memory_limit_is_evicted(tmp_path: Path) -> None:
    async with Server(Lasting(tmp_path), WarmSettings(max_memory_mb=1)) as server:
        assert (await server.ask("say x")).text == "x"
        await until(lambda: server.processes == 0)


async def test_process_that_dies_at_start_is_not_restarted_repeatedly(tmp_path: Path) -> None:
    async with Server(Lasting(tmp_path, mode="brittle")) as server:
        assert (await server.ask("say x")).text == "x"
        before = server.runs.spawner.spawned
        await asyncio.sleep(0.5)
        assert server.runs.spawner.spawned - before <= 2


async def test_prestart_starts_a_backend_with_the_server(tmp_path: Path) -> None:
    async with Server(Lasting(tmp_path), WarmSettings(prestart=("lasting",))) as server:
        await until(lambda: server.runs.pool is not None and server.runs.pool.stats.ready == 1)


async def test_conversation_continued_elsewhere_does_not_reuse_its_process(tmp_path: Path) -> None:
    async with Server(Lasting(tmp_path, capacity=1)) as server:
        first, session = await server.ask_in_session("pid")
        await server.ask_in_session("say alone", session, warm=False)
        assert (await server.ask("pid", session)).text != first.text


async def ask_as_user(
    server: Server, prompt: str, environ: dict[str, str], session: str | None = None
) -> tuple[str, str | None]:
    """Run a prompt as a command of this machine's user; return the answer and the session."""
    async with server.runs.run_of_user(request(prompt, session), environ, may_wait=True) as run:
        return (await run.log.result()).text, run.session_id


async def test_environments_of_commands_share_no_process_with_others_or_with_http(tmp_path: Path) -> None:
    async with Server(Lasting(tmp_path)) as server:
        of_http = (await server.ask("pid")).text
        of_user, _ = await ask_as_user(server, "pid", ENV)
        with_token, _ = await ask_as_user(server, "pid", {**ENV, "DEPLOY_TOKEN": "hush-0123"})
        assert len({of_http, of_user, with_token}) == 3
        assert (await ask_as_user(server, "pid", {"DEPLOY_TOKEN": "hush-0123", **ENV}))[0] == with_token
        assert (await ask_as_user(server, "pid", ENV))[0] == of_user
        assert (await server.ask("pid")).text == of_http


async def test_commands_of_different_traces_share_a_process(tmp_path: Path) -> None:
    async with Server(Lasting(tmp_path)) as server:
        traces = ({"TRACEPARENT": f"00-{number:032x}-{1:016x}-01", "TRACESTATE": "a=1"} for number in (1, 2))
        first, second = [(await ask_as_user(server, "pid", {**ENV, **trace}))[0] for trace in traces]
        assert first == second


async def test_environment_of_a_command_is_forgotten_with_its_processes(tmp_path: Path) -> None:
    async with Server(Lasting(tmp_path), WarmSettings(idle_secs=1)) as server:
        await ask_as_user(server, "pid", {**ENV, "FORGOTTEN_TOKEN": "hush-0123"})
        await until(lambda: not server.pool.stats.processes)

        def is_forgotten() -> bool:
            gc.collect()
            return not any(type(item) is dict and "FORGOTTEN_TOKEN" in item for item in gc.get_objects())

        await until(is_forgotten)


@pytest.mark.parametrize("http_first", [False, True])
async def test_process_releases_a_conversation_that_continues_in_another_environment(
    tmp_path: Path, http_first: bool
) -> None:
    async with Server(Lasting(tmp_path, capacity=1)) as server:

        async def ask(over_http: bool, session: str | None = None) -> tuple[str, str | None]:
            if not over_http:
                return await ask_as_user(server, "pid", ENV, session)
            result, session = await server.ask_in_session("pid", session)
            return result.text, session

        holder, session = await ask(http_first)
        assert (await ask(not http_first, session))[0] != holder
        await until(lambda: gone(int(holder)))


async def test_conversation_continued_by_another_clinvk_does_not_reuse_its_process(tmp_path: Path) -> None:
    """Not even at once, while the records of both turns have the same time."""
    backend, settings = Lasting(tmp_path, capacity=1), Settings(warm=WarmSettings(kept_backends=("lasting",)))
    async with (
        Server(backend) as server,
        LocalRuns(settings, server.store, ENV, {"lasting": backend}, keeps_warm=True) as others,
    ):
        first, session = await server.ask_in_session("pid")
        async with others.run(request("say x", session)) as run:
            assert (await run.log.result()).text == "x"
        third = await server.ask("pid", session)
        assert third.text != first.text
        assert (await server.ask("pid", session)).text == third.text


class InitialContext(Lasting):
    """A channel that sends the content of a file at the beginning of each conversation."""

    def launch(self, request: RunRequest, resume: Resume | None, host: Host) -> Launch:
        launch = super().launch(request, resume, host)
        assert launch.warm
        files = (f"{self.executable}.told",)
        return replace(launch, warm=replace(launch.warm, conversation_reads=files))


async def test_change_of_initial_context_does_not_end_existing_conversations(tmp_path: Path) -> None:
    backend = InitialContext(tmp_path, capacity=1)
    async with Server(backend) as server:
        first, session = await server.ask_in_session("pid")
        await until(lambda: server.pool.stats.ready == 1)
        Path(f"{backend.executable}.told").write_text("another branch")
        await server.ask("say x")
        assert server.pool.stats.hits == 0
        assert (await server.ask("pid", session)).text == first.text


async def test_time_limit_and_stop_sequence_apply(tmp_path: Path) -> None:
    async with Server(Lasting(tmp_path)) as server:
        result = await server.ask("wait", timeout_s=0.3)
        assert isinstance(result.ending, RunFailed)
        assert result.ending.code == "timed_out"
        cut = await server.ask("say one STOP two", stop=("STOP",))
        assert cut.text == "one "


async def test_slow_reader_does_not_delay_other_runs(tmp_path: Path) -> None:
    async with Server(Lasting(tmp_path)) as server, server.runs.run(request(f"long {6 * 1024 * 1024}")) as slow:
        assert isinstance(slow, RunTask)
        await until(
            lambda: any(isinstance(logged.event, TextDelta) for logged in slow.log.since(0))
        )  # nobody has read it
        assert (await server.ask("say x")).text == "x"
        assert len((await slow.log.result()).text) == 6 * 1024 * 1024
