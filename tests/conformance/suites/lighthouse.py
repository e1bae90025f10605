"""Lighthouse on a phone: inbox, sessions and a session have 95 or more in each category, the median of three."""

import statistics
from collections.abc import Mapping

import httpx
import msgspec

from chromium import HEADLESS, executable
from conformance.site import Site, at_server
from conformance.suite import Outcome, Unavailable, locked
from polling import until_told

VERSION = locked("conformance/package.json", "lighthouse")
EXPECTED: dict[str, str] = {}

LEAST = 0.95
RUNS = 3
"""The performance varies with what else the machine does; Lighthouse's advice is the median."""

LOADED_WITHIN_MS = 15_000
"""Lighthouse waits until the network is idle, which it never is: the console keeps its stream of events open."""

PROMPT = 'Improve the parser. [[tool=shell cmd="ls" calls=20 before="Let me look. " words=1000]]'
QUESTION = 'Clean up. [[tool=shell cmd="rm -rf build"]]'


class _Category(msgspec.Struct):
    score: float | None


class _Report(msgspec.Struct):
    categories: dict[str, _Category]


@at_server
async def run(site: Site) -> Outcome:
    """Run Lighthouse for each page, with its defaults: a phone on a slow network."""
    browser = executable()
    if not browser:
        raise Unavailable("no Chromium on PATH: run `make chromium`")
    async with httpx.AsyncClient(base_url=site.url, trust_env=False, timeout=120) as client:
        done = await _prompt(client, prompt=PROMPT, approval_mode="none", sandbox_mode="full")
        await _prompt(client, prompt=QUESTION, approval_mode="ask", detach=True)
        await until_told(lambda: _is_asked(client))
    scores: dict[str, float] = {}
    for name, path in {"inbox": "", "sessions": "sessions", "session": f"session/{done['session_id']}"}.items():
        reports = [await _scores(site, browser, path) for _ in range(RUNS)]
        for category in reports[0]:
            scores[f"{name}: {category}"] = statistics.median(report[category] for report in reports)
    passed = [name for name, score in scores.items() if score >= LEAST]
    failed = [name for name in scores if name not in passed]
    output = "\n".join(f"{name} {score:.2f}" for name, score in scores.items())
    return Outcome.of(passed, failed, EXPECTED, output)


async def _prompt(client: httpx.AsyncClient, **body: object) -> Mapping[str, str]:
    headers = {"prefer": "respond-async"} if body.get("detach") else {}
    answer = await client.post("/api/v1/prompt", json={"backend": "claude", **body}, headers=headers)
    assert answer.is_success, answer.text
    return answer.json()


async def _is_asked(client: httpx.AsyncClient) -> bool:
    answer = await client.get("/api/v1/interactions", params={"status": "pending"})
    return bool(answer.json()["interactions"])


async def _scores(site: Site, browser: str, path: str) -> dict[str, float]:
    """Return the score of each category, from 0 to 1."""
    report, flags = site.folder / "report.json", " ".join(HEADLESS)
    done = await site.finished(
        *("lighthouse", f"{site.url}/#/{path}", "--quiet", f"--chrome-flags={flags}", "--no-enable-error-reporting"),
        *("--output=json", f"--output-path={report}", f"--max-wait-for-load={LOADED_WITHIN_MS}"),
        CHROME_PATH=browser,
    )
    assert done.returncode == 0, done.stderr
    found = msgspec.json.decode(report.read_bytes(), type=_Report)
    return {name: category.score or 0.0 for name, category in found.categories.items()}
