"""A server without free file descriptors answers 503 with `retry-after`, and recovers."""

import sys
from collections.abc import Generator
from contextlib import contextmanager

import psutil
import pytest

from acceptance.command import until
from acceptance.server import Server
from scripted import Scripted
from scripted.steps import claude_says, spawn, wait_for

MESSAGES = [{"role": "user", "content": "hi"}]
STREAMS: dict[str, object] = {"stream": True}
REQUESTS: dict[str, tuple[dict[str, object], dict[str, object]]] = {
    "/api/v1/prompt": ({"backend": "claude", "prompt": "hi"}, {"output_format": "stream-json"}),
    "/openai/v1/chat/completions": ({"model": "claude", "messages": MESSAGES}, STREAMS),
    "/openai/v1/completions": ({"model": "claude", "prompt": "hi"}, STREAMS),
    "/openai/v1/responses": ({"model": "claude", "input": "hi"}, STREAMS),
    "/anthropic/v1/messages": ({"model": "claude", "max_tokens": 100, "messages": MESSAGES}, STREAMS),
}

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="needs prlimit")]


@contextmanager
def no_descriptors(server: Server) -> Generator[None]:
    """Prevent the server from opening files; open files stay open."""
    process = psutil.Process(server.process.pid)
    soft, hard = process.rlimit(psutil.RLIMIT_NOFILE)
    process.rlimit(psutil.RLIMIT_NOFILE, (3, hard))
    try:
        yield
    finally:
        process.rlimit(psutil.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("path", REQUESTS)
def test_prompt_is_refused_with_503_and_retry_after(scripted: Scripted, path: str) -> None:
    whole, stream = REQUESTS[path]
    scripted.play(claude_says("hi"))
    with Server(scripted) as server:
        client = server.ready().client
        assert client.get("/health").status_code == 200  # opens the connection that the requests below share
        for more in ({}, stream):
            with no_descriptors(server):
                refused = client.post(path, json={**whole, **more})
            assert refused.status_code == 503, refused.text
            assert int(refused.headers["retry-after"]) > 0
            assert "resources_exhausted" in refused.text or "store_unavailable" in refused.text
            recovered = client.post(path, json={**whole, **more})
            assert recovered.status_code == 200, recovered.text
        with no_descriptors(server):
            assert "resources_exhausted" in client.post(path, json=whole).text  # the store is open by now


def test_agents_that_exit_without_free_descriptors_leave_no_process(scripted: Scripted) -> None:
    go = scripted.folder / "go"
    scripted.play([*claude_says("x")[:4], spawn("setsid"), spawn("all"), wait_for(go), *claude_says("x")[4:]])
    with Server(scripted) as server:
        run_id = server.ready().detached("hi")["run_id"]
        until(lambda: len(scripted.grandchildren()) == 2)
        with no_descriptors(server):
            go.touch()
            until(lambda: server.client.get(f"/api/v1/runs/{run_id}").json()["state"] == "finished")
        until(lambda: not scripted.alive())


OTHERS: dict[str, dict[str, object] | None] = {
    "/": None,
    "/docs": None,
    "/openapi.json": None,
    "/api/v1/backends": None,
    "/api/v1/sessions": None,
    "/api/v1/runs": None,
    "/api/v1/usage": None,
    "/api/v1/limits": None,
    "/openai/v1/models": None,
    "/anthropic/v1/models": None,
    "/anthropic/v1/messages/count_tokens": {"model": "claude", "messages": MESSAGES},
    "/api/v1/parallel": {"tasks": [{"backend": "claude", "prompt": "hi"}]},
    "/api/v1/chain": {"steps": [{"backend": "claude", "prompt": "hi"}]},
    "/api/v1/compare": {"backends": ["claude"], "prompt": "hi"},
}


@pytest.mark.parametrize("path", ["/api/v1/parallel", "/api/v1/chain", "/api/v1/compare"])
def test_orchestration_without_free_descriptors_is_refused(scripted: Scripted, path: str) -> None:
    scripted.play(claude_says("hi"))
    with Server(scripted) as server:
        client = server.ready().client
        assert client.post(path, json=OTHERS[path]).status_code == 200
        with no_descriptors(server):
            refused = client.post(path, json=OTHERS[path])
        assert (refused.status_code, refused.json()["code"]) == (503, "resources_exhausted")
        assert int(refused.headers["retry-after"]) > 0
        assert client.post(path, json=OTHERS[path]).status_code == 200


def test_other_requests_are_answered_or_refused_with_503_and_retry_after(scripted: Scripted) -> None:
    scripted.play(claude_says("hi"))
    with Server(scripted) as server:
        client = server.ready().client
        assert client.get("/health/live").status_code == 200
        for path, body in OTHERS.items():
            method = "POST" if body else "GET"
            with no_descriptors(server):
                answer = client.request(method, path, json=body)
            assert answer.status_code in (200, 503), (path, answer.text)
            assert answer.status_code == 200 or int(answer.headers["retry-after"]) > 0, path
            assert client.request(method, path, json=body).status_code == 200, path
