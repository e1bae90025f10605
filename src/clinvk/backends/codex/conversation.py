"""A run in a process of `codex app-server`: its thread, and its progress."""

from typing import NamedTuple

from clinvk.backends.codex import wire
from clinvk.backends.codex.turn import TurnDecoder
from clinvk.types.events import Ending, Usage
from clinvk.types.record import Resume
from clinvk.types.request import RunRequest


class Thread(NamedTuple):
    """An open thread without a running turn."""

    id: str
    model: str | None
    used: Usage | None
    turn: str


class Conversation:
    """A run and its progress.

    Attributes:
        turn: the id of the run's turn, once known.
        active_turns: the running turns by thread: the run's own turn, and the turns of its sub-agents.
        is_dropped: the run is to end as soon as its turn can be interrupted.
        is_retried: the thread request was repeated because the thread was archived.
        calls: the ids of the open calls of client tools.
        requests: the ids of the CLI's requests for these calls, by call.
        asked: the open requests to the user, by the id of the interaction.
        changes: the edits of the open items, by item.
        answer_usage: the tokens of the model's latest answer, if the answer is complete.
        ending: the ending of the run, held back until the thread is closed.
    """

    def __init__(
        self, run: str, request: RunRequest, resume: Resume | None, prompt: str, thread: Thread | None
    ) -> None:
        self.run = run
        self.request = request
        self.resume = resume
        self.prompt = prompt
        self.thread = thread.id if thread else ""
        self.turn = ""
        self.former_turn = thread.turn if thread else ""
        self.active_turns: dict[str, str] = {}
        self.is_dropped = self.is_retried = False
        self.ending: Ending | None = None
        self.calls: set[str] = set()
        self.requests: dict[str, int | str | None] = {}
        self.asked: dict[str, wire.Message] = {}
        self.changes: dict[str, tuple[wire.Change, ...]] = {}
        self.answer_usage: Usage | None = None
        before = (thread.used if thread else None) if resume else Usage()
        self.decoder = TurnDecoder(
            wants_json=request.output_schema is not None, before=before, most_requests=request.max_turns or None
        )
        self.decoder.model = thread.model if thread else None

    def record_turn(self, method: str, params: wire.Params) -> None:
        """Record the start or the end of a turn."""
        if method == "turn/started":
            self.active_turns[params.thread_id] = params.turn.id
        elif method == "turn/completed":
            self.active_turns.pop(params.thread_id, None)

    def record_changes(self, method: str, params: wire.Params) -> None:
        """Record the edits of an item that has started, until the item is complete."""
        if method == "item/started" and params.item.changes:
            self.changes[params.item.id] = params.item.changes
        elif method == "item/completed":
            self.changes.pop(params.item.id, None)

    def belongs_to_another_turn(self, method: str, params: wire.Params) -> bool:
        """Return whether a notification belongs to a turn that the CLI started by itself, or to a former turn.

        Token counts always pass, because the counts of a former turn are the totals before this turn.
        """
        turn = params.turn.id or params.turn_id
        if not turn or method == "thread/tokenUsage/updated":
            return False
        return turn != self.turn if self.turn else turn == self.former_turn
