"""`clinvk chain`: the steps of a file, one after the other."""

from collections.abc import Mapping

import msgspec
from msgspec.structs import replace

from clinvk.cli.orchestrate import task_files
from clinvk.cli.orchestrate.driver import run
from clinvk.cli.orchestrate.task_files import TaskFile, resolve_directories, with_flags
from clinvk.cli.orchestrate.view import View
from clinvk.cli.parse.flags import ChainFlags
from clinvk.cli.parse.settings import settings_of
from clinvk.cli.sessions.local_store import real_directory
from clinvk.cli.terminal import exits
from clinvk.cli.terminal.output import Notes
from clinvk.config.model import Settings
from clinvk.dialects.rest import bodies
from clinvk.types.errors import InvalidRequest
from clinvk.types.orchestration import Chain

_decoder = msgspec.json.Decoder(bodies.ChainBody)
_FLAGS_OF_STEPS = ("file", "backend", "model", "workdir", "ephemeral")


def chain(flags: ChainFlags, environ: Mapping[str, str], notes: Notes) -> int:
    """Run the steps of a file or of stdin, or the unfinished steps of an earlier chain; return the exit code.

    Raises:
        ClinvkError: nothing ran.
    """
    settings = settings_of(flags, environ, {}, notes)
    base = real_directory(flags.workdir)
    view = View(flags, settings, environ, notes, has_answers=not flags.quiet)
    if flags.resume_from is not None:
        for name in _FLAGS_OF_STEPS:
            if getattr(flags, name) not in (None, False):
                what = "--resume-from goes on with the steps of its chain as they were begun"
                raise InvalidRequest(f"{what}: it excludes --{name}", f"--{name}")
        return run(view, flags.resume_from)
    try:
        file = task_files.read(flags.file, "steps", notes.say)
        return run(view, _plan(file, flags, base, settings), file)
    except task_files.InvalidFile as exc:
        notes.error(exc.message)
        return exits.INVALID_FILE


def _plan(file: TaskFile, flags: ChainFlags, base: str, settings: Settings) -> Chain:
    body = file.decode(_decoder)
    try:
        if body.resume_from is not None:
            raise InvalidRequest("resume_from is a flag here: clinvk chain --resume-from ID", "resume_from")
        steps = None if body.steps is None else with_flags(body.steps, "steps", base, flags, settings)
        stop_on_failure = True if body.stop_on_failure is None else body.stop_on_failure
        plan = bodies.chain(replace(body, steps=steps, stop_on_failure=stop_on_failure))
    except InvalidRequest as exc:
        raise file.placed(exc) from exc
    return replace(plan, parts=resolve_directories(plan.parts, base))
