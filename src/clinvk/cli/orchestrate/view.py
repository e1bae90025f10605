"""What `parallel`, `chain` and `compare` print for the user: progress, the outcome and remarks."""

import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import NamedTuple

from clinvk.cli.orchestrate import result_text
from clinvk.cli.orchestrate.outcomes import event_printer, last_line, outcome
from clinvk.cli.orchestrate.progress import COLORS, LiveProgress, ProgressLines, part_label, status
from clinvk.cli.parse.flags import CompareFlags, OrchestrationFlags
from clinvk.cli.sessions.session_text import TextView
from clinvk.cli.terminal.output import WOULD_EXECUTE, Notes, columns, has_colors, print_json, print_text, printable
from clinvk.cli.terminal.table import colored
from clinvk.config.model import Settings
from clinvk.orchestrate.orchestration import PartObserver
from clinvk.types.orchestration import Chain, Compare, Plan, Summary, is_dry_run, is_ephemeral

SHORT_DIGITS = 12
_ERRORS_SHOWN = 20


class OutcomeView(NamedTuple):
    """Prints progress and the outcome as the flags and the terminal require.

    Attributes:
        has_answers: print the answers before the table.
        has_differences: print the changes before the table.
    """

    flags: OrchestrationFlags | CompareFlags
    settings: Settings
    environ: Mapping[str, str]
    notes: Notes
    has_answers: bool
    has_differences: bool = False

    @property
    def is_stream(self) -> bool:
        """Whether stdout is a stream of events, one JSON object a line."""
        return self.flags.output_format == "stream-json" and not self.flags.json

    @property
    def is_live(self) -> bool:
        """Whether stderr is a terminal that can redraw lines."""
        return self.notes.is_terminal and self.environ.get("TERM", "dumb") != "dumb"

    @property
    def has_lines(self) -> bool:
        """Whether stderr gets a line when a part begins or ends."""
        return not (self.is_stream or self.flags.quiet or self.is_live or self.flags.wants_json)

    def observer(self, plan: Plan, stop: Callable[[], None]) -> PartObserver:
        """Return an observer that shows the progress of a plan; the observer may call `stop` to end all agents."""
        if self.is_stream:
            return event_printer(plan, stop)
        if is_dry_run(plan) or self.flags.quiet:
            return PartObserver()
        if self.is_live:
            return LiveProgress(plan, self.notes, self.settings.output.color and not self.environ.get("NO_COLOR"))
        return PartObserver() if self.flags.wants_json else ProgressLines(plan, self.notes)

    def print(self, summary: Summary) -> None:
        """Print the outcome on stdout and remarks on stderr."""
        if self.is_stream:
            print_text(printable(last_line(summary)))
        elif self.flags.wants_json:
            print_json(outcome(summary))
        else:
            print_text("\n".join(self._text(summary)).rstrip("\n"))
        self._remark(summary)

    def _text(self, summary: Summary) -> list[str]:
        """Return the lines for stdout. A dry run has commands in place of answers, and no table."""
        if is_dry_run(summary.plan):
            lines = [WOULD_EXECUTE, *result_text.answers(summary), *result_text.dry_run_judge(summary)]
            return [printable(line) for line in lines]
        is_colored = self.settings.output.color and has_colors(1, self.environ)
        view = TextView(time.time(), None, columns(), colored(COLORS) if is_colored else None)
        lines: list[str] = []
        if self.has_answers:
            is_compare = isinstance(summary.plan, Compare)
            beside = result_text.side_by_side(summary, view.most) if is_compare and view.most else []
            lines += map(printable, beside or result_text.answers(summary))
        if self.has_differences:
            lines += result_text.differences(summary, view)
        if self.has_answers:
            lines += map(printable, result_text.failed_checks(summary))
        return lines + result_text.overview(summary, view, self.settings.output.show_tokens)

    def _remark(self, summary: Summary) -> None:
        """Print warnings about worktrees, errors that no progress line reported, and the command that resumes."""
        plan, notes = summary.plan, self.notes
        shared = Counter(warning for result in summary.results if result.change for warning in result.change.warnings)
        for result in summary.results:
            who = part_label(plan, result.index, result.part)
            for warning in result.change.warnings if result.change else ():
                if count := shared.pop(warning, 0):
                    notes.info(f"{who}{f' and {count - 1} more' if count > 1 else ''}: {warning}")
            if result.change and result.change.kept:
                own = result.change.branch.partition("/")[2]
                notes.info(f"{who}: its changes are kept: clinvk worktrees show {own} (or apply, discard)")
        failed = [(result, result.error) for result in summary.results if result.error and not result.is_cancelled]
        if failed and not self.has_lines:
            for result, error in failed[:_ERRORS_SHOWN]:
                notes.error(f"{part_label(plan, result.index, result.part)}: {status(result)}: {error.message}")
            if (more := len(failed) - _ERRORS_SHOWN) > 0:
                notes.error(f"{more:,} more failed")
        is_unfinished = isinstance(plan, Chain) and summary.completed < len(plan.parts)
        if is_unfinished and summary.run_id and not is_ephemeral(plan):
            short = summary.run_id[:SHORT_DIGITS]
            notes.info(f"to go on at the step that is not finished: clinvk chain --resume-from {short}")
