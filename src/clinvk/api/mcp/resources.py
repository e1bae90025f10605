"""The resources of the MCP server: sessions, runs and the diffs of worktrees, as `GET` requests of REST return them."""

import re
from collections.abc import Mapping

import msgspec
from msgspec import UNSET, UnsetType

from clinvk.api.endpoints.worktrees import WorktreeView
from clinvk.api.mcp.tools import RestApi, RestError
from clinvk.types.errors import InvalidRequest
from clinvk.types.text import on_one_line

_SCHEME = "clinvk://"
_URI = re.compile(rf"{_SCHEME}((?:runs|sessions)/[\w-]+|sessions/[\w-]+/messages|(worktrees/[\w-]+)/diff)", re.ASCII)
_PAGE = 100
_TITLE_CHARS = 100
_JSON, _DIFF = "application/json", "text/x-diff"


class UnknownResource(InvalidRequest):
    """No resource has this URI."""


class Resource(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """A resource, or with `uri_template` a family of resources."""

    name: str
    title: str
    mime_type: str
    description: str
    uri: str | UnsetType = UNSET
    uri_template: str | UnsetType = UNSET


def _template(name: str, path: str, mime_type: str, description: str) -> Resource:
    title = name.replace("-", " ").capitalize()
    return Resource(name, title, mime_type, description, uri_template=f"{_SCHEME}{path}")


TEMPLATES = (
    _template("run", "runs/{id}", _JSON, "A run: its prompt, state, answer, usage and parts."),
    _template("session", "sessions/{id}", _JSON, "A session: its agent, directory, state and usage."),
    _template("conversation", "sessions/{id}/messages", _JSON, "The last 100 prompts and answers of a session."),
    _template("diff", "worktrees/{id}/diff", _DIFF, "The changes in a worktree, as a patch of up to 1 MiB."),
)


class _Item(msgspec.Struct, frozen=True):
    """What a list says of a run, a session or a worktree."""

    id: str
    backend: str = ""
    kind: str = ""
    state: str = ""
    status: str = ""
    title: str = ""
    initial_prompt: str = ""
    prompt: str = ""
    repository: str = ""


class _Page(msgspec.Struct, frozen=True):
    """A page of a list of the REST API; one of the lists has items."""

    total: int = 0
    sessions: list[_Item] = []
    runs: list[_Item] = []
    worktrees: list[_Item] = []


async def page(api: RestApi, cursor: str | None) -> Mapping[str, object]:
    """Return a page of the resources: the newest sessions and runs; with the first page all worktrees.

    Raises:
        InvalidRequest: no page has this cursor.
        RestError: the REST API fails.
    """
    if not re.fullmatch(r"[0-9]{1,9}", cursor or "0", re.ASCII):
        raise InvalidRequest(f"unknown cursor {cursor!r}")
    offset = int(cursor or 0)
    query = f"?limit={_PAGE}&offset={offset}"
    sessions = await api.call(_Page, "GET", f"sessions{query}")
    runs = await api.call(_Page, "GET", f"runs{query}")
    kept = _Page() if offset else await api.call(_Page, "GET", "worktrees")
    resources = [
        *(_listed(each, f"sessions/{each.id}", each.title or each.initial_prompt) for each in sessions.sessions),
        *(_listed(each, f"runs/{each.id}", each.prompt) for each in runs.runs),
        *(_listed(each, f"worktrees/{each.id}/diff", f"Changes for {each.repository}") for each in kept.worktrees),
    ]
    following = offset + _PAGE
    has_more = following < max(sessions.total, runs.total)
    return {"resources": resources, **({"nextCursor": str(following)} if has_more else {})}


def _listed(item: _Item, path: str, title: str) -> Resource:
    description = ", ".join(filter(None, (item.backend or item.kind, item.state or item.status)))
    mime_type = _DIFF if path.endswith("/diff") else _JSON
    return Resource(path, on_one_line(title[:_TITLE_CHARS]), mime_type, description, uri=f"{_SCHEME}{path}")


async def read(api: RestApi, uri: str) -> Mapping[str, object]:
    """Return the contents of a resource.

    Raises:
        UnknownResource: no resource has this URI.
        InvalidRequest: an agent is at work in the worktree.
        RestError: the REST API fails.
    """
    if not (match := _URI.fullmatch(uri)):
        templates = ", ".join(str(each.uri_template) for each in TEMPLATES)
        raise UnknownResource(f"unknown resource {uri!r} (available: {templates})")
    path, worktree = match.groups()
    try:
        if not worktree:
            mime_type, text = _JSON, bytes(await api.call(msgspec.Raw, "GET", path)).decode()
        elif (diff := (await api.call(WorktreeView, "GET", worktree)).diff) is not None:
            mime_type, text = _DIFF, diff
        else:
            raise InvalidRequest(f"no diff of {uri!r}: an agent is at work in the worktree")
    except RestError as exc:
        if exc.status < 500:
            raise UnknownResource(exc.message) from exc
        raise
    return {"contents": [{"uri": uri, "mimeType": mime_type, "text": text}]}
