"""A store that lives and dies with its process."""

from clinvk.errors import SessionNotFound
from clinvk.session import Session


class MemoryStore:
    """Sessions in a dict."""

    def __init__(self) -> None:
        self._sessions: dict[str, Session] = {}

    async def save(self, session: Session) -> None:
        """Insert or replace."""
        self._sessions[session.id] = session

    async def get(self, session_id: str) -> Session:
        """Give a session, or raise `SessionNotFound`."""
        try:
            return self._sessions[session_id]
        except KeyError:
            raise SessionNotFound(f"no session {session_id!r}") from None

    async def count(self) -> int:
        """Give the number of sessions."""
        return len(self._sessions)
