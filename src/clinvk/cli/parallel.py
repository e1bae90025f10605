"""`clinvk parallel`: tasks of a file, several at once."""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import ExitStack, nullcontext
from typing import Annotated

import msgspec
from msgspec import Meta
from msgspec.structs import replace

from clinvk.cli import exits, output_dir, task_files
from clinvk.cli.flags import ParallelFlags
from clinvk.cli.notes import Notes
from clinvk.cli.orchestrated import outcome, part_outcome
from clinvk.cli.orchestrating import Job, given, run
from clinvk.cli.orchestration_view import View
from clinvk.cli.output_dir import OutputDir
from clinvk.cli.progress import Teller
from clinvk.cli.sessions_store import real_directory
from clinvk.cli.settings import settings_of
from clinvk.cli.task_parts import filled, grounded
from clinvk.config import Settings
from clinvk.dialects.batch import bodies
from clinvk.errors import ClinvkError, InvalidRequest
from clinvk.plan import Parallel, PartResult, Plan, Summary


class ParallelFile(bodies.ParallelBody, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A file of tasks: what the server takes, and where the results go."""

    output_dir: Annotated[str, Meta(min_length=1)] | None = None


_decoder = msgspec.json.Decoder(ParallelFile)


def parallel(flags: ParallelFlags, environ: Mapping[str, str], notes: Notes) -> int:
    """Run the tasks of a file or of stdin; give the exit code.

    Raises:
        ClinvkError: nothing was run.
    """
    settings = settings_of(flags, environ, {}, notes)
    base = real_directory(flags.workdir)
    view = View(flags, settings, environ, notes, settings.parallel.aggregate_output and not flags.quiet)
    try:
        return _read_and_run(view, flags, base)
    except task_files.InvalidFile as exc:
        notes.error(exc.message)
        return exits.INVALID_FILE


def _read_and_run(view: View, flags: ParallelFlags, base: str) -> int:
    settings, notes = view.settings, view.notes
    file = task_files.read(flags.file, "tasks", notes.say)
    body = file.decode(_decoder)
    is_run = not (settings.unified_flags.dry_run or body.dry_run)
    with ExitStack() as stack:
        try:
            plan = _plan(body, flags, base, settings)
            opened = output_dir.opened(body.output_dir, base) if body.output_dir and is_run else nullcontext()
            folder = stack.enter_context(opened)
        except InvalidRequest as exc:
            raise file.placed(exc) from exc
        writing = Writing(folder, len(plan.parts), notes)

        def teller(plan: Plan, stop: Callable[[], None]) -> Teller:
            return writing.beside(view.teller(plan, stop))

        def told(summary: Summary) -> None:
            writing.end(summary)
            view.told(summary)

        code = run(Job(settings, view.environ, notes, given(plan), file.refused, teller, told))
    return code or (exits.FAILED if writing.has_failed else 0)


def _plan(body: ParallelFile, flags: ParallelFlags, base: str, settings: Settings) -> Parallel:
    tasks = filled(body.tasks, "tasks", base, flags, settings)
    if flags.isolation:
        tasks = [replace(task, isolation=task.isolation or flags.isolation) for task in tasks]
    plan = bodies.parallel(replace(body, tasks=tasks))
    return replace(
        plan,
        parts=grounded(plan.parts, base),
        max_parallel=flags.max_parallel or plan.max_parallel,
        fail_fast=flags.fail_fast or plan.fail_fast,
    )


class Writing:
    """Writes what comes of tasks into a folder, where there is one, as each ends. Trouble is told once."""

    def __init__(self, folder: OutputDir | None, total: int, notes: Notes) -> None:
        self.has_failed = False
        self._folder = folder
        self._total = total
        self._notes = notes
        self._written: set[int] = set()

    def beside(self, teller: Teller) -> Teller:
        """Give a teller that does both."""
        return _Both(self, teller)

    def part(self, result: PartResult) -> None:
        """Write what came of a task."""
        if folder := self._folder:
            name = result.part.name or result.part.id
            told = part_outcome(result, "parallel")
            self._written.add(result.index)
            self._try(lambda: folder.write_part(result.index, self._total, name, told))

    def end(self, summary: Summary) -> None:
        """Write what came of all, and of each task whose end was not told: who reads nothing is told of no more."""
        if folder := self._folder:
            for result in summary.results:
                if result.index not in self._written:
                    self.part(result)
            self._try(lambda: folder.write_summary(outcome(summary)))

    def _try(self, write: Callable[[], None]) -> None:
        try:
            write()
        except ClinvkError as exc:
            if not self.has_failed:
                self._notes.error(exc.message)
            self.has_failed = True


class _Both:
    def __init__(self, writing: Writing, teller: Teller) -> None:
        self._writing = writing
        self._teller = teller
        self.show = teller.show
        self.begun = teller.begun
        self.heard = teller.heard

    async def ended(self, result: PartResult) -> None:
        await asyncio.to_thread(self._writing.part, result)
        await self._teller.ended(result)
