"""`kill -9` at any moment, and a stop: what a client was told is there afterwards, and no agent is left at work."""

import asyncio
import json
import math
import random
import sqlite3
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import closing, suppress
from functools import partial
from pathlib import Path

import httpx
import msgspec
import pytest

from acceptance.command import Clinvk, until
from acceptance.server import Server
from clinvk.store.protocol import RunQuery, SessionQuery
from clinvk.store.sqlite.sqlite import SqliteStore
from clinvk.types.events import RunFailed, RunFinished, TextDelta
from clinvk.types.record import RunRecord
from echo import Echo, answer
from legacy_store import earlier_sessions
from polling import until_told
from scripted import Scripted
from scripted.steps import claude_says, pause
from standin.document import Record, record, string

KILLS = 28
ALL = 1_000_000
WORDS = [f"word{number} " for number in range(300)]
LOST_S = 0.6
"""Half of it is for a machine that is busy with other tests."""


class Told:
    """The answers of servers that were killed later."""

    def __init__(self) -> None:
        self.answers: dict[str, tuple[str, str]] = {}
        """By run: the session and the answer."""
        self.accepted: dict[str, str] = {}
        """By run that was to go on alone: its session."""
        self.titles: dict[str, str] = {}
        """By session."""


class Clients:
    """Clients with all kinds of requests, for one server after another."""

    def __init__(self, agent: Echo, chance: random.Random) -> None:
        self.told = Told()
        self._agent = agent
        self._chance = chance
        self._described: set[str] = set()

    async def at_work(self, url: str) -> None:
        """Ask until the server is gone."""
        kinds = (self._asks, self._asks, self._goes_on, self._streams, self._lets_go, self._describes)
        async with httpx.AsyncClient(base_url=url, timeout=30) as client:
            await asyncio.gather(*(self._again_and_again(kind, client) for kind in kinds))

    async def _again_and_again(
        self, kind: Callable[[httpx.AsyncClient], Awaitable[None]], client: httpx.AsyncClient
    ) -> None:
        with suppress(httpx.TransportError):
            while True:
                await kind(client)

    def _body(self, **fields: object) -> dict[str, object]:
        prompt = f"{self._agent.name()} {self._chance.uniform(0.02, 0.2):.3f}"
        return {"backend": self._chance.choice(["claude", "codex"]), "prompt": prompt, **fields}

    async def _asks(self, client: httpx.AsyncClient) -> None:
        await self._told_whole(client, self._body(detach=self._chance.random() < 0.3))

    async def _goes_on(self, client: httpx.AsyncClient) -> None:
        """Continue a session that was answered, perhaps by a server that died during the turn."""
        answered = list({session: None for session, _ in self.told.answers.values()})[:5]
        if not answered:
            await self._asks(client)
            return
        await self._told_whole(client, {**self._body(session_id=self._chance.choice(answered)), "backend": None})

    async def _told_whole(self, client: httpx.AsyncClient, body: dict[str, object]) -> None:
        response = await client.post("/api/v1/prompt", json=body)
        assert response.status_code == 200, response.text
        told = response.json()
        assert told["exit_code"] == 0, told
        self.told.answers[told["run_id"]] = (told["session_id"], told["output"])

    async def _streams(self, client: httpx.AsyncClient) -> None:
        body = self._body(output_format="stream-json")
        async with client.stream("POST", "/api/v1/prompt", json=body) as response:
            assert response.status_code == 200
            lines = [msgspec.json.decode(line) async for line in response.aiter_lines()]
        assert lines[-1]["type"] == "done", lines[-1]
        text = "".join(line["content"]["text"] for line in lines if line["type"] == "message")
        self.told.answers[lines[0]["content"]["run_id"]] = (lines[0]["session_id"], text)

    async def _lets_go(self, client: httpx.AsyncClient) -> None:
        response = await client.post(
            "/api/v1/prompt", json=self._body(detach=True), headers={"prefer": "respond-async"}
        )
        assert response.status_code == 202, response.text
        told = response.json()
        self.told.accepted[told["run_id"]] = told["session_id"]
        await asyncio.sleep(self._chance.uniform(0, 0.1))

    async def _describes(self, client: httpx.AsyncClient) -> None:
        """Set each title of a session once: whether an unanswered change is stored is unknown."""
        await asyncio.sleep(self._chance.uniform(0, 0.05))
        session = next((session for session in self.told.accepted.values() if session not in self._described), None)
        if session is None:
            await client.get("/health/live")
            return
        self._described.add(session)
        title = self._agent.name()
        response = await client.patch(f"/api/v1/sessions/{session}", json={"title": title})
        assert response.status_code == 200, response.text
        self.told.titles[session] = title


async def _is_none(client: httpx.AsyncClient, left: str) -> bool:
    total: int = (await client.get(f"/api/v1/{left}")).json()["total"]
    return total == 0


async def _look(url: str) -> None:
    """Check that a restarted server is healthy and reports nothing in progress.

    A process that was killed while it started an agent may leave its lock to that for a moment.
    """
    async with httpx.AsyncClient(base_url=url, timeout=30) as client:
        health = (await client.get("/health")).json()
        assert health["status"] == "ok", health
        for left in ("sessions?status=active", "runs?state=queued", "runs?state=running"):
            await until_told(partial(_is_none, client, left))


@pytest.mark.slow
@pytest.mark.timeout(240)
async def test_killed_server_loses_nothing_that_it_acknowledged(echo: Echo) -> None:
    chance = random.Random(3)
    clients = Clients(echo, chance)
    for number in range(4 * KILLS):
        if number >= KILLS and len(clients.told.answers) > KILLS:
            break  # on a busy machine hardly a run has ended by then
        with Server(echo) as server:
            if number % 4 == 3:  # killed while it comes up
                await asyncio.sleep(chance.uniform(0, 0.5))
                server.kill()
            else:
                await _look(server.ready().url)
                work = asyncio.create_task(clients.at_work(server.url))
                await asyncio.sleep(chance.uniform(0, 0.6 * (1 + number // KILLS)))
                server.kill()
                await work
    until(lambda: echo.alive() == [])
    assert len(clients.told.answers) > KILLS
    with Server(echo) as server:
        await _look(server.ready().url)
        for session in list({session: None for session, _ in clients.told.answers.values()})[:5]:
            assert server.prompt(f"{echo.name()} 0", backend="", session_id=session).json()["exit_code"] == 0
        assert server.stop() == 0
    await _check(echo, clients.told)


async def _check(echo: Echo, told: Told) -> None:
    """Compare the stored records with the clients' answers and the agent's calls."""
    home = echo.folder / ".clinvk"
    async with SqliteStore(home) as store:
        runs = {run.id: run for run in (await store.runs(RunQuery(limit=ALL))).items}
        sessions = {session.id: session for session in (await store.sessions(SessionQuery(limit=ALL))).items}
        for run_id, (session_id, text) in told.answers.items():
            assert (runs[run_id].state, runs[run_id].session_id, runs[run_id].output) == ("finished", session_id, text)
            assert text.startswith(_name(runs[run_id]))
            assert sessions[session_id].backend_session_id
        for run in runs.values():
            events = await store.events(run.id)
            *whole, last = [event.number for event in events]
            assert whole == [*range(1, len(events))]
            assert last == len(events) or (run.state == "interrupted" and last > len(events))
            assert isinstance(events[-1].event, RunFinished if run.state == "finished" else RunFailed)
    assert {run_id: runs[run_id].session_id for run_id in told.accepted} == told.accepted
    assert {session_id: sessions[session_id].title for session_id in told.titles} == told.titles
    assert {session.status for session in sessions.values()} <= {"completed", "paused"}
    assert {run.state for run in runs.values()} <= {"finished", "interrupted", "cancelled"}
    assert Counter(run.session_id for run in runs.values()).keys() == sessions.keys()
    assert max(Counter(map(_name, runs.values())).values()) == 1
    assert max(Counter(echo.prompts()).values()) == 1, "a run was started again"
    assert set(echo.prompts()) <= set(map(_name, runs.values())), "an agent was started for a run that is not kept"
    assert _is_sound(home)


def _name(run: RunRecord) -> str:
    return run.prompt.split()[0]


def _is_sound(home: Path) -> bool:
    with closing(sqlite3.connect(home / "clinvk.db")) as database:
        return database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


async def test_output_of_a_killed_run_is_kept(echo: Echo) -> None:
    """The agent was silent for a long time before."""
    name = echo.name()
    home = echo.folder / ".clinvk"
    with Server(echo) as server:
        run_id = server.ready().detached(f"{name} 600")["run_id"]
        async with SqliteStore(home) as store:
            await until_told(lambda: _has_said(store, run_id))
        server.kill()
    until(lambda: echo.alive() == [])
    with Server(echo) as server:
        client = server.ready().client
        until(lambda: _is_interrupted(client, run_id))
        run = client.get(f"/api/v1/runs/{run_id}").json()
        assert run["output"] == f"{name} "
        messages = client.get(f"/api/v1/sessions/{run['session_id']}/messages").json()["messages"]
        assert [message["text"] for message in messages] == [f"{name} 600", f"{name} "]


@pytest.mark.slow
def test_text_read_by_a_client_survives_a_server_kill(scripted: Scripted) -> None:
    """All but the text of the last moment is stored, and a follower that comes back learns that the run was cut."""
    chance = random.Random(6)
    scripted.play([step for word in claude_says(*WORDS) for step in (word, pause(0.02))])
    for _ in range(3):
        with Server(scripted) as server:
            server.ready()
            read = _read_until(server, chance.randint(55, 90))
            server.kill()
            killed_at = time.monotonic()
        surely_stored = "".join(text for at, _, text in read if at < killed_at - LOST_S)
        assert len(surely_stored.split()) > 10
        run_id, last_id = read[0][2], read[-1][1]
        with Server(scripted) as server:
            client = server.ready().client
            until(lambda client=client, run_id=run_id: _is_interrupted(client, run_id))
            assert client.get(f"/api/v1/runs/{run_id}").json()["output"].startswith(surely_stored)
            stored = _followed(client, run_id, 0)
            for after in (len(stored) - 1, len(stored), last_id, last_id + 1000):
                assert _followed(client, run_id, after)[-1] == stored[-1]
            ending = record(stored[-1], "content")
            expected = ("interrupted", "the run was interrupted: its clinvk process ended")
            assert (ending["code"], ending["message"]) == expected
            run = client.get(f"/api/v1/runs/{run_id}").json()
            assert (run["error_code"], run["error"]) == expected
            told = client.get(f"/api/v1/runs/{run_id}/events?after={stored[-1]['sequence']}")
            assert told.status_code == 204, "a browser would ask for ever"


def _read_until(server: Server, words: int) -> list[tuple[float, int, str]]:
    """Return what a client read of a run: when, the number and the text of each word; first the id of the run."""
    read: list[tuple[float, int, str]] = []
    body = {"backend": "claude", "prompt": "hi", "output_format": "stream-json"}
    with server.client.stream("POST", "/api/v1/prompt", json=body) as response:
        for line in response.iter_lines():
            told = json.loads(line)
            content = told["content"]
            text = content["run_id"] if told["type"] == "init" else content["text"]
            read.append((time.monotonic() if told["type"] == "message" else math.inf, told["sequence"], text))
            if len(read) > words:
                break
    return read


def _followed(client: httpx.Client, run_id: str, after: int) -> list[Record]:
    response = client.get(f"/api/v1/runs/{run_id}/events", headers={"last-event-id": str(after)})
    assert response.status_code == 200, f"nothing after {after}"
    return [json.loads(line[6:]) for line in response.text.splitlines() if line.startswith("data: ")]


def _is_interrupted(client: httpx.Client, run_id: str) -> bool:
    """Whether a server knows that the clinvk of a run is dead. Its last child may hold the lock."""
    return client.get(f"/api/v1/runs/{run_id}").json()["state"] == "interrupted"


async def _has_said(store: SqliteStore, run_id: str) -> bool:
    return any(isinstance(logged.event, TextDelta) for logged in await store.events(run_id))


def test_running_server_resumes_a_session_of_a_killed_server(echo: Echo) -> None:
    with Server(echo) as one, Server(echo) as other:
        session = one.ready().prompt(f"{echo.name()} 0").json()["session_id"]
        last = echo.name()
        one.client.post(
            "/api/v1/prompt",
            json={"session_id": session, "prompt": f"{last} 600", "detach": True},
            headers={"prefer": "respond-async"},
        )
        until(lambda: last in echo.prompts())
        assert other.ready().prompt(f"{echo.name()} 0", backend="", session_id=session).status_code == 409
        one.kill()
        until(lambda: echo.alive() == [])
        again = echo.name()
        assert other.prompt(f"{again} 0", backend="", session_id=session).json()["output"] == answer(again, turn=3)
        states = [run["state"] for run in other.client.get("/api/v1/runs").json()["runs"]]
        assert states == ["finished", "interrupted", "finished"]


async def test_server_killed_while_creating_its_database_restarts(echo: Echo) -> None:
    chance = random.Random(4)
    for number in range(8):
        home = echo.folder / f"home-{number}"
        with Server(echo, {"CLINVK_HOME": str(home)}) as server:
            until((home / "clinvk.db").exists)
            await asyncio.sleep(chance.uniform(0, 0.03))
            server.kill()
        async with SqliteStore(home) as store:
            assert await store.count() == 0
        assert _is_sound(home)


def test_next_server_completes_a_killed_import(echo: Echo) -> None:
    chance = random.Random(5)
    files = earlier_sessions(echo.folder / ".clinvk", 1500)
    for _ in range(3):
        with Server(echo) as server:
            until((echo.folder / ".clinvk" / "clinvk.db").exists)
            time.sleep(chance.uniform(0, 0.2))
            server.kill()
    with Server(echo) as server:
        client = server.ready().client
        until(lambda: client.get("/health").json()["session_store"]["session_count"] == 1500)
        pages = [client.get(f"/api/v1/sessions?limit=1000&offset={start}").json() for start in (0, 1000)]
    assert {page["total"] for page in pages} == {1500}
    assert len({session["id"] for page in pages for session in page["sessions"]}) == 1500
    assert all(file.read_bytes() == data for file, data in files.items())


@pytest.mark.parametrize("next_start", ["command", "server"])
def test_session_of_a_killed_command_can_be_resumed(echo: Echo, next_start: str) -> None:
    clinvk = Clinvk(echo, echo.folder)
    first, second = echo.name(), echo.name()
    with clinvk.started(f"{first} 600") as process:
        until(lambda: any(session["backend_session_id"] for session in _listed(clinvk)))
        assert _listed(clinvk)[0]["status"] == "active"
        process.kill()
        process.wait()
    until(lambda: echo.alive() == [])
    if next_start == "server":
        with Server(echo) as server:
            client = server.ready().client
            (run,) = client.get("/api/v1/runs").json()["runs"]
            until(lambda: _is_interrupted(client, run["id"]))
            (session,) = client.get("/api/v1/sessions").json()["sessions"]
            assert session["status"] == "paused"
            answered = server.prompt(f"{second} 0", session_id=session["id"]).json()["output"]
    else:
        (session,) = _listed(clinvk)
        assert session["status"] == "paused"
        answered = json.loads(clinvk.run("resume", string(session, "id"), f"{second} 0").stdout)["content"]
    assert answered == answer(second, turn=2)
    assert _listed(clinvk)[0]["turn_count"] == 2
    assert echo.prompts() == [first, second]


def _listed(clinvk: Clinvk) -> list[Record]:
    return json.loads(clinvk.run("sessions", "list", "--json").stdout)["sessions"]


@pytest.mark.slow
def test_shutdown_ends_background_runs_and_records_their_states(echo: Echo) -> None:
    """One run ends by itself, one is ended after the grace period, and one is queued."""
    env = {"CLINVK_SERVER__SHUTDOWN_GRACE_SECS": "2", "CLINVK_SERVER__MAX_CONCURRENT_RUNS": "2"}
    short, long, waiting = (echo.name() for _ in range(3))
    with Server(echo, env) as server:
        server.ready()
        runs = [server.detached(f"{short} 0.5")["run_id"], server.detached(f"{long} 600")["run_id"]]
        until(lambda: len(echo.prompts()) == 2)
        server.detached(f"{waiting} 600")
        behind = server.detached(f"{echo.name()} 600")["run_id"]
        assert server.stop() == 0
    assert echo.alive() == []
    with Server(echo) as server:
        client = server.ready().client
        kept = [client.get(f"/api/v1/runs/{run}").json() for run in (*runs, behind)]
        assert [(run["state"], run["output"]) for run in kept] == [
            ("finished", answer(short)),
            ("cancelled", f"{long} "),
            ("cancelled", ""),
        ]
        statuses = [client.get(f"/api/v1/sessions/{run['session_id']}").json()["status"] for run in kept]
        assert statuses == ["completed", "paused", "paused"]
        again = echo.name()
        answered = server.prompt(f"{again} 0", session_id=kept[1]["session_id"]).json()
        assert answered["output"] == answer(again, turn=2)
