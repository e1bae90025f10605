"""A web page of another origin in a real browser: it can use the server where its origin is allowed, else not."""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress

import pytest

from chromium import NAMES, Page, browsing, executable
from clinvk.api.access.keys import ApiKeys
from scripted import Scripted
from scripted.steps import claude_says
from serving import serving
from standin.document import JSON

pytestmark = pytest.mark.skipif(
    executable() is None, reason=f"needs a browser: none of {', '.join(NAMES)} is installed"
)

ASK = """fetch(%s, {method: 'POST',
  headers: {'content-type': 'application/json', 'authorization': 'Bearer k', 'x-stainless-lang': 'js'},
  body: JSON.stringify({model: 'claude', stream: true, messages: [{role: 'user', content: 'hi'}]}),
}).then(async (answer) => [answer.status, answer.headers.get('x-clinvk-run-id'), await answer.text()],
        (error) => [0, null, String(error)])"""


async def _empty_page(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(asyncio.IncompleteReadError):  # a browser opens more connections than it uses
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        await writer.drain()
    writer.close()


@asynccontextmanager
async def page_of(host: str) -> AsyncGenerator[Page]:
    """Open a browser with an empty page of this host."""
    async with browsing() as page, page_at(page, host):
        yield page


@asynccontextmanager
async def page_at(page: Page, host: str) -> AsyncGenerator[None]:
    """Show an empty page of this host, which resolves to a separate server on this machine."""
    async with await asyncio.start_server(_empty_page, "127.0.0.1", 0) as pages:
        port: int = pages.sockets[0].getsockname()[1]
        await page.call("Page.navigate", url=f"http://{host}:{port}/")
        await page.until(f"location.host === '{host}:{port}' && document.readyState === 'complete'")
        yield


async def asked(scripted: Scripted, host: str) -> JSON:
    """Return the page's view of an answer (status, a header and the text), or the reason why there is none."""
    scripted.play(claude_says("hello"))
    async with serving(scripted.env, keys=ApiKeys(["k"])) as server, page_of(host) as page:
        url = f"http://127.0.0.1:{server.port}/openai/v1/chat/completions"
        return await page.evaluate(ASK % json.dumps(url))


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
async def test_page_from_localhost_sends_its_key_and_reads_the_stream(scripted: Scripted, host: str) -> None:
    answer = await asked(scripted, host)
    assert isinstance(answer, list)
    status, run_id, text = answer
    assert (status, len(str(run_id)), "hello" in str(text)) == (200, 32, True)


async def test_page_from_another_origin_reads_nothing_and_starts_no_agent(scripted: Scripted) -> None:
    """Browsers resolve `.localhost` names to this machine, but treat each as a foreign origin."""
    assert await asked(scripted, "foreign.localhost") == [0, None, "TypeError: Failed to fetch"]
    assert scripted.calls() == []
