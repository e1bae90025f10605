"""What surrounds the screens in a real browser: projects, navigation, the way back, shortcuts, the palette."""

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from urllib.parse import quote

import pytest

from browser.pages import (
    INTERACTION,
    RUN,
    SESSION,
    go,
    needs_browser,
    opened,
    opened_in,
    press,
    resize,
    stub,
    text_of,
)
from chromium import Page, browsing
from scripted import Scripted
from scripted.steps import claude_says
from serving import serving
from standin.document import record, string

pytestmark = needs_browser

NAMES = ("alpha", "beta", "gamma", "delta")
PROJECTS = [{"directory": f"/srv/{name}", "name": name, "branch": "main", "sessions": 9} for name in NAMES]
SESSIONS: list[dict[str, object]] = [
    {**SESSION, "id": f"{number:032x}", "title": f"session {number}", "project": f"/srv/{NAMES[number % 4]}"}
    for number in range(120)
]
ACTIVE: dict[str, object] = {**SESSIONS[40], "status": "active"}

SHOWN = """[...document.querySelectorAll('.project')].map((project) =>
  [...project.querySelectorAll('.name, .section-name, .title')].map((each) => each.textContent))"""
"""The name of each project with its groups and sessions."""


def listed(sessions: list[dict[str, object]]) -> dict[str, object]:
    return {"sessions": sessions, "total": len(sessions)}


@asynccontextmanager
async def shell(scripted: Scripted, fragment: str = "", width: int = 1280) -> AsyncGenerator[Page]:
    answers: dict[str, object] = {
        "projects": {"projects": PROJECTS},
        "sessions": listed(SESSIONS),
        "sessions?status=active&limit=200": listed([ACTIVE]),
        "interactions": {"interactions": [{**INTERACTION, "session_id": SESSIONS[1]["id"]}]},
    }
    answers["sessions?search=tokens&limit=8"] = listed(SESSIONS[7:8])
    answers["prompt"] = {"run_id": RUN["id"], "session_id": SESSIONS[7]["id"]}
    answers[f"sessions/{SESSIONS[7]['id']}"] = SESSIONS[7]
    answers[f"sessions/{SESSIONS[7]['id']}/messages"] = {"messages": [], "total": 0}
    for number, name in enumerate(NAMES):
        answers[f"sessions?project={quote(f'/srv/{name}', '')}&limit=6"] = listed(SESSIONS[number:12:4])
    async with serving(scripted.env) as server, browsing() as page:
        await resize(page, width)
        await stub(page, answers)
        await opened_in(page, server, fragment)
        await page.until("document.title.startsWith('(1)')")
        yield page
        assert page.events_of("Runtime.exceptionThrown") == []


async def add_run(page: Page, **changed: object) -> None:
    run = json.dumps({**RUN, **changed})
    await page.evaluate(f"import('/console/base/live.js').then(({{ live }}) => live.addRun({run}))")


async def test_projects_show_their_sessions_beside_each_screen(scripted: Scripted) -> None:
    async with shell(scripted) as page:
        await page.until(f"{SHOWN}[0]?.join() === 'alpha,Working,session 40,Earlier,session 0,session 4,session 8'")
        assert await page.evaluate(f"{SHOWN}[3]") == ["delta"]  # folded at first
        await add_run(page, session_id=SESSIONS[40]["id"], state="waiting", ended_at=None)
        await page.until(f"{SHOWN}[0][1] === 'Waiting'")
        await page.click(".project a[title='session 4']")
        await page.until("document.querySelector('.screen.session') !== null")
        marked = (
            "[...document.querySelectorAll('nav [aria-current]')].map(each => each.title || each.textContent.trim())"
        )
        assert await page.evaluate(marked) == ["Sessions", "session 4"]


async def test_session_that_begins_appears_in_its_project(scripted: Scripted) -> None:
    scripted.play(claude_says("x"))
    async with serving(scripted.env) as server, opened(server) as page:
        await resize(page, 1280)
        session = (await server.prompt(prompt="first")).json()["session_id"]
        await page.until(f"{SHOWN}.length === 1 && {SHOWN}[0].slice(1).join() === 'Today,first'")
        await server.client.patch(f"/api/v1/sessions/{session}", json={"title": "renamed"})
        await server.prompt(prompt="second")
        await page.until(f"{SHOWN}[0].slice(1).join() === 'Today,second,renamed'")


async def test_folds_of_projects_are_remembered(scripted: Scripted) -> None:
    async with shell(scripted) as page:
        await page.until(f"{SHOWN}.length === 4")
        for number in (0, 3):
            await page.evaluate(f"document.querySelectorAll('.project summary')[{number}].click()")
        shown = f"{SHOWN}.map(each => each.length > 1).join()"
        await page.until(f"{shown} === 'false,true,true,true'")
        await page.call("Page.reload")
        await page.until(f"{SHOWN}.length === 4")
        assert await page.evaluate(shown) == "false,true,true,true"


async def test_more_of_a_project_opens_the_list_of_its_sessions(scripted: Scripted) -> None:
    async with shell(scripted) as page:
        await page.until(f"{text_of('.project .all')} === 'All 9 sessions'")
        await page.click(".project .all")
        await page.until("document.querySelector('[aria-label=Project]')?.value === '/srv/alpha'")
        assert await page.evaluate("document.querySelector('.project .add').hash") == "#/new?directory=%2Fsrv%2Falpha"


async def test_new_session_of_a_project_begins_in_its_directory(scripted: Scripted) -> None:
    async with shell(scripted) as page:
        for name in ("alpha", "beta"):
            await page.until(f"document.querySelector('[aria-label=\"New session in {name}\"]') !== null")
            await page.click(f"[aria-label='New session in {name}']")
            await page.until("document.querySelector('.screen.new [aria-label=Agent] option') !== null")
            await page.write(".composer textarea", "hi")
            await page.until("!document.querySelector('.composer .primary').disabled")
            await page.click(".composer .primary")
            await page.until(f"window.sent.at(-1)?.workdir === '/srv/{name}'")


async def test_phone_has_a_bar_and_a_menu_that_closes(scripted: Scripted) -> None:
    is_open = "document.querySelector('nav .menu').open"
    async with shell(scripted, "/sessions", width=390) as page:
        await page.until("document.querySelector('main .item') !== null")
        urls = [string(record(event, "request"), "url") for event in page.events_of("Network.requestWillBeSent")]
        assert [url for url in urls if "projects.js" in url] == []
        shown = "[...document.querySelectorAll('nav > a, nav > div > a, nav > details > summary')]"
        shown = f"{shown}.filter(each => each.checkVisibility()).map(each => each.innerText.split('\\n')[0])"
        assert sorted(json.loads(json.dumps(await page.evaluate(shown)))) == ["Inbox", "More", "New", "Sessions"]
        await page.point("nav .menu summary")
        await page.until(is_open)
        await press(page, "Escape")
        await page.until(f"!{is_open}")
        assert await page.evaluate("document.activeElement.tagName") == "SUMMARY"
        await page.point("nav .menu summary")
        await page.until(is_open)
        await page.click_at(100, 40)
        await page.until(f"!{is_open}")


async def test_back_button_of_a_phone_is_beside_the_title_and_returns_to_the_list(scripted: Scripted) -> None:
    async with shell(scripted, "/sessions?search=", width=390) as page:
        await page.until("document.querySelector('main .item') !== null")
        await page.click("main .item .main[href$='7']")
        await page.until("document.querySelector('.screen.session .go-back') !== null")
        await page.until("document.querySelector('main h1') !== null")
        box = "document.querySelector('{}').getBoundingClientRect()"
        button, title = box.format(".go-back button"), box.format("main h1")
        places = await page.evaluate(f"[{button}.top, {button}.right, {title}.left, {button}.bottom, {title}.top]")
        top, right, left, bottom, title_top = map(float, json.loads(json.dumps(places)))
        assert (top >= 0, right <= left, bottom > title_top) == (True, True, True), places
        await page.point(".go-back button")
        await page.until(f"{text_of('main h1')} === 'Sessions'")
    async with shell(scripted, "/new", width=390) as page:
        await page.point(".go-back button")
        await page.until(f"{text_of('main h1')} === 'Sessions'")


@pytest.mark.parametrize("width", [390, 1280])
async def test_back_returns_to_the_row_that_was_chosen(scripted: Scripted, width: int) -> None:
    top = "Math.round(document.querySelector('main').scrollTop)"
    row = f"document.querySelector('main a[href$=\"{SESSIONS[80]['id']}\"]')"
    async with shell(scripted, "/sessions", width=width) as page:
        await page.until("document.querySelectorAll('main .item').length > 5")
        await page.evaluate("document.querySelector('main').scrollTop = 3700")
        await page.until(f"{row} !== null")
        await page.evaluate(f"{row}.focus({{preventScroll: true}})")
        before = await page.evaluate(top)
        await press(page, "Enter")
        await page.until("document.querySelector('.screen.session') !== null")
        await page.until("document.querySelector('main').scrollTop === 0")
        await page.evaluate("history.back()")
        await page.until(f"document.activeElement === {row}")
        assert await page.evaluate(top) == before


async def test_heading_of_a_session_that_is_opened_by_keyboard_has_the_focus(scripted: Scripted) -> None:
    scripted.play(claude_says("one"))
    async with serving(scripted.env) as server:
        await server.prompt(prompt="begin")
        async with opened(server, "/sessions") as page:
            for link in ("main .item .main", "nav a[href*='#/session/']"):
                await page.until(f"document.querySelector({json.dumps(link)}) !== null")
                await page.evaluate(f"document.querySelector({json.dumps(link)}).focus()")
                await press(page, "Enter")
                await page.until("document.activeElement.matches('.screen.session h1')")
                await go(page, "sessions")
            await page.evaluate("location.hash = '#/session/0'")
            await page.until("document.activeElement.matches('[role=alert]')")


async def test_keys_move_in_lists_and_to_what_waits(scripted: Scripted) -> None:
    focused = "document.activeElement.querySelector('.title')?.textContent"
    async with shell(scripted, "/sessions") as page:
        await page.until("document.querySelector('main .item') !== null")
        for keys, title in ((["j"], "session 0"), (["j", "j"], "session 2"), (["k"], "session 1")):
            await press(page, *keys)
            assert await page.evaluate(focused) == title
        await press(page, "w")
        await page.until(f"location.hash === '#/session/{SESSIONS[1]['id']}'")
        await go(page, "sessions")
        await press(page, "?")
        assert "Next session that waits for you" in str(await page.evaluate(text_of("dialog")))
        await page.click("dialog input")
        await press(page, "Escape")
        await press(page, "w")
        assert await page.evaluate("location.hash") == "#/sessions"


CHOICES = "[...document.querySelectorAll('[role=option] .title')].map(each => each.textContent)"


@asynccontextmanager
async def palette(scripted: Scripted, fragment: str = "", width: int = 1280) -> AsyncGenerator[Page]:
    async with shell(scripted, fragment, width) as page:
        await press(page, "k", ctrl=True)
        await page.until("document.activeElement.role === 'combobox'")
        await page.until(f"{CHOICES}.includes('Sessions of delta') && {CHOICES}.includes('session 0')")
        yield page


@pytest.mark.parametrize("width", [390, 1280])
async def test_palette_opens_what_the_text_names(scripted: Scripted, width: int) -> None:
    async with palette(scripted, width=width) as page:
        assert await page.evaluate("document.documentElement.scrollWidth") == width
        await page.call("Input.insertText", text="session beta")
        await page.until(f"{CHOICES}.slice(0, 2).join() === 'New session in beta,Sessions of beta'")
        await press(page, "ArrowDown", "Enter")
        await page.until("location.hash === '#/sessions?project=%2Fsrv%2Fbeta'")
        await page.until("document.querySelector('.palette') === null")
        await page.until("document.activeElement.textContent === 'Sessions'")


async def test_palette_finds_sessions_on_the_server(scripted: Scripted) -> None:
    async with palette(scripted) as page:
        await page.call("Input.insertText", text="tokens")
        await page.until(f"{CHOICES}.join() === 'session 7'")
        await press(page, "Enter")
        await page.until(f"location.hash === '#/session/{SESSIONS[7]['id']}'")


async def test_palette_waits_for_the_search_of_the_server(scripted: Scripted) -> None:
    """No session of an earlier search is chosen."""
    status = text_of(".palette [role=status]")
    async with palette(scripted) as page:
        held = "new Promise((done) => { window.release = done; }).then(() => stubbed(url, ...rest))"
        held = f"String(url).includes('search=tokens') ? {held} : stubbed(url, ...rest)"
        await page.evaluate(f"const stubbed = window.fetch; window.fetch = (url, ...rest) => {held}")
        await page.call("Input.insertText", text="tokens")
        await page.until("window.release !== undefined")
        assert await page.evaluate(f"[{status}, {CHOICES}]") == ["Searching…", []]
        await press(page, "Enter")
        assert await page.evaluate("document.querySelector('.palette').open")
        await page.evaluate("window.release()")
        await page.until(f"{CHOICES}.join() === 'session 7' && {status} === ''")
        await page.evaluate("answers['sessions?search=nonsense&limit=8'] = {sessions: [], total: 0}")
        await page.write(".palette input", "nonsense")
        await page.until(f"{status} === 'Nothing found.'")


async def test_dialog_of_shortcuts_lists_the_keys_of_every_screen(scripted: Scripted) -> None:
    async with shell(scripted) as page:
        await press(page, "?")
        keys = "[...document.querySelectorAll('.shortcuts dt')].map(each => each.textContent.trim())"
        assert await page.evaluate(f"{keys}.filter(each => !each.startsWith('g '))") == [
            *("Ctrl K", "?", "/", "j k", "n p", "↓ ↑", "← →", "v", "w", "a d", "Enter", "Ctrl Enter", "@", "Esc")
        ]


async def test_palette_changes_the_theme_of_this_browser(scripted: Scripted) -> None:
    page_colour = "getComputedStyle(document.body).backgroundColor"
    async with shell(scripted) as page:
        await page.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "light"}])
        light = await page.evaluate(page_colour)
        for theme, colour in (("dark theme", "rgb(22, 24, 27)"), ("theme of the system", light)):
            await press(page, "k", ctrl=True)
            await page.until("document.activeElement.role === 'combobox'")
            await page.call("Input.insertText", text=theme)
            await page.until(f"{CHOICES}[0]?.toLowerCase() === '{theme}'")
            await press(page, "Enter")
            await page.until(f"{page_colour} === '{colour}'")
            await page.evaluate("window.isOld = true")
            await page.call("Page.reload")
            await page.until("!window.isOld && document.title.startsWith('(1)')")
            assert await page.evaluate(page_colour) == colour


async def test_palette_archives_the_session_that_is_open(scripted: Scripted) -> None:
    async with palette(scripted, f"/session/{SESSIONS[7]['id']}") as page:
        await page.call("Input.insertText", text="archive")
        await page.until(f"{CHOICES}[0] === 'Archive this session'")
        await press(page, "Enter")
        await page.until(f"{text_of('main h1')} === 'Sessions'")
        assert await page.evaluate("window.sent") == [{"archived": True}]


async def test_palette_gives_the_focus_back(scripted: Scripted) -> None:
    async with shell(scripted, "/sessions") as page:
        await page.until("document.querySelector('main .item') !== null")
        await press(page, "j")
        await press(page, "k", ctrl=True)
        await page.until("document.activeElement.role === 'combobox'")
        await press(page, "Escape")
        await page.until("document.querySelector('.palette') === null")
        assert await page.evaluate("document.activeElement.querySelector('.title').textContent") == "session 0"
