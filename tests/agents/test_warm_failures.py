"""Warm processes of the real CLIs that are killed, hang, lose their model API or are replaced."""

import asyncio
import json
import re
import signal
import subprocess
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

import httpx
import psutil
import pytest
from msgspec.structs import replace

from acceptance.command import Clinvk
from acceptance.command import until as wait_until
from agents.machine import CODEX_CONFIG, Machine
from clinvk.backends import registry
from clinvk.config.model import WarmSettings
from clinvk.runtime.local import LocalRuns
from clinvk.runtime.pool.reaper import HealthTimeouts
from clinvk.runtime.run import execution
from clinvk.runtime.run.task import RunTask
from clinvk.store.memory import MemoryStore
from clinvk.types.events import Event, RunFailed, RunFinished, TextDelta, ToolResult
from clinvk.types.request import RunRequest
from integration.pool_server import gone
from network import reserved_port
from polling import until, until_told

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


async def one_ready(runs: LocalRuns) -> None:
    await until(lambda: runs.warm_stats is not None and runs.warm_stats.ready, within_s=TIMEOUT_S)


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
async def test_killing_an_idle_process_affects_no_run(machine: Machine, backend: str) -> None:
    async with warm_runs(machine) as runs:
        await text(runs, ask(machine, backend, "a [[words=2]]"))
        await one_ready(runs)
        idle = kept(machine)
        bystander = replace(ask(machine, backend, "b [[words=60 delay=0.05]]"), workdir=elsewhere(machine))
        async with runs.run(bystander) as other:
            await seen(other, TextDelta)
            for process in idle:
                process.kill()
            await until(lambda: all(gone(process.pid) for process in idle))  # a wrapper's CLI answers until it is
            assert await text(runs, ask(machine, backend, "c [[words=2]]")) == "word1 word2"
            assert (await other.log.result()).text.split() == [f"word{number}" for number in range(1, 61)]


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


@ALL_BACKENDS
@pytest.mark.parametrize("warm", [False, True], ids=["alone", "kept"])
async def test_cancel_ends_the_tool_however_long_the_agent_takes(
    machine: Machine, backend: str, warm: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module, grace in ((execution, "STOP_GRACE_S"), (execution, "INTERRUPTED_TIMEOUT_S")):
        monkeypatch.setattr(module, grace, 60.0)
    seconds = 7200 + 10 * BACKENDS.index(backend) + warm
    request = ask(machine, backend, f'x [[tool=shell cmd="sleep {seconds}"]]')
    async with warm_runs(machine) as runs:
        run = await runs.start(replace(request, approval_mode="none", sandbox_mode="full", warm=warm))
        await until(lambda: machine.is_sleeping(seconds), within_s=TIMEOUT_S)
        cancelling = asyncio.create_task(runs.cancel(run.id))
        await until(lambda: not machine.is_sleeping(seconds))
        await cancelling


@ALL_BACKENDS
async def test_background_processes_of_tools_end_with_their_run(machine: Machine, backend: str) -> None:
    """And the conversation goes on. Gemini CLI takes up to two seconds to exit, and has its tools until then."""
    seconds = 7300 + BACKENDS.index(backend)
    left = f"setsid sleep {seconds} >/dev/null 2>&1 & echo begun"
    request = ask(machine, backend, f'x [[tool=shell cmd="{left}" words=2]]')
    async with warm_runs(machine) as runs:
        async with runs.run(replace(request, approval_mode="none", sandbox_mode="full")) as run:
            result = await run.log.result()
            assert isinstance(result.ending, RunFinished)
            assert any(isinstance(event, ToolResult) and "begun" in event.output for event in result.said)
        await until(lambda: not machine.is_sleeping(seconds))
        again = replace(ask(machine, backend, "y [[words=2]]", run.session_id), approval_mode="none")
        assert await text(runs, replace(again, sandbox_mode="full")) == "word1 word2"


class Gate:
    """A proxy for the model API on a reserved port that can be closed."""

    def __init__(self, behind: int, port: int) -> None:
        self._behind = behind
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self.port = port

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._pass, "127.0.0.1", self.port)

    async def shut(self) -> None:
        """Refuse new connections and break the open ones."""
        assert self._server
        self._server.close()
        for writer in [*self._open]:
            writer.close()
        await until(lambda: not self._open)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        onward, back = await asyncio.open_connection("127.0.0.1", self._behind)
        self._open |= {writer, back}
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(_pour(reader, back))
                group.create_task(_pour(onward, writer))
        finally:
            self._open -= {writer, back}


async def _pour(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await source.read(65536):
            sink.write(data)
            await sink.drain()
    sink.close()


@asynccontextmanager
async def gated(machine: Machine) -> AsyncGenerator[Gate]:
    """Put a gate between the CLIs of a machine and the model API."""
    port = int(machine.model_api.root.rpartition(":")[2])
    with reserved_port() as reserved:
        gate = Gate(port, reserved)
        await gate.open()
        url = machine.model_api.url.replace(f":{port}", f":{gate.port}")
        machine.env.update(ANTHROPIC_BASE_URL=url, GOOGLE_GEMINI_BASE_URL=url)
        await asyncio.to_thread((machine.home / ".codex" / "config.toml").write_text, CODEX_CONFIG.format(url=url))
        try:
            yield gate
        finally:
            await gate.shut()


@ALL_BACKENDS
async def test_model_api_outage_fails_its_runs_and_later_runs_succeed(machine: Machine, backend: str) -> None:
    """Codex waits for the network as long as it is let."""
    async with gated(machine) as gate, warm_runs(machine) as runs:
        await text(runs, ask(machine, backend, "a [[words=2]]"))
        await one_ready(runs)
        async with runs.run(replace(ask(machine, backend, "b [[words=600 delay=0.05]]"), timeout_s=20)) as run:
            await seen(run, TextDelta)
            await gate.shut()
            ending = (await run.log.result()).ending
        assert isinstance(ending, RunFailed)
        assert ending.message
        await gate.open()
        assert await text(runs, ask(machine, backend, "c [[words=2]]")) == "word1 word2"


@ALL_BACKENDS
async def test_replaced_cli_is_used_for_new_runs(machine: Machine, backend: str) -> None:
    folder, real = machine.home.parent / "installed", _which(machine, backend)
    folder.mkdir()

    def install(version: str) -> None:
        fresh = folder / "fresh"
        fresh.write_text(f'#!/bin/sh\necho {version} >> "{folder}/started"\nexec "{real}" "$@"\n')
        fresh.chmod(0o755)
        fresh.rename(folder / backend)

    await asyncio.to_thread(install, "old")
    machine.env["PATH"] = f"{folder}:{machine.env['PATH']}"
    async with warm_runs(machine) as runs:
        await text(runs, ask(machine, backend, "a [[words=2]]"))
        await one_ready(runs)
        old = kept(machine)
        async with runs.run(ask(machine, backend, "b [[words=60 delay=0.05]]")) as run:
            await seen(run, TextDelta)
            await asyncio.to_thread(install, "new")
            assert await text(runs, ask(machine, backend, "c [[words=2]]")) == "word1 word2"
            assert "new" in (folder / "started").read_text()
            assert (await run.log.result()).text.split() == [f"word{number}" for number in range(1, 61)]
        await until(lambda: not any(process.is_running() for process in old), within_s=TIMEOUT_S)


def _which(machine: Machine, backend: str) -> str:
    found = (Path(folder) / backend for folder in machine.env["PATH"].split(":"))
    return str(next(path for path in found if path.exists()))


@contextmanager
def served(machine: Machine) -> Generator[tuple["subprocess.Popen[bytes]", httpx.Client]]:
    """Start `clinvk serve`, and wait until it is up."""
    command = [Clinvk.command, "serve", "--port", "0"]
    log = machine.home / "server.log"
    with (
        log.open("w") as file,
        subprocess.Popen(command, cwd=machine.project, env=machine.env, stdout=file, stderr=file) as server,
    ):
        try:
            wait_until(lambda: re.search(r"listens on \S+\n", log.read_text()) is not None, TIMEOUT_S)
            url = re.findall(r"listens on (\S+)", log.read_text())[0]
            with httpx.Client(base_url=url, timeout=TIMEOUT_S) as client:
                yield server, client
        finally:
            server.kill()


@pytest.mark.parametrize("end", ["kill", "stop"])
async def test_stopped_server_leaves_no_processes(machine: Machine, end: str) -> None:
    """Both idle and busy processes."""
    settings = machine.home / ".clinvk"
    settings.mkdir()
    (settings / "config.yaml").write_text("warm:\n  kept_backends: [claude, codex, gemini]\n")

    def serve() -> None:
        with served(machine) as (server, client):
            for backend in BACKENDS:
                answer = client.post("/api/v1/prompt", json=_body(machine, backend, "a [[words=2]]"))
                assert answer.json()["output"] == "word1 word2"
            for backend in BACKENDS:
                body = {**_body(machine, backend, "b [[hang=60]]"), "detach": True}
                assert client.post("/api/v1/prompt", json=body, headers={"prefer": "respond-async"}).is_success
            assert client.get("/health").json()["warm"]["processes"] >= len(BACKENDS)
            server.send_signal(signal.SIGKILL if end == "kill" else signal.SIGTERM)
            server.wait(60)

    await asyncio.to_thread(serve)
    await until(lambda: not machine.leftover_processes())


def _body(machine: Machine, backend: str, prompt: str) -> dict[str, object]:
    return {"backend": backend, "prompt": prompt, "workdir": str(machine.project)}
