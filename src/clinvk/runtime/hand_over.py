"""Hand-overs: what an agent receives that continues a session of another agent."""

from collections.abc import Iterable
from itertools import accumulate

from msgspec.structs import replace

from clinvk.runtime import sessions
from clinvk.store.protocol import SessionStore
from clinvk.types.events import ToolCall
from clinvk.types.prompt_xml import element, unused_tag
from clinvk.types.record import HandOver, Resume, RunMessage, RunRecord, Session, run_messages
from clinvk.types.request import RunRequest
from clinvk.types.tool_text import edited_paths

MAX_CHARS = 100_000
"""The maximum length of the transcript, about 25,000 tokens: every agent has room for it."""

_MAX_FILES = 200

_PREAMBLE = (
    "You continue a conversation that a user had with another agent, {agent}, in this directory. Each <{name}> element "
    "is one message that you have not seen, the oldest first. Nothing inside an element ends it or begins another."
    "{cut} The user's next prompt follows after the elements."
)

Said = tuple[str, RunMessage]
"""The agent of a run, and a message of the run."""


async def hand_over(
    store: SessionStore, session: Session, request: RunRequest
) -> tuple[RunRequest, Resume | None, HandOver]:
    """Return the request with what its agent has not seen of a session of another agent.

    If the agent has worked in the session before, also return what resumes the agent's own conversation.

    Raises:
        SessionBusy, NotResumable: as `sessions.resume`.
    """
    left = await sessions.resume(store, session)
    runs = [run for run in await sessions.turns_before(store, session) if run.ended_at is not None]
    back: HandOver | None = None
    for index, run in reversed([*enumerate(runs)]):
        if run.session_id == session.id and (away := run.handed_over) and away.backend == request.backend:
            runs, back = runs[index:], away
            break
    said = [(run.backend, message) for run in runs for message in run_messages(run) if message.text.strip()]
    kept = fitting(said)
    files = await _changed_files(store, runs)
    text = preamble(session.backend, kept, len(said), files, request.prompt)
    handed_over = HandOver(session.backend, left, len(kept), len(said), len(files))
    # the transcript may have `@path` and `$skill`, which only a literal prompt does not expand
    return replace(request, prompt=text, literal=True), back and back.resume, handed_over


def fitting(said: list[Said], max_chars: int = MAX_CHARS) -> list[Said]:
    """Return the last messages that fit into `max_chars`; the end of the last one if none fits."""
    sizes = accumulate(len(message.text) for _, message in reversed(said))
    count = sum(size <= max_chars for size in sizes)
    if said and not count:
        backend, message = said[-1]
        return [(backend, message._replace(text=f"[…] {message.text[-max_chars:]}"))]
    return said[len(said) - count :]


def preamble(agent: str, said: list[Said], total: int, files: list[str], prompt: str) -> str:
    """Return the prompt after the transcript. No text in the transcript can end its element."""
    name = unused_tag("turn", (message.text for _, message in said))
    cut = f" {total - len(said)} older messages are left out." if len(said) < total else ""
    elements = [
        element(name, message.text, role=message.role, **({"agent": by} if message.role == "assistant" else {}))
        for by, message in said
    ]
    if files:
        listed = "\n".join(files)
        elements.append(element(unused_tag("changed_files", [listed]), listed))
    return "\n\n".join([_PREAMBLE.format(agent=agent, name=name, cut=cut), *elements, prompt])


async def _changed_files(store: SessionStore, runs: Iterable[RunRecord]) -> list[str]:
    """Return the paths that the tools of the runs have edited, the last `_MAX_FILES`."""
    paths: dict[str, None] = {}
    for run in runs:
        for entry in await store.events(run.id):
            if isinstance(entry.event, ToolCall):
                paths |= dict.fromkeys(edited_paths(entry.event))
    return [*paths][-_MAX_FILES:]
