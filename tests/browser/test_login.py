"""The login in a real browser: a cookie that scripts cannot read, for pages of the server alone."""

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest

from browser.test_cors import page_at
from chromium import NAMES, Page, browsing, executable
from clinvk.api.access.keys import ApiKeys
from clinvk.store.memory import MemoryStore
from scripted import Scripted
from serving import LiveServer, serving
from standin.document import JSON

pytestmark = pytest.mark.skipif(
    executable() is None, reason=f"needs a browser: none of {', '.join(NAMES)} is installed"
)


@asynccontextmanager
async def console(scripted: Scripted) -> AsyncGenerator[tuple[Page, LiveServer]]:
    """Open the console of a server with a key."""
    async with serving(scripted.env, store=MemoryStore(), keys=ApiKeys(["k"])) as server, browsing() as page:
        await show(page, server)
        yield page, server


async def show(page: Page, server: LiveServer) -> None:
    await page.call("Page.navigate", url=f"http://127.0.0.1:{server.port}/")
    await page.until(f"location.port === '{server.port}' && document.readyState === 'complete'")


async def status(page: Page, path: str, **options: JSON) -> JSON:
    """Return the status of the answer to a request of the page."""
    return await page.evaluate(f"fetch({json.dumps(path)}, {json.dumps(options)}).then((answer) => answer.status)")


async def log_in(page: Page, **body: JSON) -> JSON:
    headers: JSON = {"content-type": "application/json"}
    return await status(page, "api/v1/login", method="POST", headers=headers, body=json.dumps(body))


async def test_page_on_another_port_cannot_use_the_login(scripted: Scripted) -> None:
    """Such a page is of the same site, so the browser sends the cookie with its requests."""
    async with console(scripted) as (page, server):
        assert await log_in(page, key="k") == 200
        async with page_at(page, "127.0.0.1"):
            url = f"http://127.0.0.1:{server.port}/api/v1/logout"
            options = {"method": "POST", "mode": "no-cors", "credentials": "include"}
            answer = await page.evaluate(f"fetch('{url}', {json.dumps(options)}).then((answer) => answer.type)")
            assert answer == "opaque"
            sent = map(json.dumps, page.events_of("Network.requestWillBeSentExtraInfo"))
            assert any("clinvk-login" in event and '"same-site"' in event for event in sent)
        await show(page, server)
        assert await status(page, "api/v1/runs") == 200
