"""The screens Usage and Agents in Chromium."""

import datetime
import json
from pathlib import Path

from browser.pages import click_on, go, needs_browser, opened_in, press, stub, text_of
from chromium import Page, browsing
from scripted import Scripted
from scripted.steps import claude_says
from serving import serving

pytestmark = needs_browser

FIGURE = "figure:nth-of-type(%d)"
LEGEND = "[...document.querySelectorAll('figure:nth-of-type(%d) .legend li')].map((item) => item.textContent.trim())"


def usage() -> dict[str, object]:
    """Return the usage of two days: Codex reports no cost."""
    today = datetime.datetime.now(datetime.UTC).date()
    days = [(today - datetime.timedelta(days=back)).isoformat() for back in (1, 0)]
    figures = [("claude", 9000, 2.5), ("codex", 1000, None)]
    rows = [row(tokens, day=day, backend=name, cost_usd=usd) for day in days for name, tokens, usd in figures]
    return {"usage": rows, "total": row(20_000, cost_usd=5.0)}


def row(tokens: int, **fields: object) -> dict[str, object]:
    used = {"input_tokens": tokens, "output_tokens": 0, "cached_tokens": 0, "reasoning_tokens": 0}
    return {"key": "", "model": "m", "runs": 1, "token_usage": used, **fields}


async def show_usage(page: Page) -> None:
    await page.until("document.querySelectorAll('.bars').length === 2")


async def test_values_of_a_day_are_shown_by_keyboard_and_by_pointer(scripted: Scripted) -> None:
    async with serving(scripted.env) as server, browsing() as page:
        await stub(page, {"usage": usage()})
        await opened_in(page, server, "/usage")
        await show_usage(page)
        assert await page.evaluate(LEGEND % 2) == ["claude"]
        await page.evaluate("document.querySelector('[role=slider]').focus()")
        await press(page, "ArrowLeft")
        await page.until(f"JSON.stringify({LEGEND % 1}) === JSON.stringify(['claude 9K', 'codex 1K'])")
        today = await page.evaluate("document.querySelector('[role=slider]').getAttribute('aria-valuetext')")
        await press(page, "ArrowLeft")
        value = "document.querySelector('[role=slider]').getAttribute('aria-valuetext')"
        await page.until(f"{value} !== {json.dumps(today)}")
        await page.evaluate("document.querySelectorAll('[role=slider]')[1].scrollIntoView()")
        box = "document.querySelectorAll('.bars')[1].getBoundingClientRect()"
        x, y = json.loads(json.dumps(await page.evaluate(f"(({{right, top}}) => [right - 5, top + 20])({box})")))
        await page.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
        await page.until(f"({LEGEND % 2})[0] === 'claude $2.50'")


async def test_period_is_remembered_and_today_has_its_share(scripted: Scripted) -> None:
    async with serving(scripted.env) as server, browsing() as page:
        await stub(page, {"usage": usage()})
        await opened_in(page, server, "/usage")
        await show_usage(page)
        assert "10K tokens, $2.50 (50 % of the period)" in str(await page.evaluate(text_of(".figures")))
        select = "document.querySelector('[aria-label=Period]')"
        await page.evaluate(f"{select}.value = '7'; {select}.dispatchEvent(new Event('change'))")
        await go(page, "agents")
        await go(page, "usage")
        assert await page.evaluate(f"{select}.value") == "7"


async def test_cost_is_summed_by_project(scripted: Scripted, tmp_path: Path) -> None:
    scripted.play(claude_says("hello"))
    async with serving(scripted.env) as server, browsing() as page:
        for name in ("parser", "parser", "lexer"):
            (tmp_path / name).mkdir(exist_ok=True)
            await server.prompt(workdir=str(tmp_path / name))
        await opened_in(page, server, "/usage")
        rows = """[...document.querySelectorAll('table')].at(-1)?.innerText.includes('parser')
          && [...[...document.querySelectorAll('table')].at(-1).rows].map(({cells}) => cells[1].textContent)"""
        await page.until(f"JSON.stringify({rows}) === JSON.stringify(['Sessions', '2', '1'])")


async def test_agent_is_tested_with_a_prompt_that_is_not_stored(scripted: Scripted) -> None:
    scripted.play(claude_says("ready"))
    async with serving(scripted.env) as server, browsing() as page:
        await opened_in(page, server, "/agents", at=".cards .card")
        assert "claude auth login" in str(await page.evaluate(text_of(".card[aria-label=claude] details")))
        await page.evaluate(click_on("Test", ".card[aria-label=claude]"))
        await page.until(f"/^[0-9.]+ s: ready/.test({text_of('.card[aria-label=claude] .result')})")
        assert (await server.client.get("/api/v1/sessions")).json()["sessions"] == []
