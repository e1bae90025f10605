"""Commands and a server with the PostgreSQL database of `store.url`."""

import json
from pathlib import Path

import psycopg
import pytest

from acceptance.command import Clinvk, until
from acceptance.server import Server
from broker import NatsServer
from postgres_server import PostgresServer
from scripted import Scripted
from scripted.steps import claude_says


def test_commands_and_the_server_keep_their_records_in_the_database(
    clinvk: Clinvk, scripted: Scripted, postgres: PostgresServer
) -> None:
    url = postgres.empty().replace("clinvk@", "clinvk:unspoken@")
    clinvk.agent.play(claude_says("answer"))
    clinvk.settings(f"store:\n  url: {url}\n")
    assert "none stored in PostgreSQL at" in clinvk.run("doctor").stdout
    with psycopg.connect(url) as connection:
        assert connection.execute("SELECT to_regclass('clinvk_schema')").fetchall() == [(None,)], (
            "doctor created tables"
        )
    began = json.loads(clinvk.run("--new", "hello", "-o", "json").stdout)
    (listed,) = json.loads(clinvk.run("sessions", "list", "--json").stdout)["sessions"]
    assert listed["id"] == began["session_id"]
    assert json.loads(clinvk.run("runs", "show", began["run_id"], "--json").stdout)["output"] == "answer"
    assert json.loads(clinvk.run("usage", "--json").stdout)["usage"][0]["runs"] == 1
    assert clinvk.run("approvals", "list").returncode == 0
    key = clinvk.run("keys", "create", "ana").stdout.strip()
    with Server(scripted) as server:
        server.ready()
        assert server.client.get("/api/v1/sessions").status_code == 401
        sessions = server.client.get("/api/v1/sessions", headers={"x-api-key": key}).json()["sessions"]
        assert [each["id"] for each in sessions] == [began["session_id"]]
        said = server.said
    home = Path(clinvk.config.parent)
    assert not (home / "clinvk.db").exists()
    assert not (home / "keys.json").exists()
    doctor, shown = clinvk.run("doctor"), clinvk.run("config", "show")
    assert "1 stored in PostgreSQL at" in doctor.stdout
    for text in (said, doctor.stdout, doctor.stderr, shown.stdout):
        assert "unspoken" not in text


def test_doctor_reports_a_database_that_is_away_and_continues(clinvk: Clinvk) -> None:
    done = clinvk.run("doctor", env={"CLINVK_STORE__URL": "postgresql://u:unspoken@127.0.0.1:1/d"})
    assert done.returncode == 1
    (problem,) = [line for line in done.stdout.splitlines() if line.split()[:2] == ["problem", "sessions"]]
    assert "PostgreSQL at 127.0.0.1:1/d: connection failed" in problem
    assert "unspoken" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    "url",
    [
        *("postgresql://u:unspoken@ss@h/d", "postgresql://u:un/spoken@h/d", "mysql://u:unspoken@h"),
        *("postgresql://h/d?password=unspoken", "postgresql://u:unspoken@127.0.0.1:1/d"),
        *("postgresql://u:unspoken@h/d?nonsense=1", "postgresql://u:unsp%oken@h/d"),
        "postgresql://u:unspoken@h:x/d",
    ],
)
def test_database_that_cannot_be_used_is_reported_without_its_password(clinvk: Clinvk, url: str) -> None:
    done = clinvk.run("sessions", "list", env={"CLINVK_STORE__URL": url})
    assert done.returncode in (1, 3)
    assert "store.url" in done.stderr or "PostgreSQL at" in done.stderr
    assert not any(part in done.stdout + done.stderr for part in ("unspoken", "un/spoken", "unsp%oken", "ss@h"))


def test_gateway_and_worker_with_homes_of_their_own_share_the_database(
    clinvk: Clinvk, scripted: Scripted, postgres: PostgresServer, tmp_path: Path
) -> None:
    clinvk.agent.play(claude_says("answer"))
    shared = {"CLINVK_STORE__URL": postgres.empty(), "CLINVK_CLUSTER_SECRET": "s" * 32}
    with NatsServer(tmp_path) as broker:
        shared["CLINVK_CLUSTER__URL"] = broker.url
        of_worker = {**shared, "CLINVK_HOME": str(tmp_path / "worker"), "CLINVK_CLUSTER__NODE": "one"}
        with clinvk.started("worker", env=of_worker), Server(scripted, shared) as gateway:
            gateway.ready()
            body = {"backend": "claude", "prompt": "hello", "workdir": str(scripted.folder)}
            until(lambda: gateway.client.post("/api/v1/prompt", json=body).status_code == 200)
            (session,) = gateway.client.get("/api/v1/sessions").json()["sessions"]
            assert session["node"] == "one"
            assert gateway.client.get(f"/api/v1/sessions/{session['id']}").json()["node"] == "one"
    listed = clinvk.run("sessions", "list", "--json", env=shared)
    assert [each["id"] for each in json.loads(listed.stdout)["sessions"]] == [session["id"]]
