"""Kept processes that cannot be started, or do not speak: their runs go another way, and nobody else notices it."""

from pathlib import Path

import psutil
import pytest

from clinvk.config import BackendSettings, Settings, WarmSettings
from clinvk.events import RunFailed
from clinvk.runtime.runs import LocalRuns
from clinvk.store.memory import MemoryStore
from integration.pool_server import ENV, request
from lasting_backend import Lasting


class Sound(Lasting):
    """One that nothing is wrong with."""

    name = "sound"


@pytest.mark.parametrize("env", [{"A=B": "x"}, {"A": "x\0"}], ids=["name", "value"])
async def test_what_cannot_be_started_fails_its_run_and_nothing_else(tmp_path: Path, env: dict[str, str]) -> None:
    warm, agents = WarmSettings(kept_backends=("lasting", "sound")), {"lasting": BackendSettings(env=env)}
    registry = {"lasting": Lasting(tmp_path), "sound": Sound(tmp_path)}
    settings = Settings(warm=warm, backends=agents)
    async with LocalRuns(settings, MemoryStore(), ENV, registry, keeps_warm=True) as runs:
        open_files = psutil.Process().num_fds()
        for model in ("one", "two"):
            async with runs.run(request("say x", model=model)) as run:
                ending = (await run.result()).ending
            assert isinstance(ending, RunFailed)
            assert ending.code == "backend_unavailable"
        assert psutil.Process().num_fds() == open_files
        async with runs.run(request("say x", backend="sound")) as run:
            assert (await run.result()).text == "x"
