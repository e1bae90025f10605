"""The outcome of an orchestration as text: answers, changes, checks and the table of all parts. Pure."""

from collections.abc import Iterable, Iterator
from difflib import unified_diff
from itertools import zip_longest

from clinvk.cli.orchestrate.progress import part_label, status
from clinvk.cli.sessions.session_text import BACKEND, TITLE, Fields, TextView, tokens
from clinvk.cli.terminal.output import escape_controls, without_sequences
from clinvk.cli.terminal.table import Column, cut, one_line, readable_patch, width
from clinvk.cli.terminal.times import duration
from clinvk.types.orchestration import PART_NOUNS, Chain, Compare, PartResult, Summary

_MIN_COLUMN_WIDTH = 36
_CHECK_LINES = 20
_BETWEEN = "  │  "


def answers(summary: Summary) -> Iterator[str]:
    """Yield the answers, each below a head line; a part that was cancelled before its agent started is left out."""
    for result in summary.results:
        if result.is_cancelled and not result.result.started:
            continue
        yield head(summary, result)
        yield from _said(result)
        yield ""


def _said(result: PartResult) -> Iterator[str]:
    """Yield the answer of a part, and its error if it failed."""
    yield result.result.text.strip("\n")
    if result.error:
        yield f"({status(result)}: {one_line(without_sequences(result.error.message))})"


def dry_run_judge(summary: Summary) -> Iterator[str]:
    """Yield which agent would judge the answers of a dry run."""
    if summary.verdict:
        yield head(summary, summary.verdict.result)
        yield "(asked when the answers are there)"


def side_by_side(summary: Summary, most: int) -> list[str]:
    """Return the answers in columns that fit a terminal of `most` cells; nothing if there is no room."""
    number = len(summary.results)
    wide = (most - len(_BETWEEN) * (number - 1)) // number
    if number < 2 or wide < _MIN_COLUMN_WIDTH:
        return []
    columns = [
        [cut(head(summary, result), wide), *(piece for line in _lines(result) for piece in wrapped(line, wide))]
        for result in summary.results
    ]
    rows = zip_longest(*columns, fillvalue="")
    return [*(_BETWEEN.join(cell + " " * (wide - width(cell)) for cell in row).rstrip() for row in rows), ""]


def _lines(result: PartResult) -> Iterable[str]:
    return "\n".join(_said(result)).split("\n")


def wrapped(line: str, wide: int) -> list[str]:
    """Break a line at spaces into pieces that fit; a word that is too long is broken anywhere."""
    pieces: list[str] = []
    text = escape_controls(line.expandtabs(4)).rstrip()
    start = 0
    while (fits := _fitting(text, start, wide)) < len(text):
        space = text.rfind(" ", start, fits + 1)
        end = space if space - start > (fits - start) // 3 else fits
        pieces.append(text[start:end].rstrip())
        start = end
        while text[start].isspace():  # it ends with something else
            start += 1
    return [*pieces, text[start:]]


def _fitting(text: str, start: int, wide: int) -> int:
    """Return the end of the text from `start` on that takes at most `wide` cells, and at least one character."""
    room = wide
    for at in range(start, len(text)):
        room -= width(text[at])
        if room < 0:
            return max(start + 1, at)
    return len(text)


def head(summary: Summary, result: PartResult) -> str:
    """Return the head line of a part."""
    return f"── {one_line(part_label(summary.plan, result.index, result.part))} ──"


def differences(summary: Summary, view: TextView) -> Iterator[str]:
    """Yield the changes of each part; without worktrees, how each answer differs from the first answer."""
    changed = [(result, result.change) for result in summary.results if result.change]
    for result, change in changed:
        yield f"{head(summary, result)} changes"
        yield from _patch(change.diff.rstrip("\n"), view) if change.diff else ["(none)"]
        yield from ["(the rest is left out)", ""] if change.is_cut else [""]
    answered = [] if changed else [result for result in summary.results if result.error is None]
    for other in answered[1:]:
        first = answered[0]
        one, two = (one_line(part_label(summary.plan, result.index, result.part)) for result in (first, other))
        lines = unified_diff(first.result.text.splitlines(), other.result.text.splitlines(), one, two, lineterm="")
        diff = "\n".join(lines)
        yield from _patch(diff, view) if diff else [f"{one} and {two} answer the same"]
        yield ""


def _patch(patch: str, view: TextView) -> Iterable[str]:
    """Return the lines of a patch: safe for a terminal, or unchanged."""
    return readable_patch(patch.split("\n"), is_colored=view.style is not None) if view.most else [patch]


def failed_checks(summary: Summary) -> Iterator[str]:
    """Yield the last lines of output of each failed check."""
    for result in summary.results:
        check = result.check
        if check and not check.passed:
            why = "it took too long" if check.exit_code is None else f"exit code {check.exit_code}"
            yield f"{head(summary, result)} check failed ({why})"
            yield from without_sequences(check.output).splitlines()[-_CHECK_LINES:]
            yield ""


def overview(summary: Summary, view: TextView, show_tokens: bool) -> list[str]:
    """Return the table of all parts, head first, and the totals."""
    first = int(isinstance(summary.plan, Chain))
    changes: Fields[PartResult] = (
        (Column("FILES", to_right=True), lambda result: str(len(result.change.files)) if result.change else ""),
    )
    checks: Fields[PartResult] = ((Column("CHECK"), _check),)
    fields: Fields[PartResult] = (
        (Column("STEP" if first else "INDEX", to_right=True), lambda result: str(result.index + first)),
        (BACKEND, lambda result: result.part.request.backend),
        (Column("STATUS"), status),
        (Column("DURATION", to_right=True), lambda result: duration(result.duration_s) if result.run_id else ""),
        *(changes if any(result.change for result in summary.results) else ()),
        *(checks if any(result.check for result in summary.results) else ()),
        (TITLE, lambda result: view.title(_title(summary, result))),
    )
    return [*view.table(fields, summary.results), *_totals(summary, show_tokens)]


def _check(result: PartResult) -> str:
    return "" if result.check is None else "passed" if result.check.passed else "failed"


def _title(summary: Summary, result: PartResult) -> str:
    """Return what a part is about; in a comparison, where all parts have one prompt, the answer."""
    if isinstance(summary.plan, Compare):
        return without_sequences(result.error.message) if result.error else result.result.text.strip()
    return result.part.name or result.part.id or result.part.request.prompt.strip()


def _totals(summary: Summary, show_tokens: bool) -> Iterator[str]:
    total = len(summary.plan.parts)
    counts = {
        "done": summary.completed,
        "failed": summary.failed - summary.cancelled,
        "cancelled": summary.cancelled,
        "not run": total - len(summary.results),
    }
    listed = ", ".join(f"{count:,} {state}" for state, count in counts.items() if count or state == "done")
    what = f"{PART_NOUNS[summary.plan.kind]}{'' if total == 1 else 's'}"
    used = f"; {tokens(summary.usage)} tokens" if show_tokens else ""
    yield f"{total:,} {what}: {listed} in {duration(summary.duration_s)}{used}"
    if verdict := summary.verdict:
        best = verdict.best
        if best is None:
            said = verdict.result.error.message if verdict.result.error else verdict.reasons
            yield f"the judge failed: {one_line(without_sequences(said))}"
        else:
            letters = ", ".join(f"{chr(ord('A') + at)} is [{index}]" for at, index in enumerate(verdict.order))
            yield f"best: {part_label(summary.plan, best, summary.plan.parts[best])} ({letters})"
            yield one_line(verdict.reasons)
