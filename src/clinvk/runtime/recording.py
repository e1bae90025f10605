"""What a run leaves in the store: its session, from the agent's start to the ending."""

import time

from msgspec.structs import replace

from clinvk.events import Ending, RunFailed, RunStarted, Usage
from clinvk.request import RunRequest
from clinvk.session import Session
from clinvk.store import SessionStore


def begin(request: RunRequest, session_id: str) -> Session:
    """Make the record of a conversation that begins with this request."""
    at = time.time()
    return Session(
        id=session_id,
        backend=request.backend,
        created_at=at,
        last_used=at,
        working_dir=request.workdir or "",
        initial_prompt=request.prompt,
        model=request.model,
        tags=request.tags,
        metadata=request.metadata,
    )


class Recorder:
    """Keeps the session of one run up to date; without a session (an ephemeral run) it keeps nothing."""

    def __init__(self, store: SessionStore, session: Session | None) -> None:
        self._store = store
        self._session = session

    @property
    def session(self) -> Session | None:
        """The session as it stands."""
        return self._session

    async def started(self, event: RunStarted) -> None:
        """The agent is up: the conversation can be continued from here on."""
        if self._session:
            self._session = replace(
                self._session,
                status="active",
                last_used=time.time(),
                turn_count=self._session.turn_count + 1,
                backend_session_id=event.backend_session_id or self._session.backend_session_id,
                model=event.model or self._session.model,
            )
            await self._store.save(self._session)

    async def ended(self, ending: Ending) -> None:
        """The run is over."""
        if self._session:
            failed = isinstance(ending, RunFailed)
            self._session = replace(
                self._session,
                status="error" if failed else "completed",
                last_used=time.time(),
                token_usage=self._session.token_usage + (ending.usage or Usage()),
                error_message=ending.message if failed else None,
            )
            await self._store.save(self._session)
