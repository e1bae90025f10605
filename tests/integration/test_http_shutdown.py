"""A server process: how it comes up, and how it stops without leaving an agent behind."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Generator
from pathlib import Path

import httpx
import psutil
import pytest

from acceptance.command import until
from repositories import Repository
from scripted import Scripted
from scripted.steps import claude_says, hang, ignore, spawn, wait_for

SERVE = """
import os, sys
sys.modules["watchfiles"] = None
from clinvk.api.server.server import serve
from clinvk.backends.registry import BACKENDS
from clinvk.config.model import ServerSettings, Settings, WarmSettings
server = ServerSettings(port=0, shutdown_grace_secs=int(sys.argv[1]), max_concurrent_runs=1)
settings = Settings(server=server, warm=WarmSettings(enabled=False))
sys.exit(serve(settings, dict(os.environ), BACKENDS, lambda text: print(text, flush=True)))
"""
"""uvicorn imports watchfiles if it is there: the tests install it for fastmcp, and clinvk does not need it."""

BODY = {"backend": "claude", "prompt": "hi"}


class Process:
    """A server in a process of its own."""

    def __init__(self, scripted: Scripted, grace_s: int) -> None:
        self.popen = subprocess.Popen(
            [sys.executable, "-c", SERVE, str(grace_s)],
            env=scripted.env,
            cwd=scripted.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.popen.stdout
        self.greeting = self.popen.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:(\d+)$", self.greeting.strip())
        assert found, self.popen.communicate(timeout=30)
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{found[1]}", timeout=30)

    def prompt(self, **fields: object) -> "Answer":
        """Send a prompt from a thread of its own."""
        return Answer(lambda: self.client.post("/api/v1/prompt", json={**BODY, **fields}))

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Send a signal."""
        self.popen.send_signal(number)

    def end(self) -> tuple[int, str]:
        """Wait for the exit, for less than a long grace period.

        Return the code, and the log without the lines about the stop.
        """
        _, output = self.popen.communicate(timeout=30)
        self.stopping = re.findall(r" clinvk\.api\.server\.lifecycle: (.*)\n", output)
        return self.popen.returncode, re.sub(r".* clinvk\.api\.server\.lifecycle: .*\n", "", output)


class Answer(threading.Thread):
    """An answer in progress."""

    def __init__(self, ask: Callable[[], httpx.Response]) -> None:
        super().__init__()
        self._ask = ask
        self._response: httpx.Response | None = None
        self.start()

    def run(self) -> None:
        self._response = self._ask()

    def get(self) -> httpx.Response:
        self.join(30)
        assert self._response is not None
        return self._response


@pytest.fixture
def server(scripted: Scripted) -> Generator[Callable[..., Process]]:
    started: list[Process] = []

    def start(grace_s: int = 60) -> Process:
        started.append(Process(scripted, grace_s))
        return started[-1]

    yield start
    for process in started:
        process.client.close()
        if process.popen.poll() is None:
            process.popen.kill()
        process.popen.communicate()


Start = Callable[..., Process]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_idle_server_stops_at_once_with_exit_code_0(server: Start, number: signal.Signals) -> None:
    process = server(grace_s=60)
    assert process.client.get("/health").status_code == 200
    process.stop(number)
    assert process.end() == (0, "")
    assert process.stopping == []


@pytest.mark.parametrize("output_format", ["json", "stream-json"])
def test_active_request_finishes_while_new_ones_are_refused(
    server: Start, scripted: Scripted, tmp_path: Path, output_format: str
) -> None:
    says = claude_says("one", "two")
    scripted.play([*says[:4], wait_for(tmp_path / "go"), *says[4:]])
    process = server()
    answer = process.prompt(output_format=output_format)
    until(scripted.calls)
    process.stop()
    until(lambda: process.client.get("/health/ready").status_code == 503)
    refused = process.client.post("/api/v1/prompt", json=BODY)
    assert (refused.status_code, refused.headers["connection"]) == (503, "close")
    assert int(refused.headers["retry-after"]) > 0
    (tmp_path / "go").touch()
    response = answer.get()
    assert response.status_code == 200
    last = json.loads(response.text.splitlines()[-1])
    assert last.get("output") == "onetwo" or last["type"] == "done"
    assert process.end() == (0, "")


@pytest.mark.parametrize(
    ("path", "begins"),
    [
        ("/api/v1/prompt", '{"type":"/docs#shutting_down"'),
        ("/openai/v1/chat/completions", '{"error":{"message":"the server is stopping'),
        ("/anthropic/v1/messages", '{"type":"error","error":{"type":"overloaded_error"'),
    ],
)
def test_request_during_shutdown_is_told_to_retry_in_its_dialect(
    server: Start, scripted: Scripted, path: str, begins: str
) -> None:
    scripted.play([*claude_says("x")[:4], hang()])
    process = server(grace_s=60)
    answer = process.prompt()
    until(scripted.calls)
    process.stop()
    until(lambda: process.client.get("/health/ready").status_code == 503)
    page = {"origin": "http://localhost:3000"}
    preflight = process.client.options(path, headers={**page, "access-control-request-method": "POST"})
    refused = process.client.post(path, json={}, headers=page)
    assert (refused.status_code, refused.headers["connection"]) == (503, "close")
    assert int(refused.headers["retry-after"]) > 0
    assert refused.text.startswith(begins)
    for answer_to_page in (preflight, refused):
        assert answer_to_page.headers["access-control-allow-origin"] == page["origin"]
    process.stop()
    answer.get()
    assert process.end() == (0, "")


def detached(process: Process, **fields: object) -> dict[str, str]:
    """Start a background run."""
    response = process.client.post(
        "/api/v1/prompt", json={**BODY, "detach": True, **fields}, headers={"prefer": "respond-async"}
    )
    assert response.status_code == 202
    return response.json()


def test_detached_run_finishes_before_the_server_stops(server: Start, scripted: Scripted, tmp_path: Path) -> None:
    says = claude_says("one", "two")
    scripted.play([*says[:4], wait_for(tmp_path / "go"), *says[4:]])
    process = server()
    run = detached(process)
    until(scripted.calls)
    process.stop()
    until(lambda: process.client.get("/health/ready").status_code == 503)
    (tmp_path / "go").touch()
    assert process.end() == (0, "")
    answer = server().client.get(f"/api/v1/runs/{run['run_id']}").json()
    assert (answer["state"], answer["output"]) == ("finished", "onetwo")


def test_detached_chain_finishes_its_next_steps_before_the_server_stops(
    server: Start, scripted: Scripted, tmp_path: Path
) -> None:
    scripted.play([wait_for(tmp_path / "go"), *claude_says("x")])
    process = server()
    body = {"steps": [BODY] * 3, "detach": True}
    chain = process.client.post("/api/v1/chain", json=body, headers={"prefer": "respond-async"}).json()
    until(scripted.calls)
    process.stop()
    until(lambda: process.client.get("/health/ready").status_code == 503)
    (tmp_path / "go").touch()
    assert process.end() == (0, "")
    told = server().client.get(f"/api/v1/runs/{chain['run_id']}").json()
    assert (told["state"], [part["state"] for part in told["runs"]]) == ("finished", ["finished"] * 3)


def test_killed_server_leaves_interrupted_runs_and_resumable_sessions(server: Start, scripted: Scripted) -> None:
    scripted.play(claude_says("again"), when="second")
    scripted.play([*claude_says("half")[:4], hang()], when="first")
    process = server()
    run = detached(process, prompt="first")
    until(lambda: process.client.get(f"/api/v1/sessions/{run['session_id']}").json()["backend_session_id"])
    process.stop(signal.SIGKILL)
    process.end()
    scripted.end()
    follower = server().client
    until(lambda: follower.get(f"/api/v1/runs/{run['run_id']}").json()["state"] == "interrupted")
    session = follower.get(f"/api/v1/sessions/{run['session_id']}").json()
    last = follower.get(f"/api/v1/runs/{run['run_id']}/events").text.strip().splitlines()[-1]
    again = follower.post("/api/v1/prompt", json={"prompt": "second", "session_id": run["session_id"]}).json()
    assert session["status"] != "active"
    assert json.loads(last.removeprefix("data: "))["type"] == "error"
    assert (again["output"], again["session_id"]) == ("again", run["session_id"])


def test_agents_are_ended_after_the_grace_period_and_their_clients_informed(server: Start, scripted: Scripted) -> None:
    scripted.play([*claude_says("x")[:4], spawn("all"), hang()])
    process = server(grace_s=1)
    answer = process.prompt()
    until(scripted.grandchildren)
    process.stop()
    body = answer.get().json()
    assert (body["exit_code"], body["error_code"], body["output"]) == (1, "cancelled", "x")
    assert process.end() == (0, "")
    assert scripted.alive() == []


def test_stopping_a_busy_server_reports_what_it_waits_for_and_how_long(
    server: Start, scripted: Scripted, tmp_path: Path
) -> None:
    scripted.play([*claude_says("x")[:4], wait_for(tmp_path / "go"), *claude_says("x")[4:]])
    process = server(grace_s=60)
    answer = process.prompt()
    until(scripted.calls)
    process.stop()
    assert process.popen.stderr
    line = process.popen.stderr.readline()
    (tmp_path / "go").touch()
    assert re.search(r"runs may take \d\d s more; a second signal \(Ctrl-C\) ends them at once", line)
    assert answer.get().json()["output"] == "x"
    assert process.end() == (0, "")


def test_runs_still_queued_after_the_grace_period_are_told_to_retry(server: Start, scripted: Scripted) -> None:
    scripted.play([*claude_says("x")[:4], hang()])
    process = server(grace_s=1)
    first = process.prompt()
    until(scripted.calls)
    second = process.prompt()
    third = process.prompt(output_format="stream-json")
    until(lambda: process.client.get("/api/v1/runs?state=queued").json()["total"] == 2)
    process.stop()
    assert first.get().json()["error_code"] == "cancelled"
    for queued in (second, third):
        assert (queued.get().status_code, queued.get().json()["code"]) == (503, "shutting_down")
        assert queued.get().headers["retry-after"]
    assert process.end() == (0, "")
    assert len(scripted.calls()) == 1


def test_second_signal_ends_the_agents_at_once(server: Start, scripted: Scripted) -> None:
    scripted.play([*claude_says("x")[:4], spawn("setsid"), hang()])
    process = server(grace_s=60)
    answer = process.prompt(output_format="stream-json")
    until(scripted.grandchildren)
    process.stop()
    until(lambda: process.client.get("/health/ready").status_code == 503)
    process.stop()
    last = json.loads(answer.get().text.splitlines()[-1])
    assert (last["type"], last["content"]["code"]) == ("error", "cancelled")
    assert process.end() == (0, "")
    assert scripted.alive() == []


def test_agent_that_ignores_sigterm_does_not_survive_the_server(server: Start, scripted: Scripted) -> None:
    scripted.play([ignore(), *claude_says("x")[:4], spawn("all"), hang()])
    process = server(grace_s=0)
    answer = process.prompt()
    until(scripted.grandchildren)
    process.stop()
    assert answer.get().json()["error_code"] == "cancelled"
    assert process.end() == (0, "")
    assert scripted.alive() == []


def test_check_is_ended_with_the_server_and_the_partial_answer_is_returned(
    server: Start, scripted: Scripted, tmp_path: Path
) -> None:
    project = Repository(tmp_path / "project", tmp_path)
    project.commit(kept="kept\n")
    marker = tmp_path / "begun"
    scripted.play(claude_says("so far"))
    process = server(grace_s=0)
    body = {"prompt": "x", "backends": ["claude"], "workdir": str(project.path), "isolation": "worktree"}
    sleeps = f"{86397 + os.getpid()}"
    check = f"touch {marker}; sleep {sleeps}"
    answer = Answer(lambda: process.client.post("/api/v1/compare", json={**body, "check": check}))
    until(marker.exists)
    process.stop()
    assert process.end() == (0, "")
    document = answer.get().json()
    assert [(result["output"], "check" in result) for result in document["results"]] == [("so far", False)]
    assert not [found for found in psutil.process_iter(["cmdline"]) if sleeps in (found.info["cmdline"] or [])]
    assert not [*Path(scripted.env["HOME"], ".clinvk", "worktrees").glob("claude-*")]
    again = server()
    run = again.client.get(f"/api/v1/runs/{document['run_id']}").json()
    assert (run["state"], run["error"]) == ("cancelled", "the server is stopping")


def test_idle_server_uses_little_memory(server: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """The budget is 38 MiB beside a bare interpreter, whose memory depends on the version of Python.

    Each model API takes about 1 MiB of it.
    """
    for name in [name for name in os.environ if name.startswith("COVERAGE_")]:  # counting lines takes memory
        monkeypatch.delenv(name)
    script = "import sys; print(flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as bare:
        assert bare.stdout
        bare.stdout.readline()
        of_python = psutil.Process(bare.pid).memory_info().rss
    process = server()
    process.client.get("/health")
    assert psutil.Process(process.popen.pid).memory_info().rss - of_python < 38 * 1024 * 1024
    process.stop()
    assert process.end() == (0, "")
