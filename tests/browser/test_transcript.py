"""A session in a real browser: its head, forks, tool calls, questions and their answers, and what follows a failure."""

from browser.pages import ANSWERS, PROMPTS, needs_browser, opened, press, text_of
from scripted import Scripted
from scripted.steps import claude_says, hang
from serving import serving

pytestmark = needs_browser

FOCUSED = "document.activeElement.textContent"
MENU = ".session-head [aria-haspopup=menu]"


async def test_session_is_renamed_forked_and_deleted_from_its_menu_by_keyboard(scripted: Scripted) -> None:
    scripted.play(claude_says("one"))
    async with serving(scripted.env) as server:
        session = (await server.prompt(prompt="begin")).json()["session_id"]
        async with opened(server, f"/session/{session}", at=MENU) as page:
            await page.evaluate(f"document.querySelector('{MENU}').focus()")
            await press(page, "Enter")
            await page.until(f"{FOCUSED} === 'Rename'")
            await press(page, "ArrowUp")
            assert await page.evaluate(FOCUSED) == "Delete"
            assert await page.evaluate("document.activeElement.matches('.danger:last-child')")
            await press(page, "Escape")
            await page.until("document.querySelector('[role=menu]') === null")
            assert await page.evaluate(f"document.activeElement.matches('{MENU}')")
            await press(page, "ArrowDown")
            await page.point(".transcript")
            await page.until("document.querySelector('[role=menu]') === null")
            await page.evaluate(f"document.querySelector('{MENU}').focus()")
            await press(page, "Enter", "Enter")
            await page.until("document.activeElement.name === 'title'")
            await page.write("[name=title]", "Named")
            await press(page, "Enter")
            await page.until(f"{text_of('h1')} === 'Named'")


async def test_fork_names_its_parent_and_shows_the_conversation_before_the_fork(scripted: Scripted) -> None:
    scripted.play(claude_says("one"), when="begin")
    scripted.play(claude_says("two"), when="go on")
    async with serving(scripted.env) as server:
        parent = (await server.prompt(prompt="begin")).json()["session_id"]
        fork = (await server.client.post(f"/api/v1/sessions/{parent}/fork")).json()["id"]
        await server.prompt(prompt="go on", session_id=parent)
        async with opened(server, f"/session/{fork}", at=".fork") as page:
            await page.until(f"{ANSWERS}.join() === 'one'")
            assert await page.evaluate(PROMPTS) == "begin"
            link = "[...document.querySelectorAll('.session-head a')].map(a => [a.hash, a.textContent])"
            assert await page.evaluate(link) == [[f"#/session/{parent}", "begin"]]
            await server.prompt(prompt="go on", session_id=fork)
            await page.until(f"{ANSWERS}.join() === 'one,two'")
            await page.call("Page.reload")
            await page.until(f"{ANSWERS}.join() === 'one,two'")
            rows = "[...document.querySelectorAll('.row > :is(.prompt, .fork)')].map(row => row.className)"
            assert await page.evaluate(rows) == ["prompt", "end fork", "prompt"]


async def test_head_with_state_and_stop_stays_in_view(scripted: Scripted) -> None:
    scripted.play([*claude_says("word\n\n" * 300)[:4], hang()])
    async with serving(scripted.env) as server:
        run = await server.detached()
        async with opened(server, f"/session/{run['session_id']}", at=".session-head .stop") as page:
            await page.until("document.querySelector('main').scrollTop > 1000")
            assert await page.evaluate(text_of(".session-head .state")) == "running"
            await page.point(".session-head .stop")
            await page.until(f"{text_of('.session-head .state')} === 'cancelled'")
            assert await page.evaluate("document.querySelector('.session-head .stop')") is None
