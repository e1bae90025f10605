"""Several agents from the command line: admitted, driven, watched, and ended by Ctrl-C."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple

from msgspec.structs import replace

from clinvk.backends import registry
from clinvk.cli.orchestrate.progress import Teller
from clinvk.cli.prompt.display import told_what_is_not_kept
from clinvk.cli.prompt.where import freeing
from clinvk.cli.sessions.local_store import opened
from clinvk.cli.terminal import exits
from clinvk.cli.terminal.output import Notes
from clinvk.cli.terminal.streams import on_signals
from clinvk.config.load import home
from clinvk.config.model import Settings, complete
from clinvk.orchestrate.admission import settled
from clinvk.orchestrate.live import Orchestration, Orchestrations, warnings
from clinvk.policy import rules
from clinvk.runtime.local import LocalRuns
from clinvk.runtime.process import executables
from clinvk.store.protocol import SessionStore
from clinvk.types.errors import ClinvkError
from clinvk.types.orchestration import Chain, Compare, Parallel, Plan, Summary
from clinvk.types.request import RunRequest

_SHORT_DIGITS = 12


class Job(NamedTuple):
    """What a command is to run.

    Attributes:
        make: gives the plan as it was asked.
        placed: says of an error of a part where it was asked for.
        teller: gives what tells of the plan while it is under way, and calls what it is given to end all agents.
        told: tells what came of it.
    """

    settings: Settings
    environ: Mapping[str, str]
    notes: Notes
    make: Callable[[SessionStore], Awaitable[Plan]]
    placed: Callable[[ClinvkError], ClinvkError]
    teller: Callable[[Plan, Callable[[], None]], Teller]
    told: Callable[[Summary], None]


def given(plan: Plan) -> Callable[[SessionStore], Awaitable[Plan]]:
    """Make a plan of which all is known without the store."""

    async def make(store: SessionStore) -> Plan:
        return plan

    return make


def unplaced(error: ClinvkError) -> ClinvkError:
    """Leave an error of a plan that stands in no file as it is."""
    return error


def run(job: Job) -> int:
    """Run it to its end; give the exit code. When it returns, all agents are gone.

    Raises:
        ClinvkError: nothing was run.
    """
    rules.refuse_depth(job.environ, job.settings.unified_flags.max_depth)
    logging.getLogger("clinvk").addHandler(logging.NullHandler())
    return asyncio.run(_run(job))


async def _run(job: Job) -> int:
    try:
        async with opened(job.environ) as store:
            asked = settled(await job.make(store), job.settings)
            at_once = _at_once(asked)
            settings = _with_room(job.settings, at_once)
            async with LocalRuns(
                settings, store, job.environ, frees=freeing(job.environ), home=home(job.environ)
            ) as runs:
                environ = executables.inherited(job.settings, job.environ)
                orchestrations = Orchestrations(runs, store, runs.spawner, environ)
                plan = await _admitted(job, asked, orchestrations, store)
                told = tuple(warnings(plan))
                for warning in told:
                    job.notes.say(f"warning: {warning}")
                driving = _Driving(job, runs)
                with told_what_is_not_kept(job.notes):
                    async with orchestrations.begun(plan, asked) as one:
                        _tell_how_to_go_on(one, job.notes)
                        summary = await driving.drive(one)
    except asyncio.CancelledError:
        job.notes.hurry()
        job.notes.error("cancelled")
        return exits.CANCELLED
    for warning in summary.warnings:
        if warning not in told:
            job.notes.say(f"warning: {warning}")
    job.told(summary)
    return exits.CANCELLED if driving.stop.is_set() else _exit_code(summary)


class _Driving:
    """Drives an orchestration to its end, which the first signal brings forward; another kills the agents.

    `stop` is set where all agents are to end: by that signal, or because nobody reads what they say.
    """

    def __init__(self, job: Job, runs: LocalRuns) -> None:
        self.stop = asyncio.Event()
        self._job = job
        self._runs = runs

    async def drive(self, one: Orchestration) -> Summary:
        """Drive it. What is stopped has a summary too; what is killed raises `CancelledError`."""
        task = asyncio.current_task()
        assert task is not None

        def signalled() -> None:
            if self.stop.is_set():
                self._runs.kill()
                task.cancel()
            else:
                self.stop.set()
                self._job.notes.hurry()
                self._job.notes.say("ending all agents; once more kills them")

        teller = self._job.teller(one.plan, self.stop.set)
        async with asyncio.TaskGroup() as group:
            beside = (group.create_task(teller.show()), group.create_task(self._cancel(one)))
            try:
                with on_signals(signalled):
                    return await one.drive(teller)
            finally:
                for each in beside:
                    each.cancel()

    async def _cancel(self, one: Orchestration) -> None:
        await self.stop.wait()
        await one.cancel()


async def _admitted(job: Job, asked: Plan, orchestrations: Orchestrations, store: SessionStore) -> Plan:
    """Complete all of a plan from the settings, or refuse it whole."""

    async def admit(request: RunRequest) -> RunRequest:
        session = await store.session(request.session_id) if request.session_id else None
        if session:
            backend = request.backend or session.backend
            workdir = request.workdir or session.working_dir or None
            request = replace(request, session_id=session.id, backend=backend, workdir=workdir)
        registry.named(request.backend)
        request = complete(request, job.settings)
        return replace(request, timeout_s=request.timeout_s or job.settings.unified_flags.command_timeout_secs or None)

    def require(backend: str) -> None:
        executables.require(registry.named(backend), job.settings, job.environ)

    try:
        return await orchestrations.admitted(asked, admit, require)
    except ClinvkError as exc:
        raise job.placed(exc) from exc


def _tell_how_to_go_on(one: Orchestration, notes: Notes) -> None:
    """Give the id of a chain as it begins: of one that is killed nothing could tell it later."""
    if isinstance(one.plan, Chain) and one.id and not any(part.request.ephemeral for part in one.plan.parts):
        short = one.id[:_SHORT_DIGITS]
        notes.say(f"chain {short}; if it is interrupted, clinvk chain --resume-from {short} goes on with it")


def _at_once(plan: Plan) -> int:
    match plan:
        case Parallel(max_parallel=most):
            return most or 1
        case Compare(parts=parts):
            return len(parts)
        case _:
            return 1


def _with_room(settings: Settings, at_once: int) -> Settings:
    """Give settings under which as many agents run as were asked for: what limits a server is not meant for this."""
    server = replace(settings.server, max_concurrent_runs=at_once, max_concurrent_per_backend=0, max_queued_mb=0)
    return replace(settings, server=server)


def _exit_code(summary: Summary) -> int:
    judge_failed = summary.verdict is not None and summary.verdict.is_failed
    return exits.FAILED if summary.failed or judge_failed else 0
