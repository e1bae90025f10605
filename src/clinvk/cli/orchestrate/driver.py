"""Runs an orchestration for the command line: admission, progress, Ctrl-C and the exit code."""

import asyncio
import logging

from msgspec.structs import replace

from clinvk.backends import registry
from clinvk.cli.orchestrate.output_folder import OutputFolder
from clinvk.cli.orchestrate.task_files import TaskFile
from clinvk.cli.orchestrate.view import SHORT_DIGITS, View
from clinvk.cli.prompt.display import told_what_is_not_kept
from clinvk.cli.prompt.where import freeing
from clinvk.cli.sessions.local_store import opened
from clinvk.cli.terminal import exits
from clinvk.cli.terminal.streams import on_signals
from clinvk.config.load import home
from clinvk.config.model import Settings, complete
from clinvk.orchestrate.admission import settled
from clinvk.orchestrate.chain_resume import resumed
from clinvk.orchestrate.live import Orchestrations
from clinvk.orchestrate.orchestration import Observer, Orchestration
from clinvk.policy import rules
from clinvk.runtime.local import LocalRuns
from clinvk.runtime.process import executables
from clinvk.store.protocol import SessionStore
from clinvk.types.errors import ClinvkError
from clinvk.types.orchestration import Chain, Plan, Summary, agents_at_once, is_ephemeral
from clinvk.types.request import RunRequest


def run(view: View, plan: Plan | str, file: TaskFile | None = None, folder: OutputFolder | None = None) -> int:
    """Run a plan to the end, and return the exit code. All agents have exited by then.

    Args:
        view: prints progress and the outcome.
        plan: the plan, or the id of a chain to resume.
        file: the file of the plan, to name the line of an invalid part.
        folder: receives the outcome of each task.

    Raises:
        ClinvkError: nothing ran.
    """
    rules.refuse_depth(view.environ, view.settings.unified_flags.max_depth)
    logging.getLogger("clinvk").addHandler(logging.NullHandler())
    return asyncio.run(_run(view, plan, file, folder))


async def _run(view: View, plan: Plan | str, file: TaskFile | None, folder: OutputFolder | None) -> int:
    settings, environ, notes = view.settings, view.environ, view.notes
    stop = asyncio.Event()
    try:
        async with opened(environ) as store:
            asked = settled(await resumed(store, plan) if isinstance(plan, str) else plan, settings)
            roomy = _with_slots(settings, agents_at_once(asked))
            async with LocalRuns(roomy, store, environ, frees=freeing(environ), home=home(environ)) as runs:
                orchestrations = Orchestrations(runs, store, runs.spawner, executables.inherited(settings, environ))
                try:
                    plan = await _admitted(view, asked, orchestrations, store)
                except ClinvkError as exc:
                    raise (file.refused(exc) if file else exc) from exc
                with told_what_is_not_kept(notes):
                    async with orchestrations.begun(plan, asked) as one:
                        for warning in one.warnings:
                            notes.say(f"warning: {warning}")
                        if isinstance(plan, Chain) and one.id and not is_ephemeral(plan):  # a killed chain says no more
                            command = f"clinvk chain --resume-from {one.id[:SHORT_DIGITS]}"
                            notes.say(f"chain {one.id[:SHORT_DIGITS]}; if it is interrupted, {command} goes on with it")
                        observers = (*([folder] if folder else []), view.observer(plan, stop.set))
                        summary = await _drive(view, runs, one, stop, observers)
    except asyncio.CancelledError:
        notes.hurry()
        notes.error("cancelled")
        return exits.CANCELLED
    for warning in summary.warnings[len(one.warnings) :]:
        notes.say(f"warning: {warning}")
    if folder:
        folder.write_summary(summary)
    view.print(summary)
    if stop.is_set():
        return exits.CANCELLED
    is_judge_failed = summary.verdict is not None and summary.verdict.is_failed
    return exits.FAILED if summary.failed or is_judge_failed or (folder and folder.has_failed) else 0


async def _drive(
    view: View, runs: LocalRuns, one: Orchestration, stop: asyncio.Event, observers: tuple[Observer, ...]
) -> Summary:
    """Drive an orchestration until all parts have ended, or `stop` ends all agents.

    The first signal sets `stop`. The second kills the agents and raises `CancelledError`.
    """
    task = asyncio.current_task()
    assert task is not None

    def signalled() -> None:
        if stop.is_set():
            runs.kill()
            task.cancel()
        else:
            stop.set()
            view.notes.hurry()
            view.notes.say("ending all agents; once more kills them")

    async def stop_when_set() -> None:
        await stop.wait()
        await one.stop()

    async with asyncio.TaskGroup() as group:
        background = [group.create_task(work) for work in (stop_when_set(), *(each.show() for each in observers))]
        try:
            with on_signals(signalled):
                return await one.drive(*observers)
        finally:
            for each in background:
                each.cancel()


async def _admitted(view: View, asked: Plan, orchestrations: Orchestrations, store: SessionStore) -> Plan:
    settings = view.settings

    async def admit(request: RunRequest) -> RunRequest:
        session = await store.session(request.session_id) if request.session_id else None
        if session:
            backend = request.backend or session.backend
            workdir = request.workdir or session.working_dir or None
            request = replace(request, session_id=session.id, backend=backend, workdir=workdir)
        registry.named(request.backend)
        request = complete(request, settings)
        return replace(request, timeout_s=request.timeout_s or settings.unified_flags.command_timeout_secs or None)

    def require(backend: str) -> None:
        executables.require(registry.named(backend), settings, view.environ)

    return await orchestrations.admitted(asked, admit, require)


def _with_slots(settings: Settings, count: int) -> Settings:
    """Return settings with a slot for each agent that runs at once: the limits of a server do not apply here."""
    server = replace(settings.server, max_concurrent_runs=count, max_concurrent_per_backend=0, max_queued_mb=0)
    return replace(settings, server=server)
