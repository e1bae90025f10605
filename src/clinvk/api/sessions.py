"""Sessions over HTTP: listed, shown, described, forked, deleted, and read as a conversation."""

import os
from collections.abc import Mapping

from starlette.requests import Request
from starlette.responses import Response

from clinvk import backends
from clinvk.api.grants import Grants
from clinvk.api.hosts import refuse_foreign
from clinvk.api.reply import document, read_json
from clinvk.backends.base import Backend
from clinvk.config import ServerSettings
from clinvk.dialects import records, strict
from clinvk.errors import BackendUnavailable, InvalidRequest
from clinvk.runtime import sessions
from clinvk.runtime.threads import beside_loop
from clinvk.session import Session
from clinvk.store import RunQuery, SessionQuery, SessionStore

PATH = "/api/v1/sessions"


class Sessions:
    """The endpoints below `/api/v1/sessions`. Where a path has an id, a unique prefix of it will do."""

    def __init__(
        self,
        store: SessionStore,
        settings: ServerSettings,
        grants: Grants,
        registry: Mapping[str, Backend] = backends.BACKENDS,
    ) -> None:
        self._store = store
        self._grants = grants
        self._settings = settings
        self._registry = registry

    async def all(self, request: Request) -> Response:
        """Answer `GET /api/v1/sessions`."""
        asked = strict.parameters(request.scope["query_string"], records.SessionListing)
        check_backend(asked.backend, self._registry)
        page = await self._store.sessions(
            SessionQuery(
                backend=asked.backend,
                status=asked.status,
                tag=asked.tag,
                text=asked.q,
                limit=asked.limit,
                offset=asked.offset,
            )
        )
        shown = [records.session_item(session) for session in page.items]
        return document(
            records.SessionList(
                sessions=shown, total=page.total, limit=asked.limit, offset=asked.offset, unreadable=page.unreadable
            ),
        )

    async def one(self, request: Request) -> Response:
        """Answer `GET`, `PATCH` and `DELETE /api/v1/sessions/{id}`."""
        match request.method:
            case "PATCH":
                return await self._describe(request)
            case "DELETE":
                return await self._delete(request)
            case _:
                return document(records.session_view(await self._store.session(request.path_params["id"])))

    async def fork(self, request: Request) -> Response:
        """Answer `POST /api/v1/sessions/{id}/fork`."""
        refuse_foreign(request.scope)
        parent = await self._changeable(request)
        session = await sessions.fork(self._store, parent.id, os.urandom(16).hex(), self._registry)
        return document(records.session_view(session), 201, {"location": f"{PATH}/{session.id}"})

    async def messages(self, request: Request) -> Response:
        """Answer `GET /api/v1/sessions/{id}/messages`."""
        asked = strict.parameters(request.scope["query_string"], records.MessageListing)
        session = await self._store.session(request.path_params["id"])
        page = await self._store.runs(RunQuery(session_id=session.id, limit=asked.limit, offset=asked.offset))
        return document(
            records.MessageList(
                session_id=session.id,
                messages=[*records.messages(reversed(page.items))],
                total=page.total,
                limit=asked.limit,
                offset=asked.offset,
            )
        )

    async def _describe(self, request: Request) -> Response:
        body = await read_json(request.scope, request.receive, self._settings)
        patch = await beside_loop(len(body), records.patch, body)
        session = await self._changeable(request)
        tags = None if patch.tags is None else tuple(dict.fromkeys(patch.tags))
        return document(records.session_view(await self._store.describe(session.id, patch.title, tags)))

    async def _delete(self, request: Request) -> Response:
        session = await self._changeable(request)
        await self._store.delete(session.id)
        return document(records.Deleted(id=session.id))

    async def _changeable(self, request: Request) -> Session:
        """Return the session of the path; its agent and directory must be allowed to the key of the request."""
        session = await self._store.session(request.path_params["id"])
        self._grants.check_session(session, request.scope["state"]["key_name"])
        return session


def check_backend(name: str | None, registry: Mapping[str, Backend]) -> None:
    """Refuse to list what belongs to a backend that does not exist.

    Raises:
        InvalidRequest: names the nearest.
    """
    try:
        if name is not None:
            backends.named(name, registry)
    except BackendUnavailable as exc:
        raise InvalidRequest(exc.message, "backend") from exc
