"""What `parallel`, `chain` and `compare` print for people, during the run and at its end."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from difflib import unified_diff
from functools import partial
from itertools import zip_longest
from typing import NamedTuple

from clinvk.cli.orchestrate.outcomes import outcome
from clinvk.cli.orchestrate.progress import Lines, Silence, Teller, label, status
from clinvk.cli.parse.flags import CompareFlags, TogetherFlags
from clinvk.cli.sessions.session_text import tokens
from clinvk.cli.terminal.output import (
    WOULD_EXECUTE,
    Notes,
    columns,
    harmless,
    has_colors,
    shown,
    tell,
    tell_json,
    without_sequences,
)
from clinvk.cli.terminal.table import Column, Style, colored, cut, one_line, readable, table, width
from clinvk.cli.terminal.times import duration
from clinvk.config.model import Settings
from clinvk.types.events import RunFailed
from clinvk.types.orchestration import Chain, Compare, PartResult, Plan, Summary, is_dry_run

_TITLE_LEAST = 12
_PIPED_TITLE = 100
_COLUMN_LEAST = 36
_CHECK_LINES = 20
_BETWEEN = "  │  "

COLORS = {"failed": "\x1b[31m", "timed out": "\x1b[31m", "cancelled": "\x1b[33m", "done": "\x1b[32m"}
"""Those of a status."""


def answers(summary: Summary) -> Iterator[str]:
    """Give the answers, each below its head, but of those that were cancelled before their agents were up."""
    for result in summary.results:
        if result.is_cancelled and not result.result.started:
            continue
        yield head(summary, result)
        yield result.result.text.strip("\n")
        if result.error:
            yield _failed(result, result.error)
        yield ""


def judge_to_be(summary: Summary) -> Iterator[str]:
    """Say who would judge the answers of a dry run; what it would be asked waits for them."""
    if summary.verdict:
        yield head(summary, summary.verdict.told)
        yield "(asked when the answers are there)"


def side_by_side(summary: Summary, most: int) -> list[str]:
    """Give the answers in columns that fit the terminal; nothing where there is not room for them."""
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
    """Break a line where it has spaces, so that its pieces fit; a longer word is broken anywhere."""
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
    """Give the end of what takes `wide` cells or fewer from `start` on, but one character at least."""
    room = wide
    for at in range(start, len(text)):
        room -= width(text[at])
        if room < 0:
            return max(start + 1, at)
    return len(text)


def head(summary: Summary, result: PartResult) -> str:
    """Give the line above what is of a part."""
    return f"── {one_line(label(summary.plan, result.index, result.part))} ──"


def differences(summary: Summary, as_told: Callable[[str], Iterable[str]]) -> Iterator[str]:
    """Give what each part changed in its worktree; where none had one, how each answer differs from the first.

    `as_told` gives the lines of a patch as they are to be told.
    """
    changed = [(result, result.change) for result in summary.results if result.change]
    for result, change in changed:
        yield f"{head(summary, result)} changes"
        yield from as_told(change.diff.rstrip("\n")) if change.diff else ["(none)"]
        if change.is_cut:
            yield "(the rest is left out)"
        yield ""
    if not changed:
        yield from _of_answers(summary, as_told)


def failed_checks(summary: Summary) -> Iterator[str]:
    """Give the end of what each check printed that failed."""
    for result in summary.results:
        check = result.check
        if check and not check.passed:
            why = "it took too long" if check.exit_code is None else f"exit code {check.exit_code}"
            yield f"{head(summary, result)} check failed ({why})"
            yield from without_sequences(check.output).splitlines()[-_CHECK_LINES:]
            yield ""


def _of_answers(summary: Summary, as_told: Callable[[str], Iterable[str]]) -> Iterator[str]:
    answered = [result for result in summary.results if result.error is None]
    for other in answered[1:]:
        first = answered[0]
        one, two = (one_line(label(summary.plan, result.index, result.part)) for result in (first, other))
        lines = unified_diff(first.result.text.splitlines(), other.result.text.splitlines(), one, two, lineterm="")
        diff = "\n".join(lines)
        yield from as_told(diff) if diff else [f"{one} and {two} answer the same"]
        yield ""


def overview(summary: Summary, most: int | None, style: Style | None, show_tokens: bool) -> list[str]:
    """Give the table of all parts, its head first, and what is to be said of the whole; `most` is the width."""
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
    """Say what a part is about; in a comparison, where all have one prompt, what came of it."""
    if isinstance(summary.plan, Compare):
        return without_sequences(result.error.message) if result.error else result.result.text.strip()
    return result.part.name or result.part.id or result.part.request.prompt.strip()


def _totals(summary: Summary, show_tokens: bool) -> Iterator[str]:
    total = len(summary.plan.parts)
    what = {"parallel": "task", "chain": "step", "compare": "backend"}[summary.plan.kind]
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
            said = verdict.told.error.message if verdict.told.error else verdict.reasons
            yield f"the judge failed: {one_line(without_sequences(said))}"
        else:
            letters = ", ".join(f"{chr(ord('A') + at)} is [{index}]" for at, index in enumerate(verdict.order))
            yield f"best: {label(summary.plan, best, summary.plan.parts[best])} ({letters})"
            yield one_line(verdict.reasons)


_ERRORS_SHOWN = 20


class View(NamedTuple):
    """What is to be told, and how.

    Attributes:
        has_answers: the answers stand before the table.
        has_differences: so does what was changed.
    """

    flags: TogetherFlags | CompareFlags
    settings: Settings
    environ: Mapping[str, str]
    notes: Notes
    has_answers: bool
    has_differences: bool = False

    @property
    def is_stream(self) -> bool:
        """Whether each event is printed, one a line."""
        return self.flags.output_format == "stream-json" and not self.flags.json

    @property
    def is_live(self) -> bool:
        """Whether there is a terminal to draw on."""
        return self.notes.is_terminal and self.environ.get("TERM", "dumb") != "dumb"

    @property
    def has_lines(self) -> bool:
        """Whether each beginning and each end is a line on stderr."""
        return not (self.is_stream or self.flags.quiet or self.is_live or self.flags.wants_json)

    def teller(self, plan: Plan, stop: Callable[[], None]) -> Teller:
        """Give what tells of a plan while it is under way; `stop` ends all agents."""
        if self.is_stream:
            from clinvk.cli.orchestrate.outcomes import JsonLines

            return JsonLines(plan, stop)
        if self.flags.quiet or is_dry_run(plan):
            return Silence()
        if self.is_live:
            from clinvk.cli.orchestrate.progress_live import Display

            color = self.settings.output.color and not self.environ.get("NO_COLOR")
            return Display(plan, self.notes, color)
        return Lines(plan, self.notes) if self.has_lines else Silence()

    def told(self, summary: Summary) -> None:
        """Tell what came of it: on stdout what was asked for, on stderr what is to be known besides."""
        if self.is_stream:
            from clinvk.cli.orchestrate.outcomes import last_line

            tell(shown(last_line(summary)))
        elif self.flags.wants_json:
            tell_json(outcome(summary))
        else:
            self._tell(summary)
        self._remark(summary)

    def _tell(self, summary: Summary) -> None:
        most = columns()
        is_colored = self.settings.output.color and has_colors(1, self.environ)
        lines = self._answers(summary, most)
        if self.has_differences and not is_dry_run(summary.plan):
            lines += differences(summary, _as_it_is if most is None else partial(_readable, is_colored=is_colored))
        if self.has_answers:
            lines += map(shown, failed_checks(summary))
        if not is_dry_run(summary.plan):
            style = colored(COLORS) if is_colored else None
            lines += overview(summary, most, style, self.settings.output.show_tokens)
        tell("\n".join(lines).rstrip("\n"))

    def _answers(self, summary: Summary, most: int | None) -> list[str]:
        """Give what agents answered, or in a dry run their commands; `most` is the width of the terminal."""
        shows_commands = is_dry_run(summary.plan)
        lines = [WOULD_EXECUTE] if shows_commands else []
        if self.has_answers or shows_commands:
            is_wide = most is not None and isinstance(summary.plan, Compare) and not shows_commands
            beside = side_by_side(summary, most) if is_wide and most else []
            lines += beside or answers(summary)
        if shows_commands:
            lines += judge_to_be(summary)
        return [shown(line) for line in lines]

    def _remark(self, summary: Summary) -> None:
        plan, notes = summary.plan, self.notes
        shared = Counter(warning for result in summary.results if result.change for warning in result.change.warnings)
        for result in summary.results:
            who = label(plan, result.index, result.part)
            for warning in result.change.warnings if result.change else ():
                if count := shared.pop(warning, 0):
                    notes.say(f"{who}{f' and {count - 1} more' if count > 1 else ''}: {warning}")
            if result.change and result.change.kept:
                own = result.change.branch.partition("/")[2]
                notes.say(f"{who}: its changes are kept: clinvk worktrees show {own} (or apply, discard)")
        if not self.has_lines:
            self._tell_errors(summary)
        is_unfinished = isinstance(plan, Chain) and summary.completed < len(plan.parts)
        if is_unfinished and summary.run_id and not any(part.request.ephemeral for part in plan.parts):
            notes.say(f"to go on at the step that is not finished: clinvk chain --resume-from {summary.run_id[:12]}")

    def _tell_errors(self, summary: Summary) -> None:
        """Say why parts failed, where no line has said it."""
        failed = [(result, result.error) for result in summary.results if result.error and not result.is_cancelled]
        for result, error in failed[:_ERRORS_SHOWN]:
            self.notes.error(f"{label(summary.plan, result.index, result.part)}: {status(result)}: {error.message}")
        if (more := len(failed) - _ERRORS_SHOWN) > 0:
            self.notes.error(f"{more:,} more failed")


def _as_it_is(patch: str) -> list[str]:
    return [patch]


def _readable(patch: str, is_colored: bool) -> list[str]:
    return [*readable(patch.split("\n"), is_colored)]
