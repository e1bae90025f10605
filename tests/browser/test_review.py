"""Highlighted code, and the review of changes in a real browser: files, lines, comments, worktrees and compares."""

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest

from browser.pages import (
    ANSWERS,
    PROMPTS,
    choose,
    click_on,
    findings,
    go,
    needs_browser,
    opened,
    opened_in,
    press,
    resize,
    send,
    stub,
    text_of,
)
from chromium import Page, browsing
from scripted import Scripted
from scripted.steps import claude_says
from serving import serving

# --- syntax highlighting -------------------------------------------------------------------------------------------


async def highlight(page: Page, text: str, language: str) -> str:
    """Show a highlighted text in place of the console, and return the expression for its spans."""
    await page.evaluate(
        "(async () => { const [{ html, render }, { Highlighted }] = await Promise.all(["
        "import('/console/vendor/preact.js'), import('/console/base/highlight.js')]);"
        "document.body.replaceChildren(document.createElement('pre'));"
        f"const code = html`<${{Highlighted}} text=${{{json.dumps(text)}}} language={language} />`;"
        "render(code, document.querySelector('pre')); })()"
    )
    return "[...document.querySelectorAll('pre span')].map(span => [span.className, span.textContent])"


@needs_browser
@pytest.mark.parametrize(
    ("text", "language", "spans"),
    [
        ("def f(): return '<b>'", "src/a.py", [["syntax-keyword", "def"], ["syntax-title", "f"]]),
        ("const a = 1;", "ts", [["syntax-keyword", "const"], ["syntax-number", "1"]]),
        ("# x\n**b**", "README.md", [["syntax-title", "# x"]]),
        ("FROM x", "Dockerfile", [["syntax-keyword", "FROM"]]),
    ],
)
async def test_code_is_highlighted_as_elements_of_known_classes(
    scripted: Scripted, text: str, language: str, spans: list[list[str]]
) -> None:
    async with serving(scripted.env) as server, opened(server) as page:
        shown = await highlight(page, text, language)
        await page.until(f"{shown}.length > 0")
        found = json.loads(json.dumps(await page.evaluate(shown)))
        assert [span for span in spans if span not in found] == []
        assert await page.evaluate("document.querySelector('pre').textContent") == text


@needs_browser
async def test_text_that_takes_long_to_highlight_stays_plain_and_blocks_nothing(scripted: Scripted) -> None:
    hostile = "[a](" * 20_000  # takes the grammar of Markdown minutes
    async with serving(scripted.env) as server, opened(server) as page:
        await highlight(page, hostile, "md")
        shown = await highlight(page, "def f(): pass", "py")
        await page.until(f"{shown}.length > 1", within_s=10)
        await highlight(page, hostile, "md")
        assert await page.evaluate("document.querySelector('pre').textContent") == hostile
        assert await page.evaluate(f"{shown}.length") == 0


# --- the review ----------------------------------------------------------------------------------------------------

PYTHON = '''diff --git a/src/app/api/a.py b/src/app/api/a.py
--- a/src/app/api/a.py
+++ b/src/app/api/a.py
@@ -1,4 +1,4 @@ def first():
 """Text
 over lines."""
-value = compute(old, 1)
+value = compute(new, 1)
 return value
@@ -20,2 +20,3 @@ def second():
 x = 1
+y = 2
 z = 3
diff --git a/src/app/web/b.js b/src/app/web/b.js
new file mode 100644
--- /dev/null
+++ b/src/app/web/b.js
@@ -0,0 +1,2 @@
+const hidden = "\u202e";
+export default hidden;
diff --git a/README.md b/README.md
--- a/README.md
+++ b/README.md
@@ -1 +1 @@
-old
+new
'''

RUN: dict[str, object] = {
    "id": "b" * 32,
    "session_id": "c" * 32,
    "kind": "prompt",
    "backend": "claude",
    "model": "",
    "prompt": "Rename old to new",
    "state": "finished",
    "workdir": "/home/w/1",
    "parent_id": None,
    "created_at": "2026-11-25T14:26:49.512Z",
    "started_at": "2026-11-25T14:26:49.512Z",
    "ended_at": "2026-11-25T14:26:59.512Z",
    "token_usage": None,
    "cost_usd": None,
    "error": "",
}

FILES = [{"path": path, "change": "modified"} for path in ("src/app/api/a.py", "README.md")]

WORKTREE: dict[str, object] = {
    "id": "0d3ac1f6",
    "state": "changed",
    "repository": "/srv/project",
    "path": "/home/w/1",
    "branch": "clinvk/0d3ac1f6",
    "base": "e" * 40,
    "made_at": "2026-11-25T14:26:49.512Z",
    "files": FILES,
    "problem": None,
    "runs": [RUN],
    "diff": PYTHON,
    "diff_is_cut": False,
}


@asynccontextmanager
async def review(scripted: Scripted, width: int = 1280, **changed: object) -> AsyncGenerator[Page]:
    """Open a worktree with the diff `PYTHON`."""
    worktree = {**WORKTREE, **changed}
    path = f"worktrees/{worktree['id']}"
    answers = {
        path: worktree,
        "worktrees": {"worktrees": [worktree]},
        "runs?limit=1000": {"runs": [RUN]},
        f"runs?session_id={RUN['session_id']}&limit=1": {"runs": [RUN]},
        f"runs/{RUN['id']}": {**RUN, "request": {"approval_mode": "ask", "sandbox_mode": "read-only"}},
        f"{path}/message": {"message": "Rename old to new\n\nAs asked."},
        f"{path}/commit": {"commit": "f" * 40, "branch": "feature"},
        "prompt": {"run_id": "d" * 32, "session_id": "c" * 32},
    }
    async with serving(scripted.env) as server, browsing() as page:
        await stub(page, answers)
        await resize(page, width)
        await opened_in(page, server, f"/worktree/{worktree['id']}", at=".review .line")
        yield page


@needs_browser
async def test_diff_has_both_line_numbers_syntax_and_changed_words(scripted: Scripted) -> None:
    async with review(scripted) as page:
        await page.until("document.querySelectorAll('.file[data-path$=\"a.py\"] .syntax-keyword').length > 0")
        texts = "line => [...line.children].map(each => each.textContent.trim())"
        lines = f"[...document.querySelectorAll('.file .line')].slice(0, 5).map({texts})"
        assert await page.evaluate(lines) == [
            ["1", "1", "", '"""Text'],
            ["2", "2", "", 'over lines."""'],
            ["3", "", "\u2212", "value = compute(old, 1)"],
            ["", "3", "+", "value = compute(new, 1)"],
            ["4", "4", "", "return value"],
        ]
        marks = "[...document.querySelectorAll('.line mark')].map(mark => mark.textContent)"
        assert await page.evaluate(marks) == ["old", "new"]
        over = "line => line.querySelector('.text').firstChild.className"  # a text over two lines is one token
        assert await page.evaluate(f"[...document.querySelectorAll('.file .line')].slice(0, 2).map({over})") == [
            "syntax-string",
            "syntax-string",
        ]
        assert await page.evaluate(text_of(".hidden-char")) == "U+202E"


@needs_browser
@pytest.mark.parametrize("width", [390, 1280])
async def test_comments_are_saved_as_drafts_and_sent_as_one_prompt(scripted: Scripted, width: int) -> None:
    async with review(scripted, width) as page:
        await page.click(".line.added button")
        await page.until("document.activeElement.tagName === 'TEXTAREA'")
        await page.call("Input.insertText", text="Keep the name.")
        await page.call("Page.reload")
        await page.until("document.querySelector('.line-comment textarea')?.value === 'Keep the name.'")
        await page.evaluate(click_on("Save", ".line-comment"))
        await page.until(f"{text_of('.line-comment p')} === 'Keep the name.'")
        assert await page.evaluate("document.activeElement.ariaLabel") == "Comment on line 3"
        await page.click(".line.removed button")
        await page.until("document.activeElement.tagName === 'TEXTAREA'")
        await page.call("Input.insertText", text="Withdrawn")
        await page.evaluate(click_on("Cancel", ".line-comment"))
        await page.until("document.querySelectorAll('.line-comment').length === 1")
        await page.evaluate(click_on("Send to the agent", ".dock"))
        await page.until("window.sent.length === 1")
        comment = "src/app/api/a.py, line 3:\n> value = compute(new, 1)\nKeep the name."
        prompt = f"Address these comments on your changes:\n\n{comment}"
        kept = {"approval_mode": "ask", "sandbox_mode": "read-only"}
        sent = {**kept, "session_id": "c" * 32, "prompt": prompt, "detach": True}
        assert await page.evaluate("window.sent[0]") == sent
        await page.until("location.hash.startsWith('#/session/')")
        assert await page.evaluate("Object.keys(localStorage).filter(key => key.includes('draft'))") == []


@needs_browser
async def test_viewed_file_is_folded_until_it_changes(scripted: Scripted) -> None:
    opened_files = "[...document.querySelectorAll('.file h3 button')].map(button => button.ariaExpanded)"
    async with review(scripted) as page:
        await page.click(".file input")
        await page.until(f"{opened_files}.join() === 'false,true,true'")
        assert "1 of 3 viewed" in str(await page.evaluate(text_of(".review-bar")))
        assert await page.evaluate("document.querySelectorAll('.file-tree .tick').length") == 1
        await page.call("Page.reload")
        await page.until(f"{opened_files}.join() === 'false,true,true'")
        changed = json.dumps({**WORKTREE, "diff": PYTHON.replace("compute(new, 1)", "compute(new, 2)")})
        await page.call(
            "Page.addScriptToEvaluateOnNewDocument", source=f"Object.assign(answers['worktrees/0d3ac1f6'], {changed})"
        )
        await page.call("Page.reload")
        await page.until(f"{opened_files}.join() === 'true,true,true'")


@needs_browser
async def test_files_and_changes_are_reached_by_keyboard(scripted: Scripted) -> None:
    focused = "document.activeElement.textContent.trim() + ' ' + (document.activeElement.ariaLabel ?? '')"
    async with review(scripted) as page:
        for key, reached in (
            ("j", "src/app/api/a.py "),
            ("n", "3 Comment on removed line 3"),
            ("ArrowDown", "3 Comment on line 3"),
            ("n", "21 Comment on line 21"),
            ("p", "3 Comment on removed line 3"),
            ("j", "src/app/web/b.js "),
            ("k", "src/app/api/a.py "),
        ):
            await press(page, key)
            assert await page.evaluate(focused) == reached, key
        await press(page, "v")
        await page.until("document.querySelector('.file input').checked")


@needs_browser
async def test_file_is_chosen_in_the_tree_or_on_a_phone_in_a_list(scripted: Scripted) -> None:
    folders = "[...document.querySelectorAll('.file-tree summary')].map(summary => summary.textContent)"
    focused = "document.activeElement.textContent.trim()"
    async with review(scripted) as page:
        assert await page.evaluate(folders) == ["src/app", "api", "web"]
        await page.click('.file-tree button[title$="b.js"]')
        assert await page.evaluate(focused) == "src/app/web/b.js"
        await resize(page, 390)
        await page.until("!document.querySelector('.file-tree').checkVisibility()")
        await page.evaluate("document.querySelector('.review-bar select').ariaLabel = 'file'")
        await choose(page, "file", "README.md")
        assert await page.evaluate(focused) == "README.md"


@needs_browser
async def test_large_diff_renders_only_the_lines_near_the_window(scripted: Scripted) -> None:
    lines = "".join(f"+line {number} = {number}\n" for number in range(40_000))
    files = "".join(
        f"diff --git a/{name} b/{name}\n--- a/{name}\n+++ b/{name}\n@@ -1 +1,40001 @@\n same\n{lines}"
        for name in ("a.py", "b.py")
    )
    rendered = "document.querySelectorAll('.line').length"
    async with review(
        scripted, diff=files.replace("40001", "2501").replace(lines, lines[: lines.index("+line 2500")])
    ) as page:
        assert await page.evaluate(f"{rendered} < 500")
        scroller = "document.querySelector('.scroller')"
        await page.evaluate(f"{scroller}.scrollTop = {scroller}.scrollHeight")
        await page.until(f"{text_of('.file:last-child')}.includes('line 2499')")
        assert await page.evaluate(f"{rendered} < 1000")
    async with review(scripted, diff=f"{PYTHON}{files}") as page:  # long files are folded at first
        assert await page.evaluate(f"{rendered} < 50")


@needs_browser
async def test_changes_are_committed_with_a_message_that_the_agent_proposes(scripted: Scripted) -> None:
    async with review(scripted) as page:
        await page.evaluate(click_on("Commit…", ".buttons"))
        await page.until("document.querySelector('form textarea') !== null")
        await page.evaluate(click_on("Propose message", "form"))
        await page.until("document.querySelector('form textarea').value === 'Rename old to new\\n\\nAs asked.'")
        await page.evaluate(click_on("Commit", "form"))
        await page.until(f"{text_of('.result')}.startsWith('Committed ffffffffff to the branch feature.')")
        assert "changed" not in str(await page.evaluate(text_of(".session-head .meta")))
        assert await page.evaluate("window.sent") == [{}, {"message": "Rename old to new\n\nAs asked."}]


@needs_browser
async def test_focus_stays_with_the_actions_of_a_worktree(scripted: Scripted) -> None:
    async with review(scripted) as page:
        await go(page, "worktrees")
        await page.until("document.querySelector('main .item a') !== null")
        await page.evaluate("document.querySelector('main .item a').focus()")
        await press(page, "Enter")
        await page.until("document.activeElement.matches('.screen.worktree h1')")
        await page.evaluate("document.querySelectorAll('main .buttons button')[1].focus()")
        await press(page, "Enter")
        await page.until("document.activeElement.matches('[aria-label=\"Commit message\"]')")
        field = "document.activeElement"
        line = f"parseFloat(getComputedStyle({field}).lineHeight)"
        lines = f"Math.round(({field}.clientHeight - 12) / {line})"
        assert await page.evaluate(lines) == 3
        await page.call("Input.insertText", text="One\n\nTwo\nThree\nFour")
        assert await page.evaluate(lines) == 5
        await press(page, "Tab", "Tab", "Enter")
        await page.until("document.querySelector('form textarea').value.startsWith('Rename')")
        assert await page.evaluate("document.activeElement.textContent") == "Propose message"
        await page.evaluate("document.querySelector('form .primary').focus()")
        await press(page, "Enter")
        await page.until("document.activeElement.matches('.result')")


@needs_browser
async def test_proposal_that_fails_says_what_to_do(scripted: Scripted) -> None:
    async with review(scripted) as page:
        reason = {"detail": "the answer of the agent is not a commit message"}
        answer = f"async (...request) => new Response({json.dumps(json.dumps(reason))}, {{ status: 502 }})"
        await page.evaluate(click_on("Commit…", ".buttons"))
        await page.until("document.querySelector('form textarea') !== null")
        await page.evaluate(f"void (window.fetch = {answer})")
        await page.evaluate(click_on("Propose message", "form"))
        expected = f"No message: {reason['detail']}. Write the message, or try again."
        await page.until(f"{text_of('form .problem')} === {json.dumps(expected)}")


@needs_browser
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_review_fits_and_is_accessible(scripted: Scripted, width: int, scheme: str) -> None:
    async with review(scripted, width) as page:
        await page.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        await page.click(".line.added button")
        await page.until("document.querySelectorAll('.syntax-keyword').length > 1")
        assert await page.evaluate("document.documentElement.scrollWidth") == width
        assert await findings(page) == []
        small = "[...document.querySelectorAll('main :is(button, select, summary, label)')].filter(each => {"
        small += (
            "const { width, height } = each.getBoundingClientRect(); return width && Math.min(width, height) < 24 })"
        )
        assert await page.evaluate(f"{small}.map(each => each.outerHTML)") == []


@needs_browser
async def test_worktrees_are_titled_by_their_prompts_and_grouped_by_compare(scripted: Scripted) -> None:
    compare = {
        **RUN,
        "id": "e" * 32,
        "kind": "compare",
        "session_id": None,
        "prompt": "Both try",
        "workdir": "/srv/project",
    }
    runs = [{**RUN, "parent_id": compare["id"], "workdir": "/home/w/2"}, compare, RUN]
    files: list[dict[str, object]] = [{**file, "added": 2, "removed": 1} for file in FILES]
    others = {**WORKTREE, "id": "1" * 8, "path": "/home/w/2", "files": files}
    async with review(scripted) as page:
        answers = {"worktrees": {"worktrees": [WORKTREE, others]}, "runs?limit=1000": {"runs": runs}}
        await page.evaluate(f"void Object.assign(answers, {json.dumps(answers)})")
        await go(page, "worktrees")
        await page.until("document.querySelectorAll('.item').length === 2")
        assert await page.evaluate(text_of("h2")) == "Compare: Both try"
        assert await page.evaluate(text_of("section:has(h2) .counts")) == "+4 \u22122"
        titles = "[...document.querySelectorAll('.item .title')].map(title => title.textContent)"
        assert await page.evaluate(titles) == ["Rename old to new", "Rename old to new"]


# --- the changes of a session --------------------------------------------------------------------------------------

CHANGES: dict[str, object] = {
    "files": [],
    "diff": PYTHON,
    "diff_is_cut": False,
    "branch": "main",
    "worktree": None,
    "since": None,
}


@asynccontextmanager
async def session_with_changes(scripted: Scripted, width: int, **changed: object) -> AsyncGenerator[Page]:
    """Open a session of a turn and a withdrawn prompt, with the changes `PYTHON`; `changed` are fields of them."""
    scripted.play(claude_says("done"))
    async with serving(scripted.env) as server, browsing() as page:
        answer = (await server.prompt(prompt="Rename old", sandbox_mode="read-only")).json()
        path = f"sessions/{answer['session_id']}"
        session = (await server.client.get(f"/api/v1/{path}")).json()
        listed = f"runs?session_id={answer['session_id']}&limit=50&offset=0"
        runs = (await server.client.get(f"/api/v1/{listed}")).json()
        withdrawn = {"id": "e" * 32, "state": "cancelled", "started_at": None, "error": "the run was cancelled"}
        newer = {**CHANGES, **changed, "diff": PYTHON[PYTHON.index("diff --git a/README") :]}
        answers: dict[str, object] = {
            f"{path}/changes?since={answer['run_id']}": newer,
            f"{path}/changes": {**CHANGES, **changed},
            path: {**session, "worktree": changed.get("worktree")},
            listed: {**runs, "runs": [{**runs["runs"][0], **withdrawn}, *runs["runs"]]},
        }
        await stub(page, answers)
        await resize(page, width)
        await opened_in(page, server, f"/session/{answer['session_id']}", at=".composer")
        await page.until(f"!document.body.textContent.includes('Loading') && {ANSWERS}.join() === 'done'")
        yield page


@needs_browser
@pytest.mark.parametrize("width", [390, 1280])
async def test_changes_of_a_session_are_commented_beside_the_conversation(scripted: Scripted, width: int) -> None:
    async with session_with_changes(scripted, width) as page:
        await page.evaluate(click_on("Changes", ".session-head"))
        await page.until("document.querySelectorAll('.changes .file').length === 3")
        assert await page.evaluate("document.activeElement.textContent") == "Changes"
        is_beside = "document.querySelector('.composer').getBoundingClientRect().right <= "
        is_beside += "document.querySelector('.changes').getBoundingClientRect().left"
        assert await page.evaluate(is_beside) == (width == 1280)
        title = "document.querySelector('.session-head h1')"
        assert await page.evaluate(f"{title}.clientWidth === {title}.parentNode.clientWidth") == (width == 1280)
        await page.click(".changes .line.added button")
        await page.until("document.activeElement.tagName === 'TEXTAREA'")
        await page.call("Input.insertText", text="Keep the name.")
        await page.evaluate(click_on("Save", ".line-comment"))
        await page.until("document.querySelector('.changes .dock') !== null")
        await page.click(".changes .line.removed button")
        await page.until("document.activeElement.tagName === 'TEXTAREA'")
        await page.call("Input.insertText", text="Not yet")
        await page.evaluate(click_on("Send to the agent", ".changes .dock"))
        await page.until("document.querySelector('.changes .dock') === null")
        newest = "fetch('/api/v1/runs?limit=1').then((answer) => answer.json()).then(({ runs }) => runs[0])"
        await page.until(f"{newest}.then((run) => run.prompt.includes('Keep the name.'))")
        run = f"{newest}.then((run) => fetch(`/api/v1/runs/${{run.id}}`)).then((answer) => answer.json())"
        assert await page.evaluate(f"{run}.then((run) => run.request.sandbox_mode)") == "read-only"
        assert await page.evaluate("document.querySelector('.line-comment textarea').value") == "Not yet"
        await page.evaluate(click_on("Cancel", ".line-comment"))
        await press(page, "Escape")
        await page.until("document.querySelector('.changes') === null")
        assert await page.evaluate("document.activeElement.textContent") == "Changes"
        await page.until(f"{PROMPTS}.includes('value = compute(new, 1)')")


@needs_browser
async def test_open_changes_are_remembered_and_loaded_again_after_each_turn(scripted: Scripted) -> None:
    async with session_with_changes(scripted, 1280) as page:
        await page.evaluate(click_on("Changes", ".session-head"))
        await page.until("document.querySelectorAll('.changes .file').length === 3")
        await page.call("Page.reload")
        await page.until("document.querySelectorAll('.changes .file').length === 3")
        path = "Object.keys(answers).find(key => key.endsWith('/changes'))"
        await page.evaluate(f"void (answers[{path}] = {{...answers[{path}], diff: ''}})")
        await send(page, "Send", "again")
        await page.until(f"{text_of('.changes')}.includes('No changes.')")


@needs_browser
async def test_changes_since_a_turn_and_actions_are_shown_for_a_session_with_a_worktree(scripted: Scripted) -> None:
    files = [{"path": "README.md", "status": "modified", "added": 1, "removed": 1}]
    async with session_with_changes(scripted, 1280, worktree="0d3ac1f6", files=files) as page:
        await page.evaluate(click_on("Changes", ".session-head"))
        await page.until("document.querySelectorAll('.changes .file').length === 3")
        buttons = "[...document.querySelectorAll('.changes > .buttons button')].map(button => button.textContent)"
        assert await page.evaluate(buttons) == ["Apply to the repository", "Commit…", "Discard"]
        choices = "[...document.querySelector('.changes .screen-head select').options].map(option => option.text)"
        assert await page.evaluate(choices) == ["Since the beginning", "Since: Rename old"]
        run = await page.evaluate("document.querySelector('.changes .screen-head select').options[1].value")
        await page.evaluate("document.querySelector('.changes .screen-head select').ariaLabel = 'since'")
        await choose(page, "since", str(run))
        await page.until("document.querySelectorAll('.changes .file').length === 1")
        await page.click(".changes .line.added button")
        await page.until("document.activeElement.closest('.line-comment') !== null")
        await page.call("Input.insertText", text="Older, please")
        await page.evaluate(click_on("Save", ".line-comment"))
        await page.until("document.querySelector('.changes .dock') !== null")


@needs_browser
async def test_worktree_that_was_committed_has_ended_and_shares_its_comments(scripted: Scripted) -> None:
    worktree = {**WORKTREE, "files": [{"path": "README.md", "status": "modified", "added": 1, "removed": 1}]}
    async with session_with_changes(scripted, 1280, worktree=WORKTREE["id"], files=worktree["files"]) as page:
        path = f"worktrees/{worktree['id']}"
        session = await page.evaluate("location.hash.split('/')[2]")
        worktree["runs"] = [{**RUN, "session_id": session}]
        answers = {path: worktree, f"{path}/commit": {"commit": "f" * 40, "branch": WORKTREE["branch"]}}
        await page.evaluate(f"void Object.assign(answers, {json.dumps(answers)})")
        link = f'a[href="#/worktree/{worktree["id"]}"]'
        assert await page.evaluate(text_of(f".session-head {link}")) == f"Worktree {worktree['id']}"
        assert "$0.01" in str(await page.evaluate(text_of(".session-head .meta")))
        await page.evaluate(click_on("Changes", ".session-head"))
        await page.until("document.querySelectorAll('.changes .file').length === 3")
        await page.click(".changes .line.added button")
        await page.until("document.activeElement.closest('.line-comment') !== null")
        await page.call("Input.insertText", text="Older, please")
        await page.evaluate(click_on("Save", ".line-comment"))
        await go(page, f"worktree/{worktree['id']}")
        await page.until(f"{text_of('.dock')}.startsWith('1 comment')")
        assert "changed" in str(await page.evaluate(text_of(".session-head .meta")))
        await go(page, f"session/{session}")
        await page.until("document.querySelectorAll('.changes .file').length === 3")
        await page.evaluate(click_on("Commit…", ".changes"))
        await page.until("document.activeElement.tagName === 'TEXTAREA'")
        await page.call("Input.insertText", text="Rename")
        gone = "() => Promise.resolve(Response.json({ detail: 'no worktree' }, { status: 404 }))"
        await page.evaluate(
            "{ const known = window.fetch; window.fetch = (...request) => "
            f"(/changes|{worktree['id']}$/.test(request[0]) ? ({gone})() : known(...request)); }}"
        )
        await page.evaluate(click_on("Commit", ".changes form"))
        await page.until("document.activeElement.matches('.changes .result')")
        ended = "includes('This worktree has ended: its changes were applied, committed or discarded.')"
        await page.until(f"{text_of('.changes')}.{ended}")
        assert await page.evaluate("document.querySelector('.problem')") is None
        await go(page, f"worktree/{worktree['id']}")
        await page.until(f"{text_of('main')}.{ended}")


# --- the outcome of a compare --------------------------------------------------------------------------------------

PARTS: list[dict[str, object]] = [
    {**RUN, "id": str(number) * 32, "backend": backend, "workdir": f"/home/w/{number}", "cost_usd": 0.02 * number}
    for number, backend in enumerate(("claude", "codex", "gemini"), start=1)
]
OUTPUT = "\n".join(
    [
        "[1] claude: check failed",
        "[2] codex: check passed",
        "[3] gemini: check passed",
        "best: [2] codex",
        "It is short.",
    ]
)


@asynccontextmanager
async def comparison(scripted: Scripted, width: int) -> AsyncGenerator[Page]:
    """Open a compare of three agents, the first two of which have changed files; the second is the best."""
    worktrees = [{**WORKTREE, "id": f"w{number}", "path": f"/home/w/{number}"} for number in (1, 2)]
    worktrees[1]["diff"] = PYTHON[PYTHON.index("diff --git a/README") :]
    compare = {**RUN, "kind": "compare", "session_id": None, "output": OUTPUT, "runs": PARTS, "workdir": "/srv/project"}
    answers: dict[str, object] = {
        f"runs/{RUN['id']}": compare,
        **{f"runs/{part['id']}": {**part, "output": "An answer"} for part in PARTS},
        "worktrees": {"worktrees": worktrees},
        **{f"worktrees/{worktree['id']}": worktree for worktree in worktrees},
        "worktrees/w2/apply": {"files": [{"path": "README.md"}], "warnings": [], "removed": True},
    }
    async with serving(scripted.env) as server, browsing() as page:
        await stub(page, answers)
        await resize(page, width)
        await opened_in(page, server, f"/compare/{RUN['id']}", at=".outcome .counts")
        yield page


@needs_browser
@pytest.mark.parametrize(("width", "columns"), [(390, 1), (1440, 3)])
async def test_compare_has_a_table_a_winner_and_a_review_for_each_agent(
    scripted: Scripted, width: int, columns: int
) -> None:
    async with comparison(scripted, width) as page:
        texts = "row => [...row.children].map(cell => cell.innerText.trim())"
        rows = f"[...document.querySelectorAll('.outcome tbody tr')].map({texts})"
        assert await page.evaluate(rows) == [
            ["claude", "\u2013", "failed", "done", "10 s", "$0.02", "+5 \u22122"],
            ["codex", "★ Best", "passed", "done", "10 s", "$0.04", "+1 \u22121"],
            ["gemini", "\u2013", "passed", "done", "10 s", "$0.06", "\u2013"],
        ]
        lefts = "new Set([...document.querySelectorAll('.column')].map(each => each.getBoundingClientRect().left)).size"
        assert await page.evaluate(lefts) == columns
        assert await page.evaluate("document.documentElement.scrollWidth") == width
        assert await findings(page) == []
        assert await page.evaluate(text_of("[role=tab][aria-selected=true]")) == "codex"
        assert await page.evaluate("document.querySelectorAll('.file').length") == 1
        await page.evaluate("document.querySelector('[role=tab][aria-selected=true]').focus()")
        await press(page, "ArrowLeft")
        await page.until("document.querySelectorAll('.file').length === 3")
        assert await page.evaluate("document.activeElement.textContent") == "claude"
        await page.evaluate(click_on("Apply the best", "main"))
        await page.until(f"{text_of('.result')} === 'Applied 1 file to /srv/project, uncommitted.'")
        assert await page.evaluate("window.sent") == [{}]
