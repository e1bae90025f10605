"""Conversations that clients keep and name themselves: which of our sessions goes on with one.

Such a client sends all of its conversation each time. The session that has it is found by its tag, and by its last
answer being the last one that the client sends: where the user has changed the conversation, or where the client asks
something else in its name (for a title), no session fits, and what was said is told anew.
"""

import hashlib
import re

from msgspec.structs import replace

from clinvk.dialects.base import Call
from clinvk.request import RunRequest
from clinvk.session import Session
from clinvk.store import RunQuery, SessionQuery, SessionStore

_PREFIX = "chat:"
_PLAIN = re.compile(r"[!-~]{1,90}")
_LOOKED_AT = 5
"""Sessions of one conversation, the newest first: there are several where the user went back in it."""


async def placed(store: SessionStore, request: RunRequest, call: Call) -> RunRequest:
    """Make a request that has its backend go on with the session that has its conversation, or begin one.

    What is asked at the beginning of a conversation that there is already leaves no session: clients do so to have it
    described, and before its first answer is replaced.
    """
    tag = _tag(call.chat)
    kept = (await store.sessions(SessionQuery(tag=tag, backend=request.backend, limit=_LOOKED_AT))).items
    if not call.latest:
        return replace(request, ephemeral=True) if kept else replace(request, tags=(*request.tags, tag))
    for session in kept:
        if await _ends_with(store, session, call.answer):
            return replace(call.latest, backend=request.backend, model=request.model, session_id=session.id)
    return replace(request, tags=(*request.tags, tag))


def _tag(chat: str) -> str:
    """Give the tag of the sessions of a conversation; a name that cannot be a tag is told by its digest."""
    return _PREFIX + (chat if _PLAIN.fullmatch(chat) else hashlib.sha256(chat.encode()).hexdigest())


async def _ends_with(store: SessionStore, session: Session, answer: str) -> bool:
    """Say whether the newest turn of a session ended with an answer; clients put more before it, such as thinking."""
    runs = (await store.runs(RunQuery(session_id=session.id, limit=1))).items
    output = runs[0].output.strip() if runs else ""
    return bool(output) and answer.strip().endswith(output)
