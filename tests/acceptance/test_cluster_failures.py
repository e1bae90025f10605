"""A cluster of real processes whose clocks, versions, networks and servers fail."""

import signal
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from acceptance.cluster import SECRET, Cluster, nodes, prompt, slow_stream, state_of, until_state
from acceptance.command import Clinvk, until
from acceptance.server import Server
from clinvk.cluster.announcements import PROTOCOL
from network import Loss, Network
from postgres_server import PostgresServer
from scripted.steps import claude_says, hang

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
    pairs = [(f"PROTOCOL = {PROTOCOL}\n", f"PROTOCOL = {protocol}\n"), *changes.items()]
    code = _CHANGED_SOURCE.format(package="clinvk.cluster", name="announcements", changes=pairs)
    return at_start(folder, code)


def test_worker_of_another_version_is_listed_as_incompatible_and_gets_no_requests(
    cluster: Cluster, clinvk: Clinvk, tmp_path: Path
) -> None:
    cluster.agent.play(claude_says("hello"))
    later = {'    version: str = ""\n': '    version: str = ""\n    region: str = "north"\n'}
    later_env = of_version(tmp_path / "later", PROTOCOL + 1, **later)
    cluster.worker("earlier", **of_version(tmp_path / "earlier", PROTOCOL - 1))
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


CLOCK = """
import datetime, time
own_time, own_time_ns, own = time.time, time.time_ns, datetime.datetime
time.time = lambda: own_time() + {shift_s}
time.time_ns = lambda: own_time_ns() + {shift_s} * 10**9
class Shifted(own):
    @classmethod
    def now(cls, tz=None):
        return own.now(tz) + datetime.timedelta(seconds={shift_s})
datetime.datetime = Shifted
"""
HOUR_S = 3600


def test_clocks_that_differ_declare_nobody_dead(
    cluster: Cluster, clinvk: Clinvk, postgres: PostgresServer, tmp_path: Path
) -> None:
    store, gate = {"CLINVK_STORE__URL": postgres.empty()}, tmp_path / "gate"
    cluster.play_slow_until(gate)
    cluster.agent.play([*claude_says("half")[:4], hang()], when="forever")
    shifts = {"ahead": HOUR_S, "behind": -HOUR_S}
    clocks = {node: at_start(tmp_path / node, CLOCK.format(shift_s=shift)) | store for node, shift in shifts.items()}
    workers = {node: cluster.worker(node, **clocks[node]) for node in clocks}
    gateway = cluster.gateway(**store)
    slow = {node: gateway.detached("slow", node=node)["run_id"] for node in clocks}
    begun_at = time.monotonic()
    sessions = {node: prompt(gateway, node)["session_id"] for node in clocks}
    for node, session_id in sessions.items():
        assert prompt(gateway, session_id=session_id)["node"] == node
        session = gateway.client.get(f"/api/v1/sessions/{session_id}").json()
        assert (session["turn_count"], session["status"]) == (2, "completed")
    for kind, field in (("sessions", "last_used"), ("runs", "created_at")):
        times = [each[field] for each in gateway.client.get(f"/api/v1/{kind}").json()[kind]]
        assert times == sorted(times, reverse=True)
    second = clinvk.run("worker", "--node", "ahead", "--cluster", cluster.broker.url, env=SECRET | clocks["behind"])
    assert (second.returncode, "is named 'ahead'" in second.stderr) == (3, True), "a slow clock does not win the name"

    time.sleep(max(0, begun_at + 6 - time.monotonic()))  # longer than a process may be silent
    assert {state_of(gateway, run_id) for run_id in slow.values()} == {"running"}
    gate.touch()
    until(lambda: {state_of(gateway, run_id) for run_id in slow.values()} == {"finished"})
    forever = {node: gateway.detached("forever", node=node)["run_id"] for node in clocks}
    for node, run_id in forever.items():
        until_state(gateway, run_id, "running")
        workers[node].kill()
    for run_id in forever.values():
        until_state(gateway, run_id, "interrupted")
        run = gateway.client.get(f"/api/v1/runs/{run_id}").json()
        assert run["started_at"] <= run["ended_at"]
    for node in clocks:
        cluster.worker(node, **clocks[node])
    key = clinvk.run("keys", "create", "ana", "--expires", "1h", env=store).stdout.strip()
    until(lambda: gateway.client.get("/api/v1/sessions").status_code == 401)
    gateway.client.headers["x-api-key"] = key
    until(lambda: gateway.prompt("hi", node="behind").status_code == 200)
    assert gateway.prompt("hi", node="ahead").status_code == 401, "for this node the key has expired"


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
    cluster.play_slow_until(gate)
    with Network(cluster.broker.connect) as network:
        cluster.worker("one", "--cluster", f"nats://127.0.0.1:{network.port}")
        gateway = cluster.gateway()
        detached = gateway.detached("slow")["run_id"]
        with slow_stream(gateway) as (run_id, events):
            cluster.worker("two")
            until(lambda: nodes(gateway) == ["one", "two"])
            network.fail(loss)
            lost_at = time.monotonic()
            if seconds < LOST_AFTER_S:
                time.sleep(seconds)
                network.heal()
                gate.touch()
                assert [event["type"] for event in events][-1] == "done"
            else:
                *_, last = events
                assert last["content"]["code"] == "node_unavailable"
                assert time.monotonic() - lost_at < 15
                if loss != "from server":  # the others still hear the worker
                    assert prompt(gateway)["node"] == "two"
                time.sleep(max(0, lost_at + seconds - time.monotonic()))
                network.heal()
                until_state(gateway, run_id, "cancelled")
                gate.touch()
        until_state(gateway, detached, "finished")
        assert gateway.client.get(f"/api/v1/runs/{detached}").json()["output"] == "half whole"
        until(lambda: gateway.prompt("hi", node="one").status_code == 200)
        assert nodes(gateway) == ["one", "two"]
    assert len(cluster.agent.calls()) == gateway.client.get("/api/v1/runs").json()["total"]


@pytest.mark.first(1)
@pytest.mark.parametrize("failure", ["stopped", "suspended", "full"])
def test_outage_of_postgres_refuses_new_runs_and_loses_no_run_in_progress(
    cluster: Cluster, postgres: PostgresServer, tmp_path: Path, failure: str
) -> None:
    gate, store = tmp_path / "gate", {"CLINVK_STORE__URL": postgres.empty()}
    cluster.play_slow_until(gate)
    cluster.worker("one", **store)
    cluster.worker("two", **store)
    gateway = cluster.gateway(**store)
    session_id = prompt(gateway, "one")["session_id"]
    detached = gateway.detached("slow")["run_id"]
    with slow_stream(gateway) as (run_id, events):
        with failing(postgres, store["CLINVK_STORE__URL"], failure):
            requests: list[dict[str, object]] = [{}, {"session_id": session_id}, {"detach": True}]
            for fields in requests:
                refused = gateway.client.post("/api/v1/prompt", json={"backend": "claude", "prompt": "hi", **fields})
                assert (refused.status_code, refused.json()["code"]) == (503, "store_unavailable")
                assert int(refused.headers["retry-after"]) > 0
            gate.touch()
            assert [event["type"] for event in events][-1] == "done"
            until(lambda: not cluster.agent.alive())
        for each in (run_id, detached):
            until_state(gateway, each, "finished")
            assert gateway.client.get(f"/api/v1/runs/{each}").json()["output"] == "half whole"
    until(lambda: gateway.prompt("hi").status_code == 200)
    assert prompt(gateway, session_id=session_id)["node"] == "one"
    states = {run["state"] for run in gateway.client.get("/api/v1/runs").json()["runs"]}
    assert states == {"finished"}


@contextmanager
def failing(postgres: PostgresServer, url: str, failure: str) -> Generator[None]:
    """Stop or suspend PostgreSQL inside the context, or let it fail as with a full disk."""
    if failure == "suspended":
        with postgres.suspended():
            yield
    elif failure == "stopped":
        postgres.stop()
        yield
        postgres.start()
    else:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(
                "CREATE FUNCTION fill() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
                " RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = '53100'; END $$;"
                "CREATE TRIGGER full_disk BEFORE INSERT OR UPDATE ON runs FOR EACH ROW EXECUTE FUNCTION fill()"
            )
            yield
            connection.execute("DROP TRIGGER full_disk ON runs")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("loss", "seconds"),
    [("both directions", 1.5), ("both directions", 8), ("to server", 8), ("from server", 8), ("cut", 8)],
)
def test_worker_that_loses_postgres_for_a_while_goes_on_with_its_runs(
    cluster: Cluster, postgres: PostgresServer, tmp_path: Path, loss: Loss, seconds: float
) -> None:
    """Other workers get the new runs meanwhile."""
    gate, url = tmp_path / "gate", postgres.empty()
    cluster.play_slow_until(gate)
    with Network(postgres.connect) as network:
        through = url.replace("@/", f"@127.0.0.1:{network.port}/").replace("host=", "application_name=")
        cluster.worker("one", CLINVK_STORE__URL=through)
        gateway = cluster.gateway(CLINVK_STORE__URL=url)
        detached = gateway.detached("slow")["run_id"]
        with slow_stream(gateway) as (run_id, events):
            cluster.worker("two", CLINVK_STORE__URL=url)
            until(lambda: nodes(gateway) == ["one", "two"])
            others = [gateway.detached("slow", node="two")["run_id"] for _ in range(4)]
            until(lambda: busy(gateway) == {"one": 2, "two": 4})
            network.fail(loss)
            healing = threading.Timer(seconds, network.heal)
            healing.start()
            while healing.is_alive():
                assert gateway.prompt("hi").status_code == 200
                time.sleep(0.2)
            gate.touch()
            assert [event["type"] for event in events][-1] == "done"
        for each in (run_id, detached, *others):
            until_state(gateway, each, "finished")
            assert gateway.client.get(f"/api/v1/runs/{each}").json()["output"] == "half whole"
        until(lambda: gateway.prompt("hi", node="one").status_code == 200)
        runs = gateway.client.get("/api/v1/runs", params={"limit": 1000}).json()["runs"]
        states = [run["state"] for run in runs if run["error_code"] != "cancelled"]  # a run that one could not begin
        assert states == ["finished"] * len(cluster.agent.calls())


@pytest.mark.slow
def test_worker_that_was_suspended_finishes_its_detached_runs(
    cluster: Cluster, postgres: PostgresServer, tmp_path: Path
) -> None:
    gate, store = tmp_path / "gate", {"CLINVK_STORE__URL": postgres.empty()}
    cluster.play_slow_until(gate)
    worker = cluster.worker("one", **store)
    gateway = cluster.gateway(**store)
    detached = gateway.detached("slow")["run_id"]
    with slow_stream(gateway) as (run_id, events):
        worker.process.send_signal(signal.SIGSTOP)
        *_, last = events
        assert last["content"]["code"] == "node_unavailable"
    for each in (run_id, detached):
        until_state(gateway, each, "interrupted")
    worker.process.send_signal(signal.SIGCONT)
    until_state(gateway, run_id, "cancelled")
    gate.touch()
    until_state(gateway, detached, "finished")
    assert gateway.client.get(f"/api/v1/runs/{detached}").json()["output"] == "half whole"
    until(lambda: gateway.prompt("hi").status_code == 200)
    assert len(cluster.agent.calls()) == gateway.client.get("/api/v1/runs").json()["total"] == 3


def busy(gateway: Server) -> dict[str, int]:
    """Return the number of active runs of each node."""
    return {node["node"]: node["running"] for node in gateway.client.get("/api/v1/nodes").json()["nodes"]}
