"""`clinvk parallel`, `chain` and `compare`: a plan from the flags and a file, run to the end."""

import asyncio
import logging
from contextlib import closing, nullcontext
from typing import Annotated

import msgspec
from msgspec import Meta
from msgspec.structs import replace

from clinvk.backends.registry import backend_named
from clinvk.cli.orchestrate import task_files
from clinvk.cli.orchestrate.outcomes import OutputFolder, open_output_folder
from clinvk.cli.orchestrate.task_files import TaskFile, with_backends, with_flags
from clinvk.cli.orchestrate.view import OutcomeView, resume_command
from clinvk.cli.parse.flags import ChainFlags, CompareFlags, ParallelFlags
from clinvk.cli.parse.settings import CommandContext, backend_names
from clinvk.cli.prompt import background
from clinvk.cli.prompt.display import report_runtime_warnings
from clinvk.cli.prompt.prompt import ServerOrLocalRuns, asking_here, local_runs, refuse_detached, request_of
from clinvk.cli.sessions.local_store import open_store, real_directory
from clinvk.cli.terminal import exits
from clinvk.cli.terminal.input import prompt_from
from clinvk.cli.terminal.output import Notes
from clinvk.cli.terminal.streams import on_signals
from clinvk.config.model import Settings, complete
from clinvk.dialects.rest import batch_bodies
from clinvk.orchestrate.admission import complete_plan
from clinvk.orchestrate.chain import resume_chain
from clinvk.orchestrate.live import Orchestrations
from clinvk.orchestrate.observers import PartObserver
from clinvk.orchestrate.orchestration import Orchestration
from clinvk.policy import rules
from clinvk.runtime.process import executables
from clinvk.store.protocol import SessionStore
from clinvk.types.errors import BackendUnavailable, ClinvkError, InvalidRequest
from clinvk.types.orchestration import (
    Chain,
    Compare,
    Parallel,
    Part,
    Plan,
    Summary,
    agents_at_once,
    is_dry_run,
    is_ephemeral,
)
from clinvk.types.request import RunRequest


class ParallelFile(batch_bodies.ParallelBody, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A file of tasks: the body of the REST request, and the output folder."""

    output_dir: Annotated[str, Meta(min_length=1)] | None = None


_parallel_file = msgspec.json.Decoder(ParallelFile)
_chain_file = msgspec.json.Decoder(batch_bodies.ChainBody)
_FLAGS_OF_STEPS = ("file", "backend", "model", "workdir", "ephemeral")


def parallel(flags: ParallelFlags, context: CommandContext) -> int:
    """Run the tasks of a file or of stdin; return the exit code.

    Raises:
        ClinvkError: nothing ran.
    """
    settings, base = context.settings, real_directory(flags.workdir)
    file = task_files.read(flags.file, "tasks", context.notes.info)
    body = file.decode(_parallel_file)
    view = OutcomeView(flags, context, flags.detach or bool(body.detach))
    is_dry_run = settings.unified_flags.dry_run or body.dry_run
    folder = None
    try:
        plan = _parallel_plan(body, flags, base, settings)
        if body.output_dir and view.is_detached:
            raise InvalidRequest("output_dir: nothing is written by agents in the background", "output_dir")
        if body.output_dir and not is_dry_run:
            folder = open_output_folder(body.output_dir, base, len(plan.parts), context.notes)
    except InvalidRequest as exc:
        raise file.invalid(exc) from exc
    with closing(folder) if folder else nullcontext():
        return _run(view, plan, file, folder)


def _parallel_plan(body: ParallelFile, flags: ParallelFlags, base: str, settings: Settings) -> Parallel:
    batch_bodies.placement(body).check(settings.cluster.node, settings.cluster.labels)
    tasks = with_backends(body.tasks, settings)
    if flags.isolation:
        tasks = [replace(task, isolation=task.isolation or flags.isolation) for task in tasks]
    plan = batch_bodies.parallel(replace(body, tasks=tasks))
    return replace(
        plan,
        parts=with_flags(plan.parts, "tasks", base, flags),
        max_parallel=flags.max_parallel or plan.max_parallel,
        fail_fast=flags.fail_fast or plan.fail_fast,
    )


def chain(flags: ChainFlags, context: CommandContext) -> int:
    """Run the steps of a file or of stdin, or the unfinished steps of an earlier chain; return the exit code.

    Raises:
        ClinvkError: nothing ran.
    """
    settings, base = context.settings, real_directory(flags.workdir)
    if flags.resume_from is not None:
        for name in _FLAGS_OF_STEPS:
            if getattr(flags, name) not in (None, False):
                raise InvalidRequest(f"--resume-from runs the original steps; remove --{name}", f"--{name}")
        return _run(OutcomeView(flags, context, flags.detach), flags.resume_from)
    file = task_files.read(flags.file, "steps", context.notes.info)
    body = file.decode(_chain_file)
    try:
        if body.resume_from is not None:
            raise InvalidRequest("resume_from is not allowed in a file; use --resume-from ID", "resume_from")
        batch_bodies.placement(body).check(settings.cluster.node, settings.cluster.labels)
        steps = None if body.steps is None else with_backends(body.steps, settings)
        stop_on_failure = True if body.stop_on_failure is None else body.stop_on_failure
        plan = batch_bodies.chain(replace(body, steps=steps, stop_on_failure=stop_on_failure))
        plan = replace(plan, parts=with_flags(plan.parts, "steps", base, flags))
    except InvalidRequest as exc:
        raise file.invalid(exc) from exc
    return _run(OutcomeView(flags, context, flags.detach or bool(body.detach)), plan, file)


def compare(flags: CompareFlags, context: CommandContext) -> int:
    """Run the prompt of the command line and of stdin with several agents; return the exit code.

    Raises:
        ClinvkError: nothing ran.
    """
    if flags.backend is not None:
        agents = flags.backend if "," in flags.backend else "A,B"
        raise InvalidRequest(f"compare takes several agents: --backends {agents}", "--backend")
    no_limit = 0 if flags.timeout == 0 else None
    context = replace(context, more={"unified_flags.command_timeout_secs": no_limit})
    names = _backends(flags, context)
    request = request_of(flags, context.settings)
    text = prompt_from(next(iter(flags.words), None), flags.no_stdin, context.notes.info)
    plan = _compare_plan(flags, names, replace(request, prompt=text))
    return _run(OutcomeView(flags, context, flags.detach), plan)


def _backends(flags: CompareFlags, context: CommandContext) -> list[str]:
    """Return the names of the requested backends; `--all-backends` means the available ones."""
    if flags.all_backends == (flags.backends is not None):
        raise InvalidRequest("compare needs either --backends A,B or --all-backends; see clinvk help compare")
    if flags.backends is not None:
        return backend_names(flags.backends, context.backends)
    available: list[str] = []
    for name, backend in context.backends.items():
        try:
            executables.check_enabled(backend, context.settings)
            executables.require(backend, context.settings, context.environ)
            available.append(name)
        except BackendUnavailable as exc:
            context.notes.info(f"skipping {name}: {exc.message}")
    if not available:
        raise BackendUnavailable("no backend is available; run clinvk doctor")
    return available


def _compare_plan(flags: CompareFlags, names: list[str], request: RunRequest) -> Compare:
    if flags.judge_prompt is not None and flags.judge is None:
        raise InvalidRequest("--judge-prompt requires --judge", "--judge-prompt")
    if flags.check is not None and flags.isolation != "worktree":
        raise InvalidRequest("--check requires --isolation worktree", "--check")
    isolation = flags.isolation or "none"
    judge = None if flags.judge is None else batch_bodies.JudgeBody(backend=flags.judge, prompt=flags.judge_prompt)
    return Compare(
        prompt=request.prompt,
        parts=tuple(Part(request=replace(request, backend=name, fallback=()), isolation=isolation) for name in names),
        sequential=flags.sequential,
        check=flags.check or "",
        judge=judge and batch_bodies.judge_request(judge, request.workdir),
    )


def _run(view: OutcomeView, plan: Plan | str, file: TaskFile | None = None, folder: OutputFolder | None = None) -> int:
    """Run a plan to the end, and return the exit code. All agents have exited by then.

    Args:
        view: prints progress and the outcome.
        plan: the plan, or the id of a chain to resume.
        file: the file of the plan, to name the line of an invalid part.
        folder: receives the outcome of each task.

    Raises:
        ClinvkError: nothing ran.
    """
    if view.is_detached:
        refuse_detached(view.flags)
    rules.check_nesting_depth(rules.nesting_depth(view.context.environ), view.context.settings.unified_flags.max_depth)
    logging.getLogger("clinvk").addHandler(logging.NullHandler())
    try:
        return asyncio.run(_run_plan(view, plan, file, folder))
    except asyncio.CancelledError:
        view.context.notes.hurry()
        view.context.notes.error("cancelled")
        return exits.CANCELLED


async def _run_plan(view: OutcomeView, plan: Plan | str, file: TaskFile | None, folder: OutputFolder | None) -> int:
    context, settings, notes = view.context, view.context.settings, view.context.notes
    stop = asyncio.Event()
    async with open_store(context) as store:
        requested = complete_plan(await resume_chain(store, plan) if isinstance(plan, str) else plan, settings)
        async with local_runs(context, store, _with_slots(settings, agents_at_once(requested))) as runs:
            through = ServerOrLocalRuns(context, store, view.is_verbose, runs)
            environ = executables.inherited(settings, context.environ)
            orchestrations = Orchestrations(runs, store, runs.spawner, environ, cluster=settings.cluster)
            resources = orchestrations.resources._replace(begin=through.run)
            try:
                plan = await _admitted(context, requested, orchestrations, store)
            except ClinvkError as exc:
                raise (file.refused(exc) if file else exc) from exc
            if not (view.is_detached or view.is_stream):  # somebody sees the questions
                parts = (replace(part, request=asking_here(part.request, settings)) for part in plan.parts)
                plan = replace(plan, parts=tuple(parts))
            if view.is_detached and not is_dry_run(plan):
                return await background.start((plan, requested), context, view.flags.wants_json)
            with report_runtime_warnings(notes):
                async with orchestrations.start(plan, requested, resources) as orchestration:
                    _report_warnings(notes, orchestration.warnings)
                    # in a log before the chain starts, since a killed chain prints nothing
                    if isinstance(plan, Chain) and orchestration.id and not (notes.is_terminal or is_ephemeral(plan)):
                        notes.info(f"to resume this chain after an interruption: {resume_command(orchestration.id)}")
                    questions = view.questions(plan, through.answer)
                    observers = (*filter(None, (folder,)), view.observer(plan, stop.set), *questions)
                    summary = await _drive(view, orchestration, stop, observers)
    _report_warnings(notes, summary.warnings[len(orchestration.warnings) :])
    if folder:
        folder.write_summary(summary)
    view.print(summary)
    if stop.is_set():
        return exits.CANCELLED
    is_judge_failed = summary.verdict is not None and summary.verdict.is_failed
    return exits.FAILED if summary.failed or is_judge_failed or (folder and folder.has_failed) else 0


def _report_warnings(notes: Notes, warnings: tuple[str, ...]) -> None:
    for warning in warnings:
        notes.info(f"warning: {warning}")


async def _drive(
    view: OutcomeView,
    orchestration: Orchestration,
    stop: asyncio.Event,
    observers: tuple[PartObserver, ...],
) -> Summary:
    """Drive an orchestration until all parts have ended, or `stop` ends all agents.

    The first signal sets `stop`. The second kills the agents and raises `CancelledError`.
    """
    task = asyncio.current_task()
    assert task is not None

    def signalled() -> None:
        if stop.is_set():
            orchestration.kill()
            task.cancel()
        else:
            stop.set()
            view.context.notes.hurry()
            view.context.notes.info("stopping all agents; press Ctrl-C again to kill them")

    async def stop_when_set() -> None:
        await stop.wait()
        await orchestration.stop()

    async with asyncio.TaskGroup() as group:
        background = [group.create_task(work) for work in (stop_when_set(), *(each.show() for each in observers))]
        try:
            with on_signals(signalled):
                return await orchestration.drive(*observers)
        finally:
            for each in background:
                each.cancel()


async def _admitted(
    context: CommandContext, requested: Plan, orchestrations: Orchestrations, store: SessionStore
) -> Plan:
    settings, backends = context.settings, context.backends

    async def admit(request: RunRequest) -> RunRequest:
        session = await store.session(request.session_id) if request.session_id else None
        if session:
            backend = request.backend or session.backend
            workdir = request.workdir or session.working_dir or None
            request = replace(request, session_id=session.id, backend=backend, workdir=workdir)
        backend_named(request.backend, backends)
        request = complete(request, settings)
        return replace(request, timeout_s=request.timeout_s or settings.unified_flags.command_timeout_secs or None)

    def require(backend: str) -> None:
        executables.require(backend_named(backend, backends), settings, context.environ)

    return await orchestrations.admit(requested, admit, require)


def _with_slots(settings: Settings, count: int) -> Settings:
    """Return settings with a slot for each agent that runs at once: the limits of a server do not apply here."""
    server = replace(settings.server, max_concurrent_runs=count, max_concurrent_per_backend=0, max_queued_mb=0)
    return replace(settings, server=server)
