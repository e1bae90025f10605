"""Model Context Protocol: the scenarios of the official suite that need none of its fixtures, against `/mcp`.

Most scenarios of the suite (https://github.com/modelcontextprotocol/conformance) are for a server with the tools,
prompts and resources of the suite's own examples. Those in `FIXTURES` are left out, because clinvk has none of these.
"""

import re
from pathlib import Path

import msgspec

from conformance.site import Site, at_server
from conformance.suite import Outcome, locked

VERSION = locked("conformance/package.json", "@modelcontextprotocol/conformance")

FIXTURES = re.compile(
    "tools-call-.*|elicitation-.*|json-schema-2020-12|server-sse-polling|completion-complete"
    "|resources-(read|templates)-.*|prompts-get-.*"
)
"""The scenarios that use a tool, a prompt or a resource of the suite's own server, such as `test_simple_text`."""

EXPECTED = {
    "logging-set-level": "clinvk sends no log messages to clients: its log is for the user of the server",
    "prompts-list": "clinvk has no prompts to offer",
    "resources-subscribe": "a client waits for a run with `wait_run`, which every client knows",
    "resources-unsubscribe": "as `resources-subscribe`",
}


class _Check(msgspec.Struct):
    id: str
    status: str


@at_server
async def run(site: Site) -> Outcome:
    """Run each scenario that needs no fixture. A scenario passes without a failed check and without a warning."""
    node, program = site.tools / "bin" / "node", "node_modules/@modelcontextprotocol/conformance/dist/index.js"
    command = (str(node), str(site.tools / program))
    listed = (await site.finished(*command, "list", "--server")).stdout
    scenarios = [name for name in re.findall(r"^  - (\S+)", listed, re.MULTILINE) if not FIXTURES.fullmatch(name)]
    passed: list[str] = []
    failed: list[str] = []
    output = ""
    for name in scenarios:
        results = site.folder / name
        options = ("--url", f"{site.url}/mcp", "--scenario", name, "--output-dir", str(results))
        done = await site.finished(*command, "server", *options, within_s=60)
        output += done.stdout + done.stderr
        (passed if _is_green(results) else failed).append(name)
    return Outcome.of(passed, failed, EXPECTED, output)


def _is_green(results: Path) -> bool:
    """Return whether a scenario has checks, and all of them have passed."""
    files = [*results.glob("**/checks.json")]
    checks = [check for file in files for check in msgspec.json.decode(file.read_bytes(), type=list[_Check])]
    return bool(checks) and all(check.status in ("SUCCESS", "INFO") for check in checks)
