"""Sessions that outlive a run. Every store keeps this protocol and passes one contract suite."""

from typing import Protocol

from clinvk.session import Session


class SessionStore(Protocol):
    """Keeps sessions by id."""

    async def save(self, session: Session) -> None:
        """Insert the session, or replace the one with its id."""
        ...

    async def get(self, session_id: str) -> Session:
        """Give a session.

        Raises:
            SessionNotFound: no session has this id.
        """
        ...

    async def count(self) -> int:
        """Give the number of sessions."""
        ...
