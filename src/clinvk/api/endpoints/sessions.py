"""The endpoints for sessions: list, show, describe, fork, delete, and read the conversation."""

import os
from collections.abc import Mapping
from typing import NamedTuple

from msgspec.structs import asdict
from starlette.requests import Request
from starlette.responses import Response

from clinvk.api.access.hosts import refuse_foreign
from clinvk.api.access.key_policy import KeyPolicy
from clinvk.api.http.response import document, read_json
from clinvk.backends import registry as backends
from clinvk.backends.base import Backend
from clinvk.config.model import ServerSettings
from clinvk.dialects.rest import views
from clinvk.runtime import sessions
from clinvk.store.protocol import Item, Page, RunQuery, SessionQuery, SessionStore
from clinvk.types.errors import BackendUnavailable, InvalidRequest
from clinvk.types.session import Session

PATH = "/api/v1/sessions"


class SessionEndpoints(NamedTuple):
    """The endpoints below `/api/v1/sessions`. A unique prefix of an id identifies a session."""

    store: SessionStore
    settings: ServerSettings
    key_policy: KeyPolicy
    registry: Mapping[str, Backend]

    async def all(self, _: Request, query: views.SessionListing) -> views.SessionList:
        """List sessions, newest first."""
        check_backend(query.backend, self.registry)
        page = await self.store.sessions(SessionQuery(**asdict(query)))
        shown = [views.session_item(session) for session in page.items]
        return views.SessionList(sessions=shown, **paging(page, query))

    async def one(self, request: Request) -> views.SessionView:
        """Show a session."""
        return views.session_view(await self.store.session(request.path_params["id"]))

    async def fork(self, request: Request) -> Response:
        """Fork a session: start a session that continues the conversation of another."""
        refuse_foreign(request.scope)
        parent = await self._changeable(request)
        session = await sessions.fork(self.store, parent.id, os.urandom(16).hex(), self.registry)
        return document(views.session_view(session), 201, {"location": f"{PATH}/{session.id}"})

    async def messages(self, request: Request, query: views.MessageListing) -> views.MessageList:
        """Read a session as a conversation."""
        session = await self.store.session(request.path_params["id"])
        page = await self.store.runs(RunQuery(session_id=session.id, limit=query.limit, offset=query.offset))
        shown = [*views.messages(reversed(page.items))]
        return views.MessageList(
            session_id=session.id, messages=shown, total=page.total, limit=query.limit, offset=query.offset
        )

    async def describe(self, request: Request) -> views.SessionView:
        """Set the title and the tags of a session."""
        body = await read_json(request.scope, request.receive, self.settings)
        patch = views.patch(body)
        session = await self._changeable(request)
        tags = None if patch.tags is None else tuple(dict.fromkeys(patch.tags))
        return views.session_view(await self.store.describe(session.id, patch.title, tags))

    async def delete(self, request: Request) -> views.Deleted:
        """Delete a session with its runs."""
        session = await self._changeable(request)
        await self.store.delete(session.id)
        return views.Deleted(id=session.id)

    async def _changeable(self, request: Request) -> Session:
        """Return the session of the path. The key of the request must allow its agent and directory."""
        session = await self.store.session(request.path_params["id"])
        await self.key_policy.check_session(session, request.scope["state"]["key_name"])
        return session


def paging(page: Page[Item], query: views.SessionListing | views.RunListing) -> dict[str, int]:
    """Return the fields about the place of a page in its list."""
    return {"total": page.total, "limit": query.limit, "offset": query.offset, "unreadable": page.unreadable}


def check_backend(name: str | None, registry: Mapping[str, Backend]) -> None:
    """Raise if a backend is unknown; None is allowed.

    Raises:
        InvalidRequest: the backend is unknown; the message names the nearest.
    """
    try:
        if name is not None:
            backends.backend_named(name, registry)
    except BackendUnavailable as exc:
        raise InvalidRequest(exc.message, "backend") from exc
