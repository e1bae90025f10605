"""Web Push: which runs browsers are told of, what the messages say, and where they may go."""

import json
import os
import stat
import sys
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from asking_backend import ASK, Asking
from clinvk.api import push
from clinvk.api.access.key_file import KeyFile, KeyLimits
from clinvk.api.access.keys import ApiKeys
from clinvk.api.push import messages
from clinvk.config.load import home
from clinvk.config.model import NotificationSettings
from clinvk.runtime import notifications
from polling import until
from push_service import Browser, PushService
from serving import LiveServer, serving
from shell_backend import DONE, FAILED, TEXT, Shell

REGISTRY = {"shell": Shell(), "asking": Asking()}
PRIVATE = "# the-private-prompt\n"


@asynccontextmanager
async def pushing(
    service: PushService, folder: Path, keys: ApiKeys | None = None
) -> AsyncGenerator[tuple[LiveServer, str]]:
    """Serve, and yield the server and its public key. Browsers may subscribe at the service."""
    env = {"PATH": os.environ["PATH"], "HOME": str(folder), **service.env}
    settings = NotificationSettings(push_hosts=(service.host,))
    async with serving(env, REGISTRY, keys=keys, notifications=settings) as server:
        key = "" if keys else (await server.client.get("/api/v1/push")).json()["key"]
        yield server, key


async def subscribe(server: LiveServer, browser: Browser, key: str = "", **fields: object) -> httpx.Response:
    return await server.client.post("/api/v1/push", json=browser.subscription(**fields), headers=header(key))


def header(key: str) -> dict[str, str]:
    return {"x-api-key": key} if key else {}


def stored(folder: Path) -> list[object]:
    return json.loads((home({"HOME": str(folder)}) / messages.FILE).read_text())["owned"]


async def test_waiting_run_is_told_without_text_of_the_conversation(tmp_path: Path) -> None:
    project = tmp_path / "parser"
    project.mkdir()
    with PushService(tmp_path).running() as service:
        async with pushing(service, tmp_path) as (server, key):
            browser = Browser(service)
            assert (await subscribe(server, browser)).status_code == 200
            begun = await server.detached(
                backend="asking", prompt=PRIVATE + ASK + "read x", workdir=str(project), approval_mode="ask"
            )
            await until(lambda: len(service.received) == 1)
    (received,) = service.received
    assert browser.read(received, key) == {
        "title": "asking waits for you",
        "body": "parser",
        "path": f"#/session/{begun['session_id']}",
        "tag": begun["run_id"],
    }
    assert (received.path, received.headers["topic"], received.headers["ttl"]) == ("/send/1", begun["run_id"], "43200")
    assert b"parser" not in received.body


async def test_failed_and_long_runs_are_told_and_short_ones_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with PushService(tmp_path).running() as service:
        async with pushing(service, tmp_path) as (server, key):
            browser = Browser(service)
            await subscribe(server, browser)
            await server.prompt(backend="shell", prompt=TEXT + DONE)
            await server.prompt(backend="shell", prompt=FAILED)
            await until(lambda: len(service.received) == 1)
            monkeypatch.setattr(messages, "LONG_RUN_S", 0)
            await server.prompt(backend="shell", prompt=TEXT + DONE)
            tasks = [{"backend": "shell", "prompt": DONE}] * 2
            await server.client.post("/api/v1/parallel", json={"tasks": tasks})
            await until(lambda: len(service.received) == 3)
    titles = [browser.read(received, key)["title"] for received in service.received]
    assert titles[0] == "shell has failed"
    assert sorted(titles[1:]) == ["parallel is done after 0 min", "shell is done after 0 min"]


@pytest.mark.parametrize(
    ("endpoint", "field"),
    [
        ("http://127.0.0.1:{port}/x", "endpoint"),
        ("https://127.0.0.1/x", "endpoint"),
        ("https://example.com/x", "endpoint"),
        ("https://127.0.0.1:{port}@example.com/x", "endpoint"),
        ("https://127.0.0.1:{port}", "endpoint"),
        ("https://127.0.0.1:{port}/a b", "endpoint"),
        ("https://127.0.0.1:{port}/x", "p256dh"),
    ],
)
async def test_subscription_elsewhere_or_without_a_key_is_refused(tmp_path: Path, endpoint: str, field: str) -> None:
    with PushService(tmp_path).running() as service:
        async with pushing(service, tmp_path) as (server, _):
            fields = {"endpoint": endpoint.format(port=service.host.partition(":")[2])}
            if field == "p256dh":
                fields["p256dh"] = "B" + "A" * 86
            refused = await subscribe(server, Browser(service), **fields)
    assert (refused.status_code, refused.json()["field"]) == (400, field)
    assert stored(tmp_path) == []


async def test_web_page_cannot_subscribe_a_browser(tmp_path: Path) -> None:
    with PushService(tmp_path).running() as service:
        async with pushing(service, tmp_path) as (server, _):
            body, origin = Browser(service).subscription(), {"origin": "https://evil.example"}
            for method, path in (
                ("POST", "/api/v1/push"),
                ("POST", "/api/v1/push/1/test"),
                ("DELETE", "/api/v1/push/1"),
            ):
                refused = await server.client.request(method, f"/api/v1/push{path}", json=body, headers=origin)
                assert refused.status_code == 403


async def test_key_is_private_and_stays_with_the_subscriptions(tmp_path: Path) -> None:
    with PushService(tmp_path).running() as service:
        async with pushing(service, tmp_path) as (server, key):
            browser = Browser(service)
            await subscribe(server, browser)
        file = home({"HOME": str(tmp_path)}) / messages.FILE
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        async with pushing(service, tmp_path) as (server, same):
            assert same == key
            await server.prompt(backend="shell", prompt=FAILED)
            await until(lambda: len(service.received) == 1)
    assert browser.read(service.received[0], key)["title"] == "shell has failed"


@pytest.mark.parametrize("status", [404, 410])
async def test_subscription_that_the_service_has_ended_is_removed(tmp_path: Path, status: int) -> None:
    with PushService(tmp_path, status).running() as service:
        async with pushing(service, tmp_path) as (server, _):
            await subscribe(server, Browser(service))
            await server.prompt(backend="shell", prompt=FAILED)
            await until(lambda: stored(tmp_path) == [])
            await server.prompt(backend="shell", prompt=FAILED)
    assert len(service.received) == 1


async def test_redirect_is_not_followed_and_a_busy_service_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notifications, "PAUSES_S", (0.01, 0.01))
    with PushService(tmp_path, 503, 201, 307).running() as service:
        async with pushing(service, tmp_path) as (server, _):
            await subscribe(server, Browser(service))
            await server.prompt(backend="shell", prompt=FAILED)
            await until(lambda: len(service.received) == 2)
            await server.prompt(backend="shell", prompt=FAILED)
            await until(lambda: len(service.received) == 3)
    assert {received.path for received in service.received} == {"/send/1"}


async def test_browser_gets_no_message_in_its_quiet_hours(tmp_path: Path) -> None:
    now = int(time.time() // 60) % 1440
    with PushService(tmp_path).running() as service:
        async with pushing(service, tmp_path) as (server, _):
            quiet, loud = Browser(service, "/quiet"), Browser(service, "/loud")
            await subscribe(server, quiet, quiet=[(now - 60) % 1440, (now + 60) % 1440])
            await subscribe(server, loud, quiet=[(now + 60) % 1440, (now - 60) % 1440])
            await server.prompt(backend="shell", prompt=FAILED)
            await until(lambda: len(service.received) == 1)
    assert service.received[0].path == "/loud"


async def test_key_gets_its_own_runs_and_with_the_right_to_answer_all(tmp_path: Path) -> None:
    file = KeyFile(home({"HOME": str(tmp_path)}))
    one, other = await file.create("one", KeyLimits()), await file.create("other", KeyLimits(), rights=("answer",))
    keys = ApiKeys((), await file.read())
    with PushService(tmp_path).running() as service:
        async with pushing(service, tmp_path, keys) as (server, _):
            assert (await subscribe(server, Browser(service))).status_code == 401
            for name, key in (("/one", one), ("/other", other)):
                assert (await subscribe(server, Browser(service, name), key)).status_code == 200
            for key, paths in ((other, ["/other"]), (one, ["/one", "/other"])):
                service.received.clear()
                server.client.headers.update(header(key))
                await server.prompt(backend="shell", prompt=FAILED)
                await until(lambda paths=paths: sorted(each.path for each in service.received) == paths)


async def test_subscription_ends_with_its_key_even_if_another_key_has_the_name(tmp_path: Path) -> None:
    file = KeyFile(home({"HOME": str(tmp_path)}))
    key, new = await file.create("one", KeyLimits()), await file.create("two", KeyLimits())
    keys = ApiKeys((), await file.read())
    with PushService(tmp_path).running() as service:
        async with pushing(service, tmp_path, keys) as (server, _):
            await subscribe(server, Browser(service), key)
            await file.revoke("one")
            again = await file.create("one", KeyLimits())
            keys.replace_file_keys(await file.read())
            server.client.headers.update(header(again))
            await server.prompt(backend="shell", prompt=FAILED)
            await until(lambda: stored(tmp_path) == [])
            await subscribe(server, Browser(service, "/two"), new)
            assert len(stored(tmp_path)) == 1
    assert service.received == []


async def test_browser_of_a_server_without_keys_gets_nothing_once_keys_exist(tmp_path: Path) -> None:
    with PushService(tmp_path).running() as service:
        async with pushing(service, tmp_path) as (server, _):
            await subscribe(server, Browser(service))
        async with pushing(service, tmp_path, ApiKeys(["k-1"])) as (server, _):
            server.client.headers.update(header("k-1"))
            await server.prompt(backend="shell", prompt=FAILED)
            await until(lambda: stored(tmp_path) == [])
    assert service.received == []


async def test_test_reports_the_answer_of_the_service(tmp_path: Path) -> None:
    with PushService(tmp_path, 201, 403).running() as service:
        async with pushing(service, tmp_path) as (server, key):
            browser = Browser(service)
            id_ = (await subscribe(server, browser)).json()["id"]
            answers = [await server.client.post(f"/api/v1/push/{id_}/test") for _ in range(2)]
            assert [answer.json() for answer in answers] == [{"error": None}, {"error": "HTTP status 403"}]
            assert (await server.client.delete(f"/api/v1/push/{id_}")).status_code == 204
            assert (await server.client.post(f"/api/v1/push/{id_}/test")).status_code == 404
    assert browser.read(service.received[0], key)["tag"] == "test"


async def test_key_keeps_its_newest_subscriptions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messages, "_MAX_OF_KEY", 2)
    with PushService(tmp_path).running() as service:
        async with pushing(service, tmp_path) as (server, _):
            for number in (1, 2, 3, 3):
                await subscribe(server, Browser(service, f"/{number}"))
    owned = json.dumps(stored(tmp_path))
    assert [f"/{number}" in owned.replace("://", "") for number in (1, 2, 3)] == [False, True, True]


async def test_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(push, "encryption", raising=False)
    monkeypatch.setitem(sys.modules, "clinvk.api.push.encryption", None)
    async with serving({"PATH": os.environ["PATH"], "HOME": str(tmp_path)}, REGISTRY) as server:
        answer = await server.client.get("/api/v1/push")
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
    assert "pip install 'clinvk[push]'" in answer.json()["detail"]
