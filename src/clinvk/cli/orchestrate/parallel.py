"""`clinvk parallel`: tasks of a file, several at once, and the folder that gets their outcomes."""

import asyncio
import os
import re
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta
from msgspec.structs import replace

from clinvk.cli.orchestrate import task_files
from clinvk.cli.orchestrate.driver import Job, given, run
from clinvk.cli.orchestrate.outcomes import outcome, part_outcome
from clinvk.cli.orchestrate.progress import Teller
from clinvk.cli.orchestrate.result_text import View
from clinvk.cli.orchestrate.task_files import filled, grounded
from clinvk.cli.parse.flags import ParallelFlags
from clinvk.cli.parse.settings import settings_of
from clinvk.cli.sessions.local_store import real_directory
from clinvk.cli.terminal import exits
from clinvk.cli.terminal.output import Notes
from clinvk.config.model import Settings
from clinvk.dialects.rest import bodies
from clinvk.types.errors import ClinvkError, InvalidRequest
from clinvk.types.orchestration import Parallel, PartResult, Plan, Summary

_NAME_CHARS = 60
_UNSAFE = re.compile(r"[^A-Za-z0-9_.-]+")
_SUMMARY = "summary.json"


class OutputDir:
    """A folder held open: what is written lands in it, wherever an agent moves it or leads its path meanwhile."""

    def __init__(self, fd: int, path: str) -> None:
        self.path = path
        self._fd = fd

    def write_part(self, index: int, total: int, name: str, value: object) -> None:
        """Write what came of a task; raises as `write_summary`."""
        digits = len(str(total - 1))
        safe = _UNSAFE.sub("-", name)[:_NAME_CHARS].strip("-.")
        self._write(f"{index:0{digits}}{f'-{safe}' if safe else ''}.json", value)

    def write_summary(self, value: object) -> None:
        """Write what came of all.

        Raises:
            ClinvkError: it cannot be written.
        """
        self._write(_SUMMARY, value)

    def _write(self, name: str, value: object) -> None:
        """Write a file whole or not at all; one of this name, or a link, is replaced."""
        beside = f".{name}.{os.urandom(4).hex()}"
        try:
            fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666, dir_fd=self._fd)
            try:
                with open(fd, "wb") as file:
                    file.write(msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n")
                os.replace(beside, name, src_dir_fd=self._fd, dst_dir_fd=self._fd)
            except BaseException:
                os.unlink(beside, dir_fd=self._fd)
                raise
        except OSError as exc:
            raise ClinvkError(f"output_dir: {self.path}/{name} cannot be written: {exc.strerror}") from exc


@contextmanager
def opened_folder(path: str, base: str) -> Generator[OutputDir]:
    """Make the folder where it is missing, and hold it open; `base` is the directory that it must lie in.

    Raises:
        InvalidRequest: it lies elsewhere, or cannot be made.
    """
    field = "output_dir"
    real = os.path.realpath(os.path.join(base, os.path.expanduser(path)))
    root = os.path.realpath(base)
    if os.path.commonpath([root, real]) != root:
        raise InvalidRequest(f"output_dir: {path!r} is outside the working directory {root!r}", field)
    try:
        Path(real).mkdir(parents=True, exist_ok=True)
        fd = os.open(real, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except (OSError, ValueError) as exc:
        why = exc.strerror if isinstance(exc, OSError) else exc
        raise InvalidRequest(f"output_dir: {path!r} cannot be used: {why}", field) from exc
    try:
        if not os.access(real, os.W_OK | os.X_OK):
            raise InvalidRequest(f"output_dir: {path!r} cannot be written to", field)
        yield OutputDir(fd, real)
    finally:
        os.close(fd)


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
            opened = opened_folder(body.output_dir, base) if body.output_dir and is_run else nullcontext()
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
