"""The endpoints below `/api/v1/sessions`. A unique prefix of an id identifies a session."""

import os
from collections.abc import Mapping
from functools import partial

from msgspec.structs import asdict, replace
from starlette.requests import Request
from starlette.responses import Response

from clinvk.api.access.hosts import refuse_foreign
from clinvk.api.endpoints.services import Services
from clinvk.api.http.response import document, read_json
from clinvk.backends import registry as backends
from clinvk.backends.base import Backend
from clinvk.dialects.rest import views
from clinvk.runtime import sessions
from clinvk.runtime.worktrees.git import branch_of
from clinvk.store.protocol import Item, Page, RunQuery, SessionQuery
from clinvk.types.errors import BackendUnavailable, ClinvkError, InvalidRequest
from clinvk.types.record import Session

PATH = "/api/v1/sessions"


async def list_sessions(services: Services, _: Request, query: views.SessionListing) -> views.SessionList:
    """List sessions, newest first."""
    check_backend(query.backend, services.registry)
    store, filters = services.store, asdict(query)
    filters["text"] = text = filters.pop("search") or query.text
    page = await store.sessions(SessionQuery(**filters))
    ids = [session.id for session in page.items]
    costs, matches = await store.costs(ids), await store.matches(text, ids) if text else {}
    items = [views.session_item(session, costs, matches) for session in page.items]
    return views.SessionList(sessions=items, **paging(page, query))


async def list_projects(services: Services, request: Request) -> views.ProjectList:
    """List the directories of sessions that the key may use, the last used first."""
    key_name: str = request.state.key_name
    found = await services.store.projects()

    def listed() -> list[views.Project]:
        return [
            views.Project(
                directory=project.directory,
                name=os.path.basename(project.directory) or project.directory,
                branch=None if services.cluster else branch_of(project.directory),
                sessions=project.sessions,
                updated_at=views.time(project.last_used),
            )
            for project in found
            if services.admission.may_use(project.directory, key_name)
        ]

    return views.ProjectList(projects=await services.admission.lookups.run(listed))


async def get_session(services: Services, request: Request) -> views.SessionView:
    """Show a session."""
    return await _view(services, await services.store.session(request.path_params["id"]))


async def fork_session(services: Services, request: Request) -> Response:
    """Fork a session: start a session that continues the conversation of another."""
    refuse_foreign(request.scope)
    parent = await _changeable(services, request)
    session = await sessions.fork(services.store, parent.id, os.urandom(16).hex(), services.registry)
    return document(await _view(services, session), 201, {"location": f"{PATH}/{session.id}"})


async def list_messages(services: Services, request: Request, query: views.MessageListing) -> views.MessageList:
    """Read a session as a conversation."""
    session = await services.store.session(request.path_params["id"])
    page = await services.store.runs(RunQuery(session_id=session.id, limit=query.limit, offset=query.offset))
    messages = [*views.messages(reversed(page.items))]
    return views.MessageList(session_id=session.id, messages=messages, **paging(page, query))


async def describe_session(services: Services, request: Request) -> views.SessionView:
    """Set the title and the tags of a session, and archive it or not."""
    patch = views.patch(await read_json(request.scope, request.receive, services.settings.server))
    session = await _changeable(services, request)
    tags = None if patch.tags is None else tuple(dict.fromkeys(patch.tags))
    return await _view(services, await services.store.describe(session.id, patch.title, tags, patch.archived))


async def delete_session(services: Services, request: Request) -> views.Deleted:
    """Delete a session with its runs."""
    session = await _changeable(services, request)
    return views.Deleted(id=session.id, worktree=await _delete(services, session))


async def delete_sessions(services: Services, request: Request) -> views.DeletedSessions:
    """Delete several sessions with their runs. A session that cannot be deleted is reported, and the others go."""
    refuse_foreign(request.scope)
    ids = views.session_ids(await read_json(request.scope, request.receive, services.settings.server))
    deleted: dict[str, str | None] = {}
    errors: list[views.DeletionError] = []
    for id_ in ids:
        try:
            session = await _changeable(services, request, id_)
            deleted[session.id] = await _delete(services, session)
        except ClinvkError as exc:
            errors.append(views.DeletionError(id_, exc.message))
    worktrees = [*filter(None, deleted.values())]
    return views.DeletedSessions(deleted=[*deleted], errors=errors, worktrees=worktrees)


async def _view(services: Services, session: Session) -> views.SessionView:
    costs = await services.store.costs([session.id])
    return replace(views.session_view(session), cost_usd=costs.get(session.id))


async def _delete(services: Services, session: Session) -> str | None:
    """Delete a session, and return the id of the worktree that stays."""
    await services.store.delete(session.id)
    return await services.admission.lookups.run(partial(sessions.kept_worktree, session))


async def _changeable(services: Services, request: Request, reference: str | None = None) -> Session:
    """Return a session, by default that of the path. The key of the request must allow its agent and directory."""
    session = await services.store.session(request.path_params["id"] if reference is None else reference)
    await services.admission.key_policy.check_session(session, request.scope["state"]["key_name"])
    return session


def paging(page: Page[Item], query: views.SessionListing | views.MessageListing | views.RunListing) -> dict[str, int]:
    """Return the fields about the place of a page in its list."""
    return {"total": page.total, "limit": query.limit, "offset": query.offset}


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
