"""The recorder: stores a run's record, events and session."""

import logging
import time
from collections.abc import Awaitable, Sequence

import msgspec
from msgspec.structs import replace

from clinvk.config.model import Settings
from clinvk.runtime.run.event_log import Autosave, EventLog
from clinvk.store.protocol import SessionStore
from clinvk.types.choices import RunState, SessionStatus
from clinvk.types.errors import Cancelled, ClinvkError
from clinvk.types.events import Ending, Logged, RunFailed, RunFinished, RunStarted, Usage
from clinvk.types.record import HandOver, LimitWindow, Resume, RunRecord, Session, SteeringPrompt, recorded_result
from clinvk.types.request import Group, RunRequest

logger = logging.getLogger(__name__)

_INITIAL_PROMPT_CHARS = 10_000
"""Length of a session's `initial_prompt` in characters; the run's record has the whole prompt."""


def new_session(
    request: RunRequest, session_id: str, working_dir: str, settings: Settings, project: str = ""
) -> Session:
    """Return a new session for a conversation that begins with this request.

    `project` is the directory that the user chose, empty for that of the part of an orchestration, or `working_dir`.
    """
    at = time.time()
    return Session(
        id=session_id,
        backend=request.backend,
        created_at=at,
        last_used=at,
        working_dir=working_dir,
        project=project or (request.part.base if request.part else ""),
        initial_prompt=request.prompt[:_INITIAL_PROMPT_CHARS],
        model=request.model,
        tags=tuple(dict.fromkeys(settings.session.default_tags + request.tags)),
        metadata=request.metadata,
        node=settings.cluster.node,
    )


class RunRecorder:
    """Stores a run and its session.

    An ephemeral run has no session, and no text of the conversation is stored. Store failures after the agent has
    started do not end the run; clinvk logs a warning instead.

    Attributes:
        session: the session as last stored. The run changes the session only while it holds the session.
        record: the run as last stored.
        warnings: the failures of the store.
        keeps_agent: the session stays with its agent although another one has started: that one failed at once.
    """

    def __init__(
        self,
        store: SessionStore,
        autosave: Autosave,
        run_id: str,
        request: RunRequest,
        session: Session | None,
        resume: Resume | None,
        settings: Settings,
        handed_over: HandOver | None = None,
    ) -> None:
        self.session = session
        self.warnings: list[str] = []
        self._store = store
        self._autosave = autosave
        self._resume, self._handed_over = resume, handed_over
        self.keeps_agent = False
        self._continues = request.session_id is not None
        self._holds_session = session is not None
        self._has_started = False
        self._extra = request.extra
        self._counts_usage = settings.session.store_token_usage
        self._stores_text = not request.ephemeral
        self.record = RunRecord(
            id=run_id,
            backend=request.backend,
            prompt=request.prompt if self._stores_text else "",
            state="queued",
            created_at=time.time(),
            session_id=session.id if session else None,
            parent_id=request.part.run_id if request.part else None,
            workdir=request.workdir or "",
            model=request.model,
            request=_options(request),
            key_name=request.key_name,
            node=settings.cluster.node,
        )

    async def begin(self) -> None:
        """Store the run before the agent starts, and claim its session.

        Raises:
            SessionBusy: another run of the session is active.
            SessionNotFound: the session to resume was deleted.
            StoreUnavailable: the run cannot be stored.
        """
        if self.session:
            self.session = replace(self.session, status="active", last_used=self.record.created_at)
        self.session = await self._store.begin(self.record, self.session, must_exist=self._continues)

    async def enqueue(self, session: Session, is_next: bool) -> None:
        """Store the run, which waits until its session is free. `is_next` puts it before other waiting runs.

        Raises:
            SessionNotFound, StoreUnavailable: as in `begin`.
        """
        self._holds_session = False
        self.session = await self._store.enqueue(self.record, session, is_next)

    async def claim(self) -> Session | None:
        """Claim the session of a waiting run; return None if other runs come first."""
        session = await self._store.claim(self.record.id, self.session.id) if self.session else None
        if session:
            self.session, self._holds_session = session, True
        return session

    def resume_from(self, resume: Resume | None, handed_over: HandOver | None) -> None:
        """Count usage from a newer state of the conversation."""
        self._resume, self._handed_over = resume, handed_over

    async def spawned(self, at: float) -> None:
        """Record that the agent's process has started."""
        self.record = replace(self.record, state="running", started_at=at)
        await self._store_safely(self._store.update(self.record, self.session))

    async def set_state(self, state: RunState) -> None:
        """Record that the run waits for a person, or no longer waits."""
        self.record = replace(self.record, state=state)
        await self._store_safely(self._store.update(self.record, self.session))

    async def reassign(self, request: RunRequest, waits_until: float | None = None) -> None:
        """Record which agent takes the prompt, or until when the run waits for the reset of a limit."""
        options = _options(replace(request, extra=self._extra))
        if waits_until:
            options["waits_until"] = waits_until
        agent = {"backend": request.backend, "model": request.model}
        self.record = replace(self.record, state="queued", started_at=None, request=options, **agent)
        if not self._continues:
            self.session = self.session and replace(self.session, **agent)
        await self._store_safely(self._store.reassign(self.record, self.session))

    async def started(self, event: RunStarted) -> None:
        """Record that the agent has reported its start: from here on the conversation can be resumed.

        An agent restarted after a crash may report another conversation; the turn is counted once.
        """
        self.record = replace(self.record, model=event.model or self.record.model)
        is_new_agent = self.session is not None and self.session.backend != self.record.backend
        if is_new_agent and self._handed_over and event.backend_session_id and not self.keeps_agent:
            options = self.record.request | {"handed_over": msgspec.to_builtins(self._handed_over)}
            self.record = replace(self.record, request=options)
            self.session = self.session and replace(self.session, backend=self.record.backend, model=self.record.model)
            await self._store_safely(self._store.reassign(self.record, self.session))
            is_new_agent = False
        if (session := self.session) and not is_new_agent:
            self.session = replace(
                session,
                turn_count=session.turn_count + (not self._has_started),
                backend_session_id=event.backend_session_id or session.backend_session_id,
                model=event.model or session.model,
                forks_parent=False,
            )
        self._has_started = True
        await self._store_safely(self._store.update(self.record, self.session))

    async def steered(self, prompt: SteeringPrompt) -> None:
        """Record a further prompt that the agent has received."""
        if self._stores_text:
            self.record = replace(self.record, steering=(*self.record.steering, prompt))
        self.session = self.session and replace(self.session, turn_count=self.session.turn_count + 1)
        await self._store_safely(self._store.update(self.record, self.session))

    def save_soon(self, log: EventLog) -> None:
        """Store the new events of a log with the next autosave."""
        if self._stores_text:
            self._autosave.add(self.record.id, log)

    async def limit_reported(self, window: LimitWindow) -> None:
        """Record the state of a limit."""
        await self._store_safely(self._store.update_limit(replace(window, updated_at=time.time())))

    async def ended(self, entries: Sequence[Logged], output: str) -> None:
        """Record the end of the run; `entries` are the unsaved events and the ending, `output` is the whole answer."""
        self._autosave.forget(self.record.id)
        _, at, ending = entries[-1]
        assert isinstance(ending, Ending)
        failure = ending if isinstance(ending, RunFailed) else None
        self.record = replace(
            self.record,
            state=state_of(ending),
            ended_at=at,
            usage=ending.usage,
            cost_usd=ending.cost_usd,
            stop_reason=ending.stop_reason if isinstance(ending, RunFinished) else None,
            exit_code=failure.exit_code if failure else 0,
            error_code=failure.code if failure else None,
            error_message=recorded_result(failure.message, self._stores_text) if failure else None,
            output=output if self._stores_text else "",
        )
        session = self.session if self._holds_session else None
        if session:
            used = ending.usage or Usage()
            session = self.session = replace(
                session,
                status=_STATUSES[state_of(ending)],
                last_used=at,
                token_usage=session.token_usage + used if self._counts_usage else session.token_usage,
                counted=session.counted if session.backend != self.record.backend else self._counted(used),
                error_message=failure.message if failure else None,
            )
        await self._store_safely(self._store.end(self.record, session, entries if self._stores_text else ()))

    def _counted(self, used: Usage) -> Usage:
        return used + (self._resume.used if self._resume else Usage())

    async def _store_safely(self, write: Awaitable[None]) -> None:
        try:
            await write
        except ClinvkError as exc:
            self.warnings.append(f"run {self.record.id} is not kept: {exc.message}")
            logger.warning(self.warnings[-1])
        except Exception:  # a faulty store must not cost the answer
            self.warnings.append(f"run {self.record.id} is not kept")
            logger.exception(self.warnings[-1])


def _options(request: RunRequest) -> dict[str, object]:
    """Return the options of the request for the record."""
    listed = request.without(Group.UNLISTED, *((Group.TEXT,) if request.ephemeral else ()))
    options: dict[str, object] = msgspec.to_builtins(listed)
    if request.fallback:
        options["fallback"] = ["/".join(filter(None, (each.backend, each.model))) for each in request.fallback]
    if request.images:
        options["images"] = [{"media_type": image.media_type, "bytes": len(image.data)} for image in request.images]
    if request.client:
        options["over_http"] = True
    return options


def state_of(ending: Ending) -> RunState:
    """Return the state of a run with this ending."""
    if isinstance(ending, RunFinished):
        return "finished"
    return "cancelled" if ending.code == Cancelled.code else "failed"


_STATUSES: dict[RunState, SessionStatus] = {"finished": "completed", "cancelled": "paused", "failed": "error"}
