"""Real agents ask, and a user of the console answers in a real browser. The model is a stand-in."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from agents.machine import Machine
from browser.pages import choose, press
from browser.test_console import Proxy, needs_browser, opened, text_of
from chromium import Page
from repositories import Repository
from serving import LiveServer, serving

pytestmark = needs_browser


@asynccontextmanager
async def proxied(server: LiveServer, fragment: str = "", at: str = "#app h1") -> AsyncGenerator[Page]:
    """Open the console by a proxy in this process, which may answer: the browser descends from the server's process."""
    proxy = Proxy(server.port)
    await proxy.open()
    async with opened(server, fragment, proxy.port, at) as page:
        yield page
    await proxy.cut()


@asynccontextmanager
async def asked(machine: Machine, backend: str) -> AsyncGenerator[Page]:
    """Open the inbox with the request of an agent to write the file `asked.txt`."""
    prompt = f"[[tool=write path={machine.project}/asked.txt content=x say=Done.]]"
    async with serving(machine.env) as server:
        await server.detached(prompt=prompt, backend=backend, approval_mode="ask", workdir=str(machine.project))
        async with proxied(server, at=".interaction.pending .diff") as page:
            assert "asked.txt" in str(await page.evaluate(text_of(".interaction h2")))
            assert await page.evaluate("document.querySelector('.interaction pre')") is None  # the diff says all
            yield page


async def ended(page: Page) -> None:
    """Wait until the run has ended."""
    await page.until(f"{text_of('.columns .item.finished .state')} === 'done'", within_s=60)


@pytest.mark.timeout(120)
async def test_new_session_asks_its_user(machine: Machine) -> None:
    prompt = f"[[tool=write path={machine.project}/asked.txt content=x say=Done.]]"
    async with serving(machine.env) as server, proxied(server, "/new", at="[aria-label=Agent] option") as page:
        await page.until("document.querySelector('[aria-label=Approval]').value === 'ask'")
        await choose(page, "Project", "other")
        await page.write(".directory", str(machine.project))
        await press(page, "Enter")
        await page.until(f"document.querySelector('[aria-label=Project]').value === '{machine.project}'")
        await page.write(".composer textarea", prompt)
        await page.point(".composer .primary")
        await page.until("document.querySelector('.interaction.pending .diff') !== null", within_s=60)
        await asyncio.sleep(1)  # a new request takes no clicks at first
        await page.point(".interaction .primary")
        await page.until("document.querySelector('.end') !== null", within_s=60)
    assert (machine.project / "asked.txt").read_text().strip() == "x"


@pytest.mark.timeout(120)
@pytest.mark.parametrize(("sandbox", "next_sandbox"), [("default", "default"), ("workspace", "full")])
async def test_denied_action_is_allowed_afterwards(machine: Machine, sandbox: str, next_sandbox: str) -> None:
    prompt = "[[tool=write path=/var/tmp/clinvk-denied.txt content=x say=Done.]]"
    fields = {"sandbox_mode": sandbox, "workdir": str(machine.project), "backend": "claude"}
    async with serving(machine.env) as server:
        answer = (await server.prompt(prompt=prompt, **fields)).json()
        async with proxied(server, f"/session/{answer['session_id']}", at=".next-step button") as page:
            assert str(await page.evaluate(text_of(".next-step"))).startswith("1 action was denied: Write")
            await page.point(".next-step button")
            await page.until("document.querySelectorAll('.prompt').length === 2")
            await page.until("document.querySelectorAll('.end').length === 2", within_s=60)
            assert await page.evaluate("document.querySelector('.next-step')") is None
        runs = (await server.client.get("/api/v1/runs", params={"session_id": answer["session_id"]})).json()["runs"]
        request = (await server.client.get(f"/api/v1/runs/{runs[0]['id']}")).json()["request"]
    assert (request["approval_mode"], request["sandbox_mode"]) == ("ask", next_sandbox)
    assert not Path("/var/tmp/clinvk-denied.txt").exists()


@pytest.mark.timeout(180)
async def test_compare_says_what_happens_after_the_answers(machine: Machine) -> None:
    """Claude Code changes a file, Codex nothing; the check takes its time, and the judge fails."""
    Repository(machine.project, machine.home).commit(**{"a.txt": "a\n"})
    gate = machine.home / "gate"
    body = {
        "prompt": """go [[tool=shell cmd='test -z "$CLAUDECODE" || echo new > new.txt' say=done]]""",
        "backends": ["claude", "codex"],
        "judge": {"backend": "claude", "prompt": "[[error=400]]"},
        "workdir": str(machine.project),
        "check": f"until [ -e {gate} ]; do sleep 0.1; done",
        **{"isolation": "worktree", "approval_mode": "none", "sandbox_mode": "full", "detach": True},
    }
    panel = text_of("[role=tabpanel]")
    async with serving(machine.env) as server:
        started = await server.client.post("/api/v1/compare", json=body, headers={"prefer": "respond-async"})
        async with proxied(server, f"/compare/{started.json()['run_id']}", at=".column") as page:
            await page.until(f"{panel}.includes('when the check has ended')", within_s=60)
            assert await page.evaluate("document.querySelector('[role=tabpanel] button')") is None
            gate.touch()
            await page.until(f"{text_of('.verdict')}.includes('the judge claude failed: ')", within_s=60)
            await page.until(f"{panel}.includes('new.txt')")
            changes = "[...document.querySelectorAll('.outcome tbody tr')].map(row => row.lastElementChild.innerText)"
            await page.until(f"{changes}.join() === '+1 \u22120,\u2013'")
            buttons = "[...document.querySelectorAll('[role=tabpanel] > .buttons button')].map(b => b.textContent)"
            assert await page.evaluate(buttons) == ["Apply to the repository", "Commit…", "Discard"]
