"""The resources of the MCP server: sessions, runs and the diffs of worktrees, as `GET` requests of REST return them."""

import re
from collections.abc import Mapping

import msgspec

from clinvk.api.endpoints.worktrees import WorktreeList
from clinvk.api.mcp.tools import RestApi, WorktreeDiff
from clinvk.dialects.rest.views import RunList, SessionList
from clinvk.store.protocol import page_offset
from clinvk.types.errors import InvalidRequest
from clinvk.types.text import on_one_line

_SCHEME = "clinvk://"
_URI = re.compile(rf"{_SCHEME}((?:runs|sessions)/[\w-]+|sessions/[\w-]+/messages|(worktrees/[\w-]+)/diff)", re.ASCII)
_PAGE = 100
_TITLE_CHARS = 100
_JSON, _DIFF = "application/json", "text/x-diff"


class UnknownResource(InvalidRequest):
    """No resource has this URI."""


TEMPLATES = [
    {"name": name, "uriTemplate": f"{_SCHEME}{path}", "mimeType": mime_type, "description": description}
    for name, path, mime_type, description in (
        ("run", "runs/{id}", _JSON, "A run: its prompt, state, answer, usage and parts."),
        ("session", "sessions/{id}", _JSON, "A session: its agent, directory, state and usage."),
        ("conversation", "sessions/{id}/messages", _JSON, "The last 100 prompts and answers of a session."),
        ("diff", "worktrees/{id}/diff", _DIFF, "The changes in a worktree, as a patch of up to 1 MiB."),
    )
]


async def page(api: RestApi, cursor: str | None) -> Mapping[str, object]:
    """Return a page of the resources: the newest sessions and runs; with the first page all worktrees.

    Raises:
        InvalidRequest: no page has this cursor.
        ClinvkError: the REST API fails.
    """
    offset = page_offset(cursor)
    query = f"?limit={_PAGE}&offset={offset}"
    sessions = await api.call(SessionList, "GET", f"sessions{query}")
    runs = await api.call(RunList, "GET", f"runs{query}")
    kept = [] if offset else (await api.call(WorktreeList, "GET", "worktrees")).worktrees
    resources = [
        *(
            _listed(f"sessions/{each.id}", each.title or each.initial_prompt, f"{each.backend}, {each.status}")
            for each in sessions.sessions
        ),
        *(_listed(f"runs/{each.id}", each.prompt, f"{each.backend or each.kind}, {each.state}") for each in runs.runs),
        *(_listed(f"worktrees/{each.id}/diff", f"Changes for {each.repository}", each.state) for each in kept),
    ]
    following = offset + _PAGE
    has_more = following < max(sessions.total, runs.total)
    return {"resources": resources, **({"nextCursor": str(following)} if has_more else {})}


def _listed(path: str, title: str, description: str) -> Mapping[str, str]:
    title, mime_type = on_one_line(title[:_TITLE_CHARS]), _DIFF if path.endswith("/diff") else _JSON
    uri = f"{_SCHEME}{path}"
    return {"uri": uri, "name": path, "title": title, "mimeType": mime_type, "description": description}


async def read(api: RestApi, uri: str) -> Mapping[str, object]:
    """Return the contents of a resource.

    Raises:
        UnknownResource: no resource has this URI.
        InvalidRequest: an agent is at work in the worktree.
        ClinvkError: the REST API fails.
    """
    if not (match := _URI.fullmatch(uri)):
        templates = ", ".join(each["uriTemplate"] for each in TEMPLATES)
        raise UnknownResource(f"unknown resource {uri!r} (available: {templates})")
    path, worktree = match.groups()
    try:
        if worktree:
            text = (await api.call(WorktreeDiff, "GET", worktree)).diff
        else:
            text = bytes(await api.call(msgspec.Raw, "GET", path)).decode()
    except InvalidRequest as exc:
        raise UnknownResource(exc.message) from exc
    if text is None:
        raise InvalidRequest(f"no diff of {uri!r}: an agent is at work in the worktree")
    return {"contents": [{"uri": uri, "mimeType": _DIFF if worktree else _JSON, "text": text}]}
