"""`clinvk chain`: steps of a file, one after the other."""

from collections.abc import Awaitable, Callable, Mapping

import msgspec
from msgspec.structs import replace

from clinvk.cli.orchestrate import task_files
from clinvk.cli.orchestrate.driver import Job, given, run, unplaced
from clinvk.cli.orchestrate.result_text import View
from clinvk.cli.orchestrate.task_files import filled, grounded
from clinvk.cli.parse.flags import ChainFlags
from clinvk.cli.parse.settings import settings_of
from clinvk.cli.sessions.local_store import real_directory
from clinvk.cli.terminal import exits
from clinvk.cli.terminal.output import Notes
from clinvk.dialects.rest import bodies
from clinvk.orchestrate.chain_resume import resumed
from clinvk.store.protocol import SessionStore
from clinvk.types.errors import ClinvkError, InvalidRequest
from clinvk.types.orchestration import Chain, Plan

_decoder = msgspec.json.Decoder(bodies.ChainBody)


def chain(flags: ChainFlags, environ: Mapping[str, str], notes: Notes) -> int:
    """Run the steps of a file or of stdin, or those that a chain has left; give the exit code.

    Raises:
        ClinvkError: nothing was run.
    """
    settings = settings_of(flags, environ, {}, notes)
    base = real_directory(flags.workdir)
    view = View(flags, settings, environ, notes, has_answers=not flags.quiet)
    try:
        make, refused = _asked(view, flags, base) if flags.resume_from is None else _left(flags.resume_from, flags)
        return run(Job(settings, environ, notes, make, refused, view.teller, view.told))
    except task_files.InvalidFile as exc:
        notes.error(exc.message)
        return exits.INVALID_FILE


_OF_STEPS = ("file", "backend", "model", "workdir", "ephemeral")
_Made = tuple[Callable[[SessionStore], Awaitable[Plan]], Callable[[ClinvkError], ClinvkError]]
"""What makes the plan, and what says of an error where it was asked for."""


def _left(reference: str, flags: ChainFlags) -> _Made:
    for name in _OF_STEPS:
        if getattr(flags, name) not in (None, False):
            what = "--resume-from goes on with the steps of its chain as they were begun"
            raise InvalidRequest(f"{what}: it excludes --{name}", f"--{name}")

    async def make(store: SessionStore) -> Plan:
        return await resumed(store, reference)

    return make, unplaced


def _asked(view: View, flags: ChainFlags, base: str) -> _Made:
    file = task_files.read(flags.file, "steps", view.notes.say)
    body = file.decode(_decoder)
    if body.resume_from is not None:
        raise file.placed(InvalidRequest("resume_from is a flag here: clinvk chain --resume-from ID", "resume_from"))
    try:
        plan = _plan(body, flags, base, view)
    except InvalidRequest as exc:
        raise file.placed(exc) from exc
    return given(plan), file.refused


def _plan(body: bodies.ChainBody, flags: ChainFlags, base: str, view: View) -> Chain:
    steps = None if body.steps is None else filled(body.steps, "steps", base, flags, view.settings)
    stop_on_failure = True if body.stop_on_failure is None else body.stop_on_failure
    plan = bodies.chain(replace(body, steps=steps, stop_on_failure=stop_on_failure))
    return replace(plan, parts=grounded(plan.parts, base))
