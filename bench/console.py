"""The console in Chromium: the first paint, opening a long session, and the layout shift, beside a bare page."""

import asyncio
import json
import sys
import threading
import urllib.request
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

from bench.report import Budget, Figure
from bench.server import Server, serving
from bench.workplace import BenchBroken, Workplace

_EVENTS = 2000
_FIRST_PAINT_MS = 300.0
_OPEN_MS = 150.0
_SHIFT = 0.05
_PAINTED_MS = """new Promise((resolve) => new PerformanceObserver((list) => {
  const paint = list.getEntriesByName("first-contentful-paint")[0];
  if (paint) resolve(paint.startTime);
}).observe({ type: "paint", buffered: true }))"""
_SHIFTED = """new Promise((resolve) => {
  let sum = 0;
  new PerformanceObserver((list) => list.getEntries().forEach((entry) => { sum += entry.value; }))
    .observe({ type: "layout-shift", buffered: true });
  requestAnimationFrame(() => requestAnimationFrame(() => resolve(sum)));
})"""
_OPENED_MS = """new Promise((resolve) => {
  const began = performance.now();
  const seen = new MutationObserver(() => {
    if (!document.querySelector(".transcript .row")) return;
    seen.disconnect();
    requestAnimationFrame(() => setTimeout(() => resolve(performance.now() - began)));
  });
  seen.observe(document.body, { childList: true, subtree: true });
  location.hash = "#/session/%s";
})"""


class _Round(NamedTuple):
    painted_ms: float
    opened_ms: float
    shift: float
    bare_ms: float


def console(place: Workplace) -> list[Figure]:
    """Open the console and a session of 2,000 events, each round in a new browser."""
    sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
    with serving(place) as server, _bare_page() as bare:
        session = _session(place, server)
        rounds = [asyncio.run(_round(server, session, bare)) for _ in range(place.rounds)]
    painted, opened, shifts, bare_ms = (list(values) for values in zip(*rounds, strict=True))
    paint_budget, open_budget = Budget("at most", _FIRST_PAINT_MS), Budget("at most", _OPEN_MS)
    limits = [_SHIFT] * len(shifts)
    return [
        _figure("console, first paint", "ms", painted, "a bare page", bare_ms, paint_budget),
        _figure(f"a session of {_EVENTS:,} events, opened", "ms", opened, "a bare page", bare_ms, open_budget),
        _figure("console, layout shift", "", shifts, "the limit", limits, Budget("at most", _SHIFT)),
    ]


def _figure(name: str, unit: str, ours: list[float], peer_name: str, peer: list[float], budget: Budget) -> Figure:
    return Figure(name=name, unit=unit, ours=ours, peer_name=peer_name, peer=peer, budget=budget)


async def _round(server: Server, session: str, bare: str) -> _Round:
    from chromium import browsing, executable

    if executable() is None:
        raise BenchBroken("Chromium is not installed: make test installs it")

    async with browsing() as page:

        async def number(expression: str) -> float:
            return float(str(await page.evaluate(expression)))

        await page.call("Page.navigate", url=bare)
        await page.until("document.querySelector('h1') !== null")
        bare_ms = await number(_PAINTED_MS)
        await page.call("Page.navigate", url=f"http://127.0.0.1:{server.port}/")
        await page.until("document.querySelector('#app .list') !== null")
        painted_ms, shift = await number(_PAINTED_MS), await number(_SHIFTED)
        return _Round(painted_ms, await number(_OPENED_MS % session), shift, bare_ms)


def _session(place: Workplace, server: Server) -> str:
    """Run a prompt whose answer has many events; return its session."""
    body = {"backend": "claude", "prompt": f"stream {_EVENTS} 0", "workdir": str(place.root)}
    request = urllib.request.Request(
        f"http://127.0.0.1:{server.port}/api/v1/prompt", json.dumps(body).encode(), {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)["session_id"]


@contextmanager
def _bare_page() -> Generator[str]:
    """Serve a page with one word; yield its URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-type", "text/html")
            self.end_headers()
            self.wfile.write(b"<!doctype html><h1>bare</h1>")

        def log_message(self, format: str, *args: object) -> None:
            pass

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=listening.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.server_address[1]}/"
    finally:
        listening.shutdown()
        listening.server_close()
        thread.join()
