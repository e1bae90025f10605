"""`clinvk parallel`: the tasks of a file, several at once."""

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Annotated

import msgspec
from msgspec import Meta
from msgspec.structs import replace

from clinvk.cli.orchestrate import task_files
from clinvk.cli.orchestrate.driver import run
from clinvk.cli.orchestrate.output_folder import open_output_folder
from clinvk.cli.orchestrate.task_files import resolve_directories, with_flags
from clinvk.cli.orchestrate.view import View
from clinvk.cli.parse.flags import ParallelFlags
from clinvk.cli.parse.settings import settings_of
from clinvk.cli.sessions.local_store import real_directory
from clinvk.cli.terminal import exits
from clinvk.cli.terminal.output import Notes
from clinvk.config.model import Settings
from clinvk.dialects.rest import bodies
from clinvk.types.errors import InvalidRequest
from clinvk.types.orchestration import Parallel


class ParallelFile(bodies.ParallelBody, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A file of tasks: the body of the REST request, and the output folder."""

    output_dir: Annotated[str, Meta(min_length=1)] | None = None


_decoder = msgspec.json.Decoder(ParallelFile)


def parallel(flags: ParallelFlags, environ: Mapping[str, str], notes: Notes) -> int:
    """Run the tasks of a file or of stdin; return the exit code.

    Raises:
        ClinvkError: nothing ran.
    """
    settings = settings_of(flags, environ, {}, notes)
    base = real_directory(flags.workdir)
    view = View(flags, settings, environ, notes, settings.parallel.aggregate_output and not flags.quiet)
    try:
        file = task_files.read(flags.file, "tasks", notes.say)
        body = file.decode(_decoder)
        writes = body.output_dir and not (settings.unified_flags.dry_run or body.dry_run)
        try:
            plan = _plan(body, flags, base, settings)
            folder = open_output_folder(body.output_dir or "", base, len(plan.parts), notes) if writes else None
        except InvalidRequest as exc:
            raise file.placed(exc) from exc
        with folder or nullcontext():
            return run(view, plan, file, folder)
    except task_files.InvalidFile as exc:
        notes.error(exc.message)
        return exits.INVALID_FILE


def _plan(body: ParallelFile, flags: ParallelFlags, base: str, settings: Settings) -> Parallel:
    tasks = with_flags(body.tasks, "tasks", base, flags, settings)
    if flags.isolation:
        tasks = [replace(task, isolation=task.isolation or flags.isolation) for task in tasks]
    plan = bodies.parallel(replace(body, tasks=tasks))
    return replace(
        plan,
        parts=resolve_directories(plan.parts, base),
        max_parallel=flags.max_parallel or plan.max_parallel,
        fail_fast=flags.fail_fast or plan.fail_fast,
    )
