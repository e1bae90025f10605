"""Runs of agent processes on this machine: slots and queue, cancel, deadlines and recording."""

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, AsyncExitStack, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Self

from msgspec.structs import replace

from clinvk.backends.base import Backend, Launch
from clinvk.config.model import ServerSettings, Settings, complete
from clinvk.runtime import sessions
from clinvk.runtime.agent_environment import AgentEnvironment
from clinvk.runtime.hand_over import hand_over
from clinvk.runtime.interactions import Interactions, asking
from clinvk.runtime.occupancy import Occupancy, held_bytes, queue_limits
from clinvk.runtime.pool.pool import Pool, WarmStats
from clinvk.runtime.pool.warm_set import WarmSpec
from clinvk.runtime.process import executables, process_tags, resource_limits
from clinvk.runtime.process.guardian_process import GuardianProcess
from clinvk.runtime.process.resource_limits import Capacity, ResourceLimits, capacity
from clinvk.runtime.process.spawn import Spawner, Starts
from clinvk.runtime.process.waiting import Lookups, finish_shielded, in_background
from clinvk.runtime.run.answer_filter import SchemaChecker
from clinvk.runtime.run.candidates import Candidates, Refusals
from clinvk.runtime.run.event_log import Autosave
from clinvk.runtime.run.execution import OwnedRun, drive
from clinvk.runtime.run.recording import RunRecorder, new_session
from clinvk.runtime.run.run_io import RunSpec
from clinvk.runtime.run.task import CANCELLED, RunTask
from clinvk.runtime.session_turns import ReleaseElsewhere, SessionTurns
from clinvk.runtime.slots import Slot, SlotRequest, Slots
from clinvk.store.protocol import LOST, SessionStore
from clinvk.types.errors import (
    Cancelled,
    ClinvkError,
    SessionBusy,
    SessionError,
    ShuttingDown,
    StoreUnavailable,
    Unsupported,
)
from clinvk.types.events import RunFailed
from clinvk.types.interaction import Interaction, InteractionAnswer
from clinvk.types.record import Resume, Session
from clinvk.types.request import RunRequest, trace_context
from clinvk.types.run import RunFacts

if TYPE_CHECKING:
    from clinvk.runtime.worktrees.session_worktrees import SessionWorktree

logger = logging.getLogger(__name__)

_TRACE_VARIABLES = ("TRACEPARENT", "TRACESTATE")


def without_trace(environ: Mapping[str, str]) -> Mapping[str, str]:
    """Return the environment for runs that each have a trace of their own, and may share a warm agent."""
    return {name: value for name, value in environ.items() if name not in _TRACE_VARIABLES}


RunObserver = Callable[[RunTask], Callable[[], None]]
"""Called when a run has begun; returns a callback for the end of the run. Both run in the request's context."""


class LocalRuns:
    """The runtime as api, cli and orchestrate see it: runs of agent processes on this machine.

    Agents inherit `environ` without clinvk's secrets. `admit_dirs` is called with the request right before an agent
    starts, as `RunSpec.check`. `observers` observe runs. With `keeps_warm`, agent processes are kept for further runs,
    as the settings allow. `check_source` is called with the request and a directory from which a worktree is made.
    `release_elsewhere` is called with a session that is about to be resumed, since another
    clinvk may hold the conversation open. `open_files` is as in `ResourceLimits`, `max_runs_of` as in `Slots`. With a
    `home`, leftovers of a clinvk of the same home that was killed together with its guardian are cleaned up first.
    """

    def __init__(
        self,
        settings: Settings,
        store: SessionStore,
        environ: Mapping[str, str],
        registry: Mapping[str, Backend],
        admit_dirs: Callable[[RunRequest], Awaitable[str]] | None = None,
        observers: Sequence[RunObserver] = (),
        keeps_warm: bool = False,
        release_elsewhere: ReleaseElsewhere | None = None,
        open_files: int | None = None,
        max_runs_of: Callable[[str], int | None] = lambda _: None,
        home: Path | None = None,
        lookups: Lookups | None = None,
        on_interaction: Callable[[Interaction], None] = lambda _: None,
        check_source: Callable[[RunRequest, str], Sequence[str]] = lambda _, __: (),
    ) -> None:
        server = settings.server
        tags = process_tags.choose_tags()
        self._resource_limits = ResourceLimits(settings.agents, tags.server, open_files)
        self._machine = capacity(replace(server, max_concurrent_runs=None))
        self.spawner = Spawner(tags, self._resource_limits, Starts(self._machine.cores))
        self._adopting = self.spawner.adopting()
        self._schemas = SchemaChecker(self.spawner, environ)
        self._settings = settings
        self._store = store
        self._registry = registry
        self._environment = AgentEnvironment(settings, environ, registry)
        self._admit_dirs, self._check_source = admit_dirs, check_source
        settings.notifications.check()
        self._observers, self.notifier = observers, None
        self.refusals = Refusals()
        if settings.notifications.targets:
            from clinvk.runtime.notifications import Notifier  # an import that most processes do not need

            self.notifier = Notifier(settings, environ, self.spawner)
            self._observers = (*observers, self.notifier.observe)
        self._notifying = self.notifier.sending() if self.notifier else nullcontext()
        self.capacity: Capacity = capacity(server, self._machine)
        self.slots = Slots(queue_limits(server, self.capacity.runs), max_runs_of)
        self._live: dict[str, RunTask] = {}
        self._tasks = asyncio.TaskGroup()
        store.on_lost.append(partial(self.stop, at_once=True, ending=LOST))
        self._autosave = Autosave(store)
        self._lookups = lookups or Lookups()
        self._turns = SessionTurns(store, self._lookups, self._live, release_elsewhere, settings.cluster.node)
        self._closing = False
        self._show_interaction = on_interaction
        rules = settings.approvals.rules
        self.interactions = Interactions(store, settings.interactions, self._on_interaction, self._lookups, rules)
        self._guardian = GuardianProcess(tags, self._resource_limits, home)
        keeps_warm = keeps_warm and settings.warm.enabled and not resource_limits.are_per_process(settings.agents)
        self.pool = Pool(self.spawner, settings.warm) if keeps_warm else None

    @property
    def busy(self) -> int:
        """The number of runs that hold a slot."""
        return self.slots.busy

    @property
    def queued(self) -> int:
        """The number of runs that wait for a slot."""
        return self.slots.queued

    @property
    def occupancy(self) -> Occupancy:
        """The numbers of running and waiting runs, by backend."""
        return self.slots.occupancy(self._registry)

    @property
    def warm_stats(self) -> WarmStats | None:
        """Counts and memory of the warm agent processes; None if no process is kept warm."""
        return self.pool.stats if self.pool else None

    async def answer(self, reference: str, answer: InteractionAnswer) -> Interaction:
        """Answer an interaction in the name of this machine's user; see `Interactions.answer`."""
        return await self.interactions.answer(reference, answer)

    def resize(self, server: ServerSettings) -> None:
        """Change how many runs may be active at once, and how many may wait."""
        self.capacity = capacity(server, self._machine)
        self.slots.resize(queue_limits(server, self.capacity.runs))

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as opened:
            opened.push(self._end_guardian)
            self._resource_limits.open()
            if self._resource_limits.cgroup:
                opened.push_async_callback(asyncio.to_thread, self._resource_limits.close)
            await self._guardian.take_over()
            self._guardian.start()
            for context in (self._adopting, self._notifying, in_background(self._autosave.run())):
                await context.__aenter__()
                opened.push_async_callback(partial(context.__aexit__, None, None, None))  # else they wrap errors
            opened.callback(self.interactions.close)
            if self.pool:
                await opened.enter_async_context(self.pool)
            await opened.enter_async_context(self._tasks)
            if self.pool:
                self._tasks.create_task(self._prestart(self.pool))
            self._opened = opened.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Refuse new runs, stop the current runs, and wait until all their processes are gone."""
        self._closing = True
        for run in self._live.values():
            refusal = ShuttingDown("the server is stopping")
            run.stop(RunFailed(Cancelled.code, refusal.message), refusal=refusal)
        await self._opened.aclose()

    def _end_guardian(self, _: object, error: BaseException | None, __: object) -> None:
        """Stop the guardian; after an error, let the guardian end the agents that are left."""
        if error:
            self._guardian.trigger()
        else:
            self._guardian.stop()

    async def plan(self, request: RunRequest) -> Launch:
        """Return the launch that `run` would start (a dry run); the CLI need not be installed.

        Raise the errors that `run` raises before the start.
        """
        await self._schemas.check(request.output_schema, request.client_tools, request.client)
        request, session, resume = await self._turns.resolve(self._with_rules(request), waits=False)
        if session and session.backend != request.backend:
            request, resume, _ = await hand_over(self._store, session, request)
        launch = await self._look_up_launch(
            self._environment, self._environment.backend(request.backend), request, resume
        )
        if self._admit_dirs is None:
            return launch
        return replace(launch, secret_args=self._settings.backend(request.backend).extra_flags)  # others are to see it

    def run(self, request: RunRequest, run_id: str = "") -> AbstractAsyncContextManager[RunTask]:
        """Run a prompt; leaving the context stops the run.

        `request` must name a backend and be completed from the settings. `run_id` is the id of the run; empty chooses
        an id.

        Raises:
            BackendUnavailable, Unsupported, InvalidRequest, SessionNotFound, NotResumable: raised before the start.
            SessionBusy, QueueFull, ShuttingDown: the run cannot start at present.
            StoreUnavailable: the run cannot be stored.
        """
        return OwnedRun(self._begin(request, run_id=run_id))

    def run_of_user(
        self, request: RunRequest, environ: Mapping[str, str], run_id: str = "", may_wait: bool = False
    ) -> AbstractAsyncContextManager[RunTask]:
        """Run a prompt of this machine's user in the user's environment, as the user's own clinvk would.

        The server's restrictions do not apply: the run may work in any directory. `run_id` is the id of the run; empty
        chooses an id. With `may_wait`, the run waits in the queue; so does a prompt that steers.

        Raises:
            QueueFull: no slot is free, and the run may not wait. Other errors are as in `run`.
        """
        may_wait = may_wait or request.on_busy == "steer"  # the server has the run to be steered
        return OwnedRun(self._begin(request, environ, may_wait, run_id))

    async def start(
        self, request: RunRequest, user_environ: Mapping[str, str] | None = None, run_id: str = ""
    ) -> RunTask:
        """Run a prompt in the background until the run ends or is cancelled. Raise the errors of `run`.

        With `user_environ`, run a prompt of this machine's user as `run_of_user` does.
        """
        run = await self._begin(request, user_environ, run_id=run_id)
        run.log.release()
        return run

    async def steer(self, request: RunRequest, is_of_user: bool = False) -> RunFacts | None:
        """Give a prompt that steers to the agent that works in its session, and return the facts of the agent's run.

        `is_of_user` is whether the prompt comes as for `run_of_user`. Return None if the prompt needs a run of its own.
        Raise the errors of `run`.
        """
        return await self._turns.steer(self._with_rules(request), is_of_user) if request.on_busy == "steer" else None

    def live(self, run_id: str) -> RunTask | None:
        """Return the run with this id if queued or running here, else None."""
        return self._live.get(run_id)

    async def wait_for_capacity(self, request: RunRequest) -> None:
        """After a `QueueFull`, wait until an orchestration's run would be accepted; another run may be faster."""
        await self.slots.wait_for_capacity(SlotRequest(request.backend, request.client))

    def reserved(self, requests: Sequence[RunRequest]) -> AbstractContextManager[None]:
        """Reserve queue memory for an orchestration's requests, all of one client, inside this context.

        Raises:
            QueueFull: the queue lacks room for the first request, or for the memory of all.
        """
        first = SlotRequest(requests[0].backend, requests[0].client)
        return self.slots.reserved(first, sum(map(held_bytes, requests)))

    def stop(self, run_id: str, at_once: bool = False, ending: RunFailed = CANCELLED) -> None:
        """Stop a queued or running run; with `at_once` the agent gets no time to stop by itself."""
        if run := self._live.get(run_id):
            run.stop(ending, at_once)

    async def cancel(self, run_id: str) -> None:
        """Stop a queued or running run, and wait until its agent is gone. Ignore unknown runs."""
        if run := self._live.get(run_id):
            await run.cancel()

    async def release_session(self, session_id: str) -> None:
        """Ask all warm processes to release the conversation of a session that is resumed elsewhere."""
        if self.pool:
            with suppress(SessionError, StoreUnavailable):
                session = await self._store.session(session_id)
                await self.pool.forget((await sessions.resume(self._store, session)).handle)

    async def version(self, backend: Backend, path: str) -> str | None:
        """Return the version of a backend's CLI, in the environment of its runs, or None if the CLI does not answer."""
        return await executables.version(self.spawner, path, self._environment.host(backend.name).env)

    async def _begin(
        self,
        request: RunRequest,
        user_environ: Mapping[str, str] | None = None,
        may_wait: bool = True,
        run_id: str = "",
    ) -> RunTask:
        """Begin a run; `user_environ` is the environment of a run of this machine's user."""
        run_id = run_id or os.urandom(16).hex()
        try:
            return await self._begin_turn(run_id, request, user_environ, may_wait)
        except SessionBusy as exc:
            if request.on_busy == "reject":
                raise
            interrupted = self._turns.working_in(request.session_id) if request.on_busy == "steer" else None
            if request.on_busy == "steer" and not interrupted:
                raise SessionBusy(f"{exc.message}, and cannot be steered: its agent has not started here") from exc
        run = await self._begin_turn(run_id, request, user_environ, may_wait, waits=True)
        if interrupted:  # only now: else a run that waits for longer would come first
            interrupted.stop(RunFailed(Cancelled.code, f"run {run.id!r} steered the conversation"))
        return run

    async def _begin_turn(
        self,
        run_id: str,
        request: RunRequest,
        user_environ: Mapping[str, str] | None,
        may_wait: bool,
        waits: bool = False,
    ) -> RunTask:
        """Begin a run. The run claims the session at once, or with `waits` in its turn."""
        user_environment = None
        if user_environ is not None:
            named = {name.lower(): user_environ.get(name, "") for name in _TRACE_VARIABLES}
            request = replace(request, trace=trace_context(named))
            user_environment = AgentEnvironment(self._settings, without_trace(user_environ), self._registry)
        await self._schemas.check(request.output_schema, request.client_tools, request.client)
        request, session, resume = await self._turns.resolve(self._with_rules(request), waits)
        if session and not waits:
            await self._turns.wait_for_exit(session)
        worktree = await self._worktree(request, session, user_environment)
        if worktree:
            request = replace(request, workdir=worktree.directory)
        spec_of = partial(self._spec, run_id, session, resume, user_environment, worktree)
        candidates = Candidates(request, self._store.limits, spec_of, worktree.warnings if worktree else ())
        spec = await candidates.choose()
        prompt, request = request.prompt, spec.request
        if session is None and not request.ephemeral:
            workdir = request.workdir or ""
            if user_environment or not (workdir and self._admit_dirs):  # admission resolved all other directories
                workdir = await self._lookups.run(partial(executables.resolve, workdir), workdir)
            session_id = request.new_session_id or os.urandom(16).hex()
            session = new_session(request, session_id, workdir, self._settings, worktree.project if worktree else "")
        recorded = replace(request, prompt=prompt, extra=self._environment.own_extra(request))
        if request.rules_only:
            recorded = replace(recorded, approval_mode="default")
        handed_over = spec.handed_over
        recorder = RunRecorder(
            self._store, self._autosave, spec.run_id, recorded, session, spec.resume, self._settings, handed_over
        )
        self._refuse_when_closing()
        acquire_slot = partial(self.acquire, may_wait=may_wait)
        take_turn = self._turns.take if waits else None
        run = RunTask(spec, self.spawner, recorder, self.interactions, acquire_slot, candidates, take_turn)
        try:
            await (recorder.enqueue(session, request.on_busy == "steer") if session and waits else recorder.begin())
        except BaseException:
            run.slot.release()
            raise
        try:
            if recorder.session and request.session_id and not waits:
                await self._turns.catch_up(run, recorder.session)
            self._refuse_when_closing()
            callbacks = [observe(run) for observe in self._observers]
        except BaseException as exc:
            code = exc.code if isinstance(exc, ClinvkError) else Cancelled.code
            run.stop(RunFailed(code, str(exc) or Cancelled.DEFAULT_MESSAGE))
            await finish_shielded(drive(run))  # `drive` ends the run that was begun in the store
            raise
        self._live[run.id] = run
        run.task = self._tasks.create_task(drive(run))
        run.task.add_done_callback(partial(self._on_end, run, callbacks))
        return run

    async def _worktree(
        self, request: RunRequest, session: Session | None, user_environment: AgentEnvironment | None
    ) -> "SessionWorktree | None":
        """Return the worktree of a session that has one, or is to have one; make the worktree unless it exists."""
        if not (request.isolation == "worktree" or (session and session.worktree)):
            return None
        check_source = None if user_environment else partial(self._check_source, request)
        worktrees = (user_environment or self._environment).worktrees(self.spawner)
        return await worktrees.of_session(request, session, check_source)

    def acquire(
        self, request: RunRequest, on_grant: Callable[[], None], may_wait: bool, is_blocked: bool = False
    ) -> Slot:
        """Take a slot or a place in the queue, as `Slots.acquire`, for the agent of a request."""
        size = 0 if request.part else held_bytes(request)  # `reserved` counts the memory of a part
        return self.slots.acquire(SlotRequest(request.backend, request.client, size), on_grant, may_wait, is_blocked)

    def _on_interaction(self, interaction: Interaction) -> None:
        self._show_interaction(interaction)
        if self.notifier and interaction.status == "pending" and (run := self._live.get(interaction.run_id)):
            self.notifier.notify_of(run, interaction)

    def _on_end(self, run: RunTask, callbacks: Sequence[Callable[[], None]], _: asyncio.Task[None]) -> None:
        del self._live[run.id]
        run.slot.release()  # a task killed before its first step has not left
        self._turns.wake_next(run)
        self.refusals.note(run.request, run.log.ending)
        for callback in callbacks:
            callback()

    async def _prestart(self, pool: Pool) -> None:
        """Start the warm processes that the settings want before the first run."""
        for name in (name for name in self._settings.warm.prestart if name in self._settings.warm.kept_backends):
            try:
                backend = self._environment.backend(name)
                workdir = executables.resolve(self._settings.server.default_workdir)
                request = RunRequest(prompt="", backend=name, workdir=workdir)
                request = self._with_rules(complete(request, self._settings))
                launch = self._environment.launch(backend, request, None).warm
                if launch:
                    host, path = self._environment.host(name), self._environment.path(backend)
                    await pool.prestart(WarmSpec(backend, host, path, launch))
            except ClinvkError as exc:
                logger.warning("no process of %s is started ahead: %s", name, exc.message)
            except Exception:
                logger.exception("no process of %s is started ahead", name)  # it must not end the runs

    def _with_rules(self, request: RunRequest) -> RunRequest:
        """Return the request so that its agent asks about what `default` denies, if there are rules to decide."""
        if request.approval_mode != "default" or not self._settings.approvals.rules:
            return request
        return replace(asking(request, self._settings), rules_only=True)

    def _refuse_when_closing(self) -> None:
        if self._closing:
            raise ShuttingDown("the server is stopping and takes no new runs")

    async def _spec(
        self,
        run_id: str,
        session: Session | None,
        resume: Resume | None,
        user_environment: AgentEnvironment | None,
        worktree: "SessionWorktree | None",
        request: RunRequest,
    ) -> RunSpec:
        environment = user_environment or self._environment.nested(request.depth)
        backend = environment.backend(request.backend)
        path = environment.path(backend)
        handed_over = None
        if session and session.backend != backend.name:
            if not backend.capabilities.resume:
                raise Unsupported(f"{backend.name} cannot continue a conversation", "backend")
            with suppress(SessionBusy):  # a run that waits for the first turn; `catch_up` hands over
                session = await self._store.session(session.id)
                request, resume, handed_over = await hand_over(self._store, session, request)
        launch = await self._look_up_launch(environment, backend, request, resume)
        is_kept = backend.name in self._settings.warm.kept_backends or launch.needs_its_process
        return RunSpec(
            run_id=run_id,
            request=request,
            backend=backend,
            host=environment.host(backend.name),
            path=path,
            launch=launch,
            resume=resume,
            no_progress_s=self._settings.server.no_progress_timeout_secs,
            relaunch=partial(self._look_up_launch, environment, backend),
            check=partial(self._admit_dirs, request) if self._admit_dirs and not user_environment else None,
            hold=partial(worktree.turn, run_id) if worktree else environment.hold(self.spawner, request.workdir),
            pool=self.pool if is_kept else None,
            is_of_user=user_environment is not None,
            handed_over=handed_over,
        )

    async def _look_up_launch(
        self, environment: AgentEnvironment, backend: Backend, request: RunRequest, resume: Resume | None
    ) -> Launch:
        """Return the launch of a request. Its directories are looked up in a thread."""
        if self.pool and not request.workdir:  # match the key of follow-ups, which name the directory
            request = replace(request, workdir=executables.resolve(""))
        if backend.list_models and not request.own_tools:
            await environment.query_models(self.spawner, backend)
        launch = partial(environment.launch, backend, request, resume)
        return await self._lookups.run(launch, request.workdir, *request.add_dirs)
