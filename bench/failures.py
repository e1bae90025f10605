"""What happens when a part of a cluster fails, and when: the figures of the table in docs/cluster.md."""

import http.client
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec
from msgspec.structs import replace

from bench.processes import clinvk, running
from bench.report import Budget, Figure
from bench.server import Server, serving
from bench.workplace import BenchBroken, Workplace

if TYPE_CHECKING:
    from broker import NatsServer
    from postgres_server import PostgresServer

_TESTS = Path(__file__).parent.parent / "tests"
_DEADLINE_S = 60
_POLL_S = 0.01
_OUTAGE_S = 5
_IDLE = "idle"
"""The prompt of a run that goes on until it is cancelled."""

_PROMISED_S = {
    "worker killed: another node answers": 1.0,
    "worker killed: its stream ends": 6.0,
    "worker killed: its run is interrupted": 6.0,
    "gateway killed: its run is cancelled": 6.0,
    f"NATS away for {_OUTAGE_S} s: a request is refused": 0.1,
    f"NATS away for {_OUTAGE_S} s: answers again": 3.0,
    "PostgreSQL away: a prompt is refused": 0.1,
    "PostgreSQL back: the ends of runs are stored": 2.0,
    "network frozen: the stream ends": 6.0,
    "network back: the node answers": 2.0,
}

_Times = dict[str, list[float]]


class _Content(msgspec.Struct):
    run_id: str = ""
    code: str = ""


class _Event(msgspec.Struct):
    content: _Content


class _Record(msgspec.Struct):
    id: str
    state: str


class _Runs(msgspec.Struct):
    runs: list[_Record]


class _Nodes(msgspec.Struct):
    nodes: list[Mapping[str, object]]


class _Answer(NamedTuple):
    status: int
    node: str
    body: bytes


def failures(place: Workplace) -> list[Figure]:
    """Let parts of a cluster fail, and time what docs/cluster.md promises."""
    sys.path.insert(0, str(_TESTS))
    from broker import NatsServer
    from postgres_server import running_postgres

    times: _Times = {}
    with running_postgres() as postgres, NatsServer(place.root) as broker:
        env = {"CLINVK_CLUSTER_SECRET": "bench", "CLINVK_STORE__URL": postgres.empty()}
        place = replace(place, env={**place.env, **env})
        config = f"cluster: {{url: '{broker.url}'}}\n"
        with serving(place, config) as gateway:
            cluster = _Cluster(place, broker, gateway)
            with cluster.worker("two"):
                for _ in range(place.rounds):
                    _kill_worker(cluster, times)
                    _kill_gateway(cluster, config, times)
                    _stop_broker(cluster, times)
                    _stop_postgres(cluster, postgres, times)
                    _freeze_network(cluster, times)
    return [_figure(name, times[name], promised_s) for name, promised_s in _PROMISED_S.items()]


def _figure(name: str, times: list[float], promised_s: float) -> Figure:
    peer, budget = [promised_s] * len(times), Budget("at most", promised_s)
    return Figure(name=name, unit="s", ours=times, peer_name="promised", peer=peer, budget=budget)


class _Cluster:
    """A gateway, and what talks to it."""

    def __init__(self, place: Workplace, broker: "NatsServer", gateway: Server) -> None:
        self.place = place
        self.broker = broker
        self.gateway = gateway

    @contextmanager
    def worker(self, node: str, url: str = "") -> "Generator[subprocess.Popen[bytes]]":
        """Run a worker, which the gateway knows."""
        command = clinvk("worker", "--node", node, "--cluster", url or self.broker.url)
        with running(command, self.place.env, self.place.root / f"{node}.log") as process:
            _until(lambda: node in self.nodes())
            yield process

    def nodes(self) -> list[object]:
        """Return the names of the nodes."""
        found = msgspec.json.decode(_request(self.gateway, "GET", "/api/v1/nodes").body, type=_Nodes)
        return [node["node"] for node in found.nodes]

    def prompt(self, prompt: str = "hello", **fields: object) -> _Answer:
        """Send a prompt."""
        body = {"backend": "codex", "prompt": prompt, "workdir": str(self.place.root), **fields}
        return _request(self.gateway, "POST", "/api/v1/prompt", body)

    def state(self, run_id: str) -> str:
        """Return the state of a run in the records."""
        answer = _request(self.gateway, "GET", "/api/v1/runs?limit=200")
        runs = msgspec.json.decode(answer.body, type=_Runs).runs if answer.status == 200 else ()
        return next((run.state for run in runs if run.id == run_id), "")


def _kill_worker(cluster: _Cluster, times: _Times) -> None:
    with cluster.worker("one") as worker, _stream(cluster, cluster.gateway) as (run_id, ended):
        worker.kill()
        at = time.monotonic()
        with ThreadPoolExecutor() as pool:
            stream = pool.submit(_since, at, ended)
            record = pool.submit(_since, at, lambda: cluster.state(run_id) == "interrupted")
            _until(lambda: cluster.prompt().node == "two")
            _note(times, "worker killed: another node answers", time.monotonic() - at)
        _note(times, "worker killed: its stream ends", stream.result())
        _note(times, "worker killed: its run is interrupted", record.result())


def _kill_gateway(cluster: _Cluster, config: str, times: _Times) -> None:
    with serving(cluster.place, config) as other:
        _until(lambda: b"two" in _request(other, "GET", "/api/v1/nodes").body)
        with _stream(cluster, other, "two") as (run_id, _):
            os.kill(other.pid, signal.SIGKILL)
            took_s = _since(time.monotonic(), lambda: cluster.state(run_id) == "cancelled")
            _note(times, "gateway killed: its run is cancelled", took_s)


def _stop_broker(cluster: _Cluster, times: _Times) -> None:
    cluster.broker.kill()
    _until(lambda: cluster.prompt().status == 503)
    at = time.monotonic()
    cluster.prompt()
    _note(times, f"NATS away for {_OUTAGE_S} s: a request is refused", time.monotonic() - at)
    time.sleep(_OUTAGE_S)
    cluster.broker.start()
    took_s = _since(time.monotonic(), lambda: cluster.prompt().status == 200)
    _note(times, f"NATS away for {_OUTAGE_S} s: answers again", took_s)


def _stop_postgres(cluster: _Cluster, postgres: "PostgresServer", times: _Times) -> None:
    answer = cluster.prompt("stream 1 1500000", detach=True)
    run_id = msgspec.json.decode(answer.body, type=_Content).run_id
    postgres.stop()
    at = time.monotonic()
    if cluster.prompt().status != 503:
        raise BenchBroken("a prompt without PostgreSQL was accepted")
    _note(times, "PostgreSQL away: a prompt is refused", time.monotonic() - at)
    time.sleep(_OUTAGE_S)  # meanwhile the run ends
    postgres.start()
    took_s = _since(time.monotonic(), lambda: cluster.state(run_id) == "finished")
    _note(times, "PostgreSQL back: the ends of runs are stored", took_s)
    _until(lambda: cluster.prompt().status == 200)


def _freeze_network(cluster: _Cluster, times: _Times) -> None:
    from network import Network

    with (
        Network(cluster.broker.connect) as network,
        cluster.worker("one", f"nats://127.0.0.1:{network.port}"),
        _stream(cluster, cluster.gateway) as (_, ended),
    ):
        network.fail("both directions")
        _note(times, "network frozen: the stream ends", _since(time.monotonic(), ended))
        time.sleep(_OUTAGE_S)
        network.heal()
        took_s = _since(time.monotonic(), lambda: cluster.prompt(node="one").status == 200)
        _note(times, "network back: the node answers", took_s)


@contextmanager
def _stream(cluster: _Cluster, gateway: Server, node: str = "one") -> Generator[tuple[str, Callable[[], bool]]]:
    """Start a run that goes on. Yield its id, and a function that reads on to the end of the stream."""
    body = {"backend": "codex", "prompt": _IDLE, "workdir": str(cluster.place.root), "node": node}
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=_DEADLINE_S)
    data = msgspec.json.encode({**body, "output_format": "stream-json"})
    connection.request("POST", "/api/v1/prompt", data, {"content-type": "application/json"})
    response = connection.getresponse()
    run_id = msgspec.json.decode(response.readline(), type=_Event).content.run_id

    def ended() -> bool:
        *_, last = response.read().splitlines()
        if msgspec.json.decode(last, type=_Event).content.code != "node_unavailable":
            raise BenchBroken(f"a stream ended with {last!r}")
        return True

    try:
        _until(lambda: cluster.state(run_id) == "running")
        yield run_id, ended
    finally:
        connection.close()


def _request(server: Server, method: str, path: str, body: object = None) -> _Answer:
    """Send a request on a connection of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=_DEADLINE_S)
    try:
        data = None if body is None else msgspec.json.encode(body)
        connection.request(method, path, data, {"content-type": "application/json", "prefer": "respond-async"})
        response = connection.getresponse()
        return _Answer(response.status, response.headers.get("x-clinvk-node", ""), response.read())
    finally:
        connection.close()


def _until(happened: Callable[[], bool]) -> None:
    """Wait until the condition holds."""
    deadline = time.monotonic() + _DEADLINE_S
    while not happened():
        if time.monotonic() > deadline:
            raise BenchBroken("the cluster did not get into a state in time")
        time.sleep(_POLL_S)


def _since(at: float, happened: Callable[[], bool]) -> float:
    """Wait until the condition holds, and return the seconds since a time of `time.monotonic()`."""
    _until(happened)
    return time.monotonic() - at


def _note(times: _Times, name: str, seconds: float) -> None:
    """Add a time of a round."""
    times.setdefault(name, []).append(seconds)
