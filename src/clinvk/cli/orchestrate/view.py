"""What `parallel`, `chain` and `compare` print for the user: progress, the outcome and remarks."""

from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

from clinvk.cli.orchestrate import result_text
from clinvk.cli.orchestrate.outcomes import event_printer, last_line, outcome
from clinvk.cli.orchestrate.progress import ProgressLines, label, status
from clinvk.cli.parse.flags import CompareFlags, TogetherFlags
from clinvk.cli.terminal.output import WOULD_EXECUTE, Notes, columns, has_colors, shown, tell, tell_json
from clinvk.cli.terminal.table import colored, readable
from clinvk.config.model import Settings
from clinvk.orchestrate.orchestration import Observer
from clinvk.types.orchestration import Chain, Compare, Plan, Summary, is_dry_run, is_ephemeral

SHORT_DIGITS = 12
_ERRORS_SHOWN = 20


class View(NamedTuple):
    """Prints progress and the outcome as the flags and the terminal require.

    Attributes:
        has_answers: print the answers before the table.
        has_differences: print the changes before the table.
    """

    flags: TogetherFlags | CompareFlags
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

    def observer(self, plan: Plan, stop: Callable[[], None]) -> Observer:
        """Return an observer that shows the progress of a plan; the observer may call `stop` to end all agents."""
        if self.is_stream:
            return event_printer(plan, stop)
        if self.is_live and not self.flags.quiet and not is_dry_run(plan):
            from clinvk.cli.orchestrate.progress_live import Display

            return Display(plan, self.notes, color=self.settings.output.color and not self.environ.get("NO_COLOR"))
        return ProgressLines(plan, self.notes) if self.has_lines and not is_dry_run(plan) else Observer()

    def print(self, summary: Summary) -> None:
        """Print the outcome on stdout and remarks on stderr."""
        if self.is_stream:
            tell(shown(last_line(summary)))
        elif self.flags.wants_json:
            tell_json(outcome(summary))
        else:
            tell("\n".join(self._text(summary)).rstrip("\n"))
        self._remark(summary)

    def _text(self, summary: Summary) -> list[str]:
        """Return the lines for stdout. A dry run has commands in place of answers, and no table."""
        is_shown_only = is_dry_run(summary.plan)
        wide = columns()
        answers = [WOULD_EXECUTE] if is_shown_only else []
        if self.has_answers or is_shown_only:
            is_wide = isinstance(summary.plan, Compare) and not is_shown_only
            beside = result_text.side_by_side(summary, wide) if is_wide and wide else []
            answers += beside or result_text.answers(summary)
        if is_shown_only:
            return [shown(line) for line in (*answers, *result_text.dry_run_judge(summary))]
        lines = [shown(line) for line in answers]
        is_colored = self.settings.output.color and has_colors(1, self.environ)
        if self.has_differences:
            lines += result_text.differences(summary, _unchanged if wide is None else partial(_patch, is_colored))
        if self.has_answers:
            lines += map(shown, result_text.failed_checks(summary))
        style = colored(result_text.COLORS) if is_colored else None
        return lines + result_text.overview(summary, wide, style, self.settings.output.show_tokens)

    def _remark(self, summary: Summary) -> None:
        """Print warnings about worktrees, errors that no progress line reported, and the command that resumes."""
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
        failed = [(result, result.error) for result in summary.results if result.error and not result.is_cancelled]
        if failed and not self.has_lines:
            for result, error in failed[:_ERRORS_SHOWN]:
                notes.error(f"{label(plan, result.index, result.part)}: {status(result)}: {error.message}")
            if (more := len(failed) - _ERRORS_SHOWN) > 0:
                notes.error(f"{more:,} more failed")
        is_unfinished = isinstance(plan, Chain) and summary.completed < len(plan.parts)
        if is_unfinished and summary.run_id and not is_ephemeral(plan):
            short = summary.run_id[:SHORT_DIGITS]
            notes.say(f"to go on at the step that is not finished: clinvk chain --resume-from {short}")


def _unchanged(patch: str) -> list[str]:
    return [patch]


def _patch(is_colored: bool, patch: str) -> list[str]:
    return [*readable(patch.split("\n"), is_colored)]
