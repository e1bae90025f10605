"""The turns of sessions: which run of a session is next, and the state of the conversation that it continues."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple

from msgspec.structs import replace

from clinvk.runtime import sessions
from clinvk.runtime.hand_over import hand_over
from clinvk.runtime.process.waiting import Lookups
from clinvk.runtime.run.task import RunTask
from clinvk.store.protocol import SessionStore, settled_record
from clinvk.types.errors import NodeUnavailable, SessionBusy
from clinvk.types.record import Resume, Session
from clinvk.types.request import Group, RunRequest
from clinvk.types.run import RunFacts

ReleaseElsewhere = Callable[[str], Awaitable[None]]
"""Make another clinvk close the conversation of a session."""


class SessionTurns(NamedTuple):
    """The turns of the sessions of a process, whose runs are `live`, on the machine `node`.

    A session has one run at a time. A run that waits for its turn is stored as queued without holding the session, so
    that it is listed and keeps its place among the runs of all processes; see `SessionStore.enqueue`.
    """

    store: SessionStore
    lookups: Lookups
    live: Mapping[str, RunTask]
    release_elsewhere: ReleaseElsewhere | None
    node: str

    async def resolve(self, request: RunRequest, waits: bool) -> tuple[RunRequest, Session | None, Resume | None]:
        """Return the request with its session's directory, the session, and the resume state.

        A run that `waits` for the first turn of the session has no resume state before its own turn.

        Raises:
            NodeUnavailable: the agent's files of the session are on another machine.
        """
        if not request.session_id:
            return request, None, None
        session = await self.store.session(request.session_id)
        if session.node and self.node and session.node != self.node:
            raise NodeUnavailable(f"session {session.id!r} is on node {session.node!r}; this is {self.node!r}")
        request = await sessions.in_session_directory(request, session, self.lookups)
        try:
            resume = await sessions.resume(self.store, session)
            return request, session, resume if request.backend == session.backend else None
        except SessionBusy:
            if not waits:
                raise
            return request, session, None

    async def take(self, run: RunTask) -> bool:
        """Claim the session of a waiting run. Return False if other runs of the session come first."""
        if session := await run.recorder.claim():
            await self.wait_for_exit(session)
            await self.catch_up(run, settled_record(session))
        return session is not None

    async def wait_for_exit(self, session: Session) -> None:
        """Wait for the agents of a session's runs that have an ending and are about to exit."""
        for run in [*self.live.values()]:
            if run.session_id == session.id and run.is_ending:
                await asyncio.wait([run.task])

    async def catch_up(self, run: RunTask, session: Session) -> None:
        """Resume the current state of a claimed session: another run may have ended since the session was read."""
        if self.release_elsewhere:
            await self.release_elsewhere(session.id)
        request = replace(run.request, prompt=run.recorder.record.prompt)
        if request.backend != session.backend:
            await sessions.in_session_directory(request, session, self.lookups)  # the agent may have changed
            request, resume, handed_over = await hand_over(self.store, session, request)
            launch = await run.spec.relaunch(request, resume)
            spec = replace(run.spec, request=request, resume=resume, launch=launch, handed_over=handed_over)
            run.resume_from(spec)
            return
        resume = await sessions.resume(self.store, session)
        if resume != run.spec.resume or run.spec.handed_over:
            launch = await run.spec.relaunch(request, resume)
            run.resume_from(replace(run.spec, request=request, resume=resume, launch=launch, handed_over=None))

    async def steer(self, request: RunRequest, is_of_user: bool) -> RunFacts | None:
        """Give the prompt to the agent that works in the session of a request, and return the facts of the agent's run.

        The agent receives only a prompt with the options and the key of its run, and with the same `is_of_user` as in
        `RunSpec`; return None for other prompts.

        Raises:
            InvalidRequest, NotResumable: the prompt cannot continue the session.
        """
        request, _, _ = await self.resolve(request, waits=True)
        run = self.working_in(request.session_id)
        if not (run and run.conversation and run.spec.is_of_user == is_of_user):
            return None
        if request.without(Group.TURN) == run.request.without(Group.TURN):
            await run.spec.relaunch(request, Resume(run.conversation))  # checks the prompt
            if await run.steer(request):
                return replace(run.facts, is_steered=True)
        return None

    def working_in(self, session_id: str | None) -> RunTask | None:
        """Return the run that may be interrupted in a session; None if no agent works in the session here.

        The agent must have reported its conversation: else an interruption would lose the conversation.
        """
        started = (run for run in self.live.values() if run.started_at and run.log.count)
        return next((run for run in started if session_id and run.session_id == session_id), None)

    def wake_next(self, ended: RunTask) -> None:
        """Make the runs that wait for the session of an ended run claim the session."""
        for run in self.live.values():
            if ended.session_id and run.session_id == ended.session_id:
                run.wake()
