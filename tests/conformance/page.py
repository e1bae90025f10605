"""The tables of docs/compatibility.md, from the suites and the outcomes of the newest run."""

import itertools
import re
from collections.abc import Mapping, Sequence

from conformance.site import REPOSITORY
from conformance.suite import GROUPS, Outcome, Suite

PAGE = REPOSITORY / "docs" / "compatibility.md"
_START = rf"\n## (?:{'|'.join(GROUPS)})\n"
_HEAD = "| suite | checks | version | passed | expected failures |\n|---|---|---|---|---|\n"
_NOT_RUN, _FAILS = "not run", "fails"


def updated(text: str, suites: Sequence[Suite], outcomes: Mapping[str, Outcome]) -> str:
    """Return the page with the tables of these suites in place of the old ones.

    A suite without an outcome keeps the count in the page, unless its version has changed.
    """
    introduction, *old = re.split(_START, text, maxsplit=1)
    counts = {(name, version): count for name, version, count in re.findall(_ROW, "".join(old), re.MULTILINE)}
    parts: list[str] = []
    for group, members in itertools.groupby(suites, lambda suite: suite.group):
        parts.append(f"\n## {group}\n\n{_HEAD}")
        for suite in members:
            outcome = outcomes.get(suite.name)
            count = counts.get((suite.name, suite.version), _NOT_RUN)
            if outcome:
                count = _FAILS if outcome.failed else str(outcome.passed)
            parts.append(f"| {suite.name} | {suite.checks} | {suite.version} | {count} | {len(suite.expected)} |\n")
    reasons = [
        f"| {suite.name} | {check} | {reason} |\n" for suite in suites for check, reason in suite.expected.items()
    ]
    if reasons:
        parts.append("\n## Expected failures\n\n| suite | check | why clinvk fails it |\n|---|---|---|\n")
    return introduction + "".join((*parts, *reasons))


_ROW = r"^\| (.+?) \| .+? \| (.+?) \| (.+?) \| \d+ \|$"
