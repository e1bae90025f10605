"""A cluster of real processes whose clocks, versions, networks and servers fail."""

from pathlib import Path

from acceptance.cluster import SECRET, Cluster, prompt
from acceptance.command import Clinvk
from scripted.steps import claude_says

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
