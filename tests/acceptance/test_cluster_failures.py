"""A cluster of real processes whose clocks, versions, networks and servers fail."""

import threading
import time
from pathlib import Path

import pytest

from acceptance.cluster import SECRET, Cluster, lines, nodes, prompt
from acceptance.command import Clinvk, until
from acceptance.server import Server
from network import Loss, Network
from scripted.steps import claude_says, wait_for

_CHANGED_SOURCE = """
import importlib.util, sys
import {package} as package
spec = importlib.util.find_spec("{package}.{name}")
source = spec.loader.get_source(spec.name)
for old, new in {changes}:
    assert old in source, old
    source = source.replace(old, new)
module = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = package.{name} = module
exec(compile(source, spec.origin, "exec"), vars(module))
"""


def at_start(folder: Path, code: str) -> dict[str, str]:
    """Return the environment of a process that runs this code at its start."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(code)
    return {"PYTHONPATH": str(folder)}


def of_version(folder: Path, protocol: int, **changes: str) -> dict[str, str]:
    """Return the environment of a process with another version of the messages, and with changes of their source."""
    pairs = [("PROTOCOL = 1\n", f"PROTOCOL = {protocol}\n"), *changes.items()]
    code = _CHANGED_SOURCE.format(package="clinvk.cluster", name="messages", changes=pairs)
    return at_start(folder, code)


def test_worker_of_another_version_is_listed_as_incompatible_and_gets_no_requests(
    cluster: Cluster, clinvk: Clinvk, tmp_path: Path
) -> None:
    cluster.agent.play(claude_says("hello"))
    later = {'    version: str = ""\n': '    version: str = ""\n    region: str = "north"\n'}
    later_env = of_version(tmp_path / "later", 2, **later)
    cluster.worker("earlier", **of_version(tmp_path / "earlier", 0))
    cluster.worker("later", **later_env)
    cluster.worker("same")
    gateway, later_gateway = cluster.gateway(), cluster.gateway(**later_env)
    states = {node["node"]: node["state"] for node in gateway.client.get("/api/v1/nodes").json()["nodes"]}
    assert states == {"earlier": "incompatible", "later": "incompatible", "same": "up"}
    assert {prompt(gateway)["node"] for _ in range(4)} == {"same"}
    assert "later has clinvk" in gateway.said
    assert {prompt(later_gateway)["node"] for _ in range(4)} == {"later"}
    for node in ("earlier", "later"):
        body = {"backend": "claude", "prompt": "hi", "node": node}
        refused = gateway.client.post("/api/v1/prompt", json=body)
        assert (refused.status_code, refused.json()["code"]) == (503, "node_unavailable")
        assert f"node '{node}' is incompatible" in refused.text
    table = clinvk.run("cluster", "status", "--cluster", cluster.broker.url, env=SECRET).stdout
    assert [row.split()[:2] for row in table.splitlines()[1:]] == [
        ["earlier", "incompatible"],
        ["later", "incompatible"],
        ["same", "up"],
    ]


LOST_AFTER_S = 4


@pytest.mark.first(2)
@pytest.mark.parametrize(
    ("loss", "seconds"),
    [
        ("from server", 5.5),
        ("both directions", 1.5),
        ("both directions", 8),
        ("to server", 1.5),
        ("to server", 8),
        ("from server", 1.5),
        ("from server", 8),
        ("cut", 1.5),
        ("cut", 8),
    ],
)
def test_worker_that_loses_the_broker_loses_its_streams_only_if_that_lasts(
    cluster: Cluster, tmp_path: Path, loss: Loss, seconds: float
) -> None:
    """Detached runs go on in any case, and the other worker gets new runs meanwhile."""
    gate = tmp_path / "gate"
    cluster.agent.play(claude_says("hello"))
    cluster.agent.play([*claude_says("half")[:4], wait_for(gate), *claude_says(" whole")[3:]], when="slow")
    with Network(cluster.broker.connect) as network:
        cluster.worker("one", "--cluster", f"nats://127.0.0.1:{network.port}")
        gateway = cluster.gateway()
        detached = gateway.detached("slow")["run_id"]
        body = {"backend": "claude", "prompt": "slow", "output_format": "stream-json"}
        with gateway.client.stream("POST", "/api/v1/prompt", json=body) as response:
            events = lines(response.iter_lines())
            run_id = next(events)["content"]["run_id"]
            assert next(events)["type"] == "message"
            cluster.worker("two")
            until(lambda: nodes(gateway) == ["one", "two"])
            network.fail(loss)
            lost_at = time.monotonic()
            healing = threading.Timer(seconds, network.heal)
            healing.start()
            if seconds < LOST_AFTER_S:
                healing.join()
                gate.touch()
                assert [event["type"] for event in events][-1] == "done"
            else:
                *_, last = events
                assert last["content"]["code"] == "node_unavailable"
                assert time.monotonic() - lost_at < 9
                if loss != "from server":  # the others still hear the worker
                    assert prompt(gateway)["node"] == "two"
                healing.join()
                until(lambda: state_of(gateway, run_id) == "cancelled")
                gate.touch()
        until(lambda: state_of(gateway, detached) == "finished")
        assert gateway.client.get(f"/api/v1/runs/{detached}").json()["output"] == "half whole"
        until(lambda: gateway.prompt("hi", node="one").status_code == 200)
        assert nodes(gateway) == ["one", "two"]
    assert len(cluster.agent.calls()) == gateway.client.get("/api/v1/runs").json()["total"]


def state_of(gateway: Server, run_id: str) -> str:
    """Return the state of a run."""
    return gateway.client.get(f"/api/v1/runs/{run_id}").json()["state"]
