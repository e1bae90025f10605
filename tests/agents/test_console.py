"""Real agents ask, and a user of the console answers in a real browser. The model is a stand-in."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest

from agents.machine import Machine
from browser.test_console import needs_browser, opened, press, tab_to, text_of
from chromium import Page
from serving import serving

pytestmark = needs_browser


@asynccontextmanager
async def asked(machine: Machine, backend: str) -> AsyncGenerator[Page]:
    """Open the inbox with the request of an agent to write the file `asked.txt`."""
    prompt = f"[[tool=write path={machine.project}/asked.txt content=x say=Done.]]"
    async with serving(machine.env) as server:
        await server.detached(prompt=prompt, backend=backend, approval_mode="ask", workdir=str(machine.project))
        async with opened(server, at=".interaction.pending .diff") as page:
            assert "asked.txt" in str(await page.evaluate(text_of(".interaction h3")))
            assert await page.evaluate("document.querySelector('.interaction pre')") is None  # the diff says all
            yield page


async def ended(page: Page) -> None:
    """Wait until the run has ended."""
    await page.until(f"{text_of('.columns .item.finished .state')} === 'done'", within_s=60)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("backend", ["claude", "codex"])
async def test_write_allowed_in_the_console_is_done(machine: Machine, backend: str) -> None:
    async with asked(machine, backend) as page:
        await page.click(".interaction .primary")
        await page.until(f"{text_of('.interaction .result')} === 'Allowed by user'")
        await ended(page)
    assert (machine.project / "asked.txt").read_text().strip() == "x"


@pytest.mark.timeout(120)
async def test_write_denied_in_the_console_is_not_done(machine: Machine) -> None:
    async with asked(machine, "claude") as page:
        await tab_to(page, ".interaction")
        await press(page, "d")
        await page.until("document.activeElement.tagName === 'INPUT'")
        await page.call("Input.insertText", text="not now")
        await page.click(".interaction .danger")
        await page.until(f"{text_of('.interaction .result')} === 'Denied by user: not now'")
        await ended(page)
    assert not (machine.project / "asked.txt").exists()
    assert any("not now" in str(body) for body in machine.requests())
