"""Highlighted code, and the review of changes in a real browser: files, lines, comments, worktrees and compares."""

import json

import pytest

from browser.pages import needs_browser, opened
from chromium import Page
from scripted import Scripted
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
