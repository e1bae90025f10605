"""Runs of warm processes that cannot start, or do not speak their protocol, use dedicated processes."""

import asyncio
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import psutil
import pytest

from clinvk.backends.base import Channel, Delivery, Host, Launch, ProtocolNotSupported
from clinvk.config.model import BackendSettings, Settings, WarmSettings
from clinvk.runtime.local import LocalRuns
from clinvk.runtime.process import spawn
from clinvk.runtime.run import execution
from clinvk.store.memory import MemoryStore
from clinvk.types.events import RunFailed
from clinvk.types.record import Resume
from clinvk.types.request import RunRequest
from integration.pool_server import ENV, Server, request
from lasting_backend import AGENT, Lasting, LastingChannel
from polling import until

WELCOME = """#!{python} -IS
import sys, time
if sys.argv[1] == "welcome":
    with open(sys.argv[0] + ".starts", "a") as file: file.write(".")
    print("welcome", flush=True); time.sleep(600)
if sys.argv[1] == "sullen":
    for line in sys.stdin:
        if '"stop"' in line: print("welcome", flush=True)
"""


class Welcoming(Lasting):
    """A backend whose warm process prints one word, and then nothing."""

    def __init__(self, folder: Path, capacity: int = 8, mode: str = "welcome") -> None:
        self.capacity = capacity
        super().__init__(folder, capacity, mode)
        Path(self.executable).write_text((WELCOME + AGENT.partition("\n")[2]).replace("{python}", sys.executable))

    @property
    def starts(self) -> int:
        """Return how often a warm process was started."""
        return len(Path(f"{self.executable}.starts").read_text())


class Strict(Welcoming):
    """A backend that treats the word as a sign of a missing protocol."""

    def channel(self, launch: Launch, host: Host) -> Channel:
        return StrictChannel(self.capacity, tells_tools=True) if launch.long_lived else super().channel(launch, host)


class StrictChannel(LastingChannel):
    """The channel of one process."""

    def receive(self, line: bytes) -> Iterable[Delivery]:
        if not line.startswith(b"{"):
            raise ProtocolNotSupported(f"it printed {line!r}")
        return super().receive(line)


async def test_program_that_prints_a_word_and_never_answers_is_abandoned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(execution, "START_TIMEOUT_S", 0.5)
    async with Server(Welcoming(tmp_path)) as server:
        assert (await server.ask("say x")).text == "x"
        assert server.runs.warm_stats
        assert server.runs.warm_stats.one_shot == ("lasting",)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"model": "another"}, {"warm": False}])
async def test_only_a_run_that_starts_a_process_waits_for_other_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    monkeypatch.setattr(spawn, "_MAX_START_S", 60)
    async with Server(Lasting(tmp_path)) as server:
        first, session = await server.ask_in_session("pid")
        server.runs.spawner.starts = busy = spawn.Starts(1)
        starting = [busy.begin(lambda: None) for _ in range(4)]
        async with server.runs.run(request("pid", **options)) as waiting, asyncio.timeout(20):
            for _ in range(2):
                assert (await server.ask("pid", session)).text == first.text
                assert (await server.ask("pid")).text == first.text
            assert (waiting.log.count, server.processes) == (0, 1)
            busy.end(starting[0])
            assert (await waiting.log.result()).text != first.text
        for start in starting:
            busy.end(start)


@pytest.mark.parametrize("capacity", [1, 8])
async def test_program_without_protocol_support_is_not_started_again(tmp_path: Path, capacity: int) -> None:
    backend = Strict(tmp_path, capacity)
    async with Server(backend) as server:
        assert (await server.ask("say x")).text == "x"
        await until(lambda: server.processes == 0)
        before = backend.starts
        await asyncio.sleep(3.5)  # it is looked each second whether one is wanted
        assert backend.starts == before


async def test_cancelled_run_stays_cancelled_when_its_process_lacks_protocol_support(tmp_path: Path) -> None:
    async with Server(Strict(tmp_path, mode="sullen")) as server, server.runs.run(request("say x")) as run:
        await until(lambda: server.runs.warm_stats is not None and server.runs.warm_stats.runs == 1)
        await until(lambda: run.started_at is not None)
        await server.runs.cancel(run.id)
        ending = (await run.log.result()).ending
        assert isinstance(ending, RunFailed)
        assert ending.code == "cancelled"


async def test_dequeued_run_has_begun_while_it_waits_for_its_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Server(Lasting(tmp_path)) as server:
        asked, released, admit = asyncio.Event(), asyncio.Event(), server.pool.admit

        async def late(*seated: Any) -> object:
            asked.set()
            await released.wait()
            return await admit(*seated)

        monkeypatch.setattr(server.pool, "admit", late)
        async with server.runs.run(request("say x")) as run:
            await asked.wait()
            assert run.started_at is None
            async with asyncio.timeout(30):
                await run.left_queue()
            released.set()
            assert (await run.log.result()).text == "x"
            await run.left_queue()


class Sound(Lasting):
    """A backend without a fault."""

    name = "sound"


@pytest.mark.parametrize("env", [{"A=B": "x"}, {"A": "x\0"}], ids=["name", "value"])
async def test_process_that_cannot_start_fails_only_its_run(tmp_path: Path, env: dict[str, str]) -> None:
    warm, agents = WarmSettings(kept_backends=("lasting", "sound")), {"lasting": BackendSettings(env=env)}
    registry = {"lasting": Lasting(tmp_path), "sound": Sound(tmp_path)}
    settings = Settings(warm=warm, backends=agents)
    async with LocalRuns(settings, MemoryStore(), ENV, registry, keeps_warm=True) as runs:
        open_files = psutil.Process().num_fds()
        for model in ("one", "two"):
            async with runs.run(request("say x", model=model)) as run:
                ending = (await run.log.result()).ending
            assert isinstance(ending, RunFailed)
            assert ending.code == "backend_unavailable"
        assert psutil.Process().num_fds() == open_files
        async with runs.run(request("say x", backend="sound")) as run:
            assert (await run.log.result()).text == "x"


@pytest.mark.parametrize("is_lost", [False, True], ids=["well", "lost"])
async def test_run_cancelled_before_its_process_is_prompted_sends_no_prompt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_lost: bool
) -> None:
    async with Server(Lasting(tmp_path)) as server:
        assert (await server.ask("say x")).text == "x"
        asked, released, admit = asyncio.Event(), asyncio.Event(), server.pool.admit
        prompts: list[str] = []
        start = LastingChannel.start

        def noted(self: LastingChannel, run: str, *of: Any) -> bytes:
            prompts.append(run)
            return start(self, run, *of)

        async def late(*seated: Any) -> object:
            asked.set()
            await released.wait()
            found = await admit(*seated)
            assert found
            if is_lost:
                found.agent.fail("it is lost")
            return found

        monkeypatch.setattr(server.pool, "admit", late)
        monkeypatch.setattr(LastingChannel, "start", noted)
        (group,) = server.pool._warm_set.groups.values()  # pyright: ignore[reportPrivateUsage]
        group.failures = 2
        async with server.runs.run(request("say y")) as run:
            await asked.wait()
            cancelling = asyncio.create_task(server.runs.cancel(run.id))
            await asyncio.sleep(0)
            released.set()
            await cancelling
            assert run.state == "cancelled"
        assert prompts == []
        assert group.failures == 2, "nothing went well"
        monkeypatch.setattr(server.pool, "admit", admit)
        assert (await server.ask("say z")).text == "z"
        assert is_lost or server.misses == 1


class Faulty(Lasting):
    """A backend with a faulty warm process."""

    def launch(self, request: RunRequest, resume: Resume | None, host: Host) -> Launch:
        raise RuntimeError("a fault")


async def test_faulty_prestarted_backend_does_not_affect_others(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    warm = WarmSettings(kept_backends=("faulty", "lasting"), prestart=("faulty", "lasting"))
    registry = {"faulty": Faulty(tmp_path), "lasting": Lasting(tmp_path)}
    async with LocalRuns(Settings(warm=warm), MemoryStore(), ENV, registry, keeps_warm=True) as runs:
        await until(lambda: runs.warm_stats is not None and runs.warm_stats.ready == 1)
        async with runs.run(request("say x")) as run:
            assert (await run.log.result()).text == "x"
    assert "no process of faulty is started ahead" in caplog.text
