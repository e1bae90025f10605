"""The server's description of itself, paths and ids, and the start."""

import asyncio
import json
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import msgspec
import pytest

from clinvk import __version__
from clinvk.api.access.auth import AuthMiddleware
from clinvk.api.access.hosts import CorsMiddleware
from clinvk.api.server.address import listen
from clinvk.api.server.app import MCP_PATH, Router
from clinvk.api.server.housekeeping import maintain_store
from clinvk.api.server.server import serve, startup
from clinvk.backends.registry import BACKENDS
from clinvk.config.model import BackendSettings, ServerSettings, Settings
from clinvk.runtime.process.waiting import in_background
from clinvk.store.memory import MemoryStore
from clinvk.store.protocol import Page, SessionQuery
from clinvk.store.sqlite.sqlite import SqliteStore
from clinvk.types.errors import ConfigError, StoreUnavailable
from clinvk.types.record import RunRecord, Session
from polling import until, until_told
from records import session, turn
from scripted import Scripted
from scripted.steps import claude_says
from serving import LiveServer, serving


async def test_health_is_ok_with_a_store_and_a_backend(scripted: Scripted) -> None:
    async with serving(scripted.env) as server:
        response = await server.client.get("/health")
    answer = response.json()
    assert (response.status_code, answer["status"], answer["version"]) == (200, "ok", __version__)
    assert {"name": "claude", "available": True} in answer["backends"]
    assert answer["session_store"] == {"available": True, "session_count": 0}
    assert answer["uptime"].endswith("s")
    assert answer["uptime_ms"] >= 0


async def test_health_reports_the_limit_of_concurrent_runs_and_its_reason(scripted: Scripted) -> None:
    async with serving(scripted.env, store=MemoryStore(), max_concurrent_runs=5) as server:
        answer = (await server.client.get("/health")).json()["capacity"]
        assert answer == {"max_concurrent_runs": 5, "reason": "set by server.max_concurrent_runs"}
        server.runs.resize(ServerSettings())
        answer = (await server.client.get("/health")).json()["capacity"]
    assert answer["max_concurrent_runs"] >= 16
    assert "MB of memory" in answer["reason"]


class BrokenStore(MemoryStore):
    """A store whose disk is full."""

    async def count(self) -> int:
        raise StoreUnavailable("/home/x/clinvk.db: its disk is full")

    async def begin(self, run: RunRecord, session: Session | None, must_exist: bool = False) -> Session | None:
        raise StoreUnavailable("/home/x/clinvk.db: its disk is full")

    async def sessions(self, query: SessionQuery) -> Page[Session]:
        raise StoreUnavailable("/home/x/clinvk.db: its disk is full")


async def test_unusable_store_is_unhealthy_and_refuses_prompts_and_lists(
    scripted: Scripted, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(scripted.env, store=BrokenStore()) as server:
        health, ready = await server.client.get("/health"), await server.client.get("/health/ready")
        live = await server.client.get("/health/live")
        refused = await server.prompt()
        listed = await server.client.get("/api/v1/sessions")
    assert (health.status_code, ready.status_code, live.status_code) == (503, 503, 200)
    assert health.json()["status"] == "unhealthy"
    store = {"available": False, "session_count": 0, "error": "its disk is full"}
    assert health.json()["session_store"] == store  # health is for everybody, the path is for the log
    assert caplog.text.count("unhealthy: /home/x/clinvk.db: its disk is full") == 1
    for response in (refused, listed):
        assert (response.status_code, response.json()["code"]) == (503, "store_unavailable")
        assert "its disk is full" in response.json()["detail"]
    assert scripted.calls() == []


async def test_sessions_of_an_earlier_clinvk_are_imported_and_old_ones_deleted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "sessions").mkdir()
    kept = {"id": "a" * 32, "backend": "claude", "created_at": "2020-01-01T00:00:00Z", "initial_prompt": "earlier"}
    (tmp_path / "sessions" / f"{'a' * 32}.json").write_text(json.dumps(kept))
    (tmp_path / "sessions" / f"{'b' * 32}.json").write_text("{")
    async with SqliteStore(tmp_path) as store:
        old = Session(
            id="c" * 32, backend="codex", created_at=1.0, last_used=1.0, working_dir="/", initial_prompt="old"
        )
        await store.create(old)
        with caplog.at_level("INFO", "clinvk.api.server.housekeeping"):
            async with in_background(
                maintain_store(store, retention_days=30, recover_interval_s=0.01, clean_interval_s=0.1)
            ):
                await until(lambda: "cleaned" in caplog.text)
        assert [session.id for session in (await store.sessions(SessionQuery())).items] == ["a" * 32]
    assert "imported 1 sessions of an earlier clinvk" in caplog.text
    assert f"not imported: {tmp_path}/sessions/{'b' * 32}.json: " in caplog.text
    assert "cleaned 1 sessions that were not used for 30 days" in caplog.text


async def test_old_sessions_are_kept_forever_without_retention(tmp_path: Path) -> None:
    async with SqliteStore(tmp_path) as store:
        old = Session(id="c" * 32, backend="x", created_at=1.0, last_used=1.0, working_dir="/", initial_prompt="old")
        await store.create(old)
        (tmp_path / "sessions").mkdir()
        (tmp_path / "sessions" / f"{'a' * 32}.json").write_text(json.dumps({"id": "a" * 32, "backend": "claude"}))
        async with in_background(maintain_store(store, retention_days=0, recover_interval_s=0.01)):
            await until_told(lambda: is_kept(store, "a" * 32))
            await asyncio.sleep(0.1)  # several rounds
        assert await is_kept(store, "c" * 32)


@asynccontextmanager
async def unused_for_a_year(home: Path) -> AsyncGenerator[SqliteStore]:
    """As by a clock that is a year ahead."""
    at = time.time() - 365 * 86_400
    async with SqliteStore(home) as store:
        await store.create(
            Session(id="c" * 32, backend="x", created_at=at, last_used=at, working_dir="/", initial_prompt="")
        )
        yield store


async def test_clock_set_years_ahead_at_startup_deletes_no_session(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        unused_for_a_year(tmp_path) as store,
        in_background(maintain_store(store, retention_days=30, recover_interval_s=0.01)),
    ):
        await until(lambda: "or the clock is ahead" in caplog.text)
        await asyncio.sleep(0.1)  # several rounds
        assert await is_kept(store, "c" * 32)


async def test_sessions_unused_for_a_year_are_deleted_while_the_server_runs(tmp_path: Path) -> None:
    async with (
        unused_for_a_year(tmp_path) as store,
        in_background(maintain_store(store, retention_days=30, recover_interval_s=0.01, clean_interval_s=0.1)),
    ):
        await until_told(lambda: is_gone(store, "c" * 32))


async def is_gone(store: SqliteStore, session_id: str) -> bool:
    return not await is_kept(store, session_id)


async def test_health_answers_while_another_program_locks_the_database(scripted: Scripted) -> None:
    home = scripted.folder / ".clinvk"
    async with SqliteStore(home) as store:
        await store.count()
    with closing(sqlite3.connect(home / "clinvk.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        async with serving(scripted.env, store=SqliteStore(home, lock_timeout_s=60)) as server:
            began = time.monotonic()
            health = await server.client.get("/health")
            assert time.monotonic() - began < 20
            assert (health.status_code, health.json()["status"]) == (503, "unhealthy")
            assert "lock" in health.json()["session_store"]["error"]
            other.execute("ROLLBACK")
            await until_told(lambda: is_well(server))


async def is_well(server: LiveServer) -> bool:
    return (await server.client.get("/health")).status_code == 200


async def is_kept(store: SqliteStore, session_id: str) -> bool:
    return session_id in [session.id for session in (await store.sessions(SessionQuery())).items]


async def test_run_of_a_dead_clinvk_is_marked_interrupted_while_the_server_runs(tmp_path: Path) -> None:
    run = RunRecord(id="d" * 32, backend="claude", prompt="p", state="running", created_at=1.0)
    died = subprocess.run(
        [sys.executable, "-c", BEGIN_AND_DIE, str(tmp_path), msgspec.json.encode(run)], timeout=30, check=False
    )
    assert died.returncode == -9
    async with (
        SqliteStore(tmp_path) as store,
        in_background(maintain_store(store, retention_days=0, recover_interval_s=0.01)),
    ):
        await until_told(lambda: is_interrupted(store, run.id))


async def is_interrupted(store: SqliteStore, run_id: str) -> bool:
    return (await store.run(run_id)).state == "interrupted"


BEGIN_AND_DIE = """
import asyncio, os, sys, msgspec
from clinvk.types.record import RunRecord
from clinvk.store.sqlite.sqlite import SqliteStore
async def begin():
    async with SqliteStore(sys.argv[1]) as store:
        await store.begin(msgspec.json.decode(sys.argv[2], type=RunRecord), None)
        os.kill(os.getpid(), 9)
asyncio.run(begin())
"""


async def test_store_errors_are_logged_once_and_do_not_stop_maintenance(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    database = tmp_path / "clinvk.db"
    database.write_bytes(b"no database at all " * 1000)
    (tmp_path / "sessions").mkdir()
    (tmp_path / "sessions" / f"{'a' * 32}.json").write_text(json.dumps({"id": "a" * 32, "backend": "claude"}))
    async with (
        SqliteStore(tmp_path) as store,
        in_background(maintain_store(store, retention_days=30, recover_interval_s=0.01)),
    ):
        await until(lambda: "sessions cannot be kept" in caplog.text)
        await asyncio.sleep(0.1)
        assert caplog.text.count("sessions cannot be kept") == 1
        database.unlink()
        await until_told(store.count)


async def test_health_without_any_backend_is_degraded_and_not_ready(tmp_path: Path) -> None:
    async with serving({"PATH": str(tmp_path), "HOME": str(tmp_path)}) as server:
        health = await server.client.get("/health")
        ready = await server.client.get("/health/ready")
        live = await server.client.get("/health/live")
    assert (health.status_code, health.json()["status"]) == (200, "degraded")
    assert ready.status_code == 503
    assert (live.status_code, live.json()) == (200, {"status": "ok"})


async def test_backends_list_shows_what_is_installed_and_how_to_install_the_rest(scripted: Scripted) -> None:
    (scripted.folder / "gemini").unlink()
    off = {"codex": BackendSettings(enabled=False)}
    async with serving({**scripted.env, "PATH": str(scripted.folder)}, backends=off) as server:
        listed = (await server.client.get("/api/v1/backends")).json()["backends"]
    claude, codex, gemini = listed
    assert (claude["name"], claude["available"], claude["enabled"]) == ("claude", True, True)
    assert claude["path"] == str(scripted.folder / "claude")
    assert claude["models"]
    assert "read-only" in claude["capabilities"]["sandbox_modes"]
    assert (codex["available"], codex["enabled"]) == (False, False)
    assert (gemini["available"], "path" in gemini) == (False, False)
    assert gemini["install"].startswith("npm install")
    assert "install" not in claude


async def test_backend_version_is_detected_without_blocking_a_request(scripted: Scripted) -> None:
    async with serving(scripted.env) as server:
        versions: list[str | None] = []

        async def look() -> None:
            listed = (await server.client.get("/api/v1/backends")).json()["backends"]
            versions.append(listed[0].get("version"))

        await look()
        for _ in range(200):
            if versions[-1]:
                break
            await look()
    assert versions[-1]


async def test_head_is_answered_wherever_get_is(scripted: Scripted) -> None:
    async with serving(scripted.env) as server:
        for path in ("/", "/health", "/health/live", "/api/v1/backends", "/openapi.json", "/docs"):
            response = await server.client.head(path)
            assert (response.status_code, response.content) == (200, b""), path


async def test_unknown_path_or_method_is_a_problem_document(scripted: Scripted) -> None:
    async with serving(scripted.env) as server:
        for method, path, status, code in (
            ("GET", "/api", 404, "not_found"),
            ("POST", "/", 405, "method_not_allowed"),
            ("GET", "/docs/nothing.js", 404, "not_found"),
            ("GET", "/docs/../runs.py", 404, "not_found"),
            ("POST", "/api/v2/prompt", 404, "not_found"),
            ("GET", "/api/v1/prompt", 405, "method_not_allowed"),
            ("DELETE", "/health", 405, "method_not_allowed"),
        ):
            response = await server.client.request(method, path)
            assert (response.status_code, response.json()["code"]) == (status, code), path
            assert response.headers["content-type"] == "application/problem+json"
            assert (status == 405) == ("allow" in response.headers)


async def test_response_has_a_request_id_and_reuses_a_valid_one_of_the_client(scripted: Scripted) -> None:
    async with serving(scripted.env) as server:
        own = await server.client.get("/health", headers={"x-request-id": "abc-1.2_3"})
        odd = await server.client.get("/health", headers={"x-request-id": "a b;c" * 100})
        none = await server.client.get("/health")
    assert own.headers["x-request-id"] == "abc-1.2_3"
    assert len(odd.headers["x-request-id"]) == len(none.headers["x-request-id"]) == 32
    assert odd.headers["x-request-id"] != none.headers["x-request-id"]


async def test_path_cannot_forge_a_log_line(scripted: Scripted, caplog: pytest.LogCaptureFixture) -> None:
    path = "/x%0aPOST%20/api/v1/prompt%20200%0d%1b[2J%e2%80%a8%3fy"
    async with serving(scripted.env) as server:
        with caplog.at_level("INFO", "clinvk.api.http.middleware"):
            response = await server.client.get(path)
            wrong = await server.client.put("/api/v1/runs/%0aforged")
            await until(lambda: len(caplog.records) == 2)
    entry = caplog.records[0].getMessage()
    shown = "/x%0APOST%20/api/v1/prompt%20200%0D%1B%5B2J%E2%80%A8%3Fy"
    assert entry.startswith(f"GET {shown} 404, ")
    assert entry.isprintable()
    assert response.json()["detail"].startswith(f"GET {shown}: there is nothing here")
    assert (wrong.status_code, wrong.json()["detail"].split(":")[0]) == (405, "PUT /api/v1/runs/%0Aforged")


async def test_stopping_server_refuses_prompts_and_still_reports_health(scripted: Scripted) -> None:
    async with serving(scripted.env) as server:
        server.state.stopping.set()
        refused = await server.prompt()
        ready = await server.client.get("/health/ready")
        live = await server.client.get("/health/live")
    assert (refused.status_code, refused.json()["code"]) == (503, "shutting_down")
    assert int(refused.headers["retry-after"]) > 0
    assert refused.headers["connection"] == "close"
    assert (ready.status_code, live.status_code) == (503, 200)
    assert scripted.calls() == []


async def test_idle_connection_is_closed_after_its_timeout(scripted: Scripted) -> None:
    async with serving(scripted.env, idle_timeout_secs=1) as server:
        reader, writer = await server.raw(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n")
        assert b"200 OK" in await reader.read()
        writer.close()


def test_missing_default_directory_prevents_startup() -> None:
    settings = Settings(server=ServerSettings(default_workdir="/no/such/place"))
    with pytest.raises(ConfigError, match=r"server\.default_workdir '/no/such/place' does not exist"):
        serve(settings, {}, BACKENDS, print)


def test_port_in_use_is_reported_with_exit_code_5(capfd: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as opened:
        port: int = opened.getsockname()[1]
        assert serve(Settings(server=ServerSettings(port=port)), {}, BACKENDS, print) == 5
    output = capfd.readouterr()
    assert output.out == ""
    assert output.err == (
        f"clinvk: cannot listen on http://127.0.0.1:{port}: port {port} is in use; use --port to choose another\n"
    )


@pytest.mark.parametrize("host", ["192.0.2.1", "a..b", "a\0b", "\N{LATIN SMALL LETTER U WITH DIAERESIS}" * 70])
def test_unknown_host_is_reported_with_exit_code_5(capfd: pytest.CaptureFixture[str], host: str) -> None:
    assert serve(Settings(server=ServerSettings(host=host)), {}, BACKENDS, print) == 5
    assert f"cannot listen on http://{host}:8080" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("host", "has_keys", "warned"),
    [("127.0.0.1", False, False), ("localhost", False, False), ("0.0.0.0", False, True), ("0.0.0.0", True, False)],
)
def test_greeting_says_that_a_key_is_required_or_warns_that_other_machines_need_none(
    host: str, has_keys: bool, warned: bool
) -> None:
    sockets = listen(host, 0)
    try:
        text = str(startup(ServerSettings(host=host), sockets, has_keys))
    finally:
        for sock in sockets:
            sock.close()
    assert f"listens on http://{host}:" in text
    assert ("warning:" in text) is warned
    assert text.endswith("\nEvery request except /health and /docs needs an API key.") is has_keys


def test_all_addresses_of_a_host_share_one_port() -> None:
    sockets = listen("localhost", 0)
    try:
        assert len({sock.getsockname()[1] for sock in sockets}) == 1
    finally:
        for sock in sockets:
            sock.close()


async def test_docs_page_loads_only_its_own_assets(scripted: Scripted) -> None:
    async with serving(scripted.env) as server:
        page = await server.client.get("/docs")
        script = await server.client.get("/docs/docs.js")
        style = await server.client.get("/docs/docs.css")
    assert page.headers["content-type"].startswith("text/html")
    assert script.headers["content-type"].startswith("text/javascript")
    assert style.headers["content-type"].startswith("text/css")
    policy = page.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; ")
    assert "unsafe" not in policy
    for answer in (page, script, style):
        assert "http://" not in answer.text
        assert "https://" not in answer.text


@pytest.mark.parametrize("path", ["/", "//", "/docs/"])
async def test_root_path_serves_the_docs_page_without_the_console(scripted: Scripted, path: str) -> None:
    async with serving(scripted.env, console=False) as server:
        page = await server.client.get("/docs")
        opened = await server.client.get(f"http://127.0.0.1:{server.port}{path}")
    assert (opened.status_code, opened.content) == (200, page.content)
    assert opened.headers["content-security-policy"] == page.headers["content-security-policy"]
    assert not opened.history


async def test_body_of_a_request_with_an_upgrade_header_is_read(scripted: Scripted) -> None:
    """Java's HTTP client offers h2c with each request over plain HTTP."""
    scripted.play(claude_says("x"))
    headers = {"connection": "Upgrade, HTTP2-Settings", "upgrade": "h2c", "http2-settings": "AAMAAABkAAQCAAAAAAIAAAAA"}
    async with serving(scripted.env) as server:
        response = await server.client.post(
            "/api/v1/prompt", json={"backend": "claude", "prompt": "hi"}, headers=headers
        )
    assert response.json()["output"] == "x"


async def test_body_is_read_when_a_head_with_an_upgrade_header_arrives_in_pieces(scripted: Scripted) -> None:
    scripted.play(claude_says("x"))
    body = json.dumps({"backend": "claude", "prompt": "hi"}).encode()
    head = (
        b"POST /api/v1/prompt HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        b"upgrade: h2c\r\nUpgrad: x\r\nUPGRADE: h2c\r\nconnection: upgrade\r\ncontent-length: %d\r\n\r\n" % len(body)
    )
    async with serving(scripted.env) as server:
        reader, writer = await server.raw(b"")
        for byte in head:
            writer.write(bytes([byte]))
            await asyncio.sleep(0.001)
        writer.write(body)
        assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")
        writer.close()
    assert len(scripted.calls()) == 1


async def test_openapi_document_contains_each_route_with_its_methods(scripted: Scripted) -> None:
    async with serving(scripted.env, metrics_enabled=True) as server:
        document = (await server.client.get("/openapi.json")).json()
        cors = server.app.app
    assert isinstance(cors, CorsMiddleware)
    assert isinstance(cors.app, AuthMiddleware)
    assert isinstance(cors.app.app, Router)
    served_methods = {
        path.replace(":path}", "}"): {method.lower() for method in methods}
        for path, methods in cors.app.app.routes.items()
    }
    for path in ("/docs/console.css", "/docs/docs.css", "/docs/docs.js", "/console/{name}"):
        del served_methods[path]
    assert served_methods.pop(MCP_PATH) == {"post"}  # MCP describes itself
    for path in ("/acp", "/api/v1/acp"):  # OpenAPI does not describe WebSockets
        assert served_methods.pop(path) == {"get"}
    aliases = {path: methods for path, methods in served_methods.items() if path.startswith("/v1/")}
    reported = {path: set(methods) for path, methods in document["paths"].items()}
    assert {path: methods for path, methods in served_methods.items() if path not in aliases} == reported
    for path, methods in aliases.items():
        assert methods in (reported.get(f"/openai{path}"), reported.get(f"/anthropic{path}"))


async def test_runs_of_an_earlier_clinvk_are_indexed_in_the_background() -> None:
    store, given = MemoryStore(), [session() for _ in range(200)]
    for number, one in enumerate(given):
        await turn(store, one, prompt=f"number {number}")

    async def are_indexed() -> bool:
        return len(await store.matches("number", [one.id for one in given])) == len(given)

    assert not await are_indexed()
    async with in_background(maintain_store(store, retention_days=0, recover_interval_s=0.01)):
        await until_told(are_indexed)
