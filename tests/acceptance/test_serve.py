"""The flags of `clinvk serve`."""

import re
import signal
from collections.abc import Generator
from contextlib import contextmanager

import httpx
import pytest

from acceptance.command import TIMEOUT_S, Clinvk, read_until
from acceptance.server import Server
from acceptance.terminal import Terminal, on_terminal
from network import reserved_port
from scripted.steps import ask_approval, claude_says, exits, stderr


def test_dry_run_server_answers_each_request_with_its_command(clinvk: Clinvk) -> None:
    with clinvk.started("serve", "--port", "0", "--dry-run") as process:
        assert process.stdout
        url = re.search(rb"http://\S+", read_until(process.stdout.fileno(), b"/docs"))
        assert url
        body = {"prompt": "hello", "backend": "claude"}
        shown = httpx.post(f"{url[0].decode()}/api/v1/prompt", json=body, timeout=TIMEOUT_S)
    assert shown.status_code == 200
    assert shown.json()["output"].endswith("# prompt: 5 bytes on stdin")
    assert clinvk.agent.calls() == []


@contextmanager
def served_on_terminal(clinvk: Clinvk, *flags: str) -> Generator[tuple[Terminal, httpx.Client]]:
    """Start a server on a terminal; its greeting is read."""
    with on_terminal(clinvk, "serve", "--port", "0", *flags, columns=100) as terminal:
        url = re.search(r"http://[\d.:]+", terminal.until(" on 127.0.0.1\r\n"))
        assert url
        with httpx.Client(base_url=url[0], timeout=TIMEOUT_S) as client:
            yield terminal, client


def test_greeting_on_a_terminal_names_address_ready_agents_and_keys(clinvk: Clinvk) -> None:
    (clinvk.agent.folder / "codex").unlink()
    with on_terminal(clinvk, "serve", "--port", "0", columns=120) as terminal:
        greeting = terminal.until("no API keys needed on 127.0.0.1").splitlines()
        terminal.process.send_signal(signal.SIGINT)
        assert terminal.ended() == 0
    url = r"http://127\.0\.0\.1:\d+"
    assert re.fullmatch(rf"clinvk \S+ · console: {url} \(clinvk open\)", greeting[0])
    vendors = {"OpenAI": "/openai/v1", "Anthropic": "/anthropic", "Google": "/gemini"}
    bases = {**vendors, "MCP": "/mcp", "REST": "/api/v1", "API docs": "/docs"}
    for line, (name, path) in zip(greeting[1:7], bases.items(), strict=True):
        assert re.fullmatch(rf"  {name} +{url}{path}", line)
    assert greeting[7].startswith("claude ready · codex not installed · gemini not logged in (run `gemini`) · ")


def test_each_run_is_a_line_on_the_terminal_with_prompt_outcome_and_client(clinvk: Clinvk) -> None:
    clinvk.agent.play(claude_says("hi"))
    clinvk.agent.play([stderr("out of luck\n"), exits(4)], when="broken")
    with served_on_terminal(clinvk) as (terminal, client):
        body = {"backend": "claude", "prompt": "Fix the\x1b[31m test\nat once"}
        client.post("/api/v1/prompt", json=body, headers={"user-agent": "OpenAI/Python 1.9"})
        line = terminal.until("openai-python").strip()
        cells = re.split(r" {2,}", line)
        assert re.fullmatch(r"\d\d:\d\d:\d\d", cells[0])
        assert cells[1:3] == ["claude", "“Fix the?[31m test at once”"]
        assert re.fullmatch(r"\d\.\d s", cells[3])
        assert cells[4:] == ["17 tokens", "done", "openai-python"]
        client.post("/api/v1/prompt", json={"backend": "claude", "prompt": "broken"}, headers={"user-agent": "curl/8"})
        assert re.search(r"“broken”.* failed  curl\r\n {10}\S.*out of luck$", terminal.until("out of luck"))
        assert b"\x1b[31mfailed" in terminal.all_read
        clinvk.run("hello")
        assert "“hello”" in terminal.until("clinvk\r\n")
        terminal.process.send_signal(signal.SIGINT)
        assert terminal.ended() == 0


def test_run_that_begins_to_wait_is_a_line_with_the_command_that_answers(clinvk: Clinvk) -> None:
    begins, *answers = claude_says("hi")
    asks = ask_approval({"tool_name": "Bash", "input": {"command": "make\n  test"}, "title": "Run the tests"})
    clinvk.agent.play([begins, asks, *answers], reads=False)
    with served_on_terminal(clinvk) as (terminal, client):
        body = {"backend": "claude", "prompt": "hello", "approval_mode": "ask", "detach": True}
        assert client.post("/api/v1/prompt", json=body, headers={"prefer": "respond-async"}).status_code == 202
        shown = terminal.until("to answer: ")
        assert re.search(r"\d\d:\d\d:\d\d  claude  waits  make test\r\n {10}to answer: $", shown)
        asked = client.get("/api/v1/interactions").json()["interactions"][0]["id"][:8]
        assert clinvk.run("approvals", "answer", asked, "allow").returncode == 0
        terminal.until("  done  ")
        assert f"to answer: clinvk approvals answer {asked}\r\n".encode() in terminal.all_read
        terminal.process.send_signal(signal.SIGINT)
        assert terminal.ended() == 0


@pytest.mark.parametrize(("flags", "is_logged"), [((), False), (("-v",), True)], ids=["plain", "verbose"])
def test_verbose_server_adds_a_line_for_each_request(clinvk: Clinvk, flags: tuple[str, ...], is_logged: bool) -> None:
    clinvk.agent.play(claude_says("hi"))
    with served_on_terminal(clinvk, *flags) as (terminal, client):
        client.get("/api/v1/backends")
        client.post("/api/v1/prompt", json={"backend": "claude", "prompt": "hi"})
        read = terminal.until("python-httpx")
        terminal.process.send_signal(signal.SIGINT)
        assert terminal.ended() == 0
    assert ("GET /api/v1/backends 200" in read) is is_logged


def test_log_redirected_to_a_file_contains_no_prompt(clinvk: Clinvk) -> None:
    clinvk.agent.play(claude_says("hi"))
    with Server(clinvk.agent, {"CLINVK_LOG__REQUESTS": "true"}) as server:
        assert server.ready().prompt("a secret plan").status_code == 200
        assert server.stop() == 0
        assert "of claude: finished" in server.said
        assert "secret plan" not in server.said


def test_quiet_server_prints_nothing(clinvk: Clinvk) -> None:
    clinvk.agent.play(claude_says("hi"))
    with reserved_port() as port, on_terminal(clinvk, "serve", "--port", str(port), "--quiet") as terminal:
        transport = httpx.HTTPTransport(retries=8)
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=TIMEOUT_S, transport=transport) as client:
            assert client.post("/api/v1/prompt", json={"backend": "claude", "prompt": "hi"}).status_code == 200
        terminal.process.send_signal(signal.SIGINT)
        assert terminal.ended() == 0
        assert terminal.all_read.replace(b"^C", b"").strip() == b""


def test_verbose_and_quiet_exclude_each_other(clinvk: Clinvk) -> None:
    assert clinvk.run("serve", "-v", "-q").stderr == "clinvk: --verbose and --quiet exclude each other\n"


def test_key_of_one_start_comes_with_the_command_for_a_key_that_stays(clinvk: Clinvk) -> None:
    with clinvk.started("serve", "--port", "0", "--host", "0.0.0.0") as process:
        assert process.stderr
        said = read_until(process.stderr.fileno(), b"API key:\n").decode()
    assert "this one was created for this start only.\nclinvk: To keep one: clinvk keys create NAME. " in said


def test_greeting_names_an_address_that_a_browser_can_open(clinvk: Clinvk) -> None:
    with on_terminal(clinvk, "serve", "--port", "0", "--host", "0.0.0.0") as terminal:
        assert "http://127.0.0.1:" in terminal.until("/docs")
        terminal.process.send_signal(signal.SIGINT)
        assert terminal.ended() == 0
