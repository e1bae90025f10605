"""Notifications of the console in Chromium: by an open tab, by Web Push, and the number in title and icon."""

import json
import os
from pathlib import Path

import pytest

from asking_backend import ASK, Asking
from browser.pages import click_on, go, inbox, needs_browser, opened_in, text_of
from chromium import Page, browsing
from clinvk.config.model import NotificationSettings
from polling import until
from push_service import Browser, PushService
from scripted import Scripted
from serving import LiveServer, serving
from shell_backend import FAILED, Shell
from standin.document import JSON, record

pytestmark = needs_browser

REGISTRY = {"shell": Shell(), "asking": Asking()}
SHOWN = """navigator.serviceWorker.ready.then((worker) => worker.getNotifications()).then((shown) =>
  shown.map(({title, body, tag, data}) => ({title, body, tag, data})))"""
HIDE = "Object.defineProperty(document, 'hidden', {get: () => true})"
NO_RUNS = "import('/console/base/live.js').then(({ live }) => { live.addRun = () => {}; })"
SUBSCRIBE = """
PushManager.prototype.subscribe = async () => ({ toJSON: () => ({ endpoint: %s, keys: { p256dh: %s, auth: %s } }) });
"""
NO_SERVICE = "PushManager.prototype.subscribe = async () => { throw new Error('No push service'); };"
CARD = ".card[aria-label='Notifications in this browser']"


async def allow(page: Page, server: LiveServer) -> None:
    origin = f"http://127.0.0.1:{server.port}"
    await page.call("Browser.grantPermissions", permissions=["notifications"], origin=origin)


async def observe(page: Page) -> None:
    """Record the notifications that the browser displays."""
    await page.call("BackgroundService.startObserving", service="notifications")
    await page.call("BackgroundService.setRecording", shouldRecord=True, service="notifications")


async def shown(page: Page) -> JSON:
    """Wait for a notification, and return all that are shown.

    The page is not polled for them: Chromium deletes a notification that is listed while it is about to be displayed.
    """

    def is_displayed() -> bool:
        events = page.events_of("BackgroundService.backgroundServiceEventReceived")
        return any(record(event, "backgroundServiceEvent")["eventName"] == "Notification displayed" for event in events)

    await until(is_displayed)
    return await page.evaluate(SHOWN)


async def turn_on(page: Page, server: LiveServer) -> None:
    await allow(page, server)
    await observe(page)
    await opened_in(page, server, "/notifications", at=f"{CARD} input")
    assert await page.evaluate(f"document.querySelector({json.dumps(CARD)} + ' input').checked") is False
    await page.click(f"{CARD} input")
    await page.until(f"{text_of(CARD + ' [role=status]')}.startsWith('They appear')")


@pytest.mark.parametrize("is_run_known", [True, False])
async def test_hidden_tab_tells_of_a_waiting_run_once(tmp_path: Path, is_run_known: bool) -> None:
    """The request may arrive while the tab loads the runs again."""
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    async with serving(env, REGISTRY) as server, browsing() as page:
        await page.call("Page.addScriptToEvaluateOnNewDocument", source=NO_SERVICE)
        await turn_on(page, server)
        assert "while a tab" in str(await page.evaluate(text_of(CARD)))
        other = await page.another()
        await opened_in(other, server)
        for tab in (page, other):
            await tab.evaluate(HIDE)
            if not is_run_known:
                await tab.evaluate(NO_RUNS)
        begun = await server.detached(
            backend="asking", prompt=ASK + "read x", workdir=str(tmp_path), approval_mode="ask"
        )
        assert await shown(page) == [
            {
                "title": "asking waits for you",
                "body": tmp_path.name,
                "tag": begun["run_id"],
                "data": f"#/session/{begun['session_id']}",
            }
        ]
        await server.client.post(f"/api/v1/runs/{begun['run_id']}/cancel")


async def test_message_of_a_push_service_is_shown_by_the_service_worker(tmp_path: Path) -> None:
    with PushService(tmp_path).running() as service:
        env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), **service.env}
        settings = NotificationSettings(push_hosts=(service.host,))
        async with serving(env, REGISTRY, notifications=settings) as server, browsing() as page:
            browser = Browser(service)
            fields = browser.subscription()
            stand_in = SUBSCRIBE % tuple(json.dumps(fields[name]) for name in ("endpoint", "p256dh", "auth"))
            await page.call("Page.addScriptToEvaluateOnNewDocument", source=stand_in)
            await turn_on(page, server)
            assert "also while the console is closed" in str(await page.evaluate(text_of(CARD)))
            await page.evaluate(click_on("Send a test", ".card"))
            await until(lambda: len(service.received) == 1)
            await server.prompt(backend="shell", prompt=FAILED, workdir=str(tmp_path))
            await until(lambda: len(service.received) == 2)
            key = (await server.client.get("/api/v1/push")).json()["key"]
            message = browser.read(service.received[1], key)
            await page.call("ServiceWorker.enable")
            await until(lambda: bool(page.events_of("ServiceWorker.workerRegistrationUpdated")))
            updated = page.events_of("ServiceWorker.workerRegistrationUpdated")[-1]
            (found,) = json.loads(json.dumps(updated["registrations"]))
            await page.call(
                "ServiceWorker.deliverPushMessage",
                origin=f"http://127.0.0.1:{server.port}",
                registrationId=found["registrationId"],
                data=json.dumps(message),
            )
            (notification,) = json.loads(json.dumps(await shown(page)))
            assert notification["title"] == "shell has failed"
            assert found["scopeURL"] == f"http://127.0.0.1:{server.port}/"
            await page.click(f"{CARD} input")
            await page.until("JSON.parse(localStorage['clinvk.notifications']).push === null")
            await until(lambda: "/send/1" not in (tmp_path / ".clinvk" / "push.json").read_text())


async def test_browser_that_blocks_notifications_is_told_so(scripted: Scripted) -> None:
    async with serving(scripted.env) as server, browsing() as page:
        await opened_in(page, server, "/notifications", at=f"{CARD} input")
        await page.click(f"{CARD} input")
        await page.until(f"{text_of(CARD + ' .problem')}.includes('blocks notifications')")
        assert await page.evaluate(f"document.querySelector({json.dumps(CARD)} + ' input').checked") is False


async def test_number_of_requests_is_in_title_and_icon(scripted: Scripted) -> None:
    icon = "decodeURIComponent(document.querySelector('link[rel=icon]').href)"
    async with inbox(scripted) as page:
        await page.until("document.title.startsWith('(1) ')")
        await page.until(f"{icon}.startsWith('data:image/svg+xml') && {icon}.includes('>1</text>')")
        await page.evaluate(click_on("Allow", ".interaction"))
        await page.until(f"{icon}.endsWith('/console/icon.svg')")


async def test_quiet_hours_may_include_midnight(scripted: Scripted) -> None:
    async with serving(scripted.env) as server, browsing() as page:
        await opened_in(page, server)
        hours = [("22:00", "07:00"), ("09:00", "17:00"), ("", "07:00")]
        times = ["23:30", "06:59", "07:00", "12:00"]
        script = f"""import('/console/base/notify.js').then(({{ isQuiet }}) => {json.dumps(hours)}.map(([from, to]) =>
          {json.dumps(times)}.map((time) => isQuiet({{ from, to }}, time))))"""
        assert await page.evaluate(script) == [
            [True, True, False, False],
            [False, False, False, True],
            [False] * 4,
        ]


async def test_console_can_be_installed(scripted: Scripted) -> None:
    async with serving(scripted.env) as server, browsing() as page:
        await opened_in(page, server)
        manifest = await page.call("Page.getAppManifest")
        assert manifest["errors"] == []
        found = await page.call("Page.getInstallabilityErrors")
        assert found["installabilityErrors"] == []
        await go(page, "agents")
