"""Conversations that clients keep and name themselves: which of our sessions goes on with one.

Such a client sends all of its conversation each time. The session that has it is found by its tag, by its last answer
being the last one that the client sends, and by a digest of all that it was told before: where the user has changed
the conversation, or where the client asks something else in its name (for a title), no session fits, and what was said
is told anew. The run alone keeps that digest, in its `answer_as`: metadata is the caller's, and shows with the session.
"""

import hashlib
import re

from msgspec.structs import replace

from clinvk.dialects.base import Answered, Chat
from clinvk.request import RunRequest
from clinvk.session import Session
from clinvk.store import RunQuery, SessionQuery, SessionStore

_PREFIX = "chat:"
_PLAIN = re.compile(r"[!-~]{1,90}")
_LOOKED_AT = 5
"""Sessions of one conversation, the newest first: there are several where the user went back in it."""


async def placed(store: SessionStore, request: RunRequest, chat: Chat, begins_anew: bool = False) -> RunRequest:
    """Make a request that has its backend go on with the session that has its conversation, or begin one.

    It begins one also with `begins_anew`: another request goes on with the session.

    What is asked at the beginning of a conversation that there is already leaves no session: clients do so to have it
    described, and before its first answer is replaced.
    """
    tag = _tag(chat.name)
    request = replace(request, answer_as={**request.answer_as, "clinvk_chat": chat.digest})
    kept = (await store.sessions(SessionQuery(tag=tag, backend=request.backend, limit=_LOOKED_AT))).items
    begun = replace(request, tags=(*request.tags, tag))
    answered = chat.answered
    if answered is None:
        return replace(request, ephemeral=True) if kept else begun
    for session in () if begins_anew else kept:
        if await _has(store, session, answered):
            latest = answered.latest
            return replace(request, prompt=latest.prompt, images=latest.images, session_id=session.id)
    return begun


def _tag(name: str) -> str:
    """Give the tag of the sessions of a conversation; a name that cannot be a tag is told by its digest."""
    return _PREFIX + (name if _PLAIN.fullmatch(name) else hashlib.sha256(name.encode()).hexdigest())


async def _has(store: SessionStore, session: Session, answered: Answered) -> bool:
    """Say whether the newest turn of a session answered the same; clients put more before it, such as thinking."""
    runs = (await store.runs(RunQuery(session_id=session.id, limit=1))).items
    output = runs[0].output.strip() if runs else ""
    if not output or not answered.answer.strip().endswith(output):
        return False
    match runs[0].request:  # earlier records have it in the metadata
        case {"answer_as": {"clinvk_chat": str(digest)}} | {"metadata": {"clinvk_chat": str(digest)}}:
            return digest == answered.digest
        case _:
            return False
