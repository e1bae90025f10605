"""What the browser tests of the console share: opening screens, pressing keys, stand-ins for answers of the API."""

import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from agents.machine import INSTALLED
from chromium import NAMES, Page, browsing, executable
from polling import until
from scripted import Scripted
from scripted.steps import claude_says, wait_for
from serving import LiveServer, serving
from standin.document import JSON, Record, record, string

needs_browser = pytest.mark.skipif(
    executable() is None, reason=f"needs a browser: none of {', '.join(NAMES)} is installed"
)

INTERACTION = {
    "id": "a" * 32,
    "kind": "approval",
    "run_id": "b" * 32,
    "session_id": "c" * 32,
    "backend": "claude",
    "tool": "Bash",
    "title": "Run a command",
    "input": {"command": "rm -rf build"},
    "command": "rm -rf build",
    "workdir": "/srv/project",
    "diff": None,
    "fields": [],
    "choices": ["allow", "allow_session", "deny", "deny_and_stop"],
    "editable": True,
    "note": "Removes old files\nclinvk: /srv/build is outside of the directory /srv/project",
    "accepts_reason": True,
    "key": None,
    "status": "pending",
    "created_at": "2026-11-25T14:26:49.512Z",
    "expires_at": "2999-11-25T14:26:49.512Z",
    "resolved_at": None,
    "answered_by": None,
    "choice": None,
    "reason": "",
    "edited_input": None,
    "answers": {},
}

SESSION: dict[str, object] = {
    "id": "c" * 32,
    "backend": "claude",
    "created_at": "2026-11-25T14:26:49.512Z",
    "last_used": "2026-11-25T14:26:49.512Z",
    "working_dir": "/srv/project",
    "project": "/srv/project",
    "worktree": None,
    "backend_session_id": None,
    "model": None,
    "initial_prompt": "Fix the parser",
    "status": "completed",
    "turn_count": 1,
    "token_usage": {"input_tokens": 5, "output_tokens": 6, "cached_tokens": 0, "reasoning_tokens": 0},
    "cost_usd": None,
    "tags": [],
    "title": "",
    "parent_id": None,
    "error_message": None,
    "metadata": {},
    "archived": False,
    "match": None,
}

RUN: dict[str, object] = {
    "id": "b" * 32,
    "state": "finished",
    "kind": "prompt",
    "backend": "claude",
    "session_id": "c" * 32,
    "prompt": "Fix the parser",
    "workdir": "/srv/project",
    "model": None,
    "created_at": "2026-11-25T14:26:49.512Z",
    "started_at": "2026-11-25T14:26:49.512Z",
    "waits_until": None,
    "ended_at": "2026-11-25T14:26:49.512Z",
    "error": None,
    "token_usage": None,
    "cost_usd": None,
}

STUB = """
const answers = %s, sent = (window.sent = []), realFetch = window.fetch;
window.fetch = async (url, options = {}) => {
  const { pathname, search } = new URL(url, location);
  const path = pathname.replace("/api/v1/", "");
  const found = answers[path + search] ?? answers[path];
  if (found === undefined) return realFetch(url, options);
  if (options.body) sent.push(JSON.parse(options.body));
  return typeof found === "string" ? new Response(found) : Response.json(found);
};
"""
"""Answers the requests for some paths of the API, with a query or any, and records the bodies that are sent to them."""


@asynccontextmanager
async def opened(server: LiveServer, fragment: str = "", port: int = 0, at: str = "#app h1") -> AsyncGenerator[Page]:
    """Open the console, and check in the end that nothing failed and that no other host was asked."""
    async with browsing() as page:
        yield await opened_in(page, server, fragment, port, at)
        urls = [string(record(event, "request"), "url") for event in page.events_of("Network.requestWillBeSent")]
        assert {urlsplit(url).hostname for url in urls if not url.startswith("data:")} == {"127.0.0.1"}
        assert page.events_of("Runtime.exceptionThrown") == []
        entries = [record(event, "entry") for event in page.events_of("Log.entryAdded")]
        assert [entry for entry in entries if "Content Security Policy" in str(entry["text"])] == []


async def opened_in(page: Page, server: LiveServer, fragment: str = "", port: int = 0, at: str = "#app h1") -> Page:
    await page.call("Page.navigate", url=f"http://127.0.0.1:{port or server.port}/#{fragment}")
    await page.until(f"document.querySelector({json.dumps(at)}) !== null")
    return page


async def resize(page: Page, width: int, height: int = 800) -> None:
    """Set the size of the window. A narrow window is a phone."""
    await page.call(
        "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 500
    )


async def go(page: Page, path: str) -> None:
    """Open another screen, and wait until it shows its heading."""
    await page.evaluate(f"location.hash = '#/{path}'")
    name = path.partition("/")[0]
    await page.until(f"document.querySelector('.screen')?.className.trim() === 'screen {name}'.trim()")
    await page.until("document.querySelector('.screen h1') !== null")


async def stub(page: Page, answers: Mapping[str, object]) -> None:
    await page.call("Page.addScriptToEvaluateOnNewDocument", source=STUB % json.dumps(answers))


async def press(page: Page, *keys: str, ctrl: bool = False) -> None:
    for key in keys:
        text = "\r" if key == "Enter" else key if len(key) == 1 else ""
        code = {"Enter": 13, "Tab": 9, "Escape": 27}.get(key, 0)
        pressed: Record = {"key": key, "windowsVirtualKeyCode": code, "modifiers": 2 if ctrl else 0}
        for kind in ("keyDown", "keyUp"):
            await page.call("Input.dispatchKeyEvent", type=kind, **pressed, **({} if ctrl else {"text": text}))


async def answer_with(page: Page, key: str) -> None:
    """Press a key that answers the focused request; no key counts right after a request appears."""
    await page.evaluate("window.at = performance.now() + 1000")
    await page.until("performance.now() > window.at")
    await press(page, key)


async def tab_to(page: Page, selector: str) -> None:
    """Move the focus by keyboard to an element."""
    await page.until("document.activeElement.tagName === 'H1'")
    for _ in range(20):
        await press(page, "Tab")
        if await page.evaluate(f"document.activeElement.matches({json.dumps(selector)})"):
            return
    raise AssertionError(f"the focus does not reach {selector}")


async def choose(page: Page, label: str, value: str) -> None:
    """Choose an option of a select."""
    select = f"document.querySelector('[aria-label={label}]')"
    await page.evaluate(f"{select}.value = {json.dumps(value)}; {select}.dispatchEvent(new Event('change'))")


def text_of(selector: str) -> str:
    return f"(document.querySelector({json.dumps(selector)})?.textContent ?? '')"


def click_on(text: str, within: str) -> str:
    """Return the expression that clicks the button with a text."""
    return f"[...document.querySelectorAll('{within} button')].find(b => b.textContent === '{text}').click()"


ANSWERS = "[...document.querySelectorAll('.markdown')].map(answer => answer.textContent.trim())"


@asynccontextmanager
async def inbox(scripted: Scripted, me: object = None, **changed: object) -> AsyncGenerator[Page]:
    """Open the inbox with a pending interaction. The first answer to it allows. `me` replaces the identity."""
    interaction = {**INTERACTION, **changed}
    resolved = {**interaction, "status": "answered", "choice": "allow", "answered_by": "user"}
    id_ = interaction["id"]
    async with serving(scripted.env) as server, browsing() as page:
        answers = {"interactions": {"interactions": [interaction]}, f"interactions/{id_}/answer": resolved}
        await stub(page, {**answers, **({"me": me} if me else {})})
        await opened_in(page, server, at=".interaction.pending")
        await page.evaluate("window.readAt = performance.now() + 500")
        await page.until("performance.now() > window.readAt")  # no key counts right after a request appears
        yield page


@asynccontextmanager
async def busy_session(scripted: Scripted, gate: Path) -> AsyncGenerator[Page]:
    """Open a session whose agent waits for a file before it answers "one"; to "go on" it answers "two"."""
    one = claude_says("one")
    scripted.play([*one[:1], wait_for(gate), *one[1:]], when="begin")
    scripted.play(claude_says("two"), when="go on")
    async with serving(scripted.env) as server:
        run = await server.detached(prompt="begin")
        await until(lambda: bool((live := server.runs.live(run["run_id"])) and live.log.count))
        async with opened(server, f"/session/{run['session_id']}", at=".composer .danger") as page:
            yield page


async def send(page: Page, button: str, prompt: str) -> None:
    """Write a prompt, choose a button of the prompt box, and wait until the prompt has been sent."""
    await page.write(".composer textarea", prompt)
    await page.until("!document.querySelector('.composer .primary').disabled")
    await page.evaluate(click_on(button, ".composer"))
    await page.until("document.querySelector('.composer textarea').value === ''")


def shown_texts(selector: str) -> str:
    """Return an expression for the texts of prompts and answers, without the times of the prompts."""
    return f"[...document.querySelectorAll('{selector}')].map(each => each.firstChild?.textContent.trim() ?? '').join()"


PROMPTS = shown_texts(".prompt")

AXE = INSTALLED / "node_modules" / "axe-core" / "axe.min.js"
FINDINGS = """axe.run({ resultTypes: ["violations"] }).then(({ violations }) => violations.flatMap(({ id, nodes }) =>
  nodes.map(({ target, failureSummary }) => [id, target.join(" "), failureSummary])))"""


async def findings(page: Page) -> JSON:
    """Return what axe-core finds on a page: the rule, the element and how to mend it."""
    await page.call("Runtime.evaluate", expression=AXE.read_text())
    return await page.evaluate(FINDINGS)
