"""The outcome of an orchestration as text: answers, changes, checks and the table of all parts. Pure."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from difflib import unified_diff
from itertools import zip_longest

from clinvk.cli.orchestrate.progress import label, status
from clinvk.cli.sessions.session_text import tokens
from clinvk.cli.terminal.output import harmless, without_sequences
from clinvk.cli.terminal.table import Column, Style, cut, one_line, table, width
from clinvk.cli.terminal.times import duration
from clinvk.types.events import RunFailed
from clinvk.types.orchestration import PART_NOUNS, Chain, Compare, PartResult, Summary

_TITLE_LEAST = 12
_PIPED_TITLE = 100
_COLUMN_LEAST = 36
_CHECK_LINES = 20
_BETWEEN = "  │  "

COLORS = {"failed": "\x1b[31m", "timed out": "\x1b[31m", "cancelled": "\x1b[33m", "done": "\x1b[32m"}
"""The color of each status."""


def answers(summary: Summary) -> Iterator[str]:
    """Yield the answers, each below a head line; a part that was cancelled before its agent started is left out."""
    for result in summary.results:
        if result.is_cancelled and not result.result.started:
            continue
        yield head(summary, result)
        yield result.result.text.strip("\n")
        if result.error:
            yield _failed(result, result.error)
        yield ""


def dry_run_judge(summary: Summary) -> Iterator[str]:
    """Yield which agent would judge the answers of a dry run."""
    if summary.verdict:
        yield head(summary, summary.verdict.result)
        yield "(asked when the answers are there)"


def side_by_side(summary: Summary, most: int) -> list[str]:
    """Return the answers in columns that fit a terminal of `most` cells; nothing if there is no room."""
    number = len(summary.results)
    wide = (most - len(_BETWEEN) * (number - 1)) // number
    if number < 2 or wide < _COLUMN_LEAST:
        return []
    cells = [[cut(head(summary, result), wide), *_column(result, wide)] for result in summary.results]
    rows = zip_longest(*cells, fillvalue="")
    return [*(_BETWEEN.join(cell + " " * (wide - width(cell)) for cell in row).rstrip() for row in rows), ""]


def _column(result: PartResult, wide: int) -> Iterator[str]:
    for line in result.result.text.strip("\n").split("\n"):
        yield from wrapped(line, wide)
    if result.error:
        yield from wrapped(_failed(result, result.error), wide)


def _failed(result: PartResult, error: RunFailed) -> str:
    return f"({status(result)}: {one_line(without_sequences(error.message))})"


def wrapped(line: str, wide: int) -> list[str]:
    """Break a line at spaces into pieces that fit; a word that is too long is broken anywhere."""
    pieces: list[str] = []
    text = harmless(line.expandtabs(4)).rstrip()
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
    return f"── {one_line(label(summary.plan, result.index, result.part))} ──"


def differences(summary: Summary, patch_lines: Callable[[str], Iterable[str]]) -> Iterator[str]:
    """Yield the changes of each part; without worktrees, how each answer differs from the first answer.

    `patch_lines` returns the lines of a patch for the output.
    """
    changed = [(result, result.change) for result in summary.results if result.change]
    for result, change in changed:
        yield f"{head(summary, result)} changes"
        yield from patch_lines(change.diff.rstrip("\n")) if change.diff else ["(none)"]
        if change.is_cut:
            yield "(the rest is left out)"
        yield ""
    if not changed:
        yield from _of_answers(summary, patch_lines)


def failed_checks(summary: Summary) -> Iterator[str]:
    """Yield the last lines of output of each failed check."""
    for result in summary.results:
        check = result.check
        if check and not check.passed:
            why = "it took too long" if check.exit_code is None else f"exit code {check.exit_code}"
            yield f"{head(summary, result)} check failed ({why})"
            yield from without_sequences(check.output).splitlines()[-_CHECK_LINES:]
            yield ""


def _of_answers(summary: Summary, patch_lines: Callable[[str], Iterable[str]]) -> Iterator[str]:
    answered = [result for result in summary.results if result.error is None]
    for other in answered[1:]:
        first = answered[0]
        one, two = (one_line(label(summary.plan, result.index, result.part)) for result in (first, other))
        lines = unified_diff(first.result.text.splitlines(), other.result.text.splitlines(), one, two, lineterm="")
        diff = "\n".join(lines)
        yield from patch_lines(diff) if diff else [f"{one} and {two} answer the same"]
        yield ""


def overview(summary: Summary, most: int | None, style: Style | None, show_tokens: bool) -> list[str]:
    """Return the table of all parts, head first, and the totals; `most` is the width of the terminal."""
    columns = [
        Column("STEP" if isinstance(summary.plan, Chain) else "INDEX", to_right=True),
        Column("BACKEND"),
        Column("STATUS"),
        Column("DURATION", to_right=True),
    ]
    has_changes = any(result.change for result in summary.results)
    has_checks = any(result.check for result in summary.results)
    columns += [Column("FILES", to_right=True)] if has_changes else []
    columns += [Column("CHECK")] if has_checks else []
    columns.append(Column("TITLE", _TITLE_LEAST))
    rows = [_row(summary, result, most, has_changes, has_checks) for result in summary.results]
    return [*table(columns, rows, most, style), *_totals(summary, show_tokens)]


def _row(summary: Summary, result: PartResult, most: int | None, has_changes: bool, has_checks: bool) -> Sequence[str]:
    is_chain = isinstance(summary.plan, Chain)
    check = result.check
    cells = [
        str(result.index + 1 if is_chain else result.index),
        result.part.request.backend,
        status(result),
        duration(result.duration_s) if result.run_id else "",
    ]
    cells += [str(len(result.change.files)) if result.change else ""] if has_changes else []
    cells += ["" if check is None else "passed" if check.passed else "failed"] if has_checks else []
    title = one_line(_title(summary, result))
    return [*cells, title if most else title[:_PIPED_TITLE]]


def _title(summary: Summary, result: PartResult) -> str:
    """Return what a part is about; in a comparison, where all parts have one prompt, the answer."""
    if isinstance(summary.plan, Compare):
        return without_sequences(result.error.message) if result.error else result.result.text.strip()
    return result.part.name or result.part.id or result.part.request.prompt.strip()


def _totals(summary: Summary, show_tokens: bool) -> Iterator[str]:
    total = len(summary.plan.parts)
    what = PART_NOUNS[summary.plan.kind]
    counts = [f"{summary.completed:,} done"]
    failed = summary.failed - summary.cancelled
    counts += [f"{failed:,} failed"] if failed else []
    counts += [f"{summary.cancelled:,} cancelled"] if summary.cancelled else []
    not_run = total - len(summary.results)
    counts += [f"{not_run:,} not run"] if not_run else []
    used = f"; {tokens(summary.usage)} tokens" if show_tokens else ""
    yield f"{total:,} {what}{'' if total == 1 else 's'}: {', '.join(counts)} in {duration(summary.duration_s)}{used}"
    if verdict := summary.verdict:
        best = verdict.best
        if best is None:
            said = verdict.result.error.message if verdict.result.error else verdict.reasons
            yield f"the judge failed: {one_line(without_sequences(said))}"
        else:
            letters = ", ".join(f"{chr(ord('A') + at)} is [{index}]" for at, index in enumerate(verdict.order))
            yield f"best: {label(summary.plan, best, summary.plan.parts[best])} ({letters})"
            yield one_line(verdict.reasons)
