"""A session in a real browser: its head, forks, tool calls, questions and their answers, and what follows a failure."""

import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from itertools import chain
from pathlib import Path

import pytest

from browser.pages import (
    ANSWERS,
    INTERACTION,
    PROMPTS,
    click_on,
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
from scripted.steps import claude_fails, claude_says, hang
from serving import serving

pytestmark = needs_browser

Events = Sequence[Mapping[str, object]]

FOCUSED = "document.activeElement.textContent"
MENU = ".session-head [aria-haspopup=menu]"
SHIFT = """new Promise((resolve) => {
  let sum = 0;
  const seen = new PerformanceObserver((list) => list.getEntries().forEach(({ value }) => { sum += value; }));
  seen.observe({ type: "layout-shift", buffered: true });
  requestAnimationFrame(() => requestAnimationFrame(() => resolve(sum)));
})"""
"""How much of the page has moved since the page was opened, in the unit of Chromium: less than 0.1 is good."""


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


@pytest.mark.parametrize(
    ("button", "sent"), [("Retry", "begin"), ("Continue", "Continue where you left off."), ("Edit prompt", None)]
)
async def test_failed_turn_is_tried_again_continued_or_edited(
    scripted: Scripted, button: str, sent: str | None
) -> None:
    scripted.play(claude_fails(400))
    async with serving(scripted.env) as server:
        failed = await server.prompt(prompt="begin", approval_mode="ask")
        session = failed.json()["session_id"]
        scripted.play(claude_says("one"))
        async with opened(server, f"/session/{session}", at=".next-step button") as page:
            assert await page.evaluate(text_of(".next-step span")) == "The run failed."
            await page.write(".composer textarea", "in C")
            await page.evaluate(click_on(button, ".next-step"))
            if sent is None:
                await page.until("document.querySelector('.composer textarea').value === 'begin\\n\\nin C'")
                assert await page.evaluate("document.activeElement.matches('.composer textarea')")
                return
            await page.until(f"{PROMPTS} === 'begin,{sent}' && {ANSWERS}.at(-1) === 'one'")
            await page.until("document.querySelector('.next-step') === null")
            run = (await server.client.get(f"/api/v1/runs?session_id={session}")).json()["runs"][0]
            request = (await server.client.get(f"/api/v1/runs/{run['id']}")).json()["request"]
            assert request["approval_mode"] == "ask"
            assert await page.evaluate("document.querySelector('.composer textarea').value") == "in C"


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


@pytest.mark.parametrize("width", [1280, 390])
async def test_long_session_opens_without_moving_what_is_shown(scripted: Scripted, width: int) -> None:
    scripted.play(claude_says(*[f"word{number} " for number in range(1000)], "the end"))
    async with serving(scripted.env) as server, browsing() as page:
        session = (await server.prompt(prompt="begin")).json()["session_id"]
        for _ in range(2):
            await server.prompt(prompt="go on", session_id=session)
        await resize(page, width)
        await opened_in(page, server, f"/session/{session}", at=".turn-end")
        await page.until(f"{ANSWERS}.at(-1).endsWith('the end')")
        await page.until("document.querySelector('main').scrollTop > 200")
        shift = await page.evaluate(SHIFT)
        assert isinstance(shift, float | int)
        assert shift < 0.05


# --- the agent's work ----------------------------------------------------------------------------------------------


def call(
    number: int, name: str, tool_input: dict[str, object], output: str | None = "ok", is_error: bool = False
) -> Events:
    """Return the events of a tool call, which has not ended without an output."""
    tool = {"tool_id": str(number), "tool_name": name}
    begun = {"type": "tool_use", "content": {**tool, "input": tool_input}}
    ended = {"type": "tool_result", "content": {**tool, "output": output, "is_error": is_error}}
    return [begun] if output is None else [begun, ended]


def event(kind: str, /, **content: object) -> Events:
    return [{"type": kind, "content": content}]


@asynccontextmanager
async def transcript(
    scripted: Scripted, *events: Events, at: str = ".turn-end", workdir: str | None = None, **run: object
) -> AsyncGenerator[Page]:
    """Open a session whose only run has some events. `run` are fields of the run."""
    scripted.play(claude_says("x"))
    async with serving(scripted.env) as server, browsing() as page:
        answer = (await server.prompt(workdir=workdir)).json()
        path = f"runs/{answer['run_id']}"
        stored = (await server.client.get(f"/api/v1/{path}")).json()
        done = event("done", stop_reason="end_turn", duration=1, token_usage=None)
        lines = "".join(f"{json.dumps(each)}\n" for each in chain(*events, done))
        runs = {"runs": [{**stored, **run}], "total": 1}
        stubs = {f"{path}/events": lines, path: {**stored, **run}}
        await stub(page, {**stubs, f"runs?session_id={answer['session_id']}&limit=50&offset=0": runs})
        await opened_in(page, server, f"/session/{answer['session_id']}", at=at)
        yield page
        assert page.events_of("Runtime.exceptionThrown") == []


ROWS = """[...document.querySelectorAll('.transcript .row')].map(row => row.firstElementChild)
  .map(row => (row.querySelector('summary') ?? row).innerText.replace(/\\s+/g, ' ').trim())"""
THINKS = event("thinking", text="And then?\nThe last line")


async def test_consecutive_tool_calls_are_one_line_that_opens(scripted: Scripted, tmp_path: Path) -> None:
    events = [
        call(1, "Read", {"file_path": f"{tmp_path}/src/a.py"}),
        call(2, "Read", {"file_path": f"{tmp_path}/src/a.py"}),
        THINKS,
        call(3, "Read", {"file_path": f"{tmp_path}/b.py"}),
        call(4, "Bash", {"command": "make check"}),
        call(5, "Bash", {"command": "make test"}, "2 failed", is_error=True),
        call(6, "Grep", {"pattern": "x"}),
        event("message", text="Done."),
    ]
    async with transcript(scripted, *events, workdir=str(tmp_path)) as page:
        rows = await page.evaluate(ROWS)
        assert isinstance(rows, list)
        assert rows[1:5] == ["Read 2 files, ran 1 command", "Bash make test failed", "Grep x", "Done."]
        await page.click(".calls")
        await page.until(f"{ROWS}.length === 11")
        opened_rows = await page.evaluate(ROWS)
        assert isinstance(opened_rows, list)
        assert opened_rows[1:4] == ["Read 2 files, ran 1 command", "Read src/a.py", "Read src/a.py"]
        assert opened_rows[4:7] == ["Thinking", "Read b.py", "Bash make check"]
        await page.click(".tool summary")
        await page.until("document.querySelector('.tool').open")
        await page.click(".calls")
        await page.until(f"{ROWS}.length === 6")
        await page.click(".calls")
        await page.until("document.querySelector('.tool').open")


async def test_call_that_was_stopped_is_not_called_failed(scripted: Scripted) -> None:
    events = [
        call(1, "Bash", {"command": "make test"}, "2 failed", is_error=True),
        event("message", text="Again."),
        call(2, "Bash", {"command": "sleep 1"}, "interrupted", is_error=True),
        call(3, "Bash", {"command": "sleep 2"}, None),
        event("error", code="cancelled", message="the run was cancelled"),
    ]
    async with transcript(scripted, *events, state="cancelled") as page:
        rows = await page.evaluate(ROWS)
        assert isinstance(rows, list)
        assert rows[1:6] == [
            "Bash make test failed",
            "Again.",
            "Bash sleep 1 stopped",
            "Bash sleep 2 stopped",
            "Stopped",
        ]


async def test_request_and_its_call_are_one_card_with_the_outcome(scripted: Scripted) -> None:
    asked = {**INTERACTION, "status": "pending"}
    answered = {**INTERACTION, "status": "answered", "choice": "allow", "answered_by": "user"}
    colour: dict[str, object] = {"id": "q", "label": "Which colour?", "options": [], "multiple": False, "other": True}
    question: dict[str, object] = {
        **INTERACTION,
        "id": "e" * 32,
        "kind": "question",
        "tool": "",
        "title": "Colour",
        "fields": [colour],
    }
    said = {"status": "answered", "choice": "answer", "answers": {"q": "Blue"}}
    events = [
        call(1, "Bash", {"command": "ls"}, None),
        call(2, "Bash", {"command": "rm -rf build"}, None),
        event("interaction_requested", **asked),
        event("interaction_resolved", **answered),
        call(2, "Bash", {}, "removed")[1:],
        call(1, "Bash", {}, "a b", is_error=True)[1:],
        call(3, "AskUserQuestion", {"questions": [{"question": "Which colour?"}]}, None),
        event("interaction_requested", **question),
        event("interaction_resolved", **{**question, **said}),
        call(3, "AskUserQuestion", {}, "Blue")[1:],
    ]
    async with transcript(scripted, *events) as page:
        rows = await page.evaluate(ROWS)
        assert isinstance(rows, list)
        assert rows[1:3] == ["Bash ls failed", "Bash rm -rf build Allowed by user"]
        assert len(rows) == 5
        assert await page.evaluate(text_of(".given")) == "Which colour?Blue"


async def test_output_has_head_and_tail_and_can_be_read_whole(scripted: Scripted) -> None:
    lines = [f"line {number} of the output" for number in range(1, 5_001)]
    events = [call(1, "Bash", {"command": "seq"}, "\n".join(lines[:100])), event("message", text="And")]
    async with transcript(scripted, *events, call(2, "Bash", {"command": "seq"}, "\n".join(lines))) as page:
        await page.evaluate("document.querySelectorAll('.tool').forEach(tool => { tool.open = true; })")
        shown = "[...document.querySelectorAll('.tool .output')].map(output => output.innerText)"
        first, second = json.loads(json.dumps(await page.evaluate(shown)))
        assert "line 20 of" in first
        assert "line 21 of" not in first
        assert "70 lines hidden" in first
        assert "line 91 of" in first
        assert "4,970 lines hidden" in second
        assert "line 5000 of" in second
        for index, middle in enumerate(("line 50 of", "line 2500 of")):
            await page.evaluate(f"document.querySelectorAll('.tool .hidden-lines')[{index}].click()")
            await page.until(f"{text_of('dialog.whole pre')}.includes('{middle}')")
            await page.click("dialog.whole form button")
            await page.until("document.querySelector('dialog.whole') === null")


async def test_command_breaks_after_slashes_and_spaces_on_a_phone_and_scrolls_elsewhere(scripted: Scripted) -> None:
    command = "rm -rf /srv/" + "/".join(["projects-with-long-names", "shop", "build"] * 3) + "\nls"
    begins = """(() => {
      const parts = [...document.querySelectorAll('.command-line > span')];
      const tops = parts.map(part => part.getBoundingClientRect());
      return parts.filter((part, at) => at && tops[at].top > tops[at - 1].top + 3).map(part => part.textContent);
    })()"""
    events = call(1, "Bash", {"command": command})
    async with transcript(scripted, events) as page:
        await page.evaluate("document.querySelector('.tool').open = true")
        assert await page.evaluate(text_of(".command")) == command
        assert await page.evaluate(begins) == ["ls"]
        assert await page.evaluate("document.querySelector('.command').scrollHeight < 70")
        await resize(page, 390)
        await page.until(f"{begins}.length > 3")
        parts = json.loads(json.dumps(await page.evaluate(begins)))
        assert {part.rstrip("/ ") for part in parts} <= {"projects-with-long-names", "shop", "build", "ls", "/srv"}
        marks = "[...document.querySelectorAll('.command-line')].map(e => getComputedStyle(e, '::before').content)"
        assert await page.evaluate(marks) == ['"\u203a "'] * 2
        assert await page.evaluate("document.documentElement.scrollWidth") == 390


async def test_plan_of_the_agent_stands_above_the_composer(scripted: Scripted) -> None:
    steps = [{"text": "one", "status": "completed"}, {"text": "two", "status": "in_progress"}]
    todos = [{"content": "a", "status": "completed"}, {"content": "b", "status": "in_progress"}]
    shown = "[...document.querySelectorAll('.plan summary > *, .plan li')].map(each => each.textContent)"
    tasks = [
        call(1, "TaskCreate", {"subject": "a"}),
        call(2, "TaskCreate", {"subject": "b"}),
        call(3, "TaskUpdate", {"taskId": "1", "status": "completed"}),
    ]
    plans: list[tuple[list[Events], list[str]]] = [
        (
            [event("progress", stage="plan", message="1/2 done", steps=steps)],
            ["Plan", "1 of 2", "two", "✓ one", "● two"],
        ),
        ([call(1, "TodoWrite", {"todos": todos})], ["Plan", "1 of 2", "b", "✓ a", "● b"]),
        (tasks, ["Plan", "1 of 2", "", "✓ a", "○ b"]),
    ]
    for events, texts in plans:
        async with transcript(scripted, *events, at=".dock .plan") as page:
            assert await page.evaluate(shown) == texts
            await page.point(".plan summary")
            await page.until("document.querySelector('.plan').open")


async def test_prompt_shows_what_images_it_had(scripted: Scripted) -> None:
    images = {"images": [{"media_type": "image/png", "bytes": 20_480}]}
    async with transcript(scripted, event("message", text="x"), at=".prompt .image", request=images) as page:
        assert await page.evaluate(text_of(".prompt .image")) == "Image: PNG, 20 KB, not stored"


async def test_session_of_2000_events_opens_soon(scripted: Scripted) -> None:
    """The limit is that of a machine without other work, times four."""
    events = [
        [*call(number, "Bash", {"command": f"echo {number}"}), *event("message", text=f"Step {number}"), *THINKS]
        for number in range(500)
    ]
    opened_s = """(async () => {
      const [{ html, render }, { Session }] = await Promise.all(
        [import('/console/vendor/preact.js'), import('/console/session/session.js')]);
      location.hash = '#/agents';
      while (!document.querySelector('.screen.agents h1')) await new Promise(requestAnimationFrame);
      const start = performance.now();
      location.hash = '%s';
      while (document.querySelector('.row')?.ariaSetSize !== '1502') await new Promise(requestAnimationFrame);
      return performance.now() - start;
    })()"""
    async with transcript(scripted, *events) as page:
        hash_ = await page.evaluate("location.hash")
        times = [float(str(await page.evaluate(opened_s % hash_))) for _ in range(3)]
    assert min(times) < 600, times
