"""The stream of all runs of a server."""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import httpx
import msgspec
import pytest

from clinvk.api.access.key_file import ApiKey, KeyLimits, digest_of
from clinvk.api.access.keys import ApiKeys
from clinvk.store.memory import MemoryStore
from clinvk.types.errors import StoreUnavailable
from clinvk.types.record import RunRecord
from polling import until
from scripted import Scripted
from scripted.steps import claude_says, line, wait_for
from serving import LiveServer, serving

JSON = dict[str, object]


class Viewer:
    """Reads events; `id` is the id of the last event."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self.id = ""
        self._lines = response.aiter_lines()

    async def next(self) -> tuple[str, JSON]:
        """Return kind and data of the next event."""
        event: dict[str, str] = {}
        async with asyncio.timeout(20):
            async for text in self._lines:
                name, _, value = text.partition(": ")
                if not text and "data" in event:
                    self.id = event.get("id", self.id)
                    return event["event"], json.loads(event["data"])
                event[name] = value
        raise EOFError

    async def until(self, is_wanted: Callable[[JSON], bool]) -> list[JSON]:
        """Return the data of all `run` events up to the wanted one."""
        seen: list[JSON] = []
        while not (seen and is_wanted(seen[-1])):
            kind, data = await self.next()
            assert kind == "run"
            seen.append(data)
        return seen


@asynccontextmanager
async def viewing(
    client: httpx.AsyncClient, last_id: str = "", query: str = "", **headers: str
) -> AsyncGenerator[Viewer]:
    """Follow the server; a new viewer has read the reset."""
    headers |= {"last-event-id": last_id} if last_id else {}
    async with client.stream("GET", f"/api/v1/events{query}", headers=headers) as response:
        assert response.status_code == 200
        viewer = Viewer(response)
        if not (last_id or query):
            assert await viewer.next() == ("reset", {})
        yield viewer


def has_ended(run: JSON) -> bool:
    return run["ended_at"] is not None


def is_running(run: JSON) -> bool:
    return run["state"] == "running"


async def test_viewer_sees_each_state_of_a_run(scripted: Scripted) -> None:
    scripted.play(claude_says("hello"))
    async with serving(scripted.env) as server, viewing(server.client) as viewer:
        answer = (await server.prompt(prompt="name a prime")).json()
        seen = await viewer.until(has_ended)
        listed = (await server.client.get("/api/v1/runs")).json()["runs"]
    assert viewer.response.headers["content-type"].startswith("text/event-stream")
    assert viewer.response.headers["cache-control"] == "no-store"
    assert viewer.response.headers["x-accel-buffering"] == "no"
    assert {run["id"] for run in seen} == {answer["run_id"]}
    assert list(dict.fromkeys(run["state"] for run in seen)) == ["queued", "running", "finished"]
    assert seen[-1] == listed[0]
    assert seen[-1]["prompt"] == "name a prime"


async def test_viewer_sees_the_parts_of_an_orchestration(scripted: Scripted) -> None:
    scripted.play(claude_says("a"))
    async with serving(scripted.env) as server, viewing(server.client) as viewer:
        tasks = [{"backend": "claude", "prompt": "one"}]
        await server.client.post("/api/v1/parallel", json={"tasks": tasks})
        seen = await viewer.until(lambda run: run["kind"] == "parallel" and has_ended(run))
    assert {run["parent_id"] for run in seen if run["kind"] == "prompt"} == {seen[-1]["id"]}


async def test_viewer_resumes_after_its_last_event(scripted: Scripted, tmp_path: Path) -> None:
    says = claude_says("x")
    scripted.play([*says[:2], wait_for(tmp_path / "go"), *says[2:]])
    async with serving(scripted.env) as server, viewing(server.client):
        async with viewing(server.client) as first:
            run_id = (await server.detached())["run_id"]
            await first.until(is_running)
        (tmp_path / "go").touch()
        await server.ended(run_id)
        async with viewing(server.client, first.id) as second:
            seen = await second.until(has_ended)
    assert {run["state"] for run in seen[:-1]} <= {"running"}
    assert seen[-1]["id"] == run_id


async def test_viewer_that_missed_runs_gets_a_reset(scripted: Scripted) -> None:
    scripted.play(claude_says("x"))
    async with serving(scripted.env) as server:
        async with viewing(server.client) as first:
            pass
        await until(lambda: not server.state.active_requests)
        await server.prompt()
        async with viewing(server.client, first.id) as second:
            assert await second.next() == ("reset", {})
        assert int(second.id) > int(first.id)


async def test_viewer_sees_interactions_requested_and_resolved(scripted: Scripted, tmp_path: Path) -> None:
    request = {"subtype": "can_use_tool", "tool_name": "Bash", "input": {"command": "ls"}, "title": "Run ls"}
    asks = line(json.dumps({"type": "control_request", "request_id": "1", "request": request}, separators=(",", ":")))
    says = claude_says("x")
    scripted.play([*says[:2], asks, wait_for(tmp_path / "go"), *says[2:]], reads=False)
    async with serving(scripted.env) as server, viewing(server.client) as viewer:
        run_id = (await server.detached(approval_mode="ask"))["run_id"]
        seen = [await viewer.next()]
        while seen[-1][0] != "interaction":
            seen.append(await viewer.next())
        requested = seen[-1][1]
        (listed,) = (await server.client.get("/api/v1/interactions")).json()["interactions"]
        assert requested == listed
        assert (requested["run_id"], requested["status"], requested["title"]) == (run_id, "pending", "Run a command")
        await viewer.until(lambda run: run["state"] == "waiting")
        answer = await server.client.post(f"/api/v1/interactions/{requested['id']}/answer", json={"choice": "deny"})
        assert await viewer.next() == ("interaction", answer.json())
        assert (await viewer.until(is_running))[-1]["id"] == run_id
        (tmp_path / "go").touch()
        await viewer.until(has_ended)


async def test_quiet_stream_has_comments(scripted: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clinvk.api.endpoints.runs.QUIET_S", 0.02)
    async with (
        serving(scripted.env) as server,
        asyncio.timeout(20),
        server.client.stream("GET", "/api/v1/events") as response,
    ):
        comments = 0
        async for text in response.aiter_lines():
            comments += text == ":"
            if comments == 3:
                break


class Streaming(NamedTuple):
    """The path of a stream, and the texts that show that the stream has begun and that it has more to send."""

    path: str
    begins: str
    goes_on: str


STREAMS = (
    Streaming("/api/v1/events", "reset", "finished"),
    Streaming("/api/v1/events?run={run}", "alpha", "omega"),
    Streaming("/api/v1/runs/{run}/events", "alpha", "omega"),
)
WEAKER = KeyLimits(backends=("claude",))


@pytest.mark.parametrize("stream", STREAMS, ids=["all", "named", "run"])
@pytest.mark.parametrize("change", ["revoked", "narrowed", "logged out"])
async def test_stream_ends_with_the_rights_of_its_key_or_login(
    scripted: Scripted, tmp_path: Path, stream: Streaming, change: str
) -> None:
    """Nothing is sent after a key is revoked or restricted, or after a logout."""
    says = claude_says("alpha ", "omega")
    scripted.play([*says[:4], wait_for(tmp_path / "go"), *says[4:]])
    ana = ApiKey(name="ana", digest=digest_of("ana"))
    keys = ApiKeys([ana, ApiKey(name="boss", digest=digest_of("boss"))])
    boss = {"authorization": "Bearer boss"}
    async with serving(scripted.env, keys=keys) as server, httpx.AsyncClient(base_url=server.client.base_url) as other:
        assert (await server.client.get("/api/v1/events")).status_code == 401
        server.client.headers.update(boss)
        run_id = (await server.detached())["run_id"]
        path = stream.path.format(run=run_id)
        login = await other.post("/api/v1/login", json={"key": "ana"})
        asking = {"authorization": "Bearer ana"} if change != "logged out" else {}
        async with asyncio.timeout(20), other.stream("GET", path, headers=asking) as response:
            seen = ""
            pieces = response.aiter_text()
            while stream.begins not in seen:
                seen += await anext(pieces)
            if change == "logged out":
                await server.client.post("/api/v1/logout", headers={"cookie": login.headers["set-cookie"]})
            else:
                left = () if change == "revoked" else (msgspec.structs.replace(ana, limits=WEAKER),)
                keys.replace_permanent(ApiKeys([*left, ApiKey(name="boss", digest=digest_of("boss"))]))
            (tmp_path / "go").touch()
            rest = "".join([piece async for piece in pieces])
        await server.ended(run_id)
    assert stream.goes_on not in rest


async def test_quiet_stream_ends_with_the_key_of_its_login(scripted: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clinvk.api.endpoints.runs.QUIET_S", 0.02)
    keys = ApiKeys([ApiKey(name="ana", digest=digest_of("ana"))])
    async with serving(scripted.env, keys=keys) as server:
        await server.client.post("/api/v1/login", json={"key": "ana"})
        async with viewing(server.client) as viewer, viewing(server.client, authorization="Bearer ana") as other:
            keys.replace_permanent(ApiKeys(["another"]))
            for each in (viewer, other):
                with pytest.raises(EOFError):
                    await each.next()


# --- events of named runs ------------------------------------------------------------------------------------------


class AwayStore(MemoryStore):
    """A store that fails the next lookups of a run."""

    failures = 0

    async def run(self, reference: str) -> RunRecord:
        """Fail, or return the run."""
        if self.failures:
            self.failures -= 1
            raise StoreUnavailable("the store is away")
        return await super().run(reference)


async def run_events(viewer: Viewer) -> AsyncGenerator[tuple[str, JSON]]:
    """Yield each event of the named runs with the run that the stream names."""
    while True:
        kind, data = await viewer.next()
        if kind == "run_event":
            run, event = data["run"], data["event"]
            assert isinstance(run, str)
            assert isinstance(event, dict)
            yield run, event


async def upto_end(viewer: Viewer) -> AsyncGenerator[tuple[str, JSON]]:
    """Yield the events of a single run to its end."""
    async for run, event in run_events(viewer):
        yield run, event
        if is_over(event):
            return


def is_over(event: JSON) -> bool:
    return event["type"] in ("done", "error")


async def stored_events(server: LiveServer, run: str) -> list[JSON]:
    lines = await server.client.get(f"/api/v1/runs/{run}/events", headers={"accept": "application/x-ndjson"})
    return [json.loads(each) for each in lines.text.splitlines()]


async def test_named_runs_send_their_events_from_any_position_exactly_once(scripted: Scripted, tmp_path: Path) -> None:
    """The first stream breaks off; the second continues after what was read, in a run that goes on and in new ones."""
    gate = tmp_path / "go"
    says = claude_says("one ", "two ", "three")
    scripted.play([*says[:5], wait_for(gate), *says[5:]], when="slow")
    scripted.play(claude_says("a", "b", "c"), when="fast")
    async with serving(scripted.env) as server:
        slow, fast = [(await server.detached(prompt=prompt))["run_id"] for prompt in ("slow", "fast")]
        await server.ended(fast)
        read: dict[str, list[JSON]] = {slow: [], fast: []}
        async with viewing(server.client, query=f"?run={slow}&run={fast}:3") as viewer:
            async for run, event in run_events(viewer):
                read[run].append(event)
                if len(read[slow]) >= 2 and is_over((read[fast] or [{"type": ""}])[-1]):
                    break
        query = f"?run={fast}&run={slow}:{read[slow][-1]['sequence']}"
        again: list[JSON] = []
        async with viewing(server.client, viewer.id, query=query) as second:
            gate.touch()
            async for run, event in run_events(second):
                (read[slow] if run == slow else again).append(event)
                if is_over(read[slow][-1]) and again and is_over(again[-1]):
                    break
        assert read[slow] == await stored_events(server, slow)
        assert again == await stored_events(server, fast)
        assert read[fast] == again[3:]


async def test_run_that_is_unknown_is_reported_while_the_others_stream(scripted: Scripted) -> None:
    scripted.play(claude_says("x"))
    async with serving(scripted.env) as server:
        run = (await server.prompt()).json()["run_id"]
        seen: dict[str, list[JSON]] = {"reset": [], "run_error": [], "run_event": []}
        async with viewing(server.client, query=f"?run={'f' * 32}&run={run}:1") as viewer:
            while not (seen["run_error"] and len(seen["run_event"]) == len(await stored_events(server, run)) - 1):
                kind, data = await viewer.next()
                seen[kind].append(data)
        missing = (await server.client.get(f"/api/v1/runs/{'f' * 32}/events")).json()
    (error,) = seen["run_error"]
    problem = error["problem"]
    assert isinstance(problem, dict)
    assert (error["run"], problem["code"], problem["detail"]) == ("f" * 32, "run_not_found", missing["detail"])


async def test_named_run_goes_on_after_the_store_was_away(
    scripted: Scripted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clinvk.api.endpoints.runs.RETRY_S", 0.02)
    scripted.play(claude_says("x"))
    store = AwayStore()
    async with serving(scripted.env, store=store) as server:
        run = (await server.prompt()).json()["run_id"]
        store.failures = 3
        async with viewing(server.client, query=f"?run={run}") as viewer:
            read = [event async for _, event in upto_end(viewer)]
        assert read == await stored_events(server, run)
    assert store.failures == 0


@pytest.mark.parametrize(
    ("query", "field", "message"),
    [
        ("run=x", "run[0]", "x"),
        ("run=abcd&run=abcd:-1", "run[1]", "abcd:-1"),
        ("&".join(["run=abcd"] * 101), "run", "at most 100"),
        ("runs=abcd", "runs", "did you mean 'run'?"),
    ],
)
async def test_invalid_position_is_refused(scripted: Scripted, query: str, field: str, message: str) -> None:
    async with serving(scripted.env) as server:
        refused = await server.client.get(f"/api/v1/events?{query}")
    assert (refused.status_code, refused.json()["field"]) == (400, field)
    assert message in refused.json()["detail"]
