"""The lists of sessions and runs in a real browser: groups, search, filters, and several sessions at once."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import pytest

from browser.pages import RUN, SESSION, choose, click_on, needs_browser, opened, opened_in, resize, stub, text_of
from chromium import Page, browsing
from scripted import Scripted
from scripted.steps import claude_says
from serving import serving

pytestmark = needs_browser

NOW = datetime.now(UTC).isoformat()
SESSIONS: list[dict[str, object]] = [
    {**SESSION, "id": "1" * 32, "title": "one", "status": "active"},
    {**SESSION, "id": "2" * 32, "title": "two", "last_used": NOW, "backend": "codex"},
    {**SESSION, "id": "3" * 32, "title": "three", "tags": ["nightly"]},
    {**SESSION, "id": "4" * 32, "title": "four", "status": "error"},
]
RUNS = [
    {**RUN, "id": "a" * 32, "session_id": None, "prompt": "no session", "ended_at": NOW},
    {**RUN, "id": "d" * 32, "session_id": "4" * 32, "prompt": "queued", "state": "queued", "ended_at": None},
    {**RUN, "id": "e" * 32, "session_id": "4" * 32, "prompt": "asks", "state": "waiting", "ended_at": None},
]
FOUND: dict[str, object] = {**SESSIONS[2], "match": {"run_id": "a" * 32, "text": "… the Parser of <b>tokens</b> …"}}
PROJECTS = {"projects": [{"directory": "/srv/project", "name": "project", "branch": "main", "sessions": 4}]}

ROWS = "[...document.querySelectorAll('main .virtual-list :is(.section-name, .title)')].map(each => each.textContent)"
"""The groups and the titles of a list, in order."""


def page_of(sessions: list[dict[str, object]]) -> dict[str, object]:
    return {"sessions": sessions, "total": len(sessions)}


@asynccontextmanager
async def lists(scripted: Scripted, fragment: str = "/sessions", width: int = 1280) -> AsyncGenerator[Page]:
    """Open a list of a server whose answers are replaced."""
    answers: dict[str, object] = {
        "projects": PROJECTS,
        "sessions": page_of(SESSIONS),
        "sessions/delete": {"deleted": ["3" * 32, "4" * 32], "errors": []},
        f"sessions/{'3' * 32}": FOUND,
        f"sessions/{'4' * 32}": SESSIONS[3],
        "runs": {"runs": RUNS, "total": len(RUNS)},
    }
    found: list[dict[str, object]]
    for name, value, found in (
        ("search", "parser", [FOUND]),
        ("backend", "codex", SESSIONS[1:2]),
        ("status", "error", SESSIONS[3:]),
        ("tag", "nightly", SESSIONS[2:3]),
        ("archived", "true", []),
        ("project", "%2Fsrv%2Fproject", SESSIONS),
    ):
        answers[f"sessions?{name}={value}&limit=200&offset=0"] = page_of(found)
    async with serving(scripted.env) as server, browsing() as page:
        await resize(page, width)
        await stub(page, answers)
        await opened_in(page, server, fragment, at="main .item")
        yield page
        assert page.events_of("Runtime.exceptionThrown") == []


@pytest.mark.parametrize("width", [390, 1280])
async def test_sessions_are_grouped_in_rows_of_48_pixels(scripted: Scripted, width: int) -> None:
    async with lists(scripted, width=width) as page:
        expected = ["Waiting", "four", "Working", "one", "Today", "two", "Earlier", "three"]
        await page.until(f"{ROWS}.join() === '{','.join(expected)}'")
        heights = "[...document.querySelectorAll('main .item')].map(row => row.getBoundingClientRect().height)"
        assert await page.evaluate(heights) == [48] * 4
        metadata = "getComputedStyle(document.querySelector('main .item .meta')).fontSize"
        assert await page.evaluate(metadata) == "13px"
        assert await page.evaluate("document.querySelector('main .item .main').title") == "1 turn · 11 tokens"
        assert await page.evaluate("document.documentElement.scrollWidth") == width


SHIFTS = """
window.shift = 0;
new PerformanceObserver((list) => list.getEntries().forEach((each) => { window.shift += each.value; }))
  .observe({ type: 'layout-shift', buffered: true });
"""


@pytest.mark.parametrize("width", [390, 1280])
async def test_lists_keep_their_place_while_they_load(scripted: Scripted, width: int) -> None:
    async with lists(scripted, width=width) as page:
        await page.call("Page.addScriptToEvaluateOnNewDocument", source=SHIFTS)
        origin = await page.evaluate("location.origin")
        for fragment in ("/sessions", "/runs"):
            await page.call("Page.navigate", url="about:blank")
            await page.call("Page.navigate", url=f"{origin}/#{fragment}")
            await page.until("document.querySelectorAll('main .item').length > 2")
            assert float(str(await page.evaluate("window.shift"))) < 0.05


async def test_group_of_a_session_follows_its_run(scripted: Scripted) -> None:
    async with lists(scripted) as page:
        await page.until(f"{ROWS}.join().startsWith('Waiting,four')")
        ended = f"{{...live.runs.get('{'e' * 32}'), state: 'finished', ended_at: '{NOW}'}}"
        await page.evaluate(f"import('/console/base/live.js').then(({{ live }}) => live.addRun({ended}))")
        await page.until(f"{ROWS}.join().startsWith('Working,one,four')")


async def test_search_shows_what_matches_and_is_kept_in_the_address(scripted: Scripted) -> None:
    async with lists(scripted) as page:
        await page.write("main input[type=search]", "parser")
        await page.until(f"{ROWS}.join() === 'three'")
        assert await page.evaluate("location.hash") == "#/sessions?search=parser"
        assert await page.evaluate(text_of(".match")) == "… the Parser of <b>tokens</b> …"
        assert await page.evaluate(text_of(".match mark")) == "Parser"
        await page.call("Page.reload")
        await page.until(f"{ROWS}.join() === 'three'")
        assert await page.evaluate("document.querySelector('main input[type=search]').value") == "parser"


async def test_search_finds_the_text_of_answers(scripted: Scripted) -> None:
    scripted.play(claude_says("The parser skips **commas**."))
    async with serving(scripted.env) as server:
        await server.prompt(prompt="why?")
        async with opened(server, "/sessions?search=comma") as page:
            await page.until(f"{ROWS}.join() === 'why?'")
            assert await page.evaluate(text_of(".match mark")) == "comma"


@pytest.mark.parametrize(
    ("label", "value", "titles", "query"),
    [
        ("Agent", "codex", "Today,two", "backend=codex"),
        ("State", "error", "Waiting,four", "status=error"),
        ("Tag", "nightly", "Earlier,three", "tag=nightly"),
        ("Project", "/srv/project", "Waiting,four,Working,one,Today,two,Earlier,three", "project=%2Fsrv%2Fproject"),
    ],
)
async def test_filter_is_sent_to_the_server_and_kept_in_the_address(
    scripted: Scripted, label: str, value: str, titles: str, query: str
) -> None:
    async with lists(scripted) as page:
        await page.until(f"document.querySelector('[aria-label={label}] option[value=\"{value}\"]') !== null")
        await choose(page, label, value)
        await page.until(f"{ROWS}.join() === '{titles}'")
        assert await page.evaluate("location.hash") == f"#/sessions?{query}"


async def test_archived_sessions_are_a_filter(scripted: Scripted) -> None:
    async with lists(scripted) as page:
        await page.click(".filters input")
        await page.until(f"{text_of('main')}.includes('No session matches.')")
        assert await page.evaluate("location.hash") == "#/sessions?archived=true"


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize(
    ("button", "sent"),
    [("Archive", [{"archived": True}, {"archived": True}]), ("Delete", [{"ids": ["3" * 32, "4" * 32]}])],
)
async def test_several_sessions_are_archived_or_deleted(
    scripted: Scripted, width: int, button: str, sent: list[object]
) -> None:
    async with lists(scripted, width=width) as page:
        await page.evaluate("window.confirm = () => true")
        await page.evaluate(click_on("Select", ".filters"))
        await page.until("document.querySelectorAll('.item input').length === 4")
        for title in ("three", "four"):
            box = f"[...document.querySelectorAll('.item')].find(row => row.textContent.includes('{title}'))"
            await page.evaluate(f"{box}.querySelector('input').click()")
        await page.until(f"{text_of('.dock.bar')}.startsWith('2 selected')")
        await page.evaluate(click_on(button, ".dock.bar"))
        await page.until("document.querySelector('.dock.bar') === null")
        assert await page.evaluate("window.sent") == sent


async def test_runs_without_a_session_are_in_the_list_of_runs(scripted: Scripted) -> None:
    async with lists(scripted) as page:
        await page.click(".other-list")
        await page.until(f"{text_of('main h1')} === 'Runs'")
        await page.until(f"{ROWS}.join() === 'Waiting,asks,Working,queued,Today,no session'")
        await choose(page, "State", "queued")
        await page.until(f"{ROWS}.join() === 'Working,queued'")
        assert await page.evaluate("location.hash") == "#/runs?state=queued"
