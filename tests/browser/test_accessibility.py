"""What axe-core finds on each screen of the console: on a computer and on a phone, in light and in dark colours."""

from collections.abc import Mapping

import pytest

from browser.pages import INTERACTION, RUN, findings, go, needs_browser, opened_in, resize, stub
from chromium import Page, browsing
from scripted import Scripted
from scripted.steps import claude_says
from serving import serving

SCREENS = ("", "runs", "sessions", "new", "compare", "worktrees", "usage", "agents", "notifications")
ANSWER = (
    "# Heading\n\n`code` and a [link](https://example.com)\n\n```python\nprint('wide " + "wide " * 100 + "')\n```\n"
)
DIFF = "diff --git a/a.py b/a.py\n--- a/a.py\n+++ b/a.py\n@@ -1,2 +1,2 @@\n import os\n-x = 1\n+x = 2\n"
WORKTREE: Mapping[str, object] = {
    **{"id": "0d3ac1f6", "state": "changed", "repository": "/srv/shop", "path": "/srv/w", "branch": "clinvk/0d3ac1f6"},
    **{
        "files": [{"path": "a.py", "added": 11, "removed": 2}],
        "problem": "1 file conflicts with the project",
        "made_at": "2026-11-25T14:26:49Z",
        "base": "1" * 40,
        "prompt": "Mend it",
    },
    **{"runs": [], "diff": DIFF, "diff_is_cut": False, "backend": "claude", "added": 1, "removed": 1},
}
PARTS = [
    {**RUN, "id": "1" * 32, "model": "claude-opus-4-1-20250805", "state": "running", "cost_usd": 12.34},
    {**RUN, "id": "2" * 32, "backend": "gemini", "model": "gemini-2.5-pro-preview", "state": "interrupted"},
]
COMPARE = {**RUN, "kind": "compare", "session_id": None, "runs": PARTS, "workdir": "/srv/project"}
COMPARE["output"] = "[1] claude: check failed\n[2] codex: check passed\nbest: [2] codex\n"
CUT = """[...document.querySelectorAll("main *")].filter((each) => {
  const { overflowX, textOverflow } = getComputedStyle(each), { width, right } = each.getBoundingClientRect();
  const isCut = each.scrollWidth > each.clientWidth + 1 && overflowX !== "visible" && textOverflow !== "ellipsis";
  return width > 1 && (isCut || right > innerWidth) && !each.closest("pre, .sr");
}).map((each) => each.outerHTML.slice(0, 300))"""
"""What is cut off or wider than the window, except code and what ends in an ellipsis."""


@needs_browser
@pytest.mark.parametrize(("width", "scheme"), [(390, "light"), (390, "dark"), (1280, "light"), (1280, "dark")])
async def test_every_screen_fits_and_is_accessible(scripted: Scripted, width: int, scheme: str) -> None:
    scripted.play(claude_says(ANSWER))
    async with serving(scripted.env) as server, browsing() as page:
        answer = (await server.prompt(prompt="word " * 100)).json()
        await stub(
            page,
            {
                f"runs/{RUN['id']}": COMPARE,
                **{f"runs/{part['id']}": {**part, "output": ANSWER} for part in PARTS},
                "interactions": {"interactions": [INTERACTION]},
                "worktrees": {"worktrees": [{**WORKTREE, "diff": None}]},
                f"worktrees/{WORKTREE['id']}": WORKTREE,
            },
        )
        await resize(page, width)
        await page.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        await opened_in(page, server)
        details = (f"session/{answer['session_id']}", f"compare/{RUN['id']}", f"worktree/{WORKTREE['id']}")
        for path in (*SCREENS, *details):
            await go(page, path)
            await page.until("document.querySelector('.loading') === null")
            await check(page, path, width)


async def check(page: Page, path: str, width: int) -> None:
    """Check that a screen is as wide as the window, and that axe finds nothing."""
    assert await page.evaluate("document.documentElement.scrollWidth") == width, path
    assert await page.evaluate(CUT) == [], path
    assert await findings(page) == [], path
