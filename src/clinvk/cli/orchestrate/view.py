"""What `parallel`, `chain` and `compare` print: progress, answers, changes, checks, the table of all parts, remarks."""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from difflib import unified_diff
from itertools import zip_longest
from typing import NamedTuple

from clinvk.cli.orchestrate.outcomes import event_printer, last_line, outcome
from clinvk.cli.orchestrate.progress import COLORS, LiveProgress, PartQuestions, ProgressLines, part_label, status
from clinvk.cli.parse.flags import CompareFlags, OrchestrationFlags
from clinvk.cli.parse.settings import CommandContext
from clinvk.cli.prompt.questions import Answer
from clinvk.cli.sessions import session_text as text
from clinvk.cli.terminal import output
from clinvk.cli.terminal.table import Column, colored, cut, one_line, readable_patch, width
from clinvk.orchestrate.observers import PartObserver
from clinvk.types.orchestration import PART_NOUNS, Chain, Compare, PartResult, Plan, Summary, is_dry_run, is_ephemeral
from clinvk.types.text import escape_controls, without_sequences

_ERRORS_SHOWN = 20


def resume_command(run_id: str) -> str:
    """Return the command that resumes a chain."""
    return f"clinvk chain --resume-from {text.short_id(run_id)}"


class OutcomeView(NamedTuple):
    """Prints progress and the outcome as the flags and the terminal require.

    With `is_detached`, the agents run in the background, and only the ID of the run is printed.
    """

    flags: OrchestrationFlags
    context: CommandContext
    is_detached: bool = False

    @property
    def is_stream(self) -> bool:
        """Whether stdout is a stream of events, one JSON object a line."""
        return self.flags.output_format == "stream-json" and not self.flags.json

    @property
    def is_verbose(self) -> bool:
        """Whether to report which parts go through a server."""
        flags = self.flags
        return self.context.settings.unified_flags.verbose or (isinstance(flags, CompareFlags) and flags.verbose > 0)

    @property
    def has_lines(self) -> bool:
        """Whether stderr gets a line when a part begins or ends."""
        return not (self.is_stream or self.flags.quiet or self.context.notes.can_draw or self.flags.wants_json)

    def observer(self, plan: Plan, stop: Callable[[], None]) -> PartObserver:
        """Return an observer that shows the progress of a plan; the observer may call `stop` to end all agents."""
        if self.is_stream:
            return event_printer(plan, stop)
        if is_dry_run(plan) or self.flags.quiet:
            return PartObserver()
        if self.context.notes.can_draw:
            return LiveProgress(plan, self.context.notes)
        return PartObserver() if self.flags.wants_json else ProgressLines(plan, self.context.notes)

    def questions(self, plan: Plan, answer: Answer) -> tuple[PartObserver, ...]:
        """Return an observer that asks what agents ask, or names the command to answer; a stream has the events."""
        asks = not self.is_stream and any(part.request.approval_mode == "ask" for part in plan.parts)
        return (PartQuestions(plan, answer, self.context.notes, self.context.environ),) if asks else ()

    def print(self, summary: Summary) -> None:
        """Print the outcome on stdout and remarks on stderr."""
        if self.is_stream:
            output.print_text(output.printable(last_line(summary)))
        elif self.flags.wants_json:
            output.print_json(outcome(summary))
        else:
            output.print_text("\n".join(self._text(summary)).rstrip("\n"))
        self._remark(summary)

    def _text(self, summary: Summary) -> list[str]:
        """Return the lines for stdout. A dry run has commands in place of answers, and no table."""
        options = self.context.settings.output
        is_colored = options.color and output.has_colors(1, self.context.environ)
        view = text.TextView(time.time(), None, output.columns(), colored(COLORS) if is_colored else None)
        if is_dry_run(summary.plan):
            return [output.WOULD_EXECUTE, *answers(summary, view), *map(output.printable, dry_run_judge(summary))]
        view = view._replace(is_rendered=output.renders_markdown(options, self.context.environ))
        lines: list[str] = []
        has_answers = self._has_answers(summary)
        if has_answers:
            is_compare = isinstance(summary.plan, Compare)
            lines += (side_by_side(summary, view) if is_compare else []) or answers(summary, view)
        if isinstance(self.flags, CompareFlags) and self.flags.diff:
            lines += differences(summary, view)
        if has_answers:
            lines += map(output.printable, failed_checks(summary))
        return lines + overview(summary, view, self.context.settings.output.show_tokens)

    def _has_answers(self, summary: Summary) -> bool:
        """Return whether the text on stdout has the answers, and the errors of failed parts."""
        is_aggregated = self.context.settings.parallel.aggregate_output or summary.plan.kind != "parallel"
        return is_aggregated and not self.flags.quiet

    def _remark(self, summary: Summary) -> None:
        """Print warnings about worktrees, errors that no progress line reported, and the command that resumes."""
        plan, notes = summary.plan, self.context.notes
        shared = Counter(warning for result in summary.results if result.change for warning in result.change.warnings)
        for result in summary.results:
            who = part_label(plan, result.index, result.part)
            for warning in result.change.warnings if result.change else ():
                if count := shared.pop(warning, 0):
                    notes.info(f"{who}{f' and {count - 1} more' if count > 1 else ''}: {warning}")
            if result.change and result.change.kept:
                own = result.change.branch.partition("/")[2]
                notes.info(f"{who}: changes kept; to see them: clinvk worktrees show {own} (or apply, discard)")
        failed = [(result, result.error) for result in summary.results if result.error and not result.is_cancelled]
        is_shown = output.columns() and not self.flags.wants_json and not self.is_stream and self._has_answers(summary)
        if failed and not (self.has_lines or is_shown):
            for result, error in failed[:_ERRORS_SHOWN]:
                notes.error(f"{part_label(plan, result.index, result.part)}: {status(result)}: {error.message}")
            if (more := len(failed) - _ERRORS_SHOWN) > 0:
                notes.error(f"{more:,} more failed")
        is_unfinished = isinstance(plan, Chain) and summary.completed < len(plan.parts)
        if is_unfinished and summary.run_id and not is_ephemeral(plan):
            notes.info(f"to resume at the unfinished step: {resume_command(summary.run_id)}")


_MIN_COLUMN_WIDTH = 36
_CHECK_LINES = 20
_BETWEEN = "  │  "


def answers(summary: Summary, view: text.TextView) -> Iterator[str]:
    """Yield the answers for stdout, each below a head line.

    A part that was cancelled before its agent started is left out.
    """
    for result in summary.results:
        if result.is_cancelled and not result.result.started:
            continue
        yield head(summary, result)
        yield from _said(result, view)
        yield ""


def _said(result: PartResult, view: text.TextView, wide: int | None = None) -> Iterator[str]:
    """Yield the answer of a part, and its error if it failed; JSON for a schema is not rendered."""
    has_schema = result.part.request.output_schema is not None
    yield view._replace(is_rendered=view.is_rendered and not has_schema).answer(result.result.text, wide)
    if result.error:
        yield f"({text.failure(status(result), result.error.message)})"


def dry_run_judge(summary: Summary) -> Iterator[str]:
    """Yield which agent would judge the answers of a dry run."""
    if summary.verdict:
        yield head(summary, summary.verdict.result)
        yield "(runs after all answers)"


def side_by_side(summary: Summary, view: text.TextView) -> list[str]:
    """Return the answers in columns that fit the terminal; nothing if there is no room."""
    number = len(summary.results)
    wide = ((view.most or 0) - len(_BETWEEN) * (number - 1)) // number
    if number < 2 or wide < _MIN_COLUMN_WIDTH:
        return []
    columns = [[cut(head(summary, result), wide), *_lines(result, view, wide)] for result in summary.results]
    rows = zip_longest(*columns, fillvalue="")
    padded = ([cell + " " * (wide - width(without_sequences(cell))) for cell in row] for row in rows)
    return [*(_BETWEEN.join(row).rstrip() for row in padded), ""]


def _lines(result: PartResult, view: text.TextView, wide: int) -> Iterator[str]:
    """Yield the answer and the error of a part in lines of at most `wide` cells."""
    for line in "\n".join(_said(result, view, wide)).split("\n"):
        is_fitting = view.is_rendered and width(without_sequences(line)) <= wide
        yield from [line] if is_fitting else wrapped(line, wide)


def wrapped(line: str, wide: int) -> list[str]:
    """Break a line at spaces into pieces that fit; a word that is too long is broken anywhere."""
    from rich.console import Console  # slow imports
    from rich.text import Text

    text = Text(escape_controls(line.expandtabs(4)).rstrip())
    return [piece.plain.rstrip() for piece in text.wrap(Console(), wide)]


def head(summary: Summary, result: PartResult) -> str:
    """Return the head line of a part."""
    return text.heading(one_line(part_label(summary.plan, result.index, result.part)))


def differences(summary: Summary, view: text.TextView) -> Iterator[str]:
    """Yield the changes of each part; without worktrees, how each answer differs from the first answer."""
    changed = [(result, result.change) for result in summary.results if result.change]
    for result, change in changed:
        yield f"{head(summary, result)} changes"
        yield from _patch(change.diff.rstrip("\n"), view) if change.diff else ["(none)"]
        yield from ["(truncated)", ""] if change.is_cut else [""]
    answered = [] if changed else [result for result in summary.results if result.error is None]
    for other in answered[1:]:
        first = answered[0]
        one, two = (one_line(part_label(summary.plan, result.index, result.part)) for result in (first, other))
        lines = unified_diff(first.result.text.splitlines(), other.result.text.splitlines(), one, two, lineterm="")
        diff = "\n".join(lines)
        yield from _patch(diff, view) if diff else [f"{one} and {two} gave the same answer"]
        yield ""


def _patch(patch: str, view: text.TextView) -> Iterable[str]:
    """Return the lines of a patch: safe for a terminal, or unchanged."""
    return readable_patch(patch.split("\n"), is_colored=view.style is not None) if view.most else [patch]


def failed_checks(summary: Summary) -> Iterator[str]:
    """Yield the last lines of output of each failed check."""
    for result in summary.results:
        check = result.check
        if check and not check.passed:
            why = "timed out" if check.exit_code is None else f"exit code {check.exit_code}"
            yield f"{head(summary, result)} check failed ({why})"
            yield from without_sequences(check.output).splitlines()[-_CHECK_LINES:]
            yield ""


def overview(summary: Summary, view: text.TextView, show_tokens: bool) -> list[str]:
    """Return the table of all parts, head first, and the totals."""
    changes: text.Fields[PartResult] = (
        (Column("FILES", to_right=True), lambda result: str(len(result.change.files)) if result.change else ""),
    )
    checks: text.Fields[PartResult] = ((Column("CHECK"), _check),)
    fields: text.Fields[PartResult] = (
        (text.part_number(summary.plan.kind), lambda result: str(result.index + 1)),
        (text.BACKEND, lambda result: result.part.request.backend),
        (text.STATE, status),
        (Column("DURATION", to_right=True), lambda result: output.duration(result.duration_s) if result.run_id else ""),
        *(changes if any(result.change for result in summary.results) else ()),
        *(checks if any(result.check for result in summary.results) else ()),
        (
            text.ANSWER if isinstance(summary.plan, Compare) else text.TITLE,
            lambda result: view.title(_title(summary, result)),
        ),
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
    used = f"; {text.tokens(summary.usage)} tokens" if show_tokens else ""
    yield f"{total:,} {what}: {listed} in {output.duration(summary.duration_s)}{used}"
    if verdict := summary.verdict:
        best = verdict.best
        if best is None:
            said = verdict.result.error.message if verdict.result.error else verdict.reasons
            yield f"the judge failed: {one_line(without_sequences(said))}"
        else:
            letters = ", ".join(f"{chr(ord('A') + at)} is [{index + 1}]" for at, index in enumerate(verdict.order))
            yield f"best: {part_label(summary.plan, best, summary.plan.parts[best])} ({letters})"
            yield one_line(verdict.reasons)
