"""Find the session that a request continues: by the conversation that the client sends, or after an earlier run.

A client that keeps the conversation sends the whole conversation each time. A session matches by its tag, by its last
answer, and by a digest of all earlier turns. If the user has edited the conversation, or the client asks for something
else under the same name (such as a title), no session matches, and the agent gets the whole conversation again. Only
the run stores the digest, in `answer_as`: metadata belongs to the caller, and is visible in the session.
"""

import hashlib
import re
from math import inf

from msgspec.structs import replace

from clinvk.dialects.client_tools import arguments
from clinvk.dialects.conversation import ToolCallMade, Turn, agent_prompt, check_calls, system_prompt, without_images
from clinvk.dialects.dialect import AnsweredChat, Chat, Previous
from clinvk.dialects.openai.responses import stored
from clinvk.runtime.sessions import turns_before
from clinvk.store.protocol import RunQuery, SessionQuery, SessionStore
from clinvk.types.choices import UNDER_WAY
from clinvk.types.errors import PreviousNotFound, RunNotFound
from clinvk.types.events import ToolCall, ToolResult
from clinvk.types.record import RunRecord, Session, run_messages
from clinvk.types.request import RunRequest, ToolOutput

_PREFIX = "chat:"
_PLAIN = re.compile(r"[!-~]{1,90}")
_MAX_CANDIDATES = 5
"""How many sessions of one conversation to check, newest first. Going back in a conversation makes several sessions."""


async def find_session(store: SessionStore, request: RunRequest, chat: Chat, new_session: bool = False) -> RunRequest:
    """Return a request that resumes the session of the conversation, or starts a session.

    With `new_session`, start a session in any case, because another request resumes the stored session.

    A request without an earlier answer, in a conversation that has a session, is ephemeral: clients send such requests
    to get a title, or to replace the first answer.
    """
    tag = _tag(chat.name)
    request = replace(request, answer_as={**request.answer_as, "clinvk_chat": chat.digest})
    query = SessionQuery(tag=tag, backend=request.backend, archived=None, limit=_MAX_CANDIDATES)
    sessions = (await store.sessions(query)).items
    new = replace(request, tags=(*request.tags, tag))
    answered = chat.answered
    if answered is None:
        return replace(request, ephemeral=True) if sessions else new
    for session in () if new_session else sessions:
        if await _matches(store, session, answered):
            latest = answered.latest
            return replace(request, prompt=latest.prompt, images=latest.images, session_id=session.id)
    return new


def _tag(name: str) -> str:
    """Return the tag for the sessions of a conversation. A name that is no valid tag is replaced by its digest."""
    return _PREFIX + (name if _PLAIN.fullmatch(name) else hashlib.sha256(name.encode()).hexdigest())


async def _matches(store: SessionStore, session: Session, answered: AnsweredChat) -> bool:
    """Return whether the newest turn of a session gave the answer; clients may send thinking before the output."""
    runs = (await store.runs(RunQuery(session_id=session.id, limit=1))).items
    output = runs[0].output.strip() if runs else ""
    if not output or not answered.answer.strip().endswith(output):
        return False
    match runs[0].request:  # earlier records have the digest in the metadata
        case {"answer_as": {"clinvk_chat": str(digest)}} | {"metadata": {"clinvk_chat": str(digest)}}:
            return digest == answered.digest
        case _:
            return False


async def continue_previous(
    store: SessionStore, request: RunRequest, previous: Previous, keeps_system_prompt: bool, new_session: bool
) -> RunRequest:
    """Return a request, completed from the settings, that continues after an earlier run.

    System messages in the input stay in force until the client sends other system messages. The request resumes the
    session of the run if the run is the newest turn. Otherwise the request starts a session and sends the conversation
    again: if the conversation has newer turns, if the request is ephemeral or for another backend, or with
    `new_session`.

    With `keeps_system_prompt`, a session whose newest turn has finished keeps its earlier system messages. The agent
    does not get the messages again; the run stores them in `answer_as` for requests that continue after the run.

    Raises:
        PreviousNotFound: the run does not exist, was not stored, or is not complete.
        InvalidRequest: the request has the output of a call that the run has not made.
    """
    run, session = await _find_previous(store, previous)
    has_outputs = any(turn.outcomes for turn in previous.conversation.turns)
    calls = await _calls(store, run) if has_outputs or run.state != "finished" else []
    check_calls(previous.conversation, "prompt", [call.id for turn in calls for call in turn.calls])
    if run.state == "finished":
        calls = []
    given = system_prompt((previous.instructions, *previous.conversation.system))
    kept_system = "" if system_prompt(previous.conversation.system) else _system(run)
    system = system_prompt((given or "", kept_system)) or request.system_prompt
    can_resume = session.backend_session_id and session.backend == request.backend and not request.ephemeral
    if can_resume and not (new_session or calls) and await _is_newest(store, run):
        if kept_system and keeps_system_prompt and run.state == "finished":
            system = given
            request = replace(request, answer_as={**request.answer_as, "clinvk_system": kept_system})
        return replace(request, session_id=session.id, system_prompt=system)
    request = replace(request, system_prompt=system)
    earlier = await turns_before(store, session, run.started_at or inf)
    earlier_turns = [turn for each in (*earlier, run) for turn in _turns(each)] + calls
    conversation = replace(previous.conversation, turns=(*earlier_turns, *previous.conversation.turns))
    prompt = agent_prompt(conversation, field=previous.field)
    return replace(request, prompt=prompt.prompt, images=prompt.images, workdir=request.workdir or run.workdir or None)


async def _is_newest(store: SessionStore, run: RunRecord) -> bool:
    newest = (await store.runs(RunQuery(session_id=run.session_id, limit=1))).items
    return [turn.id for turn in newest] == [run.id]


async def _find_previous(store: SessionStore, previous: Previous) -> tuple[RunRecord, Session]:
    try:
        run = await store.run(previous.run_id)
    except RunNotFound:
        run = None
    if run is None or run.session_id is None or stored.is_deleted(run):
        raise PreviousNotFound("Previous response not found: it was never made, not stored, or deleted", previous.field)
    if run.state in UNDER_WAY:
        raise PreviousNotFound("Previous response is not complete yet; wait until it is", previous.field)
    return run, await store.session(run.session_id)


def _system(run: RunRecord) -> str:
    match run.request:
        case {"answer_as": {"clinvk_system": str(before)}}:
            return before
        case _:
            return stored.system(run)


async def _calls(store: SessionStore, run: RunRecord) -> list[Turn]:
    """Return the calls of client tools of a run, and the outputs, as turns."""
    turns: dict[str, Turn] = {}
    for entry in await store.events(run.id):
        event = entry.event
        if isinstance(event, ToolCall) and event.for_client:
            turns[event.id] = Turn("assistant", calls=(ToolCallMade(event.id, event.name, arguments(event)),))
        elif isinstance(event, ToolResult) and event.id in turns:
            outcome = ToolOutput(event.id, (event.output,), event.is_error)
            turns[f"{event.id} output"] = Turn("tool", outcomes=(outcome,))
    return [*turns.values()]


def _turns(run: RunRecord) -> list[Turn]:
    """Return the turns of a run. The store has no images; new images take over their numbers."""
    messages = [message for message in run_messages(run) if message.role == "user" or message.text]
    return [Turn(role, (without_images(text) if role == "user" else text,)) for role, text, _ in messages]
