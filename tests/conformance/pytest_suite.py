"""Suites that are files of pytest: SDKs, frameworks and agents as clients, which the tests drive."""

import os
import sys
from pathlib import Path
from xml.etree import ElementTree

from clients import finished
from conformance.site import REPOSITORY
from conformance.suite import Outcome, Suite


def pytest_suite(name: str, checks: str, version: str, *files: str, group: str, select: str = "") -> Suite:
    """Return a suite of tests in files below `tests/`, slow ones too.

    Args:
        name: the name of the suite.
        checks: what the tests check.
        version: the version of the client.
        files: the paths below `tests/`.
        group: the heading in docs/compatibility.md.
        select: which tests: an expression for `-k`.
    """

    async def run(folder: Path) -> Outcome:
        report = folder / "report.xml"
        inherited = {name: os.environ[name] for name in ("PATH", "CLINVK_TEST_AGENTS") if name in os.environ}
        done = await finished(
            *(sys.executable, "-m", "pytest", "-q", "-n", "2", "-m", "", "-p", "no:cacheprovider"),
            *("-k", select, f"--junit-xml={report}", *(f"tests/{file}" for file in files)),
            cwd=REPOSITORY,
            env={**inherited, "HOME": str(folder), "LANG": "C.UTF-8", "CI": "true"},
            within_s=3600,
        )
        passed, failed = results(report) if report.exists() else ([], [])
        return Outcome.of(passed, failed, {}, done.stdout + done.stderr)

    return Suite(name, checks, version, run, group=group)


def results(report: Path) -> tuple[list[str], list[str]]:
    """Return the names of the passed tests, and of all others, from a report of pytest."""
    passed: list[str] = []
    failed: list[str] = []
    for case in ElementTree.parse(report).iter("testcase"):
        names = failed if any(case.find(tag) is not None for tag in ("failure", "error", "skipped")) else passed
        names.append(case.get("name", ""))
    return passed, failed
