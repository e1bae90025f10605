"""`python -m conformance`: run the suites, print the table, and return 1 unless all of them are green."""

import argparse
import asyncio
import logging
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from conformance.page import PAGE, updated
from conformance.suite import Outcome, Suite, Unavailable, load

logger = logging.getLogger(__name__)

_HEADINGS: tuple[str, ...] = ("suite", "version", "passed", "failed", "expected")


def main(words: Sequence[str]) -> int:
    """Run the selected suites.

    Args:
        words: the words of the command line.

    Returns:
        1 if a check failed that is not expected to, or if a suite could not run; 2 if a suite is unknown.
    """
    suites = load()
    arguments = _parser().parse_args(words)
    unknown = [name for name in arguments.suites if not any(_is_named(suite, name) for suite in suites)]
    if unknown:
        available = ", ".join(suite.name for suite in suites)
        print(f"unknown suite {unknown[0]!r} (available: {available})", file=sys.stderr)
        return 2
    names = arguments.suites
    chosen = [suite for suite in suites if not names or any(_is_named(suite, name) for name in names)]
    outcomes: dict[str, Outcome] = {}
    for suite in chosen:
        outcomes[suite.name] = _outcome(suite)
        if arguments.docs:
            PAGE.write_text(updated(PAGE.read_text(), suites, outcomes))
    print(table(chosen, outcomes))
    return int(any(outcome.failed for outcome in outcomes.values()))


def table(suites: Sequence[Suite], outcomes: dict[str, Outcome]) -> str:
    """Return the table of the suites, and below the table each failed check."""
    rows = [_HEADINGS]
    failed: list[str] = []
    for suite in suites:
        outcome = outcomes[suite.name]
        counts = (outcome.passed, len(outcome.failed), len(outcome.expected))
        rows.append((suite.name, suite.version, *map(str, counts)))
        failed += [f"{suite.name}: {name}" for name in outcome.failed]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join((*lines, *failed))


def _is_named(suite: Suite, name: str) -> bool:
    """Return whether a name is that of the suite, or of its module: `frameworks` for `frameworks/langchain`."""
    return suite.name == name or suite.name.startswith(f"{name}/")


def _outcome(suite: Suite) -> Outcome:
    """Run a suite in a folder of its own."""
    print(f"{suite.name} …", file=sys.stderr, flush=True)
    try:
        with tempfile.TemporaryDirectory(
            prefix="clinvk-conformance-", dir="/var/tmp", ignore_cleanup_errors=True
        ) as folder:
            outcome = asyncio.run(suite.run(Path(folder).resolve()))
    except Unavailable as exc:
        return Outcome(0, (f"skipped: {exc}",))
    except Exception as exc:
        logger.exception("%s did not run", suite.name)
        return Outcome(0, (f"did not run: {exc!r}",))
    if outcome.failed:
        print(outcome.output, file=sys.stderr)
    return outcome


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m conformance", description="Run public suites against clinvk.")
    parser.add_argument("suites", nargs="*", metavar="SUITE", help="a suite, or a module of suites; default: all")
    parser.add_argument("--docs", action="store_true", help="write the outcome into docs/compatibility.md")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
