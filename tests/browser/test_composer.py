"""The box for a prompt in a real browser: drafts, project, permissions, completion, history, queue and images."""

import json
from pathlib import Path

import pytest

from browser.pages import (
    ANSWERS,
    PROMPTS,
    busy_session,
    choose,
    click_on,
    go,
    needs_browser,
    opened,
    press,
    resize,
    send,
    stub,
    text_of,
)
from chromium import Page, browsing
from clinvk.config.model import PolicySettings
from repositories import Repository
from scripted import Scripted
from scripted.steps import claude_says
from serving import serving

pytestmark = needs_browser
both_widths = pytest.mark.parametrize("width", [1280, 390])

AREA = ".composer textarea"
TEXT = "document.querySelector('.composer textarea').value"
IMAGES = "document.querySelectorAll('.images img').length"
QUEUED = "[...document.querySelectorAll('.queue .text')].map(each => each.textContent.trim()).join()"
PRESETS = "[...document.querySelectorAll('.preset strong')].map(each => each.textContent).join()"
COMPLETIONS = "[...document.querySelectorAll('[role=option]')].map(each => each.textContent).join()"
PASTE = """{
const content = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==";
const pixel = Uint8Array.from(atob(content), (char) => char.charCodeAt(0));
const clipboardData = new DataTransfer();
clipboardData.items.add(new File([pixel], "shot.png", { type: "image/png" }));
const area = document.querySelector(".composer textarea");
area.dispatchEvent(new ClipboardEvent("paste", { clipboardData, bubbles: true }));
}"""
LOSE_LOGIN = "window.fetch = async () => Response.json({ detail: 'no login' }, { status: 401 })"


@both_widths
async def test_draft_stays_until_it_is_sent(scripted: Scripted, width: int) -> None:
    """A draft survives another screen, a reload, and a login that is lost while the prompt is sent."""
    scripted.play(claude_says("one"))
    async with serving(scripted.env) as server:
        session = (await server.prompt(prompt="begin")).json()["session_id"]
        async with opened(server, f"/session/{session}", at=AREA) as page:
            await resize(page, width)
            await page.write(AREA, "half a thought")
            await page.evaluate(PASTE)
            await page.until(f"{IMAGES} === 1")
            await go(page, "new")
            assert await page.evaluate(TEXT) == ""
            await go(page, f"session/{session}")
            await page.until(f"{TEXT} === 'half a thought' && {IMAGES} === 1")
            await page.until("!document.querySelector('.composer .primary').disabled")
            await page.evaluate(LOSE_LOGIN)
            await page.click(".composer .primary")
            await page.until("document.querySelector('.login') !== null")
            await page.call("Page.reload")
            await page.until(f"document.querySelector('{AREA}') && {TEXT} === 'half a thought' && {IMAGES} === 1")
            await page.until("!document.querySelector('.composer .primary').disabled")
            await page.click(".composer .primary")
            await page.until(f"{TEXT} === '' && {IMAGES} === 0")
            await page.until(f"{ANSWERS}.join() === 'one,one'")
            await page.call("Page.reload")
            await page.until(f"{ANSWERS}.join() === 'one,one'")
            assert await page.evaluate(f"[{TEXT}, {IMAGES}]") == ["", 0]


async def test_image_is_removed_before_it_is_sent(scripted: Scripted) -> None:
    async with serving(scripted.env) as server, opened(server, "/new", at=AREA) as page:
        await page.evaluate(PASTE)
        await page.until(f"{IMAGES} === 1")
        await page.click("[aria-label='Remove shot.png']")
        await page.until(f"{IMAGES} === 0")
        assert await page.evaluate(
            "[...document.querySelectorAll('.composer button')].some(each => each.textContent === 'Add images')"
        )


@both_widths
async def test_new_session_begins_with_the_prompt_and_a_project(scripted: Scripted, tmp_path: Path, width: int) -> None:
    repository = Repository(tmp_path / "project", Path(scripted.env["HOME"]))
    repository.commit(**{"a.txt": ""})
    (tmp_path / "plain").mkdir()
    async with serving(scripted.env) as server, browsing() as page:
        await stub(page, {"prompt": {"run_id": "a" * 32, "session_id": "b" * 32}})
        await resize(page, width)
        await page.call("Page.navigate", url=f"http://127.0.0.1:{server.port}/#/new")
        await page.until(f"document.activeElement?.matches('{AREA}') ?? false")
        await page.until("document.querySelector('[aria-label=Agent] option') !== null")
        await choose(page, "Project", "other")
        await page.until("document.activeElement.matches('.directory')")
        tops = "['[aria-label=Project]', '.picker'].map(each => document.querySelector(each).getBoundingClientRect())"
        assert await page.evaluate(f"(([row, below]) => below.top >= row.bottom && below.left === row.left)({tops})")
        await page.write(".directory", f"{tmp_path}/p")
        names = "[...document.querySelectorAll('.directories button')].map(each => each.textContent).join()"
        await page.until(f"{names} === '..,plain,project'")
        await page.evaluate(click_on("plain", ".directories"))
        await press(page, "Enter")
        await page.until(f"document.querySelector('[aria-label=Project]').value === '{tmp_path}/plain'")
        await page.until(f"!{text_of('.composer')}.includes('In its own worktree')")
        await choose(page, "Project", "other")
        await page.write(".directory", f"{tmp_path}/missing")
        await press(page, "Enter")
        await page.until(f"{text_of('.picker .problem')}.includes('does not exist')")
        await page.write(".directory", str(repository.path))
        await page.evaluate(click_on("Use this directory", ".picker"))
        await page.until("document.querySelector('.composer [type=checkbox]') !== null")
        await page.point(".composer [type=checkbox]")
        await page.write(AREA, "hi")
        await page.until("!document.querySelector('.composer .primary').disabled")
        await page.point(".composer .primary")
        await page.until("sent.length === 1")
        (sent,) = json.loads(str(await page.evaluate("JSON.stringify(sent)")))
        assert (sent["workdir"], sent["isolation"]) == (str(repository.path), "worktree")
        assert (sent["approval_mode"], "sandbox_mode" in sent) == ("ask", False)
        await page.evaluate(f"location.hash = '#/new?directory={tmp_path}/plain'")
        await page.until(f"document.querySelector('[aria-label=Project]')?.value === '{tmp_path}/plain'")


@both_widths
async def test_presets_and_modes_are_those_that_the_server_allows(scripted: Scripted, width: int) -> None:
    async with serving(scripted.env) as server, opened(server, "/new", at=".preset") as page:
        await resize(page, width)
        assert await page.evaluate(PRESETS) == "Ask me,Accept edits,Read-only"
        assert await page.evaluate("document.querySelector('.preset :checked').closest('label').innerText[0]") == "A"
        await page.point(".preset:nth-of-type(3)")
        await page.until("document.querySelector('[aria-label=Sandbox]').value === 'read-only'")
        assert await page.evaluate("document.querySelector('[aria-label=Approval]').value") == ""
        await page.evaluate(click_on("More options", ".composer"))
        await page.until("document.querySelector('.sheet').matches(':popover-open')")
        await choose(page, "Approval", "none")
        await choose(page, "Sandbox", "full")
        await page.until(f"{text_of('.composer [popovertarget].warning')} === 'Accept everything, No sandbox'")
        await page.until("document.querySelectorAll('.sheet select.warning').length === 2")
        await page.until("document.querySelectorAll('.sheet p.warning').length === 2")
        await page.point("h1")
        await page.until("!document.querySelector('.sheet').matches(':popover-open')")
    policy = PolicySettings(max_approval_mode="auto", max_sandbox_mode="workspace")
    async with serving(scripted.env, policy=policy) as server, opened(server, "/new", at=".preset") as page:
        assert await page.evaluate(PRESETS) == "Accept edits,Read-only"
        values = "[...document.querySelector('[aria-label=Sandbox]').options].map(each => each.value).join()"
        assert await page.evaluate(values) == ",read-only,workspace"


async def test_slash_command_of_the_agent_is_completed(scripted: Scripted) -> None:
    scripted.play(claude_says("one", skills=["review", "release", "verify"], context_size=50))
    async with serving(scripted.env) as server:
        session = (await server.prompt(prompt="begin")).json()["session_id"]
        async with opened(server, f"/session/{session}", at=AREA) as page:
            await page.until(f"{text_of('.turn-end .end')}.endsWith(' · 34 % of the context used')")
            await page.write(AREA, "/re")
            await page.until(f"{COMPLETIONS} === 'review,release'")
            await press(page, "ArrowDown", "Enter")
            await page.until(f"{TEXT} === '/release ' && {COMPLETIONS} === ''")
            await page.write(AREA, "Explain /re")
            await page.until(f"{COMPLETIONS} === ''")


@both_widths
async def test_file_is_completed_by_keyboard(scripted: Scripted, tmp_path: Path, width: int) -> None:
    scripted.play(claude_says("one"))
    repository = Repository(tmp_path / "project", Path(scripted.env["HOME"]))
    repository.commit(**{"src/parser.py": "", "docs/parser.md": "", "other.txt": ""})
    async with serving(scripted.env) as server:
        session = (await server.prompt(prompt="begin", workdir=str(repository.path))).json()["session_id"]
        async with opened(server, f"/session/{session}", at=AREA) as page:
            await resize(page, width)
            box = "document.querySelector('{}').getBoundingClientRect()"
            dock = await page.evaluate(f"{box.format('.dock')}.height")
            await page.write(AREA, "Mend @parse")
            await page.until(f"{COMPLETIONS} === 'src/parser.py,docs/parser.md'")
            assert await page.evaluate(f"{box.format('.dock')}.height") == dock  # the list is above the text
            assert await page.evaluate(f"{box.format('.completions')}.bottom <= {box.format(AREA)}.top")
            await press(page, "ArrowDown")
            active = "document.getElementById(document.activeElement.getAttribute('aria-activedescendant'))"
            await page.until(f"{active}.textContent === 'docs/parser.md'")
            await press(page, "Tab")
            await page.until(f"{TEXT} === 'Mend @docs/parser.md ' && {COMPLETIONS} === ''")
            await page.call("Input.insertText", text="and @oth")
            await page.until(f"{COMPLETIONS} === 'other.txt'")
            await press(page, "Escape")
            await page.until(f"{COMPLETIONS} === ''")
            await page.call("Input.insertText", text="e")
            await page.until(f"{COMPLETIONS} === 'other.txt'")
            await page.point("[role=option]")
            await page.until(f"{TEXT} === 'Mend @docs/parser.md and @other.txt '")
            assert await page.evaluate(f"document.activeElement.matches('{AREA}')")


async def test_arrow_keys_bring_earlier_prompts_into_an_empty_box(scripted: Scripted) -> None:
    scripted.play(claude_says("one"))
    async with serving(scripted.env) as server:
        session = (await server.prompt(prompt="begin")).json()["session_id"]
        await server.prompt(prompt="go on", session_id=session)
        async with opened(server, f"/session/{session}", at=AREA) as page:
            await page.until(f"{ANSWERS}.join() === 'one,one'")
            await page.evaluate(f"document.querySelector('{AREA}').focus()")
            for key, text in [("Up", "go on"), ("Up", "begin"), ("Up", "begin"), ("Down", "go on"), ("Down", "")]:
                await press(page, f"Arrow{key}")
                await page.until(f"{TEXT} === {json.dumps(text)}")
            await page.call("Input.insertText", text="mine")
            await press(page, "ArrowUp")
            assert await page.evaluate(TEXT) == "mine"


async def press_in_item(page: Page, number: int, button: str) -> None:
    """Click a button of a queued prompt, by its text or the beginning of its label."""
    buttons = f"[...document.querySelectorAll('.queue li:nth-child({number}) button')]"
    await page.evaluate(f"{buttons}.find(b => (b.ariaLabel ?? b.textContent).startsWith({json.dumps(button)})).click()")


@both_widths
async def test_queued_prompts_are_edited_moved_and_withdrawn(scripted: Scripted, tmp_path: Path, width: int) -> None:
    async with busy_session(scripted, tmp_path / "gate") as page:
        await resize(page, width)
        for count, prompt in enumerate(("go on 1", "go on 2", "go on 3"), 1):
            await send(page, "Queue", prompt)
            await page.until(f"document.querySelectorAll('.queue li').length === {count}")
        await press_in_item(page, 3, "Move up")
        await page.until(f"{QUEUED} === 'go on 1,go on 3,go on 2'")
        await press_in_item(page, 2, "Edit")
        await page.until("document.querySelector('.queue textarea') !== null")
        await page.write(".queue textarea", "go on, edited")
        await press_in_item(page, 2, "Save")
        await page.until(f"{QUEUED} === 'go on 1,go on, edited,go on 2'")
        await press_in_item(page, 1, "Withdraw")
        await page.until(f"{QUEUED} === 'go on, edited,go on 2'")
        assert await page.evaluate(PROMPTS) == "begin"
        (tmp_path / "gate").touch()
        await page.until(f"{ANSWERS}.join() === 'one,two,two'")
        assert await page.evaluate(PROMPTS) == "begin,go on, edited,go on 2"
        assert await page.evaluate("document.querySelector('.queue')") is None


async def test_queued_prompt_is_edited_by_keyboard_and_survives_the_start_of_the_agent(
    scripted: Scripted, tmp_path: Path
) -> None:
    async with busy_session(scripted, tmp_path / "gate") as page:
        await send(page, "Queue", "go on")
        await page.until(f"{QUEUED} === 'go on'")
        await page.evaluate(
            "[...document.querySelectorAll('.queue button')].find(b => b.textContent === 'Edit').focus()"
        )
        field = "document.activeElement.matches('.queue textarea')"
        await press(page, "Enter")
        await page.until(field)
        await press(page, "Escape")
        await page.until("document.activeElement.textContent === 'Edit'")
        await press(page, "Enter")
        await page.until(field)
        await page.call("Input.insertText", text="Also ")
        await page.write(AREA, "then this")
        (tmp_path / "gate").touch()
        await page.until(f"{ANSWERS}.join() === 'one,two'")
        assert await page.evaluate(TEXT) == "go onAlso \n\nthen this"
        assert await page.evaluate(f"document.activeElement.matches('{AREA}')")


async def test_enter_queues_and_control_enter_steers_while_the_agent_works(scripted: Scripted, tmp_path: Path) -> None:
    async with busy_session(scripted, tmp_path / "gate") as page:
        assert (
            await page.evaluate("document.querySelector('.composer > .options > button:last-child').ariaLabel")
            == "Stop"
        )
        assert await page.evaluate("document.querySelector('.composer .primary')") is None
        await page.write(AREA, "go on later")
        await page.until("document.querySelector('.composer .primary')?.disabled === false")
        await press(page, "Enter")
        await page.until(f"{QUEUED} === 'go on later'")
        await page.write(AREA, "go on now")
        await page.until("document.querySelector('.composer .primary')?.disabled === false")
        for kind in ("keyDown", "keyUp"):
            await page.call(
                "Input.dispatchKeyEvent", type=kind, key="Enter", text="\r", windowsVirtualKeyCode=13, modifiers=2
            )
        await page.until(f"{ANSWERS}.join() === 'two,two'")
