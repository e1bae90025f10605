"""Policies of keys, rate limits and the clients of requests, over real sockets."""

import asyncio
import os
import shutil
import socket
import threading
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path

import httpx
import msgspec
import pytest
from starlette.requests import Request

import records
from clinvk.api.access import clients
from clinvk.api.access.auth import access_of, create_key_if_open
from clinvk.api.access.key_file import KeyFile, KeyLimits
from clinvk.api.access.key_policy import KeyPolicy
from clinvk.api.access.keys import ApiKeys, watch_key_sources
from clinvk.api.endpoints import health as endpoints
from clinvk.backends.registry import BACKENDS
from clinvk.config import saving
from clinvk.config.load import home
from clinvk.config.model import ServerSettings, Settings
from clinvk.runtime.local import LocalRuns
from clinvk.runtime.process import waiting
from clinvk.runtime.process.waiting import in_background
from clinvk.store.memory import MemoryStore
from clinvk.store.protocol import SessionQuery
from clinvk.types.errors import BudgetSpent, KeyRefused
from clinvk.types.record import UsageOfDay
from clinvk.types.request import RunRequest
from polling import until, until_told
from records import turn
from scripted import Scripted
from scripted.steps import claude_says, wait_for
from serving import LiveServer, services_of, serving

PROMPT = {"backend": "claude", "prompt": "hi"}


async def made(scripted: Scripted, limits: KeyLimits | None = None) -> tuple[str, ApiKeys]:
    """Create a key `ana` with limits. Return the key, and the keys of the server."""
    file = KeyFile(home(scripted.env))
    text = await file.create("ana", limits or KeyLimits())
    return text, ApiKeys((), await file.read())


async def also(scripted: Scripted, keys: ApiKeys) -> str:
    """Create another key, without limits."""
    file = KeyFile(home(scripted.env))
    text = await file.create("ben", KeyLimits())
    keys.replace_file_keys(await file.read())
    return text


@asynccontextmanager
async def limited(
    scripted: Scripted, keys: ApiKeys | None = None, proxies: tuple[str, ...] = ()
) -> AsyncGenerator[LiveServer]:
    """Serve two requests at once, and then one a second, by a clock that stands still."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("clinvk.api.access.auth.RateLimits", partial(clients.RateLimits, now=lambda: 1.0))
        async with serving(
            scripted.env,
            store=MemoryStore(),
            keys=keys,
            rate_limit_enabled=True,
            rate_limit_rps=1,
            rate_limit_burst=2,
            trusted_proxies=proxies,
        ) as server:
            yield server


async def asked(server: LiveServer, key: str, path: str = "/api/v1/prompt", **body: object) -> httpx.Response:
    return await server.client.post(path, json={**PROMPT, **body}, headers={"x-api-key": key})


async def answered(status: int, ask: Callable[[], Awaitable[httpx.Response]]) -> httpx.Response:
    """Ask until the answer has this status: the server looks after its keys every two seconds."""
    async with asyncio.timeout(30):
        while True:
            if (response := await ask()).status_code == status:
                return response
            await asyncio.sleep(0.05)


# How often


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/api/v1/sessions", ("code", "rate_limited")),
        ("/openai/v1/models", ("error", "type", "rate_limit_error")),
        ("/v1/models", ("error", "code", "rate_limit_exceeded")),
        ("/anthropic/v1/models", ("error", "type", "rate_limit_error")),
    ],
)
async def test_request_over_the_rate_limit_is_refused_in_the_format_of_the_api(
    scripted: Scripted, path: str, code: tuple[str, ...]
) -> None:
    async with limited(scripted) as server:
        answers = [await server.client.get(path) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert answers[2].headers["retry-after"] == "1"
    assert answers[2].headers["x-request-id"]
    body = answers[2].json()
    *places, word = code
    for place in places:
        body = body[place]
    assert body == word


async def test_rate_limit_counts_health_but_not_liveness_and_readiness_probes(scripted: Scripted) -> None:
    async with limited(scripted) as server:
        supervised = [await server.client.get(f"/health/{name}") for name in ("live", "ready") * 5]
        health = [await server.client.get("/health") for _ in range(3)]
        live = await server.client.get("/health/live")
    assert {answer.status_code for answer in supervised} == {200}
    assert [answer.status_code for answer in health] == [200, 200, 429]
    assert live.status_code == 200


async def test_wrong_keys_count_and_a_right_key_is_rate_limited_too(scripted: Scripted) -> None:
    async with limited(scripted, ApiKeys(["right"])) as server:
        statuses = [
            (await server.client.get("/api/v1/sessions", headers={"x-api-key": key})).status_code
            for key in ("wrong", "false", "right")
        ]
    assert statuses == [401, 401, 429]


async def test_key_has_its_own_rate_limit_without_a_global_one(scripted: Scripted) -> None:
    key, keys = await made(scripted, KeyLimits(rate_rps=0.001, burst=1))
    async with serving(scripted.env, store=MemoryStore(), keys=keys) as server:
        headers = {"authorization": f"Bearer {key}"}
        answers = [await server.client.get("/api/v1/sessions", headers=headers) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 429]
    assert 900 <= int(answers[1].headers["retry-after"]) <= 1000


async def test_clients_behind_a_trusted_proxy_are_rate_limited_separately(scripted: Scripted) -> None:
    async with limited(scripted, proxies=("127.0.0.1",)) as server:
        statuses = [
            (await server.client.get("/api/v1/runs", headers={"x-forwarded-for": address})).status_code
            for address in ("203.0.113.1", "203.0.113.1", "203.0.113.1", "203.0.113.2", "spoofed, 203.0.113.1", "::::")
        ]
    assert statuses == [200, 200, 429, 200, 429, 200]


async def test_proxy_is_recognized_on_a_socket_for_ipv6_and_ipv4(
    scripted: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    sock = socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True)

    def listen(host: str, port: int) -> list[socket.socket]:
        return [sock]

    monkeypatch.setattr("serving.listen", listen)
    async with limited(scripted, proxies=("127.0.0.1/8",)) as server:
        statuses = [
            (await server.client.get("/api/v1/runs", headers={"x-forwarded-for": f"203.0.113.{n}"})).status_code
            for n in range(3)
        ]
    assert statuses == [200, 200, 200]


async def test_untrusted_forwarded_header_does_not_change_the_client(scripted: Scripted) -> None:
    async with limited(scripted) as server:
        statuses = [
            (await server.client.get("/api/v1/runs", headers={"x-forwarded-for": f"203.0.113.{n}"})).status_code
            for n in range(3)
        ]
    assert statuses == [200, 200, 429]


# What


@pytest.mark.parametrize("path", ["/api/v1/prompt", "/openai/v1/chat/completions", "/anthropic/v1/messages"])
async def test_key_can_run_only_its_backends(scripted: Scripted, path: str) -> None:
    scripted.play(claude_says("x"))
    key, keys = await made(scripted, KeyLimits(backends=("claude",)))
    message = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 10}
    bodies = [PROMPT if path.startswith("/api") else {"model": name, **message} for name in ("claude", "codex")]
    bodies[1] = {**PROMPT, "backend": "codex"} if path.startswith("/api") else bodies[1]
    async with serving(scripted.env, keys=keys) as server:
        may, may_not = [await server.client.post(path, json=body, headers={"x-api-key": key}) for body in bodies]
    assert (may.status_code, may_not.status_code) == (200, 403), (may.text, may_not.text)
    assert "this API key may not run backend 'codex' (allowed: claude)" in may_not.text
    assert len(scripted.calls()) == 1


async def test_lists_omit_backends_that_the_key_cannot_run(scripted: Scripted) -> None:
    key, keys = await made(scripted, KeyLimits(backends=("codex",)))
    other = await also(scripted, keys)
    async with serving(scripted.env, store=MemoryStore(), keys=keys) as server:

        async def names(path: str, list_of: str, name: str, asking: str) -> set[str]:
            listed = (await server.client.get(path, headers={"x-api-key": asking})).json()[list_of]
            return {each[name].partition("/")[0] for each in listed}

        for path, list_of, name in (
            ("/api/v1/backends", "backends", "name"),
            ("/openai/v1/models", "data", "id"),
            ("/anthropic/v1/models", "data", "id"),
        ):
            assert await names(path, list_of, name, key) == {"codex"}
            assert await names(path, list_of, name, other) == {"claude", "codex", "gemini"}
        one = await server.client.get("/v1/models/claude", headers={"x-api-key": key})
    assert one.status_code == 404


async def test_key_is_confined_to_its_directories_through_any_path(scripted: Scripted, tmp_path: Path) -> None:
    scripted.play(claude_says("x"))
    (tmp_path / "mine" / "in").mkdir(parents=True)
    (tmp_path / "mine" / "out").symlink_to(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path / "mine" / "in")
    key, keys = await made(scripted, KeyLimits(workdirs=(str(tmp_path / "mine"),)))
    fine = ["mine", "mine/in", "link", "mine/in/../in"]
    out = ["", "mine/out", "mine/..", "mine/in/../..", "minemine"]
    (tmp_path / "minemine").mkdir()
    async with serving(scripted.env, keys=keys) as server:
        for path in fine:
            assert (await asked(server, key, workdir=f"{tmp_path}/{path}")).status_code == 200
        for path in out:
            refused = await asked(server, key, workdir=f"{tmp_path}/{path}")
            assert (refused.status_code, refused.json()["field"]) == (403, "workdir"), path
        beside = await asked(server, key, workdir=f"{tmp_path}/mine", add_dirs=[f"{tmp_path}/mine/in", str(tmp_path)])
        nothing = await asked(server, key)
    assert (beside.status_code, beside.json()["field"]) == (403, "add_dirs[1]")
    assert (nothing.status_code, nothing.json()["code"]) == (403, "directory_not_allowed")
    assert nothing.json()["detail"].endswith(f"is in no directory that this API key may work in: {tmp_path}/mine")
    assert {call.cwd for call in scripted.calls()} == {str(tmp_path / "mine"), str(tmp_path / "mine" / "in")}


async def test_key_deletes_only_sessions_of_its_directories(scripted: Scripted, tmp_path: Path) -> None:
    key, keys = await made(scripted, KeyLimits(workdirs=(str(tmp_path),)))
    mine, other = records.session(working_dir=str(tmp_path)), records.session(working_dir="/srv")
    store = MemoryStore()
    await store.create(mine)
    await store.create(other)
    async with serving(scripted.env, keys=keys, store=store) as server:
        body, headers = {"ids": [other.id, mine.id]}, {"x-api-key": key}
        answer = (await server.client.post("/api/v1/sessions/delete", json=body, headers=headers)).json()
    assert (answer["deleted"], [error["id"] for error in answer["errors"]]) == ([mine.id], [other.id])
    assert (await store.sessions(SessionQuery())).items == (other,)


async def test_projects_are_only_those_that_the_key_may_use(scripted: Scripted, tmp_path: Path) -> None:
    key, keys = await made(scripted, KeyLimits(workdirs=(str(tmp_path / "mine"),)))
    ben = await also(scripted, keys)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "out").symlink_to(tmp_path)
    store = MemoryStore()
    for name in ("mine/in", "mine/out", "other"):
        await store.create(records.session(project=f"{tmp_path}/{name}"))
    async with serving(scripted.env, keys=keys, store=store) as server:
        found = [
            (await server.client.get("/api/v1/projects", headers={"x-api-key": each})).json()["projects"]
            for each in (key, ben)
        ]
    assert [[project["name"] for project in projects] for projects in found] == [["in"], ["in", "out", "other"]]


async def test_key_directory_that_resolves_elsewhere_after_queueing_is_refused(
    scripted: Scripted, tmp_path: Path
) -> None:
    scripted.play([wait_for(tmp_path / "go"), *claude_says("x")])
    place = tmp_path / "mine" / "in"
    place.mkdir(parents=True)
    key, keys = await made(scripted, KeyLimits(workdirs=(str(tmp_path / "mine"),)))
    async with serving(scripted.env, keys=keys, max_concurrent_runs=1) as server:
        first = asyncio.create_task(asked(server, key, workdir=str(tmp_path / "mine")))
        await until(scripted.calls)
        waiting = asyncio.create_task(asked(server, key, workdir=str(place)))
        await until(lambda: server.runs.queued == 1)
        place.rmdir()
        place.symlink_to(tmp_path)
        (tmp_path / "go").touch()
        answers = await asyncio.gather(first, waiting)
    assert [answer.status_code for answer in answers] == [200, 403]
    assert len(scripted.calls()) == 1


async def test_key_cannot_resume_a_session_outside_its_directories(scripted: Scripted, tmp_path: Path) -> None:
    store = MemoryStore()
    (tmp_path / "mine").mkdir()
    for number, place in enumerate((str(tmp_path), "")):
        await store.create(records.session(id=f"{number}" * 32, working_dir=place, backend_session_id="h"))
    key, keys = await made(scripted, KeyLimits(workdirs=(str(tmp_path / "mine"),)))
    async with serving(scripted.env, store=store, keys=keys) as server:
        for number in range(2):
            refused = await asked(server, key, session_id=f"{number}" * 32)
            assert (refused.status_code, refused.json()["code"]) == (403, "directory_not_allowed")
    assert scripted.calls() == []


async def test_key_can_change_only_sessions_that_it_can_resume(scripted: Scripted, tmp_path: Path) -> None:
    """A key that is limited to an agent and a directory forks, edits and deletes no session of another."""
    mine, store = tmp_path / "mine", MemoryStore()
    mine.mkdir()
    other_agent, elsewhere, own = ("1" * 32, "2" * 32, "3" * 32)
    for session_id, backend, place in (
        (other_agent, "codex", mine),
        (elsewhere, "claude", tmp_path),
        (own, "claude", mine),
    ):
        await store.create(
            records.session(id=session_id, backend=backend, working_dir=str(place), backend_session_id="h")
        )
    key, keys = await made(scripted, KeyLimits(backends=("claude",), workdirs=(str(mine),)))
    async with serving(scripted.env, store=store, keys=keys) as server:

        async def answers(session_id: str) -> list[tuple[int, str]]:
            path, headers = f"/api/v1/sessions/{session_id}", {"x-api-key": key}
            reported = [
                await server.client.post(f"{path}/fork", headers=headers),
                await server.client.patch(path, json={"title": "t"}, headers=headers),
                await server.client.delete(path, headers=headers),
            ]
            return [(answer.status_code, answer.json().get("code", "")) for answer in reported]

        assert await answers(other_agent) == [(403, "backend_not_allowed")] * 3
        assert await answers(elsewhere) == [(403, "directory_not_allowed")] * 3
        assert await answers(own) == [(201, ""), (200, ""), (200, "")]
    assert {session.title for session in (await store.sessions(SessionQuery())).items} == {""}


@pytest.mark.parametrize("kind", ["parallel", "chain", "compare"])
async def test_key_limits_apply_to_multi_agent_requests(scripted: Scripted, kind: str) -> None:
    key, keys = await made(scripted, KeyLimits(backends=("claude",)))
    both = [{**PROMPT, "backend": name} for name in ("claude", "codex")]
    bodies = {
        "parallel": {"tasks": both},
        "chain": {"steps": both},
        "compare": {"prompt": "hi", "backends": ["claude", "codex"]},
    }
    async with serving(scripted.env, keys=keys) as server:
        refused = await server.client.post(f"/api/v1/{kind}", json=bodies[kind], headers={"x-api-key": key})
    assert (refused.status_code, refused.json()["code"]) == (403, "backend_not_allowed")
    assert scripted.calls() == []


@pytest.mark.parametrize(
    "limits",
    [
        KeyLimits(backends=("claude",)),
        KeyLimits(workdirs=("/",)),
        KeyLimits(tokens_per_day=9),
        KeyLimits(cost_usd_per_day=1.0),
    ],
)
async def test_restricted_key_cannot_run_a_check(scripted: Scripted, tmp_path: Path, limits: KeyLimits) -> None:
    """Whatever the key is held to, the shell is not. One without limits gets as far as to the missing repository."""
    held, keys = await made(scripted, limits)
    free = await also(scripted, keys)
    place = {"workdir": str(tmp_path), "isolation": "worktree"}
    body = {"prompt": "hi", "backends": ["claude"], **place, "check": "true"}
    async with serving(scripted.env, store=MemoryStore(), keys=keys) as server:
        answers = [
            await server.client.post("/api/v1/compare", json=body, headers={"x-api-key": key}) for key in (held, free)
        ]
    result = [(answer.status_code, answer.json()["code"], answer.json()["field"]) for answer in answers]
    assert result == [(403, "beyond_policy", "check"), (400, "invalid_request", "isolation")]


# How much


@pytest.mark.parametrize(
    ("limits", "message"),
    [(KeyLimits(tokens_per_day=5), "5 tokens"), (KeyLimits(cost_usd_per_day=0.01), "0.01 US dollars")],
)
async def test_key_over_its_daily_budget_is_refused_until_the_next_day(
    scripted: Scripted, limits: KeyLimits, message: str
) -> None:
    scripted.play(claude_says("x"))
    key, keys = await made(scripted, limits)
    other = await also(scripted, keys)
    async with serving(scripted.env, keys=keys) as server:
        first = await asked(server, key)
        session = first.json()["session_id"]
        deleted = await server.client.delete(f"/api/v1/sessions/{session}", headers={"x-api-key": key})
        second = await answered(429, lambda: asked(server, key, dry_run=True))
        vendor = await server.client.post(
            "/openai/v1/chat/completions",
            json={"model": "claude", "messages": [{"role": "user", "content": "hi"}]},
            headers={"x-api-key": key},
        )
        unlimited = await asked(server, other)
        looked = await server.client.get("/api/v1/runs", headers={"x-api-key": key})
    assert (first.status_code, deleted.status_code) == (200, 200)
    assert (second.status_code, second.json()["code"]) == (429, "budget_spent")
    assert f"used up its {message} of the day" in second.json()["detail"]
    assert 0 < int(second.headers["retry-after"]) <= 86_400
    assert (vendor.status_code, vendor.json()["error"]["code"]) == (429, "insufficient_quota")
    assert vendor.headers["x-should-retry"] == "false"
    assert (unlimited.status_code, looked.status_code) == (200, 200)


async def test_budget_spent_a_moment_ago_is_enforced(scripted: Scripted) -> None:
    scripted.play(claude_says("x"))
    key, keys = await made(scripted, KeyLimits(tokens_per_day=20))
    async with serving(scripted.env, keys=keys) as server:
        codes = [(await asked(server, key)).status_code for _ in range(3)]
    assert codes == [200, 200, 429]


async def test_recreated_key_keeps_the_daily_usage_of_its_name(scripted: Scripted) -> None:
    scripted.play(claude_says("x"))
    limits = KeyLimits(tokens_per_day=5)
    key, keys = await made(scripted, limits)
    async with serving(scripted.env, keys=keys) as server:
        first = await asked(server, key)
        file = KeyFile(home(scripted.env))
        await file.revoke("ana")
        anew, _ = await made(scripted, limits)
        keys.replace_file_keys(await file.read())
        second = await asked(server, anew)
    assert (first.status_code, second.status_code) == (200, 429)


async def test_budget_spent_while_runs_are_queued_prevents_them_from_starting(
    scripted: Scripted, tmp_path: Path
) -> None:
    scripted.play(claude_says("x"))
    for name in ("first", "second"):
        scripted.play([wait_for(tmp_path / name), *claude_says("x")], when=name)
    key, keys = await made(scripted, KeyLimits(tokens_per_day=5))
    other = await also(scripted, keys)
    async with serving(scripted.env, keys=keys, max_concurrent_runs=1) as server:
        started = [asyncio.create_task(asked(server, key, prompt="first"))]
        await until(scripted.calls)
        started += [asyncio.create_task(asked(server, other, prompt="second"))]
        await until(lambda: server.runs.queued == 1)
        waiting = [asyncio.create_task(asked(server, key)) for _ in range(3)]
        await until(lambda: server.runs.queued == 4)
        (tmp_path / "first").touch()
        await answered(429, lambda: asked(server, key, dry_run=True))
        (tmp_path / "second").touch()
        answers = await asyncio.gather(*started, *waiting)
    assert [answer.status_code for answer in answers] == [200, 200, 429, 429, 429]
    assert len(scripted.calls()) == 2


async def test_usage_of_a_key_is_refreshed_without_requests(scripted: Scripted) -> None:
    _, keys = await made(scripted, KeyLimits(tokens_per_day=5))
    store = MemoryStore()
    key_policy = KeyPolicy(keys, store)
    request = await key_policy.admit(RunRequest(prompt="hi", backend="claude"), "ana")
    await turn(store, key_name="ana", created_at=time.time())

    def is_refused() -> bool:
        try:
            key_policy.check(request)
        except BudgetSpent:
            return True
        return False

    assert not is_refused()
    async with in_background(key_policy.refresh(interval_s=0.01)):
        await until(is_refused)


class Faulty(MemoryStore):
    """A store with a fault that shows when it is asked for the second time."""

    lookups = 0

    async def usage(self, first_day: str, key_name: str | None = None) -> list[UsageOfDay]:
        self.lookups += 1
        if self.lookups == 2:
            raise RuntimeError("a fault")
        return await super().usage(first_day, key_name)


async def test_failing_usage_lookup_does_not_stop_the_server(
    scripted: Scripted, caplog: pytest.LogCaptureFixture
) -> None:
    _, keys = await made(scripted, KeyLimits(tokens_per_day=5))
    store = Faulty()
    key_policy = KeyPolicy(keys, store)
    await key_policy.admit(RunRequest(prompt="hi", backend="claude"), "ana")
    async with in_background(key_policy.refresh(interval_s=0.01)):
        await until(lambda: store.lookups > 3)
    assert [line for line in caplog.messages if "cannot be read" in line]


# While the server runs


@pytest.mark.slow
async def test_first_key_locks_the_server_and_revoking_it_does_not_unlock(scripted: Scripted) -> None:
    file = KeyFile(home(scripted.env))

    async def look(key: str = "") -> httpx.Response:
        return await server.client.get("/api/v1/runs", headers={"x-api-key": key} if key else {})

    async with serving(scripted.env, store=MemoryStore()) as server:
        assert (await look()).status_code == 200
        key = await file.create("ana", KeyLimits())
        await answered(401, look)
        assert (await look(key)).status_code == 200
        await file.revoke("ana")
        await answered(401, lambda: look(key))
        await asyncio.to_thread(file.path.unlink)
        assert (await look()).status_code == 401


async def test_damaged_key_file_changes_nothing(scripted: Scripted, caplog: pytest.LogCaptureFixture) -> None:
    key, keys = await made(scripted)
    path = KeyFile(home(scripted.env)).path
    async with serving(scripted.env, store=MemoryStore(), keys=keys) as server:
        await asyncio.to_thread(path.write_text, "{")
        await until(lambda: "the API keys cannot be read" in caplog.text)
        assert (await server.client.get("/api/v1/runs", headers={"x-api-key": key})).status_code == 200
        assert (await server.client.get("/api/v1/runs")).status_code == 401


@pytest.mark.slow
async def test_unreadable_key_file_is_read_once_it_is_readable(
    scripted: Scripted, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Only the mode of the file changes; a deleted key is refused."""
    key, keys = await made(scripted)
    path = KeyFile(home(scripted.env)).path
    beside = KeyFile(tmp_path / "beside")

    def replace_by_one_that_others_may_read() -> None:
        beside.path.parent.mkdir()
        shutil.copy(path, beside.path)
        asyncio.run(beside.revoke("ana"))
        beside.path.chmod(0o644)
        beside.path.replace(path)

    async def look() -> httpx.Response:
        return await server.client.get("/api/v1/runs", headers={"x-api-key": key})

    async with serving(scripted.env, store=MemoryStore(), keys=keys) as server:
        await asyncio.to_thread(replace_by_one_that_others_may_read)
        await until(lambda: "others may read or write it" in caplog.text)
        assert (await look()).status_code == 200
        await asyncio.to_thread(path.chmod, 0o600)
        await answered(401, look)


async def test_last_use_is_saved_even_if_the_server_stops_without_a_free_thread(
    scripted: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, keys = await made(scripted)
    file, to_thread, waits = KeyFile(home(scripted.env)), asyncio.to_thread, asyncio.Event()

    async def late(work: Callable[..., object], *given: object, **named: object) -> object:
        if work is saving.change_file and not waits.is_set():
            waits.set()
            await asyncio.Event().wait()
        return await to_thread(work, *given, **named)

    monkeypatch.setattr(asyncio, "to_thread", late)
    keys.find({"x-api-key": key})
    async with watch_key_sources(keys, file):
        await waits.wait()
    [kept] = await file.read() or []
    assert kept.last_used
    assert keys.used == {}


async def test_last_use_of_a_key_is_saved_soon_after(scripted: Scripted) -> None:
    key, keys = await made(scripted)
    file = KeyFile(home(scripted.env))

    async def was_used() -> bool:
        [kept] = await file.read() or []
        return kept.last_used is not None

    async with serving(scripted.env, store=MemoryStore(), keys=keys) as server:
        assert (await server.client.get("/api/v1/runs", headers={"x-api-key": key})).status_code == 200
        await until_told(was_used)


async def test_queued_run_does_not_start_once_its_key_is_revoked(scripted: Scripted, tmp_path: Path) -> None:
    scripted.play([wait_for(tmp_path / "go"), *claude_says("x")])
    key, keys = await made(scripted)
    other = await also(scripted, keys)
    async with serving(scripted.env, store=MemoryStore(), keys=keys, max_concurrent_runs=1) as server:
        first = asyncio.create_task(asked(server, other))
        await until(scripted.calls)
        waiting = asyncio.create_task(asked(server, key))
        await until(lambda: server.runs.queued == 1)
        await KeyFile(home(scripted.env)).revoke("ana")
        await until(lambda: keys.by_name("ana") is None)
        (tmp_path / "go").touch()
        answers = await asyncio.gather(first, waiting)
    assert [answer.status_code for answer in answers] == [200, 401]
    assert len(scripted.calls()) == 1


async def test_agent_sees_neither_the_key_file_nor_the_key(scripted: Scripted) -> None:
    scripted.play(claude_says("x"))
    key, keys = await made(scripted)
    async with serving(scripted.env, keys=keys) as server:
        assert (await asked(server, key)).status_code == 200
    (call,) = scripted.calls()
    assert key not in str(call.env) + str(call.argv)


# For whom


async def test_dns_rebinding_page_is_refused_even_for_health(scripted: Scripted) -> None:
    headers = {"host": "evil.example", "origin": "http://evil.example"}
    async with serving(scripted.env, store=MemoryStore()) as server:
        answers = [
            await server.client.request(method, path, headers=headers)
            for method, path in (("POST", "/api/v1/prompt"), ("GET", "/api/v1/sessions"), ("GET", "/health"))
        ]
    assert {(answer.status_code, answer.json()["code"]) for answer in answers} == {(403, "host_refused")}
    assert scripted.calls() == []


async def test_foreign_page_starts_nothing_even_without_keys(scripted: Scripted) -> None:
    async with serving(scripted.env, store=MemoryStore()) as server:
        response = await server.client.post("/api/v1/prompt", json=PROMPT, headers={"origin": "https://evil.example"})
    assert (response.status_code, response.json()["code"]) == (403, "foreign_origin")
    assert scripted.calls() == []


async def test_allowed_host_of_the_settings_is_accepted(scripted: Scripted) -> None:
    async with serving(scripted.env, store=MemoryStore(), allowed_hosts=("agents.example.com",)) as server:
        response = await server.client.get("/health", headers={"host": "agents.example.com"})
    assert response.status_code == 200


# Open to others


def test_server_open_to_other_machines_creates_a_temporary_key() -> None:
    messages: list[str] = []
    with open_to_others() as sock:
        keys = create_key_if_open(ServerSettings(host="0.0.0.0"), [sock], messages.append)
    (text,) = messages
    key = text.splitlines()[-1]
    assert "other machines can reach 0.0.0.0" in text
    assert keys
    assert keys.find({"x-api-key": key})
    assert not keys.find({"x-api-key": key[:-1]})


def test_one_address_open_to_other_machines_requires_a_key() -> None:
    messages: list[str] = []
    with open_to_others() as others, socket.socket() as own:
        own.bind(("127.0.0.1", 0))
        assert create_key_if_open(ServerSettings(), [own, others], messages.append)
        assert not create_key_if_open(ServerSettings(), [own], messages.append)
    assert len(messages) == 1


async def test_health_warns_while_the_server_is_open_to_others_without_a_key(scripted: Scripted) -> None:
    with open_to_others() as sock:
        found = await access_of(ServerSettings(host="0.0.0.0"), ApiKeys(), [sock])
        locked_up = await access_of(ServerSettings(host="0.0.0.0"), ApiKeys(["k"]), [sock])
    runs = LocalRuns(Settings(), MemoryStore(), scripted.env, BACKENDS)
    services = services_of(runs, environ=scripted.env, access=found)

    async def warnings() -> object:
        health = (await endpoints.health(services, Request({"type": "http"}))).body
        return msgspec.json.decode(health, type=dict[str, object]).get("warnings")

    assert await warnings() == [found.warning()]
    assert "anyone who reaches it can run agents as this user" in found.warning()
    assert locked_up.warning() == ""
    found.keys.replace_permanent(ApiKeys(["k"]))
    assert await warnings() is None


async def test_local_server_has_no_warning(scripted: Scripted) -> None:
    async with serving(scripted.env, store=MemoryStore()) as server:
        assert "warnings" not in (await server.client.get("/health")).json()


@contextmanager
def open_to_others() -> Generator[socket.socket]:
    """A bound socket that does not listen."""
    with socket.socket() as sock:
        sock.bind(("0.0.0.0", 0))
        yield sock


async def detached(server: LiveServer, headers: dict[str, str], prompt: str) -> httpx.Response:
    return await server.client.post(
        "/api/v1/prompt",
        json={"backend": "claude", "prompt": prompt, "detach": True},
        headers={"prefer": "respond-async", **headers},
    )


@pytest.mark.parametrize("has_keys", [True, False])
async def test_queued_runs_are_scheduled_fairly_between_clients(
    scripted: Scripted, tmp_path: Path, has_keys: bool
) -> None:
    scripted.play([wait_for(tmp_path / "go"), *claude_says("x")])
    ana, ben = {"x-forwarded-for": "192.0.2.1"}, {"x-forwarded-for": "192.0.2.2"}
    keys = None
    if has_keys:
        key, keys = await made(scripted)
        ana, ben = {"x-api-key": key}, {"x-api-key": await also(scripted, keys)}
    async with serving(scripted.env, keys=keys, max_concurrent_runs=1, trusted_proxies=("127.0.0.1",)) as server:
        many = [(await detached(server, ana, f"ana {number}")).json()["run_id"] for number in range(5)]
        one = (await detached(server, ben, "ben")).json()["run_id"]
        (tmp_path / "go").touch()
        for run_id in (*many, one):
            await server.ended(run_id)
    assert [b"ben" in (call.stdin or b"") for call in scripted.calls()] == [False, True, False, False, False, False]


@pytest.mark.one_machine
async def test_key_is_limited_to_its_concurrent_runs(scripted: Scripted, tmp_path: Path) -> None:
    scripted.play([wait_for(tmp_path / "go"), *claude_says("x")])
    key, keys = await made(scripted, KeyLimits(max_runs=1))
    other = await also(scripted, keys)
    async with serving(scripted.env, keys=keys, max_concurrent_runs=4) as server:
        started = [asyncio.create_task(asked(server, key)) for _ in range(3)]
        started += [asyncio.create_task(asked(server, other)) for _ in range(2)]
        await until(lambda: (server.runs.busy, server.runs.queued) == (3, 2))
        (tmp_path / "go").touch()
        answers = await asyncio.gather(*started)
    assert [answer.status_code for answer in answers] == [200] * 5


async def test_expired_key_is_refused(scripted: Scripted) -> None:
    file = KeyFile(home(scripted.env))
    old, new = [
        await file.create(name, KeyLimits(), False, time.time() + left_s)
        for name, left_s in (("old", -1), ("new", 3600))
    ]
    keys = ApiKeys((), await file.read())
    async with serving(scripted.env, store=MemoryStore(), keys=keys) as server:
        answers = [await asked(server, key, dry_run=True) for key in (old, new)]
        health = await server.client.get("/health/live", headers={"x-api-key": old})
    assert [answer.status_code for answer in answers] == [401, 200]
    assert "not expired" in answers[0].json()["detail"]
    assert health.status_code == 200


async def test_queued_run_does_not_start_once_its_key_has_expired(scripted: Scripted) -> None:
    file = KeyFile(home(scripted.env))
    await file.create("ana", KeyLimits(), False, time.time() - 1)
    key_policy = KeyPolicy(ApiKeys((), await file.read()), MemoryStore())
    with pytest.raises(KeyRefused, match="has expired"):
        key_policy.check(RunRequest(prompt="hi", backend="claude", key_name="ana"))


async def test_directories_are_resolved_off_the_event_loop_once_at_admission_and_once_at_start(
    scripted: Scripted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file system that hangs would freeze the server. Directories that have just answered are not trusted here."""
    monkeypatch.setattr(waiting, "_TRUSTED_S", 0.0)
    scripted.play(claude_says("x"))
    for name in ("work", "more", "blocked"):
        (tmp_path / name).mkdir()
    key, keys = await made(scripted, KeyLimits(workdirs=(str(tmp_path),)))
    blocked = str(tmp_path / "blocked")
    looked_up: list[tuple[str, int]] = []
    realpath = os.path.realpath

    def recorded(path: str | Path) -> str:
        if tmp_path in Path(path).parents:
            looked_up.append((str(path), threading.get_ident()))
        return realpath(path)

    async with serving(scripted.env, keys=keys, blocked_workdir_prefixes=(blocked,)) as server:
        monkeypatch.setattr(os.path, "realpath", recorded)
        body = {"backend": "claude", "prompt": "hi", "workdir": str(tmp_path / "work")}
        add_dirs = [str(tmp_path / "more")] * 3
        answer = await server.client.post(
            "/api/v1/prompt", json={**body, "add_dirs": add_dirs}, headers={"x-api-key": key}
        )
        session = f"/api/v1/sessions/{answer.json()['session_id']}"
        deleted = await server.client.delete(session, headers={"x-api-key": key})
    assert (answer.status_code, deleted.status_code) == (200, 200)
    assert threading.get_ident() not in {thread for _, thread in looked_up}
    assert [path for path, _ in looked_up].count(blocked) == 2
