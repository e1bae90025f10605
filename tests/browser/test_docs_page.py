"""The docs page in a real browser shows the API, tries it, and sends no request to another host."""

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from chromium import NAMES, Page, browsing, executable
from polling import until
from scripted import Scripted
from scripted.steps import claude_says, hang, wait_for
from serving import LiveServer, serving
from standin.document import record, string

pytestmark = pytest.mark.skipif(
    executable() is None, reason=f"needs a browser: none of {', '.join(NAMES)} is installed"
)

ANSWER = "document.querySelector('#prompt .answer').textContent"
STATUS = "document.querySelector('#prompt .status').textContent"


@asynccontextmanager
async def docs(scripted: Scripted, at: str = "") -> AsyncGenerator[tuple[Page, LiveServer]]:
    """Open the page; check at the end that the page had no errors and contacted no other host."""
    async with serving(scripted.env) as server, browsing() as page:
        await page.call("Page.navigate", url=f"http://127.0.0.1:{server.port}/docs{at}")
        await page.until("document.querySelectorAll('details.operation').length > 5")
        yield page, server
        urls = [string(record(event, "request"), "url") for event in page.events_of("Network.requestWillBeSent")]
        hosts = {urlsplit(url).netloc for url in urls if not url.startswith("data:")}
        assert hosts == {f"127.0.0.1:{server.port}"}
        assert page.events_of("Runtime.exceptionThrown") == []


async def ask(page: Page, **fields: object) -> None:
    await page.write("#prompt textarea", json.dumps({"backend": "claude", "prompt": "hi", **fields}))
    await page.click("#prompt .send")


async def open_operation(page: Page, name: str) -> None:
    """Fold an operation out; what is folded in takes no text."""
    await page.click(f"#{name} > summary")


async def test_prompt_sent_from_the_page_streams_its_answer(scripted: Scripted, tmp_path: Path) -> None:
    says = claude_says("one ", "two")
    scripted.play([*says[:4], wait_for(tmp_path / "go"), *says[4:]])
    async with docs(scripted) as (page, _):
        await ask(page, output_format="stream-json")
        await page.until(f"{ANSWER} === 'one '")
        (tmp_path / "go").touch()
        await page.until(f"{ANSWER} === 'one two'")
        await page.until(f"{STATUS}.startsWith('200 OK in ')")
    assert [call.stdin for call in scripted.calls()] == [b"hi"]


async def test_stopping_a_prompt_stops_its_agent(scripted: Scripted) -> None:
    scripted.play([*claude_says("x")[:4], hang()])
    async with docs(scripted) as (page, _):
        await ask(page, output_format="stream-json")
        await page.until(f"{ANSWER} === 'x'")
        await page.click("#prompt button:not(.send):not([disabled])")
        await page.until(f"{STATUS} === 'stopped'")
        await until(lambda: not scripted.alive())


async def test_key_is_sent_as_a_bearer_token(scripted: Scripted) -> None:
    async with docs(scripted) as (page, _):
        await page.write("#key", "k-123")
        await page.click("#listBackends .send")
        await page.until("document.querySelector('#listBackends pre').textContent.includes('claude')")
        requests = [record(event, "request") for event in page.events_of("Network.requestWillBeSent")]
        request = [request for request in requests if string(request, "url").endswith("/api/v1/backends")][-1]
    assert record(request, "headers")["authorization"] == "Bearer k-123"


async def test_operation_parameters_are_filled_in_and_sent(scripted: Scripted) -> None:
    scripted.play(claude_says("x"))
    async with docs(scripted) as (page, server):
        answer = (await server.prompt(prompt="a & b?")).json()
        await open_operation(page, "listSessions")
        await page.write("#listSessions [data-parameter=q]", "A & B?")
        await page.write("#listSessions [data-parameter=limit]", "5")
        await page.click("#listSessions .send")
        await page.until("document.querySelector('#listSessions pre').textContent.includes('\"limit\": 5')")
        listed = str(await page.evaluate("document.querySelector('#listSessions pre').textContent"))
        await open_operation(page, "getSession")
        await page.write("#getSession [data-parameter=id]", answer["session_id"])
        await page.click("#getSession .send")
        await page.until("document.querySelector('#getSession pre').textContent.includes('initial_prompt')")
        shown = str(await page.evaluate("document.querySelector('#getSession pre').textContent"))
    assert [session["id"] for session in json.loads(listed)["sessions"]] == [answer["session_id"]]
    assert json.loads(shown)["id"] == answer["session_id"]


async def test_problem_url_scrolls_to_its_description(scripted: Scripted) -> None:
    async with docs(scripted, "#queue_full") as (page, _):
        await page.until("scrollY > 0")
        shown = await page.evaluate("document.getElementById('queue_full').textContent")
    assert shown == "queue_full 503 Queue full"


async def test_every_internal_link_has_a_target(scripted: Scripted) -> None:
    async with docs(scripted) as (page, _):
        named = "[...document.querySelectorAll('main a[href^=\"#\"]')].map(link => link.hash.slice(1))"
        assert await page.evaluate(f"{named}.length > 10")
        broken = await page.evaluate(f"{named}.filter(id => !document.getElementById(id))")
        assert broken == []


async def test_page_fits_a_phone_screen(scripted: Scripted) -> None:
    async with docs(scripted) as (page, _):
        await page.call("Emulation.setDeviceMetricsOverride", width=390, height=800, deviceScaleFactor=1, mobile=True)
        assert await page.evaluate("document.documentElement.scrollWidth") == 390
