"""The processes of a cluster: a NATS server, gateways and workers."""

import json
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from acceptance.command import until
from acceptance.server import Server
from broker import NatsServer
from scripted import Scripted
from scripted.steps import claude_says, wait_for

SECRET = {"CLINVK_CLUSTER_SECRET": "secret"}


class Cluster:
    """Starts the processes of a cluster, which end with the context."""

    def __init__(self, agent: Scripted, folder: Path) -> None:
        self.agent = agent
        self.broker = NatsServer(folder)
        self._stack = ExitStack()
        self._workers = set[str]()

    def __enter__(self) -> "Cluster":
        self._stack.enter_context(self.broker)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def play_slow_until(self, gate: Path) -> None:
        """Let Claude answer `hello`, and the prompt `slow` with `half`, then ` whole` once the gate exists."""
        self.agent.play(claude_says("hello"))
        self.agent.play([*claude_says("half")[:4], wait_for(gate), *claude_says(" whole")[3:]], when="slow")

    def worker(self, node: str, *arguments: str, **env: str) -> Server:
        """Start a worker."""
        self._workers.add(node)
        return self._start(("worker", "--node", node, *arguments), env)

    def gateway(self, *arguments: str, **env: str) -> Server:
        """Start a gateway, and wait until it knows the workers."""
        gateway = self._start(("serve", "--port", "0", *arguments), env)
        until(lambda: self._workers.issubset(nodes(gateway)) or gateway.client.get("/api/v1/nodes").status_code == 401)
        return gateway

    def _start(self, arguments: tuple[str, ...], env: dict[str, str]) -> Server:
        argv = arguments if "--cluster" in arguments else (*arguments, "--cluster", self.broker.url)
        return self._stack.enter_context(Server(self.agent, {**SECRET, **env}, arguments=argv)).ready()


def nodes(gateway: Server) -> list[str]:
    """Return the names of the nodes that a gateway knows."""
    return [node["node"] for node in gateway.client.get("/api/v1/nodes").json().get("nodes", ())]


def run_of(gateway: Server, run_id: str) -> Any:
    """Return a run with its parts; an error document while its node is being lost."""
    return gateway.client.get(f"/api/v1/runs/{run_id}").json()


def state_of(gateway: Server, run_id: str) -> str:
    """Return the state of a run; empty while its node is being lost."""
    return run_of(gateway, run_id).get("state", "")


def until_state(gateway: Server, run_id: str, state: str) -> None:
    """Wait until a run has a state."""
    until(lambda: state_of(gateway, run_id) == state)


def prompt(gateway: Server, node: str = "", **body: object) -> dict[str, str]:
    """Run a prompt, by default on any node; return the answer and its node."""
    headers = {"x-clinvk-node": node} if node else {}
    body = {"backend": "claude", "prompt": "hi", **body}
    response = gateway.client.post("/api/v1/prompt", json=body, headers=headers)
    assert response.status_code == 200, response.text
    return {**response.json(), "node": response.headers["x-clinvk-node"]}


def lines(response: Iterator[str]) -> Iterator[Any]:
    """Return the events of a stream."""
    return (json.loads(line) for line in response if line.strip())


@contextmanager
def slow_stream(gateway: Server) -> Generator[tuple[str, Iterator[Any]]]:
    """Stream the prompt `slow`; yield the id of its run, and the events after its first text."""
    body = {"backend": "claude", "prompt": "slow", "output_format": "stream-json"}
    with gateway.client.stream("POST", "/api/v1/prompt", json=body) as response:
        events = lines(response.iter_lines())
        run_id = next(events)["content"]["run_id"]
        assert next(events)["type"] == "message"
        yield run_id, events
