"""How `parallel`, `chain` and `compare` tell: while they are under way, and when they are over."""

from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

from clinvk.cli import orchestrated_text as text
from clinvk.cli.flags import CompareFlags, TogetherFlags
from clinvk.cli.notes import Notes
from clinvk.cli.orchestrated import outcome
from clinvk.cli.output import WOULD_EXECUTE, columns, has_colors, shown, tell, tell_json
from clinvk.cli.patch_text import readable
from clinvk.cli.progress import Lines, Silence, Teller, label, status
from clinvk.cli.table import colored
from clinvk.config import Settings
from clinvk.plan import Chain, Compare, Plan, Summary, is_dry_run

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
            from clinvk.cli.orchestration_lines import JsonLines

            return JsonLines(plan, stop)
        if self.flags.quiet or is_dry_run(plan):
            return Silence()
        if self.is_live:
            from clinvk.cli.progress_live import Display

            color = self.settings.output.color and not self.environ.get("NO_COLOR")
            return Display(plan, self.notes, color)
        return Lines(plan, self.notes) if self.has_lines else Silence()

    def told(self, summary: Summary) -> None:
        """Tell what came of it: on stdout what was asked for, on stderr what is to be known besides."""
        if self.is_stream:
            from clinvk.cli.orchestration_lines import last_line

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
            lines += text.differences(summary, _as_it_is if most is None else partial(_readable, is_colored=is_colored))
        if self.has_answers:
            lines += map(shown, text.failed_checks(summary))
        if not is_dry_run(summary.plan):
            style = colored(text.COLORS) if is_colored else None
            lines += text.overview(summary, most, style, self.settings.output.show_tokens)
        tell("\n".join(lines).rstrip("\n"))

    def _answers(self, summary: Summary, most: int | None) -> list[str]:
        """Give what agents answered, or in a dry run their commands; `most` is the width of the terminal."""
        shows_commands = is_dry_run(summary.plan)
        lines = [WOULD_EXECUTE] if shows_commands else []
        if self.has_answers or shows_commands:
            is_wide = most is not None and isinstance(summary.plan, Compare) and not shows_commands
            beside = text.side_by_side(summary, most) if is_wide and most else []
            lines += beside or text.answers(summary)
        if shows_commands:
            lines += text.judge_to_be(summary)
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
