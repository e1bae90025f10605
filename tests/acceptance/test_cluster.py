"""A cluster of real processes: a NATS server, gateways, workers, and the death of each."""

import json
import socket
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from random import Random
from threading import Thread
from typing import Any

import httpx
import pytest
import yaml

from acceptance.cluster import SECRET, Cluster, lines, nodes, prompt, run_of, state_of, until_state
from acceptance.command import Clinvk, until
from acceptance.server import Server
from broker import NatsServer
from postgres_server import PostgresServer
from scripted.steps import Step, ask_approval, claude_says, exits, hang, line, spawn, wait_for


def test_session_stays_on_its_node_and_new_runs_go_where_they_fit(cluster: Cluster, clinvk: Clinvk) -> None:
    cluster.agent.play(claude_says("hello"))
    elsewhere = str(clinvk.folder)
    cluster.worker("one", "--labels", "gpu,web", CLINVK_SERVER__ALLOWED_WORKDIR_PREFIXES="/nowhere")
    cluster.worker("two")
    gateway = cluster.gateway()
    assert nodes(gateway) == ["one", "two"]
    first = prompt(gateway, "two", workdir=elsewhere)
    assert first["output"] == "hello"
    again = [prompt(gateway, session_id=first["session_id"])["node"] for _ in range(3)]
    assert again == ["two"] * 3
    session = gateway.client.get(f"/api/v1/sessions/{first['session_id']}").json()
    assert (session["node"], session["turn_count"]) == ("two", 4)
    assert {prompt(gateway, workdir=elsewhere)["node"] for _ in range(4)} == {"two"}, "one refuses the directory"
    refusals = {
        ("labels", "gpu,other"): (503, "node_unavailable"),
        ("node", "three"): (503, "node_unavailable"),
        ("labels", "gpu"): (403, "directory_not_allowed"),
    }
    available = {"gpu,other": "gpu, web", "three": "one, two"}
    body = {"backend": "claude", "prompt": "hi", "workdir": elsewhere}
    for (name, value), expected in refusals.items():
        fields = {**body, name: value.split(",") if name == "labels" else value}
        for refused in (
            gateway.client.post("/api/v1/prompt", json=body, headers={f"x-clinvk-{name}": value}),
            gateway.client.post("/api/v1/prompt", json=fields),
        ):
            assert (refused.status_code, refused.json()["code"]) == expected
        if value == "gpu,other":
            assert "no node has all labels of gpu, other" in refused.text, refused.text
        if value in available:
            assert f"(available: {available[value]})" in refused.text, refused.text
    tasks = [{"backend": "claude", "prompt": "a", "session_id": first["session_id"]}]
    parallel = gateway.client.post("/api/v1/parallel", json={"tasks": tasks})
    assert (parallel.json()["results"][0]["node"], parallel.json()["completed"]) == ("two", 1)
    listed = clinvk.run("cluster", "status", "--json", "--cluster", cluster.broker.url, env=SECRET)
    assert [(each["node"], each["labels"]) for each in json.loads(listed.stdout)["nodes"]] == [
        ("one", ["gpu", "web"]),
        ("two", []),
    ]


def test_body_chooses_the_node_of_a_prompt_and_of_an_orchestration(cluster: Cluster) -> None:
    cluster.agent.play(claude_says("hello"))
    cluster.worker("one", "--labels", "gpu,web")
    cluster.worker("two")
    gateway = cluster.gateway()
    prompts: dict[str, dict[str, object]] = {
        "prompt": {"backend": "claude", "prompt": "a"},
        "parallel": {"tasks": [{"backend": "claude", "prompt": "a"}]},
        "chain": {"steps": [{"backend": "claude", "prompt": "a"}]},
        "compare": {"backends": ["claude"], "prompt": "a"},
    }
    for kind, body in prompts.items():
        for fields, header, expected in (
            ({"node": "two"}, "", "two"),
            ({"labels": ["gpu"]}, "", "one"),
            ({"node": "one", "labels": ["gpu", "web"]}, "one", "one"),
            ({"node": "two"}, "one", 400),
            ({"node": "two", "labels": ["gpu"]}, "", 503),
            ({"labels": ["other"]}, "", 503),
            ({"node": "three"}, "", 503),
        ):
            headers = {"x-clinvk-node": header} if header else {}
            answer = gateway.client.post(f"/api/v1/{kind}", json={**body, **fields}, headers=headers)
            assert answer.headers.get("x-clinvk-node", answer.status_code) == expected, answer.text


def test_new_runs_avoid_a_node_whose_account_refused_the_last_run(cluster: Cluster, clinvk: Clinvk) -> None:
    cluster.agent.play(claude_says("hello"))
    refused = {"type": "result", "subtype": "success", "is_error": True, "api_error_status": 401, "result": "no"}
    cluster.agent.play([*claude_says("")[:1], line(json.dumps(refused)), exits(1)], when="expired")
    cluster.worker("one")
    cluster.worker("two")
    gateway = cluster.gateway()

    def problems() -> dict[str, list[str]]:
        found = gateway.client.get("/api/v1/nodes").json()["nodes"]
        return {
            node["node"]: [each["error_code"] for each in node["backends"] if "error_code" in each] for node in found
        }

    assert problems() == {"one": [], "two": []}
    assert prompt(gateway, "one", prompt="expired")["error_code"] == "agent_unauthenticated"
    until(lambda: problems() == {"one": ["agent_unauthenticated"], "two": []})
    assert [prompt(gateway)["node"] for _ in range(4)] == ["two"] * 4
    table = clinvk.run("cluster", "status", "--cluster", cluster.broker.url, env=SECRET).stdout
    one, two = (row for row in table.splitlines() if row.startswith(("one", "two")))
    assert ("(logged out)" in one, "(logged out)" in two) == (True, False)
    assert prompt(gateway, "one")["output"] == "hello"
    until(lambda: problems() == {"one": [], "two": []})


def test_worker_without_the_agent_gets_no_prompts_for_the_agent(cluster: Cluster) -> None:
    cluster.agent.play(claude_says("hello"))
    cluster.worker("bare", PATH="/usr/bin:/bin")
    cluster.worker("one")
    gateway = cluster.gateway()
    assert {prompt(gateway)["node"] for _ in range(4)} == {"one"}
    refused = gateway.prompt("hi", node="bare")
    assert (refused.status_code, refused.json()["code"]) == (404, "backend_unavailable")


def test_killed_worker_ends_its_streams_and_its_sessions_wait_for_it(cluster: Cluster) -> None:
    cluster.agent.play(claude_says("hello"))
    cluster.agent.play([*claude_says("half")[:4], hang()], when="slow")
    one, _ = cluster.worker("one"), cluster.worker("two")
    gateway = cluster.gateway()
    session_id = prompt(gateway, "one")["session_id"]
    body = {"backend": "claude", "prompt": "slow", "output_format": "stream-json"}
    chat = {"model": "claude", "messages": [{"role": "user", "content": "slow"}]}
    with (
        ThreadPoolExecutor(1) as pool,
        gateway.client.stream("POST", "/api/v1/prompt", json=body, headers={"x-clinvk-node": "one"}) as response,
    ):
        events = lines(response.iter_lines())
        started = [next(events), next(events)]
        send = partial(httpx.post, json=chat, headers={"x-clinvk-node": "one"}, timeout=60)
        whole = pool.submit(send, f"{gateway.url}/openai/v1/chat/completions")
        until(lambda: len(cluster.agent.alive()) == 2)
        one.kill()
        killed_at = time.monotonic()
        assert prompt(gateway)["node"] == "two", "the broker itself knows at once that a node is gone"
        (last,) = events
        assert time.monotonic() - killed_at < 15
        assert (whole.result().status_code, whole.result().headers["x-should-retry"]) == (503, "false")
    assert [event["type"] for event in (*started, last)] == ["init", "message", "error"]
    assert (last["sequence"], last["content"]["code"]) == (3, "node_unavailable")
    run_id = started[0]["content"]["run_id"]
    until_state(gateway, run_id, "interrupted")
    body = {"backend": "claude", "prompt": "hi", "session_id": session_id}
    refused = gateway.client.post("/api/v1/prompt", json=body)
    assert (refused.status_code, refused.json()["code"]) == (503, "node_unavailable")
    assert int(refused.headers["retry-after"]) > 0
    one = cluster.worker("one")
    until(lambda: "one" in nodes(gateway))
    assert prompt(gateway, session_id=session_id)["node"] == "one"
    one.kill()
    listed = gateway.client.get("/api/v1/worktrees")
    assert (listed.status_code, listed.json()) == (200, {"worktrees": []}), "the other node answers"


def test_killed_gateway_cancels_its_runs_except_detached_ones(cluster: Cluster, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    cluster.agent.play([*claude_says("half")[:4], hang()], when="slow")
    cluster.agent.play([wait_for(gate), *claude_says("done")], when="detached")
    cluster.worker("one")
    gateway, other = cluster.gateway(), cluster.gateway()
    detached = gateway.detached("detached")["run_id"]
    body = {"backend": "claude", "prompt": "slow", "output_format": "stream-json"}
    with gateway.client.stream("POST", "/api/v1/prompt", json=body) as response:
        started = next(lines(response.iter_lines()))
        gateway.kill()
    run_id = started["content"]["run_id"]
    until_state(other, run_id, "cancelled")
    assert state_of(other, detached) in ("queued", "running")
    gate.touch()
    headers = {"accept": "application/x-ndjson"}
    with other.client.stream("GET", f"/api/v1/runs/{detached}/events", headers=headers) as response:
        assert [*lines(response.iter_lines())][-1]["type"] == "done"


def test_outage_of_the_broker_breaks_no_stream_and_refuses_requests_meanwhile(cluster: Cluster, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    cluster.agent.play([*claude_says("half")[:4], wait_for(gate), *claude_says(" whole")[3:]], when="slow")
    cluster.agent.play(claude_says("hello"))
    cluster.worker("one")
    gateway = cluster.gateway()
    body = {"backend": "claude", "prompt": "slow", "output_format": "stream-json"}
    with gateway.client.stream("POST", "/api/v1/prompt", json=body) as response:
        events = lines(response.iter_lines())
        assert [next(events)["type"], next(events)["type"]] == ["init", "message"]
        cluster.broker.kill()
        until(lambda: "broker of the cluster is away" in gateway.said)
        refused = gateway.client.post("/api/v1/prompt", json={"backend": "claude", "prompt": "hi"})
        assert (refused.status_code, refused.json()["code"]) == (503, "node_unavailable")
        assert gateway.client.get("/health").json()["status"] == "degraded"
        assert gateway.client.get("/health/ready").status_code == 503
        time.sleep(5)  # longer than a process may be silent
        cluster.broker.start()
        until(lambda: "broker of the cluster is back" in gateway.said)
        gate.touch()
        rest = [*events]
    assert [event["type"] for event in rest][-1] == "done"
    until(lambda: nodes(gateway) == ["one"])
    until(lambda: gateway.prompt("hi").status_code == 200)
    assert gateway.client.get("/health/ready").status_code == 200


def test_stopping_worker_finishes_its_runs_and_gets_no_new_ones(cluster: Cluster, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    cluster.agent.play(claude_says("hello"))
    cluster.agent.play([wait_for(gate), *claude_says("finished")], when="slow")
    one, _ = cluster.worker("one"), cluster.worker("two")
    gateway = cluster.gateway()
    headers = {"x-clinvk-node": "one", "prefer": "respond-async"}
    body = {"backend": "claude", "prompt": "slow", "detach": True}
    run_id = gateway.client.post("/api/v1/prompt", json=body, headers=headers).json()["run_id"]
    one.process.terminate()
    until(lambda: gateway.client.get("/api/v1/nodes").json()["nodes"][0]["state"] == "stopping")
    assert {prompt(gateway)["node"] for _ in range(3)} == {"two"}
    gate.touch()
    until(lambda: run_of(gateway, run_id).get("output") == "finished")
    assert one.process.wait(30) == 0


def test_start_reports_what_is_wrong_with_exit_code_3(cluster: Cluster, clinvk: Clinvk, tmp_path: Path) -> None:
    cluster.worker("one")
    (tmp_path / "locked").mkdir()
    with NatsServer(tmp_path / "locked", "--user", "ana", "--pass", "right") as locked:
        wrong = locked.url.replace("//", "//ana:wrong@")
        starts: list[tuple[tuple[str, ...], dict[str, str], str]] = [
            (("worker", "--node", "one", "--cluster", cluster.broker.url), SECRET, "is named 'one'"),
            (("worker", "--cluster", "nats://127.0.0.1:9"), SECRET, "'nats://127.0.0.1:9' cannot be used: "),
            (
                ("serve", "--port", "0", "--cluster", wrong),
                SECRET,
                f"'{locked.url}' cannot be used: nats: 'Authorization Violation'; check user and password",
            ),
            (("worker", "--cluster", cluster.broker.url), {}, "needs a secret"),
            (("worker",), SECRET, "--cluster URL"),
            (("cluster", "status"), SECRET, "--cluster URL"),
        ]
        for arguments, env, reason in starts:
            done = clinvk.run(*arguments, env=env)
            assert (done.returncode, reason in done.stderr) == (3, True), done.stderr


def test_of_two_workers_with_one_name_that_start_together_one_stops(cluster: Cluster) -> None:
    argv = ("worker", "--node", "one", "--cluster", cluster.broker.url)
    with (
        Server(cluster.agent, SECRET, arguments=argv) as first,
        Server(cluster.agent, SECRET, arguments=argv) as second,
    ):
        until(lambda: (first.process.poll() is None) != (second.process.poll() is None))
        stopped = first if first.process.poll() is not None else second
        assert stopped.process.poll() == 3
        until(lambda: "is named 'one'" in stopped.said)
        assert nodes(cluster.gateway()) == ["one"]


def test_messages_of_another_cluster_are_ignored(cluster: Cluster) -> None:
    cluster.agent.play(claude_says("hello"))
    cluster.worker("one")
    gateway = cluster.gateway()
    with cluster.broker.connect() as other:
        other.sendall(b'CONNECT {"verbose": false}\r\n')
        for subject in (b"members", b"changes", b"node.one"):
            other.sendall(b"PUB clinvk.%s reply 40\r\n%s\r\n" % (subject, b"x" * 40))
        until(lambda: "is not of this cluster" in gateway.said)
        assert prompt(gateway)["output"] == "hello"


def _answer_all(broker: socket.socket, answer: bytes) -> None:
    """Answer all requests at `call.*` and `node.*` until the connection is closed."""
    broker.sendall(b'CONNECT {"verbose": false}\r\nSUB clinvk.call.* 1\r\nSUB clinvk.node.* 2\r\nPING\r\n')
    with suppress(OSError), broker.makefile("rb") as lines:
        for line in lines:
            if line.startswith(b"MSG "):
                reply = line.split()[-2]
                broker.sendall(b"PUB %s %d\r\n%s\r\n" % (reply, len(answer), answer))


@pytest.mark.parametrize("answer", [b"\xff\xfe", b"0123456789abcdef", b""])
def test_answers_of_another_cluster_are_ignored(cluster: Cluster, answer: bytes) -> None:
    cluster.agent.play(claude_says("hello"), reads=False)
    with cluster.broker.connect() as other:
        answering = Thread(target=_answer_all, args=(other, answer))
        answering.start()
        try:
            cluster.worker("one")
            gateway = cluster.gateway()
            call = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
            messages = [
                {"role": "user", "content": "hi"},
                {"role": "assistant", "tool_calls": [call]},
                {"role": "tool", "tool_call_id": "call_1", "content": "42"},
            ]
            tools = [{"type": "function", "function": {"name": "f"}}]
            body = {"model": "claude", "messages": messages, "tools": tools}
            response = gateway.client.post("/openai/v1/chat/completions", json=body)
            assert (response.status_code, "hello" in response.text) == (200, True), response.text
        finally:
            other.shutdown(socket.SHUT_RDWR)
            answering.join()


def _start(gateway: Server, **body: object) -> httpx.Response:
    """Start a run in the background."""
    body = {"backend": "claude", "prompt": "hi", "detach": True, **body}
    return gateway.client.post("/api/v1/prompt", json=body, headers={"prefer": "respond-async"})


def test_limit_of_a_key_counts_the_runs_of_all_nodes(cluster: Cluster, clinvk: Clinvk) -> None:
    cluster.agent.play([hang()])
    ana, ben = (
        clinvk.run("keys", "create", *arguments, env=SECRET).stdout.strip()
        for arguments in (("ana", "--max-runs", "1"), ("ben",))
    )
    cluster.worker("one")
    two = cluster.worker("two")
    gateway = cluster.gateway()

    def start(node: str, key: str = ana) -> str:
        gateway.client.headers["x-api-key"] = key
        return _start(gateway, node=node).json()["run_id"]

    first = start("one")
    until_state(gateway, first, "running")
    until(lambda: [node["running"] for node in gateway.client.get("/api/v1/nodes").json()["nodes"]] == [1, 0])
    second = start("two")
    until_state(gateway, start("two", ben), "running")
    until_state(gateway, second, "queued")
    gateway.client.post(f"/api/v1/runs/{first}/cancel")
    until_state(gateway, second, "running")
    until(lambda: [node["running"] for node in gateway.client.get("/api/v1/nodes").json()["nodes"]] == [0, 2])
    third = start("one")
    until_state(gateway, third, "queued")
    two.kill()
    until_state(gateway, third, "running")


def test_run_is_refused_only_if_the_queues_of_all_nodes_are_full(cluster: Cluster, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    cluster.agent.play([wait_for(gate), *claude_says("done")])
    full = {"CLINVK_SERVER__MAX_CONCURRENT_RUNS": "1", "CLINVK_SERVER__MAX_QUEUED_RUNS": "1"}
    cluster.worker("one", **full)
    cluster.worker("two", **full)
    gateway = cluster.gateway()
    accepted = [_start(gateway) for _ in range(4)]
    assert sorted(each.headers["x-clinvk-node"] for each in accepted) == ["one", "one", "two", "two"]
    refused = _start(gateway)
    assert (refused.status_code, refused.json()["code"]) == (503, "queue_full")
    assert int(refused.headers["retry-after"]) > 0
    gate.touch()
    for each in accepted:
        until_state(gateway, each.json()["run_id"], "finished")


def test_agent_of_a_worker_cannot_answer_what_it_asks(cluster: Cluster, tmp_path: Path) -> None:
    cluster.worker("one")
    gateway = cluster.gateway(CLINVK_SERVER__TRUSTED_PROXIES="127.0.0.1")
    out, url = tmp_path / "out", f"{gateway.url}/api/v1/interactions"
    data = """-H 'content-type: application/json' -d '{"choice": "allow"}'"""
    attack = (
        f"""until id=$(curl -s '{url}?status=pending' | grep -o '"id":"[0-9a-f]*'); do sleep 0.1; done\n"""
        f"""curl -s {url}/${{id##*\\"}}/answer {data} >{out}.new\n"""
        f"mv {out}.new {out}"
    )
    begins, *answers = claude_says("done")
    request: Step = {"tool_name": "Bash", "input": {"command": "make"}}
    cluster.agent.play([begins, spawn("all", command=attack), ask_approval(request), *answers], reads=False)
    body = {"backend": "claude", "prompt": "hi", "approval_mode": "ask", "detach": True}
    run_id = gateway.client.post("/api/v1/prompt", json=body, headers={"prefer": "respond-async"}).json()["run_id"]
    until(out.exists)
    assert json.loads(out.read_text())["code"] == "agent_cannot_answer", out.read_text()
    waiting = gateway.client.get("/api/v1/interactions?status=pending").json()["interactions"]

    def answer(**headers: str) -> str:
        path = f"/api/v1/interactions/{waiting[0]['id']}/answer"
        return gateway.client.post(path, json={"choice": "allow"}, headers=headers).json().get("code", "")

    assert answer(**{"x-forwarded-for": "192.0.2.7"}) == "agent_cannot_answer", "an agent of another machine"
    assert not answer()
    until(lambda: run_of(gateway, run_id).get("output") == "done")


def test_viewers_at_a_gateway_learn_of_a_request_that_is_too_long_for_a_message(cluster: Cluster) -> None:
    cluster.worker("one")
    gateway = cluster.gateway()
    begins, *answers = claude_says("done")
    request: Step = {"tool_name": "Write", "input": {"file_path": "/tmp/long", "content": "x" * 1_000_000}}
    cluster.agent.play([begins, ask_approval(request), *answers], reads=False)
    body = {"backend": "claude", "prompt": "hi", "approval_mode": "ask", "detach": True}
    with gateway.client.stream("GET", "/api/v1/events") as response:
        kinds = (line for line in response.iter_lines() if line.startswith("event: "))
        assert next(kinds) == "event: reset"
        gateway.client.post("/api/v1/prompt", json=body, headers={"prefer": "respond-async"})
        assert "event: reset" in kinds
    (waiting,) = gateway.client.get("/api/v1/interactions?status=pending").json()["interactions"]
    assert len(waiting["input"]["content"]) == 1_000_000


def test_cluster_up_starts_a_broker_and_creates_the_secret(cluster: Cluster, clinvk: Clinvk) -> None:
    cluster.broker.kill()
    arguments = ("cluster", "up", "--port", str(cluster.broker.port))
    with Server(cluster.agent, arguments=arguments) as up:
        until(lambda: "Server is ready" in up.said)
        secret = cluster.agent.folder / ".clinvk" / "cluster.secret"
        assert secret.stat().st_mode & 0o777 == 0o600
        with Server(cluster.agent, arguments=("worker", "--node", "one", "--cluster", cluster.broker.url)) as worker:
            worker.ready()
            listed = clinvk.run("cluster", "status", "--cluster", cluster.broker.url)
            refused = clinvk.run("cluster", "status", "--cluster", cluster.broker.url, env=SECRET)
            second = clinvk.run(*arguments)
        assert (refused.returncode, "Authorization" in refused.stderr) == (3, True), refused.stderr
        assert (second.returncode, second.stdout, "in use" in second.stderr) == (3, "", True), second.stderr
    assert listed.stdout.splitlines()[1].split()[:2] == ["one", "up"]


class Compose:
    """The services of the compose file as plain processes, each with a home of its own."""

    def __init__(self, cluster: Cluster, postgres: PostgresServer, folder: Path) -> None:
        file = Path(__file__).parents[2] / "examples/cluster/compose.yaml"
        self._services: dict[str, Any] = yaml.safe_load(file.read_text())["services"]
        self._cluster = cluster
        self._folder = folder
        self._values = {
            "${CLINVK_CLUSTER_SECRET:?}": "secret",
            "${POSTGRES_PASSWORD:?}": "password",
            "${CLINVK_API_KEYS:?}": "key-of-the-gateway",
            "nats://nats:4222": cluster.broker.url,
            "postgresql://postgres:password@postgres/postgres": postgres.empty(),
        }

    def env(self, service: str) -> dict[str, str]:
        """Return the environment of a service."""
        env = {"HOME": str(self._folder / service), **self._services[service]["environment"]}
        for name, value in self._values.items():
            env = {key: text.replace(name, value) for key, text in env.items()}
        Path(env["HOME"]).mkdir(exist_ok=True)
        return env

    def start(self, service: str) -> Server:
        """Start a service; a server listens on a free port of the loopback instead of 8080 of all interfaces."""
        command = [word.replace("0.0.0.0", "127.0.0.1") for word in self._services[service]["command"]]
        if command[0] == "worker":
            assert command[1] == "--node"
            return self._cluster.worker(*command[2:], **self.env(service))
        gateway = self._cluster.gateway(*command[1:], **self.env(service))
        gateway.client.headers["x-api-key"] = "key-of-the-gateway"
        return gateway


def test_services_of_the_compose_file_work_as_processes(
    cluster: Cluster, clinvk: Clinvk, tmp_path: Path, postgres: PostgresServer
) -> None:
    cluster.agent.play(claude_says("zig", "zag"))
    cluster.agent.play([*claude_says("half")[:4], hang()], when="slow")
    compose = Compose(cluster, postgres, tmp_path)
    web, _ = compose.start("web"), compose.start("build")
    gateway = compose.start("gateway")
    client = gateway.client
    assert client.get("/api/v1/sessions", headers={"x-api-key": "wrong"}).status_code == 401
    until(lambda: nodes(gateway) == ["build", "web"])
    session_id = prompt(gateway, "web")["session_id"]
    assert {prompt(gateway, session_id=session_id)["node"] for _ in range(3)} == {"web"}
    assert prompt(gateway, labels=["gpu"])["node"] == "build"
    body: dict[str, object] = {"model": "claude", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 100}
    completion = client.post("/openai/v1/chat/completions", json=body).json()
    assert completion["choices"][0]["message"]["content"] == "zigzag"
    assert client.post("/anthropic/v1/messages", json=body).json()["content"][0]["text"] == "zigzag"
    for path, end in (("/openai/v1/chat/completions", "[DONE]"), ("/anthropic/v1/messages", "message_stop")):
        streamed = client.post(path, json={**body, "stream": True}).text
        assert streamed.index("zig") < streamed.index("zag") < streamed.index(end)
    streamed = client.post(
        "/api/v1/prompt", json={"backend": "claude", "prompt": "hi", "output_format": "stream-json"}
    ).text.splitlines()
    assert [event["type"] for event in lines(iter(streamed))][-1] == "done"
    listed = clinvk.run("cluster", "status", "--json", env=compose.env("build"))
    assert [(each["node"], each["state"]) for each in json.loads(listed.stdout)["nodes"]] == [
        ("build", "up"),
        ("web", "up"),
    ]

    limited = ("keys", "create", "ana", "--backends", "claude")
    client.headers["x-api-key"] = clinvk.run(*limited, env=compose.env("web")).stdout.strip()
    for node in ("web", "build"):  # each process reads the keys every 2 s
        until(lambda node=node: gateway.prompt("hi", node=node).status_code == 200)
    refused = gateway.prompt("hi", backend="codex")
    assert (refused.status_code, refused.json()["code"]) == (403, "backend_not_allowed")
    run_id = gateway.detached("slow", node="web")["run_id"]
    web.kill()
    until_state(gateway, run_id, "interrupted")
    clinvk.run("keys", "revoke", "ana", env=compose.env("build"))
    until(lambda: client.get("/api/v1/sessions").status_code == 401)


def test_worker_with_another_database_is_incompatible(
    cluster: Cluster, tmp_path: Path, postgres: PostgresServer
) -> None:
    url = postgres.empty()
    cluster.worker("alone", CLINVK_HOME=str(tmp_path))
    cluster.worker("one", CLINVK_STORE__URL=url)
    gateway = cluster.gateway(CLINVK_STORE__URL=f"{url}&application_name=gateway")
    states = {node["node"]: node["state"] for node in gateway.client.get("/api/v1/nodes").json()["nodes"]}
    assert states == {"alone": "incompatible", "one": "up"}


ROUNDS = 50
LOAD = 4
"""How many prompts of each round are sent at once."""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_kills_at_random_lose_no_acknowledged_run_and_run_nothing_twice(
    cluster: Cluster, postgres: PostgresServer
) -> None:
    random, store = Random(22), {"CLINVK_STORE__URL": postgres.empty()}
    cluster.agent.play(claude_says("done"))
    parts = {"one": cluster.worker("one", **store), "two": cluster.worker("two", **store)}
    parts["gateway"] = cluster.gateway(**store)
    acknowledged: list[str] = []
    for number in range(ROUNDS):
        with ThreadPoolExecutor(LOAD) as pool:
            sent = [pool.submit(_detached, parts["gateway"], f"{number} {each}") for each in range(LOAD)]
            victim = random.choice([*parts, "broker", "postgres"])
            time.sleep(random.random() / 10)
            if victim == "broker":
                cluster.broker.kill()
                cluster.broker.start()
            elif victim == "postgres":
                postgres.kill()
                postgres.start()
            else:
                parts[victim].kill()
                parts[victim] = cluster.gateway(**store) if victim == "gateway" else cluster.worker(victim, **store)
        acknowledged += filter(None, (each.result() for each in sent))
        until(lambda: nodes(parts["gateway"]) == ["one", "two"])
    assert len(acknowledged) > ROUNDS
    gateway = parts["gateway"]

    def listed() -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for run in gateway.client.get("/api/v1/runs", params={"limit": 1000}).json()["runs"]:
            found.setdefault(run["prompt"], []).append(run["state"])
        return found

    ended = {"finished", "interrupted", "cancelled"}
    until(lambda: {state for states in listed().values() for state in states} <= ended)
    started = Counter(call.stdin for call in cluster.agent.calls() if call.stdin)
    assert max(started.values()) == 1, started
    for run_id in acknowledged:
        assert gateway.client.get(f"/api/v1/runs/{run_id}").json()["state"] in ("finished", "interrupted")
    until(lambda: not cluster.agent.alive())


def _detached(gateway: Server, prompt: str) -> str | None:
    """Start a run in the background; return its id, or None if the cluster did not accept the run."""
    body = {"backend": "claude", "prompt": prompt, "detach": True}
    try:
        response = httpx.post(
            f"{gateway.url}/api/v1/prompt", json=body, headers={"prefer": "respond-async"}, timeout=60
        )
    except httpx.TransportError:  # the gateway was killed
        return None
    assert response.status_code in (202, 503), response.text
    return response.json()["run_id"] if response.status_code == 202 else None
