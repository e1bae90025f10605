"""The form that compares agents, and requests of the agents that are compared, in a real browser."""

import json

from browser.pages import INTERACTION, RUN, go, needs_browser, opened_in, stub, text_of
from chromium import browsing
from scripted import Scripted
from serving import serving

pytestmark = needs_browser

PROMPT = "[aria-label=Prompt]"
CHECKS = "[...document.querySelectorAll('fieldset input')].map(each => each.checked)"


async def test_form_keeps_its_text_until_it_is_sent_and_says_what_is_missing(scripted: Scripted) -> None:
    backend: dict[str, object] = {
        "available": True,
        "models": [],
        "capabilities": {"approval_modes": [], "sandbox_modes": []},
    }
    started: dict[str, object] = {
        "backends": {"backends": [{**backend, "name": name} for name in ("claude", "codex")]},
        "compare": {"run_id": RUN["id"]},
        f"runs/{RUN['id']}": {**RUN, "kind": "compare", "runs": [], "output": ""},
    }
    fields = f"[...document.querySelectorAll('{PROMPT}, [aria-label=Check]')].map(each => each.value).join()"
    async with serving(scripted.env) as server, browsing() as page:
        await stub(page, started)
        await opened_in(page, server, "/compare", at="fieldset input")
        await page.write(PROMPT, "Mend the parser")
        await page.write("[aria-label=Check]", "make test")
        await page.click("fieldset input")
        await page.until(f"{CHECKS}.join() === 'true,false'")
        hint = "document.querySelector('.composer .primary').previousElementSibling.textContent"
        assert await page.evaluate(hint) == "Choose at least two agents."
        await go(page, "agents")
        await go(page, "compare")
        await page.until(f"{fields} === 'Mend the parser,make test'")
        await page.call("Page.reload")
        await page.until(f"document.querySelector('fieldset input') && {fields} === 'Mend the parser,make test'")
        await page.click("fieldset label:last-child input")
        await page.until("!document.querySelector('.composer .primary').disabled")
        assert await page.evaluate(hint) == ""
        await page.click(".composer .primary")
        await page.until(f"location.hash === '#/compare/{RUN['id']}'")
        assert json.loads(json.dumps(await page.evaluate("window.sent[0].check"))) == "make test"
        await go(page, "compare")
        await page.until(f"{fields} === ','")


async def test_request_of_a_compared_agent_is_answered_there(scripted: Scripted) -> None:
    part = {**RUN, "state": "waiting", "ended_at": None, "parent_id": "f" * 32}
    compare = {**part, "id": "f" * 32, "kind": "compare", "session_id": None, "runs": [part], "output": ""}
    others = {**INTERACTION, "id": "d" * 32, "run_id": "e" * 32}
    answers: dict[str, object] = {
        "interactions": {"interactions": [INTERACTION, others]},
        f"interactions/{INTERACTION['id']}/answer": {**INTERACTION, "status": "answered", "choice": "allow"},
        f"runs/{compare['id']}": compare,
        "worktrees": {"worktrees": []},
    }
    async with serving(scripted.env) as server, browsing() as page:
        await stub(page, answers)
        await opened_in(page, server, f"/compare/{compare['id']}", at=".interaction.pending")
        assert await page.evaluate("document.querySelectorAll('.interaction').length") == 1
        await page.click(".interaction .primary")
        await page.until(f"{text_of('.interaction .result')} === 'Allowed'")
        assert await page.evaluate("window.sent") == [{"choice": "allow"}]
