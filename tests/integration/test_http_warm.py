"""Warm processes in the server's answers."""

from collections.abc import Mapping
from pathlib import Path

from clinvk.config.model import WarmSettings
from lasting_backend import Lasting
from polling import until
from serving import LiveServer, serving
from shell_backend import Shell

WARM = WarmSettings(kept_backends=("lasting",), max_processes=3, max_memory_mb=512)


def environ(tmp_path: Path) -> Mapping[str, str]:
    return {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}


async def kept(server: LiveServer) -> dict[str, object]:
    answer = (await server.client.get("/health")).json()
    return answer["warm"]


async def samples(server: LiveServer) -> dict[str, float]:
    lines = [line.rpartition(" ") for line in (await server.client.get("/metrics")).text.splitlines()]
    return {name: float(value) for name, _, value in lines if name.startswith("clinvk_warm_")}


async def test_health_and_metrics_report_the_warm_processes_of_each_backend(tmp_path: Path) -> None:
    registry = {"lasting": Lasting(tmp_path), "shell": Shell()}
    async with serving(environ(tmp_path), registry, warm=WARM, metrics_enabled=True) as server:
        none = dict.fromkeys(("processes", "ready", "runs", "hits", "misses", "memory_mb"), 0)
        assert await kept(server) == {**none, "backends": {"lasting": none}, "one_shot": []}
        for _ in range(3):
            await server.prompt(backend="lasting", prompt="say x", ephemeral=True)
        pool = server.runs.pool
        assert pool
        await until(lambda: pool.stats.memory_bytes > 0)
        health, values = await kept(server), await samples(server)
    assert health["backends"] == {"lasting": {name: health[name] for name in none}}
    assert (health["processes"], health["ready"], health["runs"]) == (1, 1, 0)
    assert (health["hits"], health["misses"]) == (2, 1)
    of = '{backend="lasting"}'
    assert values.pop(f"clinvk_warm_memory_bytes{of}") > 2**20
    assert values == {
        f"clinvk_warm_processes{of}": 1,
        f"clinvk_warm_ready{of}": 1,
        f"clinvk_warm_runs{of}": 0,
        f"clinvk_warm_hits_total{of}": 2,
        f"clinvk_warm_misses_total{of}": 1,
        f"clinvk_warm_one_shot{of}": 0,
        "clinvk_warm_slots": 3,
        "clinvk_warm_memory_limit_bytes": 512 * 2**20,
    }


async def test_program_that_does_not_speak_its_protocol_is_reported_as_one_shot(tmp_path: Path) -> None:
    registry = {"lasting": Lasting(tmp_path, mode="mute")}
    async with serving(environ(tmp_path), registry, warm=WARM, metrics_enabled=True) as live_server:
        answer = await live_server.prompt(backend="lasting", prompt="say x", ephemeral=True)
        assert answer.json()["output"] == "x"
        assert (await kept(live_server))["one_shot"] == ["lasting"]
        assert (await samples(live_server))['clinvk_warm_one_shot{backend="lasting"}'] == 1


async def test_health_reports_nothing_when_warm_processes_are_disabled(tmp_path: Path) -> None:
    async with serving(environ(tmp_path), {"lasting": Lasting(tmp_path)}, metrics_enabled=True) as server:
        assert "warm" not in (await server.client.get("/health")).json()
        assert await samples(server) == {}
