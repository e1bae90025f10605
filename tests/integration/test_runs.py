"""Runs: from the queue through an agent to an ending, with nothing left behind."""

import asyncio
import gc
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import psutil
import pytest

from clinvk.config.model import BackendSettings, ServerSettings, Settings, complete
from clinvk.runtime.local import LocalRuns
from clinvk.runtime.pool.pool import Pool
from clinvk.runtime.process import spawn
from clinvk.runtime.run import execution
from clinvk.runtime.run.event_log import SAVE_INTERVAL_S
from clinvk.runtime.run.task import RunTask
from clinvk.store.memory import MemoryStore
from clinvk.store.protocol import RunQuery
from clinvk.types.errors import (
    BackendUnavailable,
    NotResumable,
    QueueFull,
    RunNotFound,
    SessionBusy,
    SessionNotFound,
    ShuttingDown,
    StoreUnavailable,
)
from clinvk.types.events import Event, Logged, Progress, RunFailed, RunFinished, RunStarted, TextDelta, Usage
from clinvk.types.record import RunRecord, Session
from clinvk.types.request import RunRequest
from polling import is_alive, settled, until
from shell_backend import CALL, DONE, RESULT, TEXT, USED, Shell

UNIFIED = {
    "approval_mode": "default",
    "sandbox_mode": "default",
    "max_turns": 0,
    "max_total_tokens": 0,
    "max_cost_usd": 0.0,
    "max_tokens": 0,
}
ENV = {"PATH": os.environ["PATH"], "CLINVK_API_KEYS": "secret", "KEPT": "yes"}


def local_runs(store: MemoryStore | None = None, **server: object) -> LocalRuns:
    settings = Settings(server=ServerSettings(**server))  # pyright: ignore[reportArgumentType]
    registry = {"shell": Shell(), "other": Shell("other")}
    return LocalRuns(settings, store or MemoryStore(), ENV, registry)


def ask(script: str, **fields: object) -> RunRequest:
    return RunRequest(prompt=script, backend="shell", **fields)  # pyright: ignore[reportArgumentType]


async def events(runs: LocalRuns, request: RunRequest) -> list[Event]:
    async with runs.run(request) as run:
        return [logged.event async for logged in run.log.follow()]


async def test_reported_success_overrides_the_exit_code() -> None:
    async with local_runs() as runs, runs.run(ask(TEXT + DONE + "exit 9")) as run:
        result = await run.log.result()
        assert (result.text, result.exit_code, run.state) == ("hello", 0, "finished")


async def test_agent_that_exits_without_a_result_has_crashed() -> None:
    async with local_runs() as runs:
        ending = (await events(runs, ask(TEXT + "echo 'out of luck' >&2; exit 3")))[-1]
        assert ending == RunFailed(
            "agent_crashed", "shell exited with code 3 before it reported a result: out of luck", 3
        )


async def test_private_files_are_readable_only_by_the_agent_and_deleted_afterwards(tmp_path: Path) -> None:
    script = f"""cat $NOTE $1 > {tmp_path}/seen; stat -c %a $NOTE >> {tmp_path}/seen; echo $NOTE > {tmp_path}/path\n"""
    async with local_runs() as runs:
        await events(runs, ask(script + DONE, metadata={"files": True}))
    assert (tmp_path / "seen").read_text() == "privateprivate600\n"
    folder = Path((tmp_path / "path").read_text().strip()).parent
    assert not folder.exists()


@pytest.mark.slow
async def test_leaving_a_finished_run_does_not_wait_for_its_agent_to_exit(tmp_path: Path) -> None:
    async with local_runs() as runs:
        async with runs.run(ask(f"echo $$ > {tmp_path}/pid\n{DONE}exec >&-; sleep 4; true")) as run:
            await run.log.result()
        assert is_alive(int((tmp_path / "pid").read_text()))


async def test_next_turn_waits_for_an_exiting_agent(tmp_path: Path) -> None:
    started = """echo '{"type":"run_started","backend_session_id":"00000000-0000-4000-8000-000000000000"}'\n"""
    async with local_runs() as runs:
        async with runs.run(ask(f"echo $$ > {tmp_path}/pid\n{started}{DONE}exec >&-; sleep 2; true")) as run:
            await run.log.result()
        async with runs.run(ask(started + DONE, session_id=run.session_id)) as again:
            assert not is_alive(int((tmp_path / "pid").read_text()))
            await again.log.result()


@pytest.mark.slow
async def test_cancel_waits_until_the_agent_has_exited(tmp_path: Path) -> None:
    async with local_runs() as runs:
        run = await runs.start(ask(f"trap '' TERM\necho $$ > {tmp_path}/pid\n{TEXT}sleep 300 & wait; sleep 300"))
        await until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
        await runs.cancel(run.id)
        assert not is_alive(int((tmp_path / "pid").read_text()))


@pytest.mark.slow
async def test_events_that_could_not_be_stored_are_stored_with_the_next() -> None:
    store = ForgetfulStore()
    async with local_runs(store) as runs, runs.run(ask(f"{TEXT}sleep 3\n{TEXT}{DONE}")) as run:
        told = [logged async for logged in run.log.follow()]
    assert store.refused
    assert await store.events(run.id) == told


async def test_new_events_of_several_runs_are_stored_together_once(tmp_path: Path) -> None:
    store = CountingStore()
    async with local_runs(store) as runs:
        started = [
            await runs.start(ask(f"while [ ! -e {tmp_path}/go ]; do sleep 0.01; done\n{TEXT}sleep 300"))
            for _ in range(8)
        ]
        (tmp_path / "go").touch()
        await until(lambda: sum(len(runs) for runs in store.appended) >= len(started))
        await asyncio.sleep(2 * SAVE_INTERVAL_S)
        appended = [*store.appended]  # each run is another when it ends
    assert len(appended) < len(started)
    assert sorted(run for runs in appended for run in runs) == sorted(run.id for run in started)


async def test_extra_flags_of_the_settings_are_not_recorded() -> None:
    store = MemoryStore()
    settings = Settings(backends={"shell": BackendSettings(extra_flags=("--api-key=secret",))})
    runs = LocalRuns(settings, store, ENV, {"shell": Shell()})
    async with runs, runs.run(complete(ask(DONE, extra=("--own",)), settings)) as run:
        await run.log.result()
    assert (await store.run(run.id)).request == {"extra": ["--own"], **UNIFIED}


@pytest.mark.slow
async def test_agent_that_does_not_exit_after_its_result_is_ended(tmp_path: Path) -> None:
    async with local_runs() as runs:
        await events(runs, ask(f"echo $$ > {tmp_path}/pid\n{DONE}trap '' TERM; sleep 300 & wait; sleep 300"))
        await until(lambda: not is_alive(int((tmp_path / "pid").read_text())))


async def test_failure_with_an_error_code_ends_the_run_and_stops_the_agent_immediately(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(execution, "LINGER_S", 60.0)  # within which it would be left to exit by itself
    failed = """echo '{"type":"run_failed","code":"agent_unauthenticated","message":"no","exit_code":1}'\n"""
    async with local_runs() as runs:
        assert await events(runs, ask(failed + "exec sleep 300")) == [
            RunFailed("agent_unauthenticated", "no", exit_code=1)
        ]
        await until(lambda: runs.busy == 0)


async def test_no_progress_timeout_ends_a_silent_run() -> None:
    async with local_runs(no_progress_timeout_secs=1) as runs:
        assert (await events(runs, ask(TEXT + "exec sleep 300")))[-1] == RunFailed(
            "timed_out", "the agent made no progress for 1 s"
        )


@pytest.mark.slow
async def test_silence_is_allowed_while_a_tool_runs() -> None:
    async with local_runs(no_progress_timeout_secs=3) as runs:
        assert isinstance((await events(runs, ask(CALL + "sleep 4\n" + RESULT + DONE)))[-1], RunFinished)


async def test_retries_do_not_count_as_progress() -> None:
    retry = """echo '{"type":"progress","stage":"retry","message":"429"}'; sleep 0.2\n"""
    async with local_runs(no_progress_timeout_secs=1) as runs:
        ending = (await events(runs, ask(f"while true; do {retry} done")))[-1]
        assert isinstance(ending, RunFailed)
        assert ending.code == "timed_out"


async def test_turns_are_counted_when_the_cli_has_no_limit() -> None:
    async with local_runs() as runs:
        script = (CALL + RESULT) * 2 + TEXT + "exec sleep 300"
        told = await events(runs, ask(script, max_turns=2))
        assert told[-1] == RunFinished("max_turns", turns=2)
        assert TextDelta("hello") not in told


@pytest.mark.parametrize(
    "script",
    [
        CALL + USED + "exec sleep 300",  # the tool is running
        USED + TEXT + "exec sleep 300",
        CALL + RESULT + USED + CALL + RESULT + "exec sleep 300",
    ],
)
async def test_run_that_continues_beyond_its_tokens_is_stopped(script: str) -> None:
    async with local_runs() as runs:
        ending = (await events(runs, ask(f"{TEXT}{script}", max_total_tokens=10)))[-1]
        assert isinstance(ending, RunFinished)
        assert (ending.stop_reason, ending.usage) == ("max_budget", Usage(8, 2))


async def test_answer_up_to_the_token_limit_is_kept() -> None:
    async with local_runs() as runs:
        request = ask(TEXT + USED + TEXT + "exec sleep 300", max_total_tokens=10)
        async with runs.run(request) as run:
            assert (await run.log.result()).text == "hellohello"


@pytest.mark.parametrize(("script", "limit"), [(TEXT + USED + DONE, 10), (USED + CALL + RESULT + DONE, 11), (DONE, 1)])
async def test_run_that_ends_by_itself_has_no_limit_as_stop_reason(script: str, limit: int) -> None:
    async with local_runs() as runs:
        ending = (await events(runs, ask(script, max_total_tokens=limit)))[-1]
        assert isinstance(ending, RunFinished)
        assert ending.stop_reason == "end_turn"


async def test_stopped_run_reports_the_tokens_so_far() -> None:
    async with local_runs() as runs, runs.run(ask(TEXT + USED + "exec sleep 300")) as run:
        await until(lambda: bool(run.log.since(0)))
        await runs.cancel(run.id)
        assert run.log.ending
        assert run.log.ending.usage == Usage(8, 2)


_COSTS = """echo '{"type":"run_finished","usage":{"input_tokens":5,"output_tokens":2},"cost_usd":0.5}'\n"""
_AT_ONCE = "cat <<E\n" + "".join(line[6:-2] + "\n" for line in (CALL, RESULT, TEXT, _COSTS)) + "E\n"
_WHEN_STOPPED = "tell() {\n" + _COSTS + "exit\n}\ntrap tell TERM\n" + CALL + RESULT + TEXT + "sleep 300 & wait"


@pytest.mark.parametrize("script", [_AT_ONCE, _WHEN_STOPPED])
async def test_run_stopped_at_max_turns_reports_its_cost(script: str) -> None:
    async with local_runs() as runs:
        told = await events(runs, ask(script, max_turns=1))
        assert told[-1] == RunFinished("max_turns", usage=Usage(5, 2), cost_usd=0.5, turns=1)
        assert TextDelta("hello") not in told


@pytest.mark.parametrize("ends_with_clinvk", [True, False])
async def test_agent_may_finish_its_work_after_reporting_a_result(tmp_path: Path, ends_with_clinvk: bool) -> None:
    """The agent may be writing its record of the conversation, which the next turn needs."""
    async with local_runs() as runs, runs.run(ask(f"{DONE}sleep 0.5; echo kept > {tmp_path}/record")) as run:
        await run.log.result()
        if not ends_with_clinvk:
            await runs.cancel(run.id)
            assert (tmp_path / "record").exists()
    assert (tmp_path / "record").exists()


async def test_stderr_before_the_start_does_not_hide_the_start() -> None:
    started = """echo '{"type":"run_started","model":"m"}'\n"""
    async with local_runs() as runs:
        told = await events(runs, ask("echo careful >&2; sleep 0.3\n" + started + DONE, verbose=True))
        assert told[:2] == [RunStarted("m"), Progress("stderr", "careful")]


async def test_stderr_is_reported_for_a_run_that_never_started() -> None:
    async with local_runs() as runs, runs.run(ask("echo no login >&2; exit 3", verbose=True)) as run:
        assert (await run.log.result()).stderr == "no login"


async def test_queued_run_starts_when_a_slot_is_free() -> None:
    async with local_runs(max_concurrent_runs=1) as runs, AsyncExitStack() as stack:
        first = await stack.enter_async_context(runs.run(ask("read -r _ < /dev/null; exec sleep 300")))
        second = await stack.enter_async_context(runs.run(ask(TEXT + DONE)))
        await until(lambda: first.state == "running")
        assert (second.state, runs.busy, runs.queued) == ("queued", 1, 1)
        first_left = asyncio.create_task(_leave(runs, ask(TEXT + DONE)))
        await until(lambda: runs.queued == 2)
        first.stop(RunFailed("cancelled", "enough"))  # type: ignore[attr-defined]
        assert (await second.log.result()).text == "hello"
        assert await first_left == "hello"


async def _leave(runs: LocalRuns, request: RunRequest) -> str:
    async with runs.run(request) as run:
        return (await run.log.result()).text


async def test_agents_start_a_few_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Agents that have printed something only wait for their model, so the next may start."""
    monkeypatch.setattr(spawn, "_MAX_START_S", 60)
    wait = "until [ -e {0} ]; do sleep 0.01; done\n"
    begin, end = tmp_path / "begin", tmp_path / "end"
    script = f"echo x >>{tmp_path}/spawned\n{wait.format(begin)}{TEXT}{wait.format(end)}{DONE}"
    async with local_runs(max_concurrent_runs=20) as runs, AsyncExitStack() as stack:
        runs.spawner.starts = spawn.Starts(1)
        tasks = [await stack.enter_async_context(runs.run(ask(script))) for _ in range(12)]

        def spawned() -> int:
            return len((tmp_path / "spawned").read_text().split()) if (tmp_path / "spawned").exists() else 0

        await until(lambda: spawned() == 4)
        assert (runs.busy, runs.queued) == (12, 0)
        async with runs.run(ask(f"touch {tmp_path}/ran")):
            pass  # a run that waits for its start can be stopped
        assert spawned() == 4
        begin.touch()
        await until(lambda: spawned() == 12)
        end.touch()
        assert [(await task.log.result()).text for task in tasks] == ["hello"] * 12
    assert not (tmp_path / "ran").exists()


async def test_slow_reader_slows_its_agent_down(tmp_path: Path) -> None:
    line = """{"type":"text_delta","text":"'"$x"'"}"""
    each = f"echo '{line}'; i=$((i+1)); echo $i > {tmp_path}/sent"
    script = f"x=$(head -c 60000 /dev/zero | tr '\\0' x)\ni=0\nwhile [ $i -lt 400 ]; do {each}; done\n"
    async with local_runs() as runs, runs.run(ask(script + DONE)) as run:
        await until((tmp_path / "sent").exists)
        assert int(await settled((tmp_path / "sent").read_text)) < 200
        assert len((await run.log.result()).text) == 400 * 60_000


@pytest.mark.slow
async def test_slow_reader_loses_no_output_of_an_exited_agent(tmp_path: Path) -> None:
    big = tmp_path / "big"
    big.write_text('{"type":"tool_result","id":"1","output":"' + "x" * 5_000_000 + '"}\n')
    text = """{"type":"text_delta","text":"tail"}\n"""
    (tmp_path / "tail").write_text(text * 3000)
    script = f"{TEXT}sleep 0.3; cat {big}; sleep 0.3; cat {tmp_path}/tail\n{DONE}"
    async with local_runs(no_progress_timeout_secs=4) as runs, runs.run(ask(script)) as run:
        batches = run.log.batches()
        told = [logged.event for logged in await anext(batches)]
        await asyncio.sleep(7)  # longer than an agent may linger: the reader is what holds it up
        used = time.process_time()
        await asyncio.sleep(0.5)
        assert time.process_time() - used < 0.3
        async for batch in batches:
            told += [logged.event for logged in batch]
        assert told.count(TextDelta("tail")) == 3000
        assert isinstance(told[-1], RunFinished)


async def test_large_tool_calls_slow_the_agent_down_like_text(tmp_path: Path) -> None:
    (tmp_path / "call").write_text(
        '{"type":"tool_call","id":"1","name":"Write","input":{"text":"' + "x" * 500_000 + '"}}\n'
    )
    script = f"i=0\nwhile [ $i -lt 60 ]; do cat {tmp_path}/call; i=$((i+1)); echo $i > {tmp_path}/sent; done\n"
    async with local_runs() as runs, runs.run(ask(script + DONE)) as run:
        await until((tmp_path / "sent").exists)
        assert int(await settled((tmp_path / "sent").read_text)) < 40
        await run.log.result()


async def test_faulty_store_ends_no_run() -> None:
    async with local_runs(FaultyStore()) as runs, runs.run(ask("sleep 1\n" + TEXT + DONE)) as healthy:
        async with runs.run(ask(TEXT + DONE)) as run:
            assert (await run.log.result()).text == "hello"
        assert (await healthy.log.result()).text == "hello"


@pytest.mark.parametrize("before", ["", TEXT + "sleep 0.3\n"])
async def test_faulty_decoder_ends_only_its_own_run(before: str, tmp_path: Path) -> None:
    async with local_runs() as runs, runs.run(ask("sleep 1\n" + TEXT + DONE)) as healthy:
        script = f"echo $$ > {tmp_path}/pid\n{before}echo broken\nexec sleep 60"
        ending = (await events(runs, ask(script)))[-1]
        assert isinstance(ending, RunFailed)
        assert "clinvk itself failed" in ending.message
        await until(lambda: not is_alive(int((tmp_path / "pid").read_text())))
        assert (await healthy.log.result()).text == "hello"


async def test_slot_is_free_before_the_end_of_its_run_is_stored() -> None:
    store = HeldStore("end")
    async with local_runs(store, max_concurrent_runs=1) as runs, runs.run(ask(TEXT + DONE)) as first:
        await store.asked.wait()
        async with runs.run(ask(TEXT + DONE)) as second:
            await second.left_queue()
            assert (first.state, runs.busy) == ("running", 1)
            store.may_answer.set()
            assert (await second.log.result()).text == (await first.log.result()).text == "hello"


async def test_nothing_starts_once_close_has_begun(tmp_path: Path) -> None:
    store = HeldStore("begin")
    runs = local_runs(store)
    async with runs:
        begun = asyncio.create_task(_leave(runs, ask(f"touch {tmp_path}/ran\n{DONE}")))
        await store.asked.wait()
    store.may_answer.set()
    with pytest.raises(ShuttingDown):
        await begun
    assert not (tmp_path / "ran").exists()


async def test_relative_executable_is_not_replaced_by_one_of_the_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder, word in (("ours", "ours"), ("project", "theirs")):
        (tmp_path / folder / "bin").mkdir(parents=True)
        program = tmp_path / folder / "bin" / "x"
        program.write_text(f"""#!/bin/sh\necho '{{"type":"text_delta","text":"{word}"}}'\n{DONE}""")
        program.chmod(0o755)
    monkeypatch.chdir(tmp_path / "ours")
    settings = Settings(backends={"shell": BackendSettings(executable="bin/x")})
    runs = LocalRuns(settings, MemoryStore(), ENV, {"shell": Shell()})
    async with runs, runs.run(ask("", workdir=str(tmp_path / "project"))) as run:
        assert (await run.log.result()).text == "ours"


async def test_end_of_a_run_is_stored_before_its_reader_sees_it() -> None:
    store = MemoryStore()
    async with local_runs(store) as runs, runs.run(ask(TEXT + DONE)) as run:
        await run.log.result()
        assert (await store.run(run.id)).state == "finished"


async def test_session_with_a_running_first_turn_is_busy() -> None:
    async with local_runs() as runs, runs.run(ask("exec sleep 300")) as run:
        await until(lambda: run.state == "running")
        with pytest.raises(SessionBusy):
            async with runs.run(ask(DONE, session_id=run.session_id)):
                pass


async def test_session_without_a_backend_session_id_cannot_be_resumed() -> None:
    async with local_runs() as runs:
        async with runs.run(ask(DONE)) as run:
            await run.log.result()
        with pytest.raises(NotResumable):
            async with runs.run(ask(DONE, session_id=run.session_id)):
                pass


async def test_store_failure_midway_does_not_lose_the_answer() -> None:
    async with local_runs(FullStore()) as runs, runs.run(ask(TEXT + DONE)) as run:
        assert (await run.log.result()).text == "hello"


async def test_run_that_cannot_be_stored_is_refused(tmp_path: Path) -> None:
    async with local_runs(FullStore(from_the_start=True)) as runs:
        with pytest.raises(StoreUnavailable):
            async with runs.run(ask(f"touch {tmp_path}/ran")):
                pass
        assert runs.busy == 0
    assert not (tmp_path / "ran").exists()


class FullStore(MemoryStore):
    """A store whose disk is full, from the start or once a run has begun."""

    def __init__(self, from_the_start: bool = False) -> None:
        super().__init__()
        self._from_the_start = from_the_start

    async def begin(self, run: RunRecord, session: Session | None, must_exist: bool = False) -> Session | None:
        if self._from_the_start:
            raise StoreUnavailable("the disk is full")
        return await super().begin(run, session, must_exist)

    async def end(self, run: RunRecord, session: Session | None, events: Sequence[Logged]) -> None:
        raise StoreUnavailable("the disk is full")


class FaultyStore(MemoryStore):
    """A store with a bug."""

    async def update(self, run: RunRecord, session: Session | None) -> None:
        raise RuntimeError("a bug")

    async def append(self, events: Mapping[str, Sequence[Logged]]) -> None:
        raise RunNotFound("the file was moved away")

    async def end(self, run: RunRecord, session: Session | None, events: Sequence[Logged]) -> None:
        raise RuntimeError("a bug")


class ForgetfulStore(MemoryStore):
    """A store that is locked when it is asked to keep events for the first time."""

    refused = False

    async def append(self, events: Mapping[str, Sequence[Logged]]) -> None:
        if not self.refused:
            self.refused = True
            raise StoreUnavailable("the database is locked")
        await super().append(events)


class CountingStore(MemoryStore):
    """A store that notes the runs of each `append`."""

    def __init__(self) -> None:
        super().__init__()
        self.appended: list[list[str]] = []

    async def append(self, events: Mapping[str, Sequence[Logged]]) -> None:
        self.appended.append([*events])
        await super().append(events)


class HeldStore(MemoryStore):
    """A store that continues on command: before the `begin` or the `end` of a run, or once the run has `ended`."""

    def __init__(self, held: str) -> None:
        super().__init__()
        self._held = held
        self.asked = asyncio.Event()
        self.may_answer = asyncio.Event()

    async def begin(self, run: RunRecord, session: Session | None, must_exist: bool = False) -> Session | None:
        await self._hold("begin")
        return await super().begin(run, session, must_exist)

    async def end(self, run: RunRecord, session: Session | None, events: Sequence[Logged]) -> None:
        await self._hold("end")
        await super().end(run, session, events)
        await self._hold("ended")

    async def _hold(self, at: str) -> None:
        if at == self._held:
            self.asked.set()
            await self.may_answer.wait()


async def test_invalid_request_is_refused_before_anything_starts() -> None:
    async with local_runs() as runs:
        for request, error in (
            (RunRequest(prompt="x", backend="shel"), BackendUnavailable),
            (ask("x", session_id="0" * 32), SessionNotFound),
        ):
            with pytest.raises(error):
                async with runs.run(request):
                    pass
            with pytest.raises(error):
                await runs.plan(request)


async def test_missing_workdir_fails_the_run_and_is_named(tmp_path: Path) -> None:
    async with local_runs() as runs:
        told = await events(runs, ask(DONE, workdir=str(tmp_path / "gone")))
        assert len(told) == 1
        assert isinstance(told[0], RunFailed)
        assert (told[0].code, "gone" in told[0].message) == ("invalid_request", True)


@pytest.mark.slow
async def test_timed_out_run_reports_only_the_last_line_of_stderr() -> None:
    """The channel ignores noise: here an empty last line, and spaces around the text."""
    async with local_runs() as runs:
        script = "printf 'early\\n  late  \\n\\n' >&2; exec sleep 300"
        ending = (await events(runs, ask(script, timeout_s=3)))[-1]
        assert ending == RunFailed("timed_out", "timed out after 3 s; its last words on stderr: late")


async def test_run_killed_before_its_first_step_releases_its_slot() -> None:
    async with local_runs() as runs:
        run = await runs.start(ask(DONE))
        run.task.cancel()
        await until(lambda: runs.busy == 0)


async def test_next_turn_waits_while_the_end_of_the_previous_is_stored(tmp_path: Path) -> None:
    """The store releases the session before the previous run knows that its end is stored."""
    started = """echo '{"type":"run_started","backend_session_id":"00000000-0000-4000-8000-000000000000"}'\n"""
    store = HeldStore("ended")
    async with local_runs(store) as runs:
        script = f"echo $$ > {tmp_path}/pid\n{started}{DONE}exec >&-; sleep 2; true"
        async with runs.run(ask(script)) as run:
            await store.asked.wait()
            assert run.session_id
            script = f"kill -0 $(cat {tmp_path}/pid) && exit\n{started}{TEXT}{DONE}"
            going_on = asyncio.create_task(_leave(runs, ask(script, session_id=run.session_id)))
            await asyncio.wait([going_on], timeout=0.5)
            store.may_answer.set()
            assert await going_on == "hello"


async def test_start_that_fails_closes_what_was_opened(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    async def fail(_: Pool) -> None:
        raise OSError("no pool")

    monkeypatch.setattr(Pool, "__aenter__", fail)
    runs = LocalRuns(Settings(), MemoryStore(), ENV, {"shell": Shell()}, keeps_warm=True, home=tmp_path)
    tasks, children = asyncio.all_tasks(), psutil.Process().children()
    with pytest.raises(OSError, match="no pool"):
        await runs.__aenter__()
    assert asyncio.all_tasks() == tasks
    await until(lambda: psutil.Process().children() == children)


async def test_faulty_watch_cancels_its_run_and_leaks_no_slot() -> None:
    def faulty(_: RunTask) -> Callable[[], None]:
        raise RuntimeError("a bug")

    store = MemoryStore()
    async with LocalRuns(Settings(), store, ENV, {"shell": Shell()}, observers=[faulty]) as runs:
        with pytest.raises(RuntimeError, match="a bug"):
            await runs.start(ask(DONE))
        assert runs.busy == 0
    assert [run.state for run in (await store.runs(RunQuery())).items] == ["cancelled"]


async def test_refused_request_is_freed_without_garbage_collection() -> None:
    """Otherwise refused requests of megabytes would fill the memory until the next collection."""
    request = ask(DONE, metadata={"some": "thing"})
    async with local_runs(max_concurrent_runs=1, max_queued_runs=0) as runs, runs.run(ask("exec sleep 300")):
        gc.collect()
        gc.disable()
        try:
            with pytest.raises(QueueFull):
                async with runs.run(request):
                    pass
            assert not [kept for kept in gc.get_objects() if isinstance(kept, RunTask) and kept.request == request]
        finally:
            gc.enable()
