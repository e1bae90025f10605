"""Take the screenshots of docs/console.md: `python examples/screenshots.py --agents FOLDER`.

The real Claude Code and Codex work with the stand-in model APIs of the demo. Chromium shows the console.
"""

import argparse
import asyncio
import base64
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import demo

if TYPE_CHECKING:
    from chromium import Page

FOLDER = demo.REPOSITORY / "docs" / "images"
DESKTOP, PHONE = (1280, 800), (390, 844)

_ROUND = json.dumps({"file_path": "prices.py", "old_string": demo.ROUGH, "new_string": demo.EXACT})
_FILES = """The project has three files:

- `prices.py` has the function `total`.
- `test_prices.py` checks two totals.
- `Makefile` runs the tests.

No test covers a discount of 0 percent."""
CLAUDE = demo.ANSWERS["claude"] | {
    "Round the total": f"[[call Read {demo.READ}]][[call Edit {_ROUND}]]",
    "Which files": f"[[call Read {demo.READ}]][[say='{_FILES}']]",
}
SEED = (
    demo.COMPARE,
    'clinvk --new -b codex "Write a summary of the last release" -w ../website',
    'clinvk --new -b codex "List the open questions"',
    'clinvk --new "Describe the headings of the start page" -w ../website',
    'clinvk --new --approval-mode auto "Fix the failing test of the discount"',
    'clinvk --continue "Which files does the project have?"',
    'clinvk --continue --detach --approval-mode ask "Run the tests"',
    'clinvk --new --detach --approval-mode ask "Round the total to whole cents"',
)
"""What the user has done before: the last two prompts wait for approval."""


class Screenshot(NamedTuple):
    """A screen of the console.

    Attributes:
        path: the fragment of the address; `{session}`, `{compare}` and `{worktree}` are ids.
        texts: what the screen shows when the screen is complete.
        click: the text of a button to click first.
    """

    path: str
    texts: tuple[str, ...]
    size: tuple[int, int] = DESKTOP
    click: str = ""


SCREENSHOTS = {
    "inbox": Screenshot("", ("Allow for the session", "Run the tests")),
    "session": Screenshot("session/{session}", ("Allow for the session", "of 1 viewed"), click="Changes"),
    "sessions": Screenshot("sessions", ("Waiting", "Today")),
    "compare": Screenshot("compare/{compare}", ("passed", "failed")),
    "review": Screenshot("worktree/{worktree}", ("Apply", "prices.py")),
    "usage": Screenshot("usage", ("claude", "codex")),
    "agents": Screenshot("agents", ("Warm agents", "codex")),
    "inbox-phone": Screenshot("", ("Run the tests",), PHONE),
    "session-phone": Screenshot("session/{session}", ("Allow for the session",), PHONE),
}
"""The screenshots by the names of their files."""

IDS = """
const [runs, sessions, worktrees] = await Promise.all(["runs", "sessions", "worktrees"].map(
  async (name) => (await (await fetch(`/api/v1/${name}`)).json())[name]));
return {
  compare: runs.find((run) => run.kind === "compare").id,
  session: sessions.find((session) => session.turn_count === 3).id,
  worktree: worktrees.find((worktree) => worktree.id.startsWith("codex")).id,
};
"""


def main() -> int:
    """Take all screenshots, and return the exit code."""
    parser = argparse.ArgumentParser(description="Take the screenshots of docs/console.md.")
    parser.add_argument("--agents", type=Path, default=demo.INSTALLED, help="a folder with claude and codex")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where to write the screenshots")
    options = parser.parse_args()
    sys.path.append(str(demo.REPOSITORY / "tests"))
    with demo.temporary_place(options.agents) as place, demo.stand_ins(place, CLAUDE) as environment:
        website = place.home / "website"
        subprocess.run(["git", "init", "--quiet", website], env=place.environment(), check=True)
        options.folder.mkdir(exist_ok=True)
        port = demo.free_port()
        with demo.server(place, environment, port):
            runner = demo.Runner(place, demo.Screen(is_paced=False), environment)
            for line in SEED:
                runner.run(line.strip(), is_quiet=True)
            asyncio.run(take(f"http://127.0.0.1:{port}/", place.root, options.folder))
    return 0


async def take(url: str, profile: Path, folder: Path) -> None:
    """Write a file for each screenshot."""
    from browser.pages import click_on, resize  # of the tests
    from chromium import browsing

    async with browsing(profile) as page:
        await page.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-reduced-motion", "value": "reduce"}])
        await page.call("Page.navigate", url=url)
        await page.until(shows("Round the total", "Run the tests"))
        ids = json.loads(str(await page.evaluate(f"(async () => {{{IDS}}})().then(JSON.stringify)")))
        for name, screenshot in SCREENSHOTS.items():
            await resize(page, *screenshot.size)
            await page.call("Page.navigate", url="about:blank")
            await page.call("Page.navigate", url=f"{url}#/{screenshot.path.format(**ids)}")
            if text := screenshot.click:
                await page.until(shows(text))
                await page.evaluate(click_on(text, "main"))
            await page.until(shows(*screenshot.texts))
            (folder / f"{name}.webp").write_bytes(await still(page))


def shows(*texts: str) -> str:
    """Return the expression that is true when the page shows the texts."""
    return f"{json.dumps(texts)}.every((text) => document.body?.innerText.includes(text))"


async def still(page: "Page") -> bytes:
    """Return a picture of the page that has not changed for half a second."""
    picture, until = b"", time.monotonic() + demo.TIMEOUT_S
    while time.monotonic() < until:
        captured = await page.call("Page.captureScreenshot", format="webp", quality=85)
        before, picture = picture, base64.b64decode(str(captured["data"]))
        if picture == before:
            return picture
        await asyncio.sleep(0.5)
    raise demo.DemoFailed(f"the page has changed for {demo.TIMEOUT_S} s")


if __name__ == "__main__":
    sys.exit(main())
