"""Orchestrations with real agent processes: nothing is left over, and waiting is cheap."""

import asyncio
import gc
import logging
import os
import random
import time
import tracemalloc
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import psutil
import pytest
from msgspec.structs import replace

from clinvk.config.model import ServerSettings, Settings, complete
from clinvk.dialects.rest import batch_bodies
from clinvk.orchestrate.live import Orchestrations
from clinvk.orchestrate.observers import PartObserver
from clinvk.runtime.local import LocalRuns
from clinvk.runtime.runs import Run
from clinvk.store.memory import MemoryStore
from clinvk.store.protocol import RunQuery
from clinvk.types.errors import InvalidRequest
from clinvk.types.events import Logged
from clinvk.types.orchestration import Chain, Compare, Parallel, Part, PartResult, Plan, Summary
from clinvk.types.record import RunRecord, Session
from clinvk.types.request import RunRequest
from polling import until
from repositories import Repository
from shell_backend import DONE, TEXT, Shell

SETTINGS = Settings(server=ServerSettings(max_concurrent_runs=4))
WAITING_BYTES = 2048


class Locked(MemoryStore):
    """A store in which another program holds the lock when the end of a whole is to be kept."""

    async def end(self, run: RunRecord, session: Session | None, events: Sequence[Logged]) -> None:
        if run.kind != "prompt":
            await asyncio.sleep(3600)
        await super().end(run, session, events)


@asynccontextmanager
async def orchestrations(
    folder: Path, store: MemoryStore, settings: Settings = SETTINGS, within_s: float = 10, **environ: str
) -> AsyncGenerator[Orchestrations]:
    environ = {"PATH": os.environ["PATH"], "HOME": str(folder), **environ}
    async with LocalRuns(settings, store, environ, {"shell": Shell()}) as runs:
        yield Orchestrations(runs, store, runs.spawner, environ, within_s)


async def admit(request: RunRequest) -> RunRequest:
    return complete(request, SETTINGS)


async def admitted(some: Orchestrations, plan: Plan) -> Plan:
    return await some.admit(plan, admit, lambda _: None)


def part(script: str) -> Part:
    return Part(request=RunRequest(prompt=script, backend="shell"))


def alive(word: str) -> list[int]:
    return [process.pid for process in psutil.process_iter(["cmdline"]) if word in (process.info["cmdline"] or [])]


@pytest.mark.slow
@pytest.mark.timeout(180)
async def test_cancel_at_any_moment_leaves_no_process(tmp_path: Path) -> None:
    """The caller leaves, or cancels the whole orchestration, at a different moment each time."""
    store, seconds = MemoryStore(), f"{random.randrange(10**6, 10**7)}"
    script = f"(setsid sleep {seconds} &) ; {TEXT} sleep 0.03\n sleep {seconds} & {DONE}"
    parts = tuple(part(script) for _ in range(20))
    kinds: list[Plan] = [
        Parallel(parts=parts, max_parallel=4),
        Parallel(parts=(*parts, part("exit 1")), max_parallel=3, fail_fast=True),
        Chain(parts=parts),
        Compare(prompt="x", parts=parts, judge=RunRequest(prompt="", backend="shell")),
    ]
    moments = random.Random(5)
    async with orchestrations(tmp_path, store) as some:
        for number in range(50):
            plan = await admitted(some, kinds[number % len(kinds)])
            async with some.start(plan, plan) as one:
                driving = asyncio.create_task(one.drive())
                await asyncio.wait([driving], timeout=moments.uniform(0, 0.25))
                if number % 2:
                    driving.cancel()
                    await asyncio.wait([driving])
                else:
                    await one.stop()
                    summary = await driving
                    assert len(summary.results) == len(plan.parts) or isinstance(plan, Chain)
            await until(lambda: not alive(seconds))
    page = await store.runs(RunQuery(limit=10_000))
    assert not [run for run in page.items if run.state in ("queued", "running")]


async def test_waiting_task_takes_little_memory(tmp_path: Path) -> None:
    count, seconds = 10_000, f"{random.randrange(10**6, 10**7)}"
    prompts = [{"backend": "shell", "prompt": f"sleep {seconds} # {number}"} for number in range(count)]
    body = msgspec.json.encode({"tasks": prompts, "max_parallel": 2})
    async with orchestrations(tmp_path, MemoryStore()) as some:
        tracemalloc.start()
        try:
            before, _ = tracemalloc.get_traced_memory()
            asked = batch_bodies.parallel(msgspec.json.decode(body, type=batch_bodies.ParallelBody))
            plan = await admitted(some, asked)
            async with some.start(plan, asked) as one:
                tasks = len(asyncio.all_tasks())
                driving = asyncio.create_task(one.drive())
                await until(lambda: len(alive(seconds)) == 2)
                gc.collect()
                taken, _ = tracemalloc.get_traced_memory()
                assert len(asyncio.all_tasks()) - tasks < 20
                driving.cancel()
                await asyncio.wait([driving])
        finally:
            tracemalloc.stop()
    assert (taken - before) / count < WAITING_BYTES


async def test_admission_of_many_parts_yields_to_the_event_loop(tmp_path: Path) -> None:
    turns: list[int] = []

    async def slow(request: RunRequest) -> RunRequest:
        until_s = time.monotonic() + 0.006
        while time.monotonic() < until_s:
            pass
        return complete(request, SETTINGS)

    async def other() -> None:
        while True:
            turns.append(1)
            await asyncio.sleep(0)

    async with orchestrations(tmp_path, MemoryStore()) as some:
        turning = asyncio.create_task(other())
        await some.admit(Parallel(parts=tuple(part(TEXT + DONE) for _ in range(20))), slow, lambda _: None)
        turning.cancel()
    assert len(turns) >= 19


async def test_results_are_returned_if_the_outcome_cannot_be_recorded_in_time(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with orchestrations(tmp_path, Locked(), within_s=0.1) as some:
        plan = await admitted(some, Parallel(parts=(part(TEXT + DONE),)))
        async with some.start(plan, plan) as one:
            summary = await one.drive()
        assert some.live(summary.run_id) is None
    assert summary.results[0].result.text == "hello"
    (told,) = [line.getMessage() for line in caplog.records if line.levelno == logging.WARNING]
    assert told == f"run {summary.run_id} is not kept: cleaning up took longer than 0.1 s"


class Stuck(PartObserver):
    """An observer whose client does not read."""

    def __init__(self) -> None:
        self.is_told = asyncio.Event()

    async def event(self, index: int, part: Part, run: Run, batch: Sequence[Logged]) -> None:
        self.is_told.set()
        await asyncio.sleep(3600)

    async def ended(self, result: PartResult) -> None:
        await asyncio.sleep(3600)


async def test_orchestration_with_a_blocked_observer_can_be_cancelled(tmp_path: Path) -> None:
    observer = Stuck()
    async with orchestrations(tmp_path, MemoryStore()) as some:
        plan = await admitted(some, Parallel(parts=(part(TEXT + "sleep 600"),) * 3, max_parallel=2))
        async with some.start(plan, plan) as one, asyncio.timeout(30):
            driving = asyncio.create_task(one.drive(observer))
            await observer.is_told.wait()
            await one.stop()
            summary = await driving
    assert [result.error and result.error.code for result in summary.results] == ["cancelled"] * 3


async def test_stop_ends_the_wait_for_a_run_to_begin(tmp_path: Path) -> None:
    """A server that hangs does not answer."""
    is_waiting = asyncio.Event()

    @asynccontextmanager
    async def hang(_: RunRequest) -> AsyncGenerator[Run]:
        is_waiting.set()
        yield await asyncio.get_running_loop().create_future()

    async with orchestrations(tmp_path, MemoryStore()) as some:
        plan = await admitted(some, Parallel(parts=(part(DONE),) * 2, max_parallel=2))
        async with some.start(plan, plan, some.resources._replace(begin=hang)) as one, asyncio.timeout(10):
            driving = asyncio.create_task(one.drive())
            await is_waiting.wait()
            await one.stop()
            summary = await driving
    assert [result.error and result.error.code for result in summary.results] == ["cancelled"] * 2


@pytest.mark.parametrize(("depth", "most", "runs"), [("", 0, True), ("1", 1, True), ("2", 1, False), ("1", 0, False)])
async def test_nesting_depth_of_agents_is_limited(tmp_path: Path, depth: str, most: int, runs: bool) -> None:
    settings = replace(SETTINGS, unified_flags=replace(SETTINGS.unified_flags, max_depth=most))
    script = """echo '{"type":"text_delta","text":"'$CLINVK_DEPTH'"}'\n""" + DONE
    async with orchestrations(tmp_path, MemoryStore(), settings, CLINVK_DEPTH=depth) as some:
        if not runs:
            with pytest.raises(InvalidRequest, match=rf"{depth} deep \(CLINVK_DEPTH\); unified_flags.max_depth allows"):
                await admitted(some, Parallel(parts=(part(script),)))
            return
        plan = await admitted(some, Parallel(parts=(part(script),)))
        async with some.start(plan, plan) as one:
            summary = await one.drive()
    assert summary.results[0].result.text == str(int(depth or 0) + 1)


@pytest.fixture
def project(tmp_path: Path) -> str:
    repository = Repository(tmp_path / "project", tmp_path)
    repository.commit(**{"inner/kept.txt": "kept\n"})
    return str(repository.path)


def isolated(script: str, workdir: str) -> Part:
    return Part(request=RunRequest(prompt=script, backend="shell", workdir=workdir), isolation="worktree")


async def driven(some: Orchestrations, asked: Plan) -> Summary:
    plan = await admitted(some, asked)
    async with some.start(plan, asked) as one:
        return await one.drive()


async def test_failing_check_of_one_part_leaves_the_checks_of_others(tmp_path: Path, project: str) -> None:
    scripts = (f'rm -rf "$PWD"; {TEXT}{DONE}', f"touch made; {TEXT}{DONE}")
    parts = tuple(isolated(script, project) for script in scripts)
    async with orchestrations(tmp_path, MemoryStore()) as some:
        summary = await driven(some, Compare(prompt="x", parts=parts, check="test -e made"))
    removed, made = summary.results
    assert (removed.error, removed.check) == (None, None)
    assert removed.change
    assert [warning.partition(":")[0] for warning in removed.change.warnings] == [
        "the check could not be run",
        "cannot determine the changes",
    ]
    assert made.check
    assert made.check.passed


async def test_check_that_cannot_start_leaves_the_diff(tmp_path: Path, project: str) -> None:
    parts = (isolated(f"touch made; {TEXT}{DONE}", project),)
    async with orchestrations(tmp_path, MemoryStore()) as some:
        summary = await driven(some, Compare(prompt="x", parts=parts, check="x" * 10**6))
    (result,) = summary.results
    assert result.change
    assert "the check could not be run" in result.change.warnings[0]
    assert [file.path for file in result.change.files] == ["made"]


async def test_worktree_is_examined_after_the_agent_has_exited(tmp_path: Path, project: str) -> None:
    parts = (isolated(f"{TEXT}{DONE}sleep 0.5; touch late", project),)
    async with orchestrations(tmp_path, MemoryStore()) as some:
        summary = await driven(some, Compare(prompt="x", parts=parts, check="test -e late"))
    (result,) = summary.results
    assert result.check
    assert result.check.passed
    assert result.change
    assert [file.path for file in result.change.files] == ["late"]


async def test_step_begins_after_the_previous_agent_has_exited(tmp_path: Path) -> None:
    late = tmp_path / "late"
    told = f"""test -e {late} && {TEXT}{DONE}"""
    async with orchestrations(tmp_path, MemoryStore()) as some:
        summary = await driven(some, Chain(parts=(part(f"{DONE}sleep 0.5; touch {late}"), part(told))))
    assert summary.results[1].result.text == "hello"


async def test_too_many_answers_for_the_judge_are_reported(tmp_path: Path) -> None:
    parts = tuple(part(TEXT + DONE) for _ in range(27))
    async with orchestrations(tmp_path, MemoryStore()) as some:
        plan = Compare(prompt="x", parts=parts, judge=RunRequest(prompt="", backend="shell"))
        summary = await driven(some, plan)
    assert (summary.verdict, summary.completed) == (None, 27)
    assert summary.warnings[-1] == "nothing was judged: 27 answered, and a judge takes 26 answers at most"
