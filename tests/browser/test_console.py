"""The console in a real browser: login, inbox, transcripts, untrusted text, lost connections, phones and keyboards."""

import asyncio
import gzip
import json
import posixpath
import re
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, suppress
from hashlib import sha256
from itertools import chain
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from browser.pages import (
    ANSWERS,
    PROMPTS,
    answer_with,
    busy_session,
    choose,
    click_on,
    go,
    inbox,
    needs_browser,
    opened,
    opened_in,
    press,
    resize,
    send,
    shown_texts,
    stub,
    tab_to,
    text_of,
)
from chromium import Page, browsing
from clinvk.api import console
from clinvk.api.access.keys import ApiKeys
from polling import until
from scripted import Scripted
from scripted.steps import Step, claude_says, codex_streams, hang, receive_steering, wait_for
from serving import LiveServer, serving
from standin.document import record, string

ASSETS = Path(console.__file__).parent / "assets"
OWN = [path for path in ASSETS.rglob("*.*") if "vendor" not in path.parts and path.suffix != ".png"]
MAX_GZIP_BYTES = 138_000
MAX_SESSION_GZIP_BYTES = 110_000
"""The scripts of a session, without the highlighting, which a worker loads."""
MAX_LINES = 5_850
"""Of JavaScript and CSS."""

SCREENS = ("", "runs", "sessions", "new", "compare", "worktrees", "usage", "agents", "notifications")


# --- login ---------------------------------------------------------------------------------------------------------


@needs_browser
async def test_server_without_keys_opens_the_inbox_at_once(scripted: Scripted) -> None:
    async with serving(scripted.env) as server, opened(server) as page:
        await page.until(f"{text_of('main')}.includes('Nothing waits for you.')")
        assert await page.evaluate("document.title") == "Inbox · clinvk"


@needs_browser
async def test_login_with_a_key_and_logout(scripted: Scripted) -> None:
    async with serving(scripted.env, keys=ApiKeys(["k-1"])) as server, opened(server, at="#key") as page:
        await page.write("#key", "wrong")
        await page.click(".login button")
        await page.until(f"{text_of('.login .problem')}.includes('unknown')")
        await page.write("#key", "k-1")
        await page.click(".login button")
        await page.until(f"{text_of('h1')} === 'Inbox'")
        assert await page.evaluate("document.cookie + JSON.stringify({...localStorage})") == "{}"
        await page.evaluate(
            "[...document.querySelectorAll('nav button')].find(b => /Log out/.test(b.textContent)).click()"
        )
        await page.until("document.querySelector('#key') !== null")


@needs_browser
async def test_console_asks_for_the_key_again_when_the_login_has_ended(scripted: Scripted) -> None:
    async with serving(scripted.env, keys=ApiKeys(["k-1"])) as server, opened(server, at="#key") as page:
        await page.write("#key", "k-1")
        await page.click(".login button")
        await page.until(f"{text_of('h1')} === 'Inbox'")
        await page.call("Network.clearBrowserCookies")
        await page.evaluate("location.hash = '#/sessions'")
        await page.until("document.querySelector('#key') !== null")


@needs_browser
async def test_login_link_works_once_and_leaves_no_token_in_the_address(scripted: Scripted) -> None:
    async with serving(scripted.env, keys=ApiKeys(["k-1"])) as server:
        token = server.logins.create_token()
        async with opened(server, f"login={token}") as page:
            await page.until(f"{text_of('h1')} === 'Inbox'")
            assert await page.evaluate("location.hash") == ""
        async with opened(server, f"login={token}", at="#key") as page:
            await page.until(f"{text_of('.login .problem')}.includes('used before')")


# --- inbox ---------------------------------------------------------------------------------------------------------


@needs_browser
async def test_request_of_an_agent_is_shown_and_allowed(scripted: Scripted) -> None:
    async with inbox(scripted) as page:
        assert await page.evaluate(text_of(".interaction pre")) == "rm -rf build"
        assert await page.evaluate(text_of(".reasons .quiet")) == "Removes old files"
        assert str(await page.evaluate(text_of(".reasons .fact"))).endswith("is outside of the directory /srv/project")
        assert await page.evaluate("document.title") == "(1) Inbox · clinvk"
        await page.click(".interaction .primary")
        await page.until(f"{text_of('.interaction .result')} === 'Allowed by user'")
        assert await page.evaluate("window.sent") == [{"choice": "allow"}]
        await page.until("document.title === 'Inbox · clinvk'")


@needs_browser
async def test_request_is_denied_with_a_reason_or_allowed_with_another_command(scripted: Scripted) -> None:
    button = "[...document.querySelectorAll('.interaction button')].find(b => b.textContent.startsWith('%s'))"
    async with inbox(scripted) as page:
        await page.evaluate(f"{button % 'Deny'}.click()")
        await page.until("document.activeElement.tagName === 'INPUT'")
        await page.call("Input.insertText", text="not now")
        await press(page, "Enter")
        await page.until("window.sent.length === 1")
        assert await page.evaluate("window.sent[0]") == {"choice": "deny", "reason": "not now"}
    async with inbox(scripted, edited_input={"command": "ls build"}) as page:
        await page.evaluate(f"{button % 'Edit'}.click()")
        await page.until("document.activeElement.tagName === 'TEXTAREA'")
        await page.write(".interaction textarea", "ls build")
        await page.click(".interaction .primary")
        await page.until("window.sent.length === 1")
        assert await page.evaluate("window.sent[0]") == {"choice": "allow", "input": {"command": "ls build"}}
        shown = "[...document.querySelectorAll('.interaction :is(pre, .result)')].map(each => each.textContent)"
        await page.until("document.querySelector('.interaction .result') !== null")
        assert await page.evaluate(shown) == ["rm -rf build", "Allowed with changes by user", "ls build"]


@needs_browser
async def test_long_request_can_be_read_to_its_end(scripted: Scripted) -> None:
    lines = "".join(f"+{'x' * 880}\n" for _ in range(1_000))
    diff = f"--- /dev/null\n+++ /srv/a.py\n@@ -0,0 +1,1001 @@\n{lines}+{'y' * 5_000} end of the diff\n"
    asked = {"command": f"{'c' * 65_000}; end of the command", "input": {"other": f"{'z' * 900_000} end of the input"}}
    async with inbox(scripted, diff=diff, **asked) as page:
        more, lines = (f"document.querySelector('.interaction {name}')" for name in (".more", ".diff"))
        end = f"{more} === null && {lines}.textContent.includes('end of the diff')"
        await page.until(f"{more}?.click() || ({lines}.scrollTop = {lines}.scrollHeight) && {end}")
        shown = str(await page.evaluate(text_of(".interaction")))
    assert [part in shown for part in ("end of the diff", "end of the command", "end of the input")] == [True] * 3


@needs_browser
async def test_request_shows_all_that_the_action_does(scripted: Scripted) -> None:
    """Diff, command and the other fields of the input are shown; a text that the diff or the command has, once."""
    diff = "--- /srv/a.py\n+++ /srv/a.py\n@@ -7,2 +7,2 @@\n above\n-x = old\n+x = new\n"
    tool_input = {"file_path": "/srv/a.py", "old_string": "old", "new_string": "new", "replace_all": False}
    more = {"command": "pytest -x", "mode": "x", "path": "/etc/passwd", "content": "evil"}
    async with inbox(scripted, tool="Edit", diff=diff, command="pytest -x", input={**tool_input, **more}) as page:
        shown = "[...document.querySelectorAll('.interaction :is(pre, .diff .text)')].map(each => each.textContent)"
        await page.until(f"{shown}.length >= 5")
        texts = json.loads(json.dumps(await page.evaluate(shown)))
        assert texts[:4] == ["above", "x = old", "x = new", "pytest -x"]
        assert json.loads(texts[4]) == {"mode": "x", "path": "/etc/passwd", "content": "evil"}
    hidden: dict[str, object] = {"content": {"content": "evil"}, "new_string": ["evil"], "x": {"content": "evil"}}
    edits = {"changes": ["update /srv/a.py"], "edits": [{"old_string": "old", "new_string": "new"}]}
    async with inbox(scripted, tool="Edit", diff=diff, command=None, input={**edits, **hidden}) as page:
        await page.until(f"{shown}.length >= 4")
        assert json.loads(json.loads(json.dumps(await page.evaluate(shown)))[3]) == hidden
    async with inbox(scripted, command=None, input={"command": "pytest -x", "content": "evil"}) as page:
        assert "evil" in str(await page.evaluate(text_of(".interaction")))
        assert "pytest -x" in str(await page.evaluate(text_of(".interaction")))


@needs_browser
@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ({"file_path": "/srv/a.py", "content": "ok", "edits": [{"old_string": "x", "new_string": "evil"}]}, "evil"),
        ({"file_path": "/srv/a.py", "content": "ok", "newString": "evil"}, "evil"),
        ({"file_path": "/srv/a.py", "old_string": "x", "new_string": "ok", "replace_all": True}, "replace_all"),
        ({"file_path": "/srv/a.py", "diff": "--- a\n+++ a\n@@ -1,0 +1,1 @@\n+ok\n+evil"}, "evil"),
    ],
)
@pytest.mark.parametrize("diff", [None, "--- /srv/a.py\n+++ /srv/a.py\n@@ -0,0 +1 @@\n+ok\n"])
async def test_request_hides_no_change_behind_another_one(
    scripted: Scripted, given: dict[str, object], shown: str, diff: str | None
) -> None:
    async with inbox(scripted, tool="edit", command=None, input=given, diff=diff) as page:
        assert shown in str(await page.evaluate(text_of(".interaction")))


@needs_browser
async def test_question_is_answered_with_a_form(scripted: Scripted) -> None:
    options = [{"value": value, "label": "", "description": ""} for value in ("sqlite", "pg")]
    database = {"id": "db", "label": "Database", "options": options, "multiple": False, "other": False}
    name = {**database, "id": "name", "label": "Name", "options": ()}
    async with inbox(scripted, kind="question", fields=(database, name), choices=("answer", "deny")) as page:
        assert await page.evaluate("document.querySelector('.interaction .primary').disabled")
        await page.click(".interaction input[value=pg]")
        await page.evaluate("document.querySelector('.interaction textarea').focus()")
        await page.call("Input.insertText", text="billing")
        await page.until("!document.querySelector('.interaction .primary').disabled")
        await page.click(".interaction .primary")
        await page.until("window.sent.length === 1")
        assert await page.evaluate("window.sent[0]") == {"choice": "answer", "answers": {"db": "pg", "name": "billing"}}


@needs_browser
async def test_hidden_characters_of_a_command_are_shown(scripted: Scripted) -> None:
    command = "cat \u202egnp.exe\u202c \u200bx\x1b[31m\x07"
    async with inbox(scripted, command=command, input={"command": command}) as page:
        assert await page.evaluate(text_of(".interaction pre")) == "cat U+202Egnp.exeU+202C U+200BxU+0007"
        assert await page.evaluate("document.querySelectorAll('.interaction .hidden-char').length") == 4


@needs_browser
async def test_keyboard_alone_finds_and_answers_a_request(scripted: Scripted) -> None:
    async with inbox(scripted) as page:
        await tab_to(page, ".interaction")
        outline = "getComputedStyle(document.activeElement).outlineStyle"
        assert await page.evaluate(outline) == "solid"
        await page.until(f"{text_of('.interaction .expiry')}.endsWith('unless answered · a Allow · d Deny')")
        await answer_with(page, "a")
        await page.until(f"{text_of('.interaction .result')} === 'Allowed by user'")
        await press(page, "g", "s")
        await page.until(f"{text_of('h1')} === 'Sessions'")
        await press(page, "/")
        assert await page.evaluate("document.activeElement.type") == "search"


@needs_browser
@pytest.mark.parametrize("finds_card", ["with the mouse", "by keyboard"])
async def test_typing_at_a_request_does_not_answer_it(scripted: Scripted, finds_card: str) -> None:
    async with inbox(scripted) as page:
        if finds_card == "by keyboard":
            await tab_to(page, ".interaction")
        else:
            await page.point(".interaction h2")
            await page.until("document.activeElement.matches('.interaction')")
        for text in ("stop, do not do that", "and do not allow it", "delete it not"):
            await asyncio.gather(*(press(page, key) for key in text))
            await asyncio.sleep(0.6)  # the time after which a single key would answer
        for key in ("s", "a", "d") if finds_card == "with the mouse" else ("s",):
            await press(page, key)
            await asyncio.sleep(0.6)
        assert await page.evaluate("document.activeElement.matches('.interaction.pending')")
        assert await page.evaluate("window.sent") == []


@needs_browser
async def test_single_key_shortcuts_that_are_off_answer_no_request(scripted: Scripted) -> None:
    async with inbox(scripted) as page:
        await press(page, "?")
        await page.click("dialog input")
        await page.click("dialog .primary")
        await page.call("Page.reload")
        await page.until("document.querySelector('.interaction.pending') !== null")
        await tab_to(page, ".interaction.pending")
        for key in "ad":
            await press(page, key)
            await asyncio.sleep(0.6)
        assert await page.evaluate("window.sent") == []
        await page.click(".interaction .primary")
        await page.until("window.sent.length === 1")
        assert await page.evaluate("window.sent[0]") == {"choice": "allow"}


@needs_browser
async def test_request_is_denied_and_its_run_stopped(scripted: Scripted) -> None:
    async with inbox(scripted) as page:
        await tab_to(page, ".interaction.pending")
        await answer_with(page, "d")
        await page.until("document.activeElement.tagName === 'INPUT'")
        await page.evaluate(click_on("Deny and stop", ".interaction"))
        await page.until("window.sent.length === 1")
        assert await page.evaluate("window.sent[0]") == {"choice": "deny_and_stop"}


@needs_browser
async def test_question_about_the_budget_is_denied_without_a_reason(scripted: Scripted) -> None:
    title = "The run has used 5,812 tokens; its budget is 5,000. Continue with as much again?"
    question = {"kind": "budget", "tool": "", "title": title, "command": None, "note": ""}
    question |= {"editable": False, "accepts_reason": False}
    async with inbox(scripted, choices=("allow", "deny"), **question) as page:
        assert await page.evaluate(text_of(".interaction h2")) == title
        buttons = "[...document.querySelectorAll('.interaction button')].map(b => b.textContent)"
        assert await page.evaluate(buttons) == ["Continue", "End the run"]
        await tab_to(page, ".interaction.pending")
        await answer_with(page, "d")
        await page.until("window.sent.length === 1")
        assert await page.evaluate("window.sent[0]") == {"choice": "deny"}


@needs_browser
@pytest.mark.parametrize(("key", "may_answer", "buttons"), [("ci", False, 0), ("boss", False, 4), ("ci", True, 4)])
async def test_key_that_may_not_answer_sees_no_buttons(
    scripted: Scripted, key: str, may_answer: bool, buttons: int
) -> None:
    me = {"authenticated": True, "login_required": True, "key": key, "may_answer": may_answer}
    async with inbox(scripted, me, key="boss", accepts_reason=False, editable=False) as page:
        assert await page.evaluate("document.querySelectorAll('.interaction .buttons button').length") == buttons
        await tab_to(page, ".interaction.pending")
        await answer_with(page, "d")
        if buttons:
            await page.until("window.sent.length === 1")
        assert await page.evaluate("window.sent") == [{"choice": "deny"}] * bool(buttons)
        assert ("may not answer" in str(await page.evaluate(text_of(".interaction")))) == (not buttons)


# --- transcripts ---------------------------------------------------------------------------------------------------

HOSTILE = """<img src="http://evil.example/a.png" onerror="window.hacked = 1"><script>window.hacked = 1</script>

![pixel](http://evil.example/b.png) [open](javascript:window.hacked=1) [https://bank.example](https://evil.example/login)

<a href="javascript:window.hacked=1">x</a> <svg onload="window.hacked = 1"> \u202egnp.exe\u202c

"""


@needs_browser
async def test_prompt_starts_a_session_whose_answer_streams(scripted: Scripted, tmp_path: Path) -> None:
    says = claude_says("one ", "*two*")
    scripted.play([*says[:4], wait_for(tmp_path / "go"), *says[4:]])
    async with serving(scripted.env) as server, opened(server, "/new", at="[aria-label=Agent] option") as page:
        await page.until("document.querySelector('[aria-label=Approval]').value === 'ask'")
        await choose(page, "Approval", "")  # a scripted agent cannot ask
        await page.write(".composer textarea", "hi")
        await press(page, "Enter")
        await page.until(f"{text_of('.markdown')}.trim() === 'one'")
        await page.until(f"{text_of('.working')}.startsWith('Working')")
        (tmp_path / "go").touch()
        await page.until(f"{text_of('.markdown em')} === 'two'")
        await page.until(f"{text_of('.end')}.endsWith('$0.01')")
        assert await page.evaluate("document.querySelector(':is(.working, .latest)')") is None
        await go(page, "")
        await page.until(f"{text_of('.columns .item .title')} === 'hi'")
    assert [call.stdin for call in scripted.calls()] == [b"hi"]


LONG_ANSWERS = {
    "paragraph": ["word " * 1_000] * 20,
    "list": [f"- item {number}\n" for number in range(2_500)],
    "code": ["```python\n", *(f"call({number})\n" for number in range(5_000))],
    "table": ["| a |\n| - |\n", *(f"| row {number} |\n" for number in range(3_000))],
    "word": ["x" * 1_000] * 30,
}
SHAPES = """({
  paragraph: document.querySelectorAll('.markdown p').length,
  list: document.querySelectorAll('.markdown li').length,
  code: document.querySelectorAll('.markdown pre').length,
  table: document.querySelectorAll('.markdown tr').length,
  word: document.querySelectorAll('.markdown p').length,
})"""


@needs_browser
@pytest.mark.parametrize("shape", LONG_ANSWERS)
async def test_long_answer_streams_to_its_end(scripted: Scripted, tmp_path: Path, shape: str) -> None:
    """The end is shown while the agent works, in blocks that stay what they are."""
    texts = LONG_ANSWERS[shape]
    says = claude_says(*texts, "LAST" if shape != "table" else "| LAST |")
    scripted.play([*says[: len(texts) + 4], wait_for(tmp_path / "go"), *says[len(texts) + 4 :]])
    async with serving(scripted.env) as server:
        run = await server.detached()
        async with opened(server, f"/session/{run['session_id']}", at=".working") as page:
            await page.until(f"{text_of('.transcript')}.includes('LAST')")
            await page.until("document.querySelector('main').scrollTop > 0")
            shown = await page.evaluate(SHAPES)
            assert isinstance(shown, dict)
            assert shown[shape], shown
            if shape in ("list", "code"):
                assert not shown["paragraph"], shown
            last = "[...document.querySelectorAll('.markdown :is(p, li, pre, td)')].at(-1).textContent"
            assert str(await page.evaluate(last)).strip().endswith("LAST")
            (tmp_path / "go").touch()
            await page.until("document.querySelector('.working') === null")
            assert str(await page.evaluate(last)).strip().endswith("LAST")


@needs_browser
async def test_agent_is_stopped_from_its_session(scripted: Scripted) -> None:
    scripted.play([*claude_says("x")[:4], hang()])
    async with serving(scripted.env) as server:
        run = await server.detached()
        async with opened(server, f"/session/{run['session_id']}", at=".working") as page:
            await page.point(".composer .danger")
            await page.until("document.querySelector('.working') === null")
            await until(lambda: not scripted.alive())
            await page.until(f"{text_of('.transcript .end')} === 'Stopped'")
            assert await page.evaluate("document.querySelector('.problem')") is None
            await go(page, "runs")
            await page.until("document.querySelector('.item.cancelled .state') !== null")
            assert await page.evaluate("document.querySelector('.item.cancelled .error')") is None


@needs_browser
async def test_prompt_to_an_agent_that_works_is_queued(scripted: Scripted, tmp_path: Path) -> None:
    async with busy_session(scripted, tmp_path / "gate") as page:
        await send(page, "Queue", "go on")
        await page.until(f"{text_of('.queue .text')}.trim() === 'go on'")
        (tmp_path / "gate").touch()
        await page.until("document.querySelector('.working') === null")
        await page.until(f"{ANSWERS}.join() === 'one,two'")
        await page.until("document.querySelector('.composer .danger') === null")


@needs_browser
async def test_queued_prompts_are_withdrawn_while_the_agent_works_on(scripted: Scripted, tmp_path: Path) -> None:
    """More prompts wait than a browser opens connections."""
    async with busy_session(scripted, tmp_path / "gate") as page:
        await resize(page, 1280, 2000)
        for count in range(1, 7):
            await send(page, "Queue", "go on")
            await page.until(f"document.querySelectorAll('.queue li').length === {count}")
        withdraw = "document.querySelectorAll('.queue button:last-child')"
        await page.evaluate(f"{withdraw}.forEach(button => button.click())")
        await page.until("document.querySelector('.queue') === null")
        assert await page.evaluate(f"{text_of('.working')}.startsWith('Working')")
        (tmp_path / "gate").touch()
        await page.until("document.querySelector('.working') === null")
        await page.until(f"{ANSWERS}.join() === 'one'")
        assert await page.evaluate(PROMPTS) == "begin"
        assert await page.evaluate("document.querySelector('.problem')") is None


@needs_browser
async def test_prompts_are_shown_in_the_order_in_which_they_run(scripted: Scripted, tmp_path: Path) -> None:
    scripted.play(claude_says("three"), when="now")
    async with busy_session(scripted, tmp_path / "never") as page:
        await send(page, "Queue", "go on")
        await page.until(f"{text_of('.queue .text')}.trim() === 'go on'")
        await send(page, "Steer", "now")
        await page.until("document.querySelector('.working') === null")
        await page.until(f"{PROMPTS} === 'begin,now,go on'")
        await page.until(f"{ANSWERS}.join() === 'three,two'")
        await page.call("Network.setBlockedURLs", urls=["*/api/v1/events*"])  # no news of runs mend the order
        await page.call("Page.reload")
        await page.until(f"{PROMPTS} === 'begin,now,go on'")


@needs_browser
async def test_prompt_that_codex_receives_within_its_turn_is_a_prompt(scripted: Scripted) -> None:
    said = codex_streams("one", "two")
    scripted.play([*said[:3], receive_steering(), *said[3:]])
    async with serving(scripted.env) as server:
        run = await server.detached(backend="codex", prompt="begin")
        async with opened(server, f"/session/{run['session_id']}", at=".composer .danger") as page:
            await page.until(f"{ANSWERS}.join() === 'one'")
            await send(page, "Steer", "more")
            await page.until("document.querySelector('.working') === null")
            await page.until(f"{shown_texts('.prompt, .markdown')} === 'begin,one,more,two'")
            await page.call("Page.reload")
            await page.until(f"{shown_texts('.prompt, .markdown')} === 'begin,one,more,two'")


@needs_browser
@pytest.mark.parametrize(
    ("tool_input", "numbers"),
    [
        ({"file_path": "/p/a", "old_string": "x", "new_string": "y"}, []),
        ({"file_path": "/p/a", "content": "x\ny\n"}, ["1", "2"]),
        ({"diff": "--- a\n+++ a\n@@ -7 +7 @@\n-x\n+y\n"}, ["7", "7"]),
    ],
)
async def test_edit_has_line_numbers_if_they_are_known(
    scripted: Scripted, tool_input: dict[str, str], numbers: list[str]
) -> None:
    scripted.play(claude_says("x"))
    async with serving(scripted.env) as server, browsing() as page:
        answer = (await server.prompt()).json()
        content = {"tool_id": "1", "tool_name": "Edit", "input": tool_input}
        line = json.dumps({"type": "tool_use", "content": content})
        await stub(page, {f"runs/{answer['run_id']}/events": f"{line}\n"})
        await opened_in(page, server, f"/session/{answer['session_id']}", at=".diff .number")
        cells = "[...document.querySelectorAll('.diff .number')].filter(cell => cell.checkVisibility())"
        assert await page.evaluate(f"{cells}.map(cell => cell.textContent).filter(Boolean)") == numbers


@needs_browser
async def test_hostile_answer_is_shown_as_text(scripted: Scripted) -> None:
    scripted.play(claude_says(HOSTILE, "x" * 1_000_000))
    async with serving(scripted.env) as server:
        session = (await server.prompt()).json()["session_id"]
        async with opened(server, f"/session/{session}", at=".transcript .more") as page:
            await page.evaluate("document.querySelector('main').scrollTop = 0")
            await page.until(f"{text_of('.transcript')}.includes('<script>window.hacked = 1</script>')")
            links = await page.evaluate(
                "[...document.querySelectorAll('.transcript a')].map(a => [a.href, a.textContent, a.rel])"
            )
            shown = str(await page.evaluate(text_of(".transcript")))
            assert await page.evaluate("document.querySelectorAll('.transcript :is(img, script, svg)').length") == 0
            assert await page.evaluate("window.hacked") is None
            assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    rel = "noopener noreferrer nofollow"
    assert links == [
        ["http://evil.example/b.png", "image: pixel evil.example↗", rel],
        ["https://evil.example/login", "https://bank.example evil.example↗", rel],
    ]
    assert "U+202E" in shown
    assert "open (javascript:window.hacked=1)" in shown
    assert len(shown) < 50_000


MEASURED = """(async () => {
  const { height } = document.querySelector('.virtual-list').style;
  for (let frame = 0; frame < 5; frame++) await new Promise(requestAnimationFrame);
  return document.querySelector('.virtual-list').style.height === height;
})()"""
"""Whether the rows in view have been measured, so that the list keeps its height."""


@needs_browser
@pytest.mark.slow
async def test_long_lists_and_transcripts_keep_few_rows_and_never_show_a_gap(scripted: Scripted) -> None:
    """A transcript of 50,000 events, and 1,000 sessions: each frame of the scrolling shows rows."""
    scripted.play(claude_says("x"))
    scroll = """(async () => {
      const main = document.querySelector('main');
      let blank = 0;
      for (let step = 0; step < 100; step++) {
        main.scrollTop += %d;
        await new Promise(requestAnimationFrame);
        await new Promise(setTimeout);
        blank += document.elementFromPoint(innerWidth / 2, innerHeight / 2).closest('.row') ? 0 : 1;
      }
      return [blank, main.scrollTop, document.querySelectorAll('.row').length];
    })()"""
    async with serving(scripted.env) as server, browsing() as page:
        answer = (await server.prompt()).json()
        session = (await server.client.get(f"/api/v1/sessions/{answer['session_id']}")).json()
        events: list[dict[str, object]] = []
        for number in range(12_500):
            tool = {"tool_id": str(number), "tool_name": "Bash"}
            events.append({"type": "tool_use", "content": {**tool, "input": {"command": f"echo {number}"}}})
            events.append({"type": "tool_result", "content": {**tool, "output": f"{number}\n", "is_error": False}})
            events.append({"type": "message", "content": {"text": f"Step {number}. " + "word " * (number % 50)}})
            events.append({"type": "thinking", "content": {"text": "And then?"}})
        sessions = [{**session, "id": f"{number:032x}"} for number in range(1000)]
        pages = {
            f"sessions?limit=200&offset={offset}": {"sessions": sessions[offset : offset + 200], "total": 1000}
            for offset in range(0, 1000, 200)
        }
        lines = "".join(f"{json.dumps(event)}\n" for event in events)
        await stub(page, {f"runs/{answer['run_id']}/events": lines, **pages})
        await opened_in(page, server, f"/session/{answer['session_id']}", at=".row")
        await page.until("[...document.querySelectorAll('.row')].at(-1).ariaSetSize === '37501'")
        for path, step in ((f"session/{answer['session_id']}", -3000), ("sessions", 500)):
            await go(page, path)
            await page.until("document.querySelectorAll('.row').length > 5")
            await page.until(MEASURED)
            blank, top, rows = map(float, json.loads(json.dumps(await page.evaluate(scroll % step))))
            assert blank == 0, path
            assert top > 40_000
            assert rows < 100


# --- connection and memory -----------------------------------------------------------------------------------------


class Proxy:
    """Forwards connections to a server, until they are cut."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None
        self.port = 0

    async def open(self) -> None:
        """Accept connections, on the same port as before."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def cut(self) -> None:
        """Close all connections, and accept none."""
        assert self._server
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()
        await until(lambda: not self._writers)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self._target)
        writers = {writer, there_writer}
        self._writers |= writers
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(_copy(reader, there_writer))
                group.create_task(_copy(there_reader, writer))
        finally:
            self._writers -= writers


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


@needs_browser
async def test_lost_connection_is_reported_and_restored(scripted: Scripted) -> None:
    scripted.play([*claude_says("x")[:4], hang()])
    async with serving(scripted.env) as server:
        proxy = Proxy(server.port)
        await proxy.open()
        async with opened(server, "/runs", proxy.port) as page:
            await page.until(f"{text_of('main')}.includes('No agent is working')")
            await proxy.cut()
            await page.until(f"{text_of('.connection')}.startsWith('Connection lost')")
            await server.detached(prompt="while nobody looks")
            await proxy.open()
            await page.until("document.querySelector('.connection') === null")
            await page.until(f"{text_of('.item .title')} === 'while nobody looks'")
            await proxy.cut()


@needs_browser
async def test_console_that_stays_open_keeps_a_bounded_number_of_runs_and_blocks(scripted: Scripted) -> None:
    async with serving(scripted.env) as server, opened(server) as page:
        kept = await page.evaluate(
            """(async () => {
              const { live } = await import('/console/base/live.js');
              const { RunBlocks } = await import('/console/session/transcript.js');
              for (let id = 0; id < 5000; id++) live.addRun({ id, state: 'finished', created_at: String(id) });
              const blocks = new RunBlocks('run');
              const event = { type: 'progress', content: { stage: 'x', message: 'y' } };
              for (let id = 0; id < 120_000; id++) blocks.add(event);
              return [live.runs.size, blocks.blocks.length <= 50_000, blocks.blocks[0].text];
            })()"""
        )
    assert kept == [300, True, "Earlier events are not shown."]


@needs_browser
async def test_runs_that_begin_while_the_list_loads_are_kept(scripted: Scripted) -> None:
    async with serving(scripted.env) as server, opened(server) as page:
        await page.until(f"{text_of('main')}.includes('Nothing waits for you.')")
        kept = await page.evaluate(
            """(async () => {
              const { live } = await import('/console/base/live.js');
              const add = (id) => {
                live.addRun({ id: `${id} run`, state: 'running', created_at: '' });
                live.addInteraction({ id: `${id} request`, status: 'pending', created_at: '' });
              };
              add('old');
              const loading = live._load();
              add('new');
              await loading;
              return [...live.runs.keys(), ...live.interactions.keys()];
            })()"""
        )
    assert kept == ["new run", "new request"]


@needs_browser
async def test_nodes_of_a_cluster_are_listed_below_the_agents(scripted: Scripted) -> None:
    node = {"node": "build", "state": "up", "version": "1.0", "labels": ["gpu"], "running": 2, "queued": 1}
    backends = [{"name": "claude", "available": True, "version": "2.1"}, {"name": "codex", "available": False}]
    nodes = {"nodes": [{**node, "backends": backends, "max_concurrent_runs": 8}]}
    async with serving(scripted.env) as server, browsing() as page:
        await stub(page, {"nodes": nodes})
        await opened_in(page, server, "/agents")
        card = "[aria-label=build]"
        await page.until(f"document.querySelector('{card}') !== null")
        values = await page.evaluate(
            f"[...document.querySelectorAll('{card} dd')].map(each => each.textContent.trim())"
        )
    assert values == ["claude 2.1", "2 of 8, 1 waiting", "gpu", "1.0"]


@needs_browser
async def test_malformed_address_is_reported_on_its_screen(scripted: Scripted) -> None:
    async with serving(scripted.env) as server, opened(server, "/session/%", at="main .problem") as page:
        await go(page, "sessions")


# --- several tabs --------------------------------------------------------------------------------------------------

WITHOUT_LOCKS = "Object.defineProperty(Navigator.prototype, 'locks', {value: undefined})"
SHORT_DEADLINE = """
const timeout = AbortSignal.timeout;
AbortSignal.timeout = (ms) => timeout.call(AbortSignal, window.isLate ? 100 : ms);
"""


@asynccontextmanager
async def tabs(server: LiveServer, *fragments: str, script: str = "") -> AsyncGenerator[list[Page]]:
    """Open tabs of one browser, all of them shown, as in windows side by side."""
    async with browsing() as first:
        pages: list[Page] = []
        for fragment in fragments:
            page = await first.another() if pages else first
            pages.append(page)
            await page.call("Emulation.setFocusEmulationEnabled", enabled=True)
            await page.call("Page.addScriptToEvaluateOnNewDocument", source=script)
            await opened_in(page, server, fragment)
            await page.until("document.visibilityState === 'visible'")
        yield pages
        assert first.events_of("Runtime.exceptionThrown") == []


def gated(text: Sequence[str], folder: Path) -> list[Step]:
    """Return the steps of an agent that waits before each piece of its answer but the first for a file: 1, 2, …"""
    says = claude_says(*text)
    waits = [[wait_for(folder / str(number)), says[3 + number]] for number in range(1, len(text))]
    return [*says[:4], *chain.from_iterable(waits), *says[3 + len(text) :]]


@needs_browser
async def test_stop_and_queue_act_soon_in_each_of_six_tabs(scripted: Scripted) -> None:
    """All tabs share one connection. An action takes less than a second; the test allows for a busy machine."""
    scripted.play([*claude_says("x")[:4], hang()])
    scripted.play(claude_says("done"), when="go on")
    soon_s = 10
    async with serving(scripted.env) as server:
        runs = [await server.detached() for _ in range(4)]
        compare = {"prompt": "hi", "backends": ["claude", "claude"], "detach": True}
        whole = (await server.client.post("/api/v1/compare", json=compare, headers={"prefer": "respond-async"})).json()[
            "run_id"
        ]
        sessions = [f"/session/{run['session_id']}" for run in runs]
        async with tabs(server, *sessions, f"/compare/{whole}", "/runs") as pages:
            for page in pages[:4]:
                await page.until(f"{ANSWERS}.join() === 'x'")
            await pages[4].until(f"{ANSWERS}.join() === 'x,x'")
            await until(lambda: server.state.active_requests == 1)
            for page in pages[:4]:
                async with asyncio.timeout(soon_s):
                    await send(page, "Queue", "go on")
                    await page.until(f"{text_of('.queue .text')}.trim() === 'go on'")
            for page in pages[:4]:
                await page.click(".composer .danger")
                await page.until("document.querySelector('.queue') === null", within_s=soon_s)
                await page.until(f"{ANSWERS}.at(-1) === 'done'")
            await pages[4].evaluate(click_on("Stop all", ".session-head"))
            await pages[4].until("document.querySelectorAll('.column .state.cancelled').length === 2", within_s=soon_s)
            await pages[5].until(f"{text_of('main')}.includes('No agent is working')")


@needs_browser
async def test_another_tab_leads_after_the_leading_tab_was_closed_and_no_event_is_lost(
    scripted: Scripted, tmp_path: Path
) -> None:
    words = ["one ", "two ", "three ", "four"]
    scripted.play(gated(words, tmp_path))
    async with serving(scripted.env) as server:
        run = await server.detached(prompt="count")
        async with tabs(server, *[f"/session/{run['session_id']}"] * 3) as pages:
            for number in range(1, len(words)):
                for page in pages:
                    await page.until(f"{ANSWERS}.join() === '{''.join(words[:number]).strip()}'")
                await until(lambda: server.state.active_requests == 1)
                if len(pages) > 1:
                    await pages.pop().close()  # the tab that was opened last leads
                (tmp_path / str(number)).touch()
            await pages[0].until("document.querySelector('.working') === null")
            assert await pages[0].evaluate(ANSWERS) == ["".join(words)]
            next_run = await server.detached(prompt="count on")
            await go(pages[0], "runs")
            link = json.dumps(f"a[href*='{next_run['session_id']}']")
            await pages[0].until(f"document.querySelector({link}) !== null")


@needs_browser
async def test_hidden_tab_closes_the_streams_of_its_runs_and_catches_up(scripted: Scripted, tmp_path: Path) -> None:
    scripted.play(gated(["one ", "two ", "three"], tmp_path))
    async with serving(scripted.env) as server, opened(server) as page:
        run = await server.detached()

        def followed() -> str:
            urls = [string(record(event, "request"), "url") for event in page.events_of("Network.requestWillBeSent")]
            return urlsplit([url for url in urls if "/api/v1/events" in url][-1]).query

        await go(page, f"session/{run['session_id']}")
        await page.until(f"{ANSWERS}.join() === 'one'")
        assert followed() == f"run={run['run_id']}:0"
        other = await opened_in(await page.another(), server, "/runs")
        await page.until("document.hidden")
        await until(lambda: followed() == "")
        (tmp_path / "1").touch()
        await other.until(f"{text_of('.item .title')} === 'hi'")
        assert await page.evaluate(f"{ANSWERS}.join()") == "one"
        await page.call("Page.bringToFront")
        await page.until(f"{ANSWERS}.join() === 'one two'")
        assert followed().startswith(f"run={run['run_id']}:")
        assert not followed().endswith(":0")
        (tmp_path / "2").touch()
        await page.until(f"{ANSWERS}.join() === 'one two three'")


@needs_browser
async def test_without_web_locks_each_tab_has_one_stream(scripted: Scripted, tmp_path: Path) -> None:
    scripted.play(gated(["one ", "two"], tmp_path))
    async with serving(scripted.env) as server:
        run = await server.detached()
        async with tabs(server, *[f"/session/{run['session_id']}"] * 2, script=WITHOUT_LOCKS) as pages:
            for page in pages:
                await page.until(f"{ANSWERS}.join() === 'one'")
            await until(lambda: server.state.active_requests == 2)
            (tmp_path / "1").touch()
            for page in pages:
                await page.until("document.querySelector('.working') === null")
                assert await page.evaluate(ANSWERS) == ["one two"]


@needs_browser
async def test_logout_in_one_tab_ends_the_login_of_the_others(scripted: Scripted) -> None:
    scripted.play(claude_says("x"))
    async with serving(scripted.env, keys=ApiKeys(["k-1"])) as server:
        token = server.logins.create_token()
        async with tabs(server, f"login={token}", "/runs", "/sessions") as pages:
            await pages[0].until("document.querySelector('nav') !== null")
            await pages[0].evaluate("fetch('/api/v1/logout', {method: 'POST'})")
            await server.client.post(
                "/api/v1/prompt", json={"prompt": "hi"}, headers={"authorization": "Bearer k-1"}
            )  # a change, with which the stream ends
            for page in pages:
                await page.until("document.querySelector('#key') !== null")


@needs_browser
async def test_action_without_an_answer_is_reported_after_the_deadline(scripted: Scripted) -> None:
    """Other requests of the browser take up all of its connections."""
    scripted.play([*claude_says("x")[:4], hang()])
    async with serving(scripted.env) as server:
        run = await server.detached()
        fragment = f"/session/{run['session_id']}"
        async with tabs(server, fragment, script=SHORT_DEADLINE) as (page,):
            await page.until(f"{ANSWERS}.join() === 'x'")
            path = json.dumps(f"/api/v1/runs/{run['run_id']}/events")
            await page.evaluate(
                f"for (let each = 0; each < 6; each++) fetch({path}, {{cache: 'no-store'}}); window.isLate = true"
            )
            await page.click(".composer .danger")
            await page.until(f"{text_of('.composer .problem')}.startsWith('The server did not answer in time.')")
            assert server.runs.live(run["run_id"])


# --- the files -----------------------------------------------------------------------------------------------------


def test_console_keeps_to_its_budget() -> None:
    kinds = (".js", ".css", ".html", ".svg", ".webmanifest")
    files = [
        path for path in ASSETS.rglob("*") if path.suffix in kinds and path.stem != "docs"
    ]  # /docs is another page
    loaded = [path for path in files if path.parent.name != "highlight"]  # a grammar is loaded for code in its language
    assert sum(len(gzip.compress(path.read_bytes())) for path in loaded) <= MAX_GZIP_BYTES
    own = [path for path in files if path in OWN and path.suffix in (".js", ".css")]
    assert sum(len(path.read_text().splitlines()) for path in own) <= MAX_LINES


def imported(*entries: str) -> set[str]:
    """Return the modules that these modules import statically, themselves included."""
    found = set[str]()
    while entries:
        found |= {*entries}
        names = [
            posixpath.normpath(posixpath.join(posixpath.dirname(entry), name))
            for entry in entries
            for name in re.findall(r'^import\b[^;]*?"(\.[^"]+)";', (ASSETS / entry).read_text(), re.MULTILINE)
        ]
        entries = tuple({*names} - found)
    return found


def test_index_preloads_the_modules_that_every_screen_needs() -> None:
    """A browser otherwise learns of a module only when it has read the modules that import it."""
    index = (ASSETS / "index.html").read_text()
    preloaded = re.findall(r'<link rel="modulepreload" href="console/(\S+)">', index)
    assert sorted(preloaded) == sorted(imported("app.js") - {"app.js"})


def test_scripts_of_a_session_keep_to_their_budget() -> None:
    scripts = imported("app.js", "session/session.js")
    assert sum(len(gzip.compress((ASSETS / path).read_bytes())) for path in scripts) <= MAX_SESSION_GZIP_BYTES


def test_console_loads_nothing_from_elsewhere_and_parses_no_text_as_html() -> None:
    for path in OWN:
        text = path.read_text().replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?://", text), path
        assert not re.search(r"innerHTML|insertAdjacentHTML|dangerouslySet|document\.write|eval\(|style=\"", text), path


def test_vendored_libraries_are_those_of_the_list() -> None:
    listed = dict(re.findall(r"\| `(\S+)` \|.*\| `([0-9a-f]{64})` \|", (ASSETS / "vendor" / "README.md").read_text()))
    vendor = ASSETS / "vendor"
    files = [path for path in vendor.rglob("*.*") if path.suffix in (".js", ".css")]
    assert listed == {path.relative_to(vendor).as_posix(): sha256(path.read_bytes()).hexdigest() for path in files}
