"""The inbox in a real browser: the list of requests, the one that is chosen, and what comes after an answer."""

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from browser.pages import (
    INTERACTION,
    answer_with,
    inbox,
    needs_browser,
    opened_in,
    press,
    resize,
    stub,
    tab_to,
    text_of,
)
from chromium import Page, browsing
from scripted import Scripted
from serving import serving

pytestmark = needs_browser

OTHER = {**INTERACTION, "id": "d" * 32, "created_at": "2026-11-25T14:26:50.512Z", "title": "Run another command"}
ASKS = "[...document.querySelectorAll('.asks .title')].map(title => title.textContent)"
SHIFT = """
window.shift = 0;
new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) if (!entry.hadRecentInput) window.shift += entry.value;
}).observe({ type: "layout-shift", buffered: true });
"""


@asynccontextmanager
async def two_requests(scripted: Scripted, width: int = 1280) -> AsyncGenerator[Page]:
    """Open the inbox with two pending requests, each of which may be allowed."""
    said = {"type": "message", "content": {"text": "The old build is in the way. I remove it first."}}
    tool = {"tool_id": "1", "tool_name": "Read", "input": {"file_path": "/srv/project/Makefile"}}
    read = [{"type": "tool_use", "content": tool}, {"type": "tool_result", "content": {**tool, "output": "x"}}]
    asked = {"type": "interaction_requested", "content": INTERACTION}
    later = {"type": "message", "content": {"text": "What was said later."}}
    answered = {"status": "answered", "choice": "allow", "answered_by": "user"}
    answers = {
        "interactions": {"interactions": [INTERACTION, OTHER]},
        f"interactions/{INTERACTION['id']}/answer": {**INTERACTION, **answered},
        f"interactions/{OTHER['id']}/answer": {**OTHER, **answered},
        f"runs/{INTERACTION['run_id']}/events": "".join(f"{json.dumps(e)}\n" for e in (said, *read, asked, later)),
    }
    async with serving(scripted.env) as server, browsing() as page:
        await resize(page, width)
        await page.call("Page.addScriptToEvaluateOnNewDocument", source=SHIFT)
        await stub(page, answers)
        await opened_in(page, server, at=".interaction.pending")
        yield page
        assert page.events_of("Runtime.exceptionThrown") == []


async def test_request_is_shown_beside_the_list_with_what_the_agent_said_before(scripted: Scripted) -> None:
    async with two_requests(scripted) as page:
        assert await page.evaluate(ASKS) == ["Run a command", "Run another command"]
        await page.until(f"{text_of('.context p')} === 'The old build is in the way. I remove it first.'")
        assert await page.evaluate(text_of(".context li")) == "Read Makefile"
        assert await page.evaluate("document.querySelectorAll('.interaction').length") == 1
        assert await page.evaluate("window.shift") == 0
        bottoms = "['.context', '.requests'].map(each => document.querySelector(each).getBoundingClientRect().bottom)"
        assert await page.evaluate(f"new Set({bottoms}).size") == 1


async def test_next_request_comes_after_an_answer_and_takes_no_click_at_first(scripted: Scripted) -> None:
    """A second click, or a click at a place where a request appears, allows nothing that nobody has seen."""
    async with two_requests(scripted) as page:
        place = "(({x, y}) => [x + 9, y + 9])(document.querySelector('.interaction .primary').getBoundingClientRect())"
        hit = f"document.elementFromPoint(...{place}).matches('.interaction .primary')"
        await page.until(hit)
        await page.point(".interaction .primary")
        await page.until(f"{text_of('.interaction h2')} === 'Run another command'")
        assert not await page.evaluate(hit)
        assert len(json.loads(json.dumps(await page.evaluate("window.sent")))) == 1
        await page.until(hit)
        assert await page.evaluate(text_of(".ask:not(.pending) .meta > :last-child")) == "Allowed by user"
        await page.point(".interaction .primary")
        await page.until(f"{text_of('.interaction .result')} === 'Allowed by user'")
        places = "[...document.querySelectorAll('.interaction, .columns')].map(e => e.getBoundingClientRect().top)"
        before = await page.evaluate(places)
        await page.point(".interaction .result")
        assert await page.evaluate(places) == before
        assert len(json.loads(json.dumps(await page.evaluate("window.sent")))) == 2


async def test_requests_are_answered_one_after_the_other_by_keyboard(scripted: Scripted) -> None:
    async with two_requests(scripted) as page:
        await tab_to(page, ".ask")
        await press(page, "Enter")
        for title in ("Run another command", "Run another command"):
            await page.until("document.querySelectorAll('.interaction kbd').length === 2")
            await answer_with(page, "a")
            await page.until(f"{text_of('.interaction h2')} === '{title}'")
        await page.until("window.sent.length === 2")


async def test_keys_count_on_a_card_that_has_the_focus_as_soon_as_it_appears(scripted: Scripted) -> None:
    """Effects of a card and of the list around it run in any order."""
    focused = "new MutationObserver(() => document.querySelector('.interaction')?.focus())"
    async with two_requests(scripted) as page:
        await tab_to(page, ".asks li:last-child .ask")
        await page.evaluate(f"{focused}.observe(document.querySelector('.chosen'), {{ childList: true }})")
        await press(page, "Enter")
        await page.until(f"{text_of('.interaction h2')} === 'Run another command'")
        await page.until("document.querySelectorAll('.interaction kbd').length === 2")


@asynccontextmanager
async def answered_request(scripted: Scripted) -> AsyncGenerator[Page]:
    """Open the inbox with a request that was allowed."""
    async with inbox(scripted) as page:
        await page.click(".interaction .primary")
        await page.until(f"{text_of('.interaction .result')} === 'Allowed by user'")
        yield page


async def add(page: Page, interaction: object) -> None:
    add = f"({{ live }}) => live.addInteraction({json.dumps(interaction)})"
    await page.evaluate(f"import('/console/base/live.js').then({add})")


async def test_new_request_follows_the_one_that_was_answered(scripted: Scripted) -> None:
    async with answered_request(scripted) as page:
        await add(page, OTHER)
        await page.until(f"{text_of('.interaction h2')} === 'Run another command'")
        assert await page.evaluate("document.activeElement.matches('.interaction.pending')")
        await page.click(".ask:not(.pending)")  # what was chosen stays, also while another request waits
        await page.until(f"{text_of('.interaction h2')} === 'Run a command'")
        await add(page, {**OTHER, "id": "e" * 32, "title": "Run a third command"})
        await page.until(f"{ASKS}.length === 3")
        assert await page.evaluate(text_of(".interaction h2")) == "Run a command"


async def test_new_request_waits_until_the_pointer_is_released(scripted: Scripted) -> None:
    async with answered_request(scripted) as page:
        box = "document.querySelector('.interaction .result').getBoundingClientRect()"
        x, y = json.loads(json.dumps(await page.evaluate(f"(({{x, y}}) => [x + 9, y + 9])({box})")))
        mouse = {"x": x, "y": y, "button": "left", "clickCount": 1}
        await page.call("Input.dispatchMouseEvent", type="mousePressed", **mouse)
        await add(page, OTHER)
        await page.until(f"{ASKS}.length === 2")
        assert await page.evaluate(text_of(".interaction h2")) == "Run a command"
        await page.call("Input.dispatchMouseEvent", type="mouseReleased", **mouse)
        await page.until(f"{text_of('.interaction h2')} === 'Run another command'")


async def test_new_request_leaves_the_focus_where_somebody_types(scripted: Scripted) -> None:
    async with answered_request(scripted) as page:
        await press(page, "k", ctrl=True)
        await page.until("document.activeElement.role === 'combobox'")
        await add(page, OTHER)
        await page.until(f"{text_of('.interaction h2')} === 'Run another command'")
        assert await page.evaluate("document.activeElement.role") == "combobox"


async def test_key_pressed_as_a_request_appears_does_not_answer_it(scripted: Scripted) -> None:
    key = "document.activeElement.dispatchEvent(new KeyboardEvent('keydown', {key: 'a', bubbles: true}))"
    observer = f"new MutationObserver(() => setTimeout(() => {{ {key}; window.at = performance.now() + 1000; }}, 100))"
    async with inbox(scripted) as page:
        await tab_to(page, ".ask")
        await press(page, "Enter")
        await page.until("document.querySelectorAll('.interaction kbd').length === 2")
        await answer_with(page, "a")
        await page.until(f"{text_of('.interaction .result')} === 'Allowed by user'")
        await page.evaluate("window.at = performance.now() + 1000")
        await page.until("performance.now() > window.at")
        await page.evaluate(
            f"window.at = Infinity; {observer}.observe(document.querySelector('.chosen'), {{childList: true}})"
        )
        await add(page, OTHER)
        await page.until("performance.now() > window.at")
        assert await page.evaluate(text_of(".interaction.pending h2")) == "Run another command"
        assert len(json.loads(json.dumps(await page.evaluate("window.sent")))) == 1


async def test_keys_move_through_the_requests(scripted: Scripted) -> None:
    async with two_requests(scripted) as page:
        for title in ("Run a command", "Run another command"):
            await press(page, "j")
            assert await page.evaluate("document.activeElement.querySelector('.title')?.textContent") == title
        await press(page, "Enter")
        await page.until(f"{text_of('.interaction h2')} === 'Run another command'")


async def test_phone_shows_the_list_and_then_the_request(scripted: Scripted) -> None:
    shown = "[...document.querySelectorAll('.asks, .chosen')].filter(e => e.checkVisibility()).map(e => e.className)"
    async with two_requests(scripted, width=390) as page:
        assert await page.evaluate(shown) == ["asks"]
        await page.point(".asks li:last-child button")
        await page.until(f"{shown}.join() === 'chosen'")
        assert await page.evaluate(text_of(".interaction h2")) == "Run another command"
        await page.click(".to-list")
        await page.until(f"{shown}.join() === 'asks'")


async def test_other_answer_is_chosen_with_a_radio_button(scripted: Scripted) -> None:
    options = [{"value": value, "label": "", "description": ""} for value in ("sqlite", "pg")]
    field = {"id": "db", "label": "Database", "options": options, "multiple": False, "other": True}
    async with inbox(scripted, kind="question", fields=(field,), choices=("answer", "deny")) as page:
        radios = "[...document.querySelectorAll('.interaction [type=radio]')].map(radio => radio.checked)"
        await page.click(".interaction input[value=pg]")
        await page.until(f"{radios}.join() === 'false,true,false'")
        await page.click(".other [type=radio]")
        await page.until("document.activeElement.ariaLabel === 'Other answer'")
        assert await page.evaluate(radios) == [False, False, True]
        assert await page.evaluate("document.querySelector('.interaction .primary').disabled")
        await page.call("Input.insertText", text="mysql")
        await page.until("!document.querySelector('.interaction .primary').disabled")
        await page.click(".interaction .primary")
        await page.until("window.sent.length === 1")
        assert await page.evaluate("window.sent[0]") == {"choice": "answer", "answers": {"db": "mysql"}}
