"""One turn of a `codex app-server` thread, as events, and the model requests of the turn."""

from collections.abc import Iterable, Iterator

import msgspec

from clinvk.backends.codex import failures, items, wire
from clinvk.backends.codex.items import Messages, Thoughts
from clinvk.types.errors import Cancelled
from clinvk.types.events import Event, Progress, RunFailed, RunFinished, RunStarted, Usage


class Requests:
    """Count the model requests of a turn. `are_spent` is true once the turn has reached its limit and needs one more.

    A request has ended when its tokens are reported; a command that the sandbox denies leaves no other trace. If the
    model's provider reports no tokens, a request has ended when something follows the results of its tools.

    A request with text and no tool call may be the final answer, or may have made a call that the sandbox denied. Only
    the next notification shows which. In the second case the turn makes one request more than the limit.
    """

    def __init__(self, most: int | None) -> None:
        self.are_spent = False
        self._most = most
        self._ended = 0
        self._are_told = False
        self._is_over = self._said = self._called = False
        self._open: set[str] = set()

    @property
    def count(self) -> int | None:
        """The number of finished requests, or None if the provider reports no tokens."""
        return self._ended if self._are_told or self.are_spent else None

    def go_on(self) -> None:
        """Record the start of a message, a thought or a tool call."""
        if not self._are_told and self._called and not self._open:
            self._end()
        self._follow()

    def say(self) -> None:
        """Record text."""
        self._said = True

    def call(self, tool: str) -> None:
        """Record a tool call."""
        self._called = True
        self._open.add(tool)

    def answer(self, tool: str) -> None:
        """Record a tool result."""
        self._open.discard(tool)
        self._look()

    def tell(self) -> None:
        """Record the token count of a request."""
        self._follow()
        if not self._are_told:
            self._are_told, self._ended = True, 0
        self._end()
        self._look()

    def _end(self) -> None:
        self._ended += 1
        self._is_over = True

    def _follow(self) -> None:
        """Start the next request if the previous request has ended."""
        if self._is_over:
            self._spend()
            self._is_over = self._said = self._called = False

    def _look(self) -> None:
        """Check whether the turn is about to make another request."""
        if self._is_over and not self._open and (self._called or not self._said):
            self._spend()

    def _spend(self) -> None:
        self.are_spent = self.are_spent or (self._most is not None and self._ended >= self._most)


class TurnDecoder:
    """Turn the notifications of a thread into the events of a run, which is one turn of the thread."""

    def __init__(self, wants_json: bool, before: Usage | None, most_requests: int | None = None) -> None:
        """Set `before` to the tokens of the thread's former turns, or None if unknown."""
        self.last_error = ""
        self.model: str | None = None
        self._wants_json = wants_json
        self._started = False
        self._early: list[Event] = []
        self._messages = Messages()
        self._thoughts = Thoughts()
        self._message = ""
        self._called: set[str] = set()
        self._before = before
        self._after: Usage | None = None
        self._requests = Requests(most_requests)
        self._is_cut = self._compacts = False

    @property
    def total(self) -> Usage | None:
        """The tokens of the thread including this turn, or None if unknown."""
        return self._after or self._before

    @property
    def usage(self) -> Usage | None:
        """The tokens of the turn so far. The CLI reports thread totals, which include former turns."""
        return self._after - self._before if self._after and self._before else None

    @property
    def is_out_of_turns(self) -> bool:
        """Whether the turn must end because the turn would exceed its limit of model requests."""
        return self._requests.are_spent

    def feed(self, told: wire.Notification) -> Iterable[Event]:
        """Return the events of a notification. Warnings from before the turn follow the start event."""
        if self._begins(told):
            self._requests.go_on()
        if self.is_out_of_turns and not isinstance(told, wire.TokensCounted | wire.TurnCompleted):
            self._is_cut = True
        elif self._started:
            yield from self._events(told)
        elif isinstance(told, wire.Warned):
            self._early += self._events(told)
        elif isinstance(told, wire.TokensCounted):
            self._before = told.params.token_usage.total.usage
        else:
            self._started = True
            yield RunStarted(self.model, told.params.thread_id)
            yield from self._early
            yield from self._events(told)

    def failed(self, message: str, kind: bytes = b"null") -> RunFailed:
        """Return the ending for an error of the CLI, whose process keeps running."""
        return msgspec.structs.replace(failures.told(message, kind), usage=self.usage)

    def _begins(self, told: wire.Notification) -> bool:
        match told:
            case wire.MessageDelta() | wire.SummaryDelta() | wire.ItemStarted():
                return True
            case wire.ItemCompleted(params=of):
                return of.item.id not in self._called
            case _:
                return False

    def _events(self, told: wire.Notification) -> Iterable[Event]:
        match told:
            case wire.MessageDelta(params=piece):
                self._requests.say()
                return self._messages.say(piece.item_id, piece.delta, whole=False)
            case wire.SummaryDelta(params=piece):
                return self._thoughts.think(piece.item_id, piece.delta, piece.summary_index)
            case wire.ItemStarted(params=of):
                return self._begun(of.item)
            case wire.ItemCompleted(params=of):
                return self._completed(of.item)
            case wire.Failed(params=of):
                return self._trouble(of.error, of.will_retry)
            case _:
                return self._state(told)

    def _state(self, told: wire.State) -> Iterator[Event]:
        match told:
            case wire.TurnStarted():
                pass
            case wire.PlanUpdated(params=of):
                yield of.todo().progress()
            case wire.TokensCounted(params=of):
                self._count(of.token_usage)
            case wire.Warned(params=of):
                yield Progress("warning", of.message)
            case wire.TurnCompleted(params=of):
                yield self._ending(of.turn)

    def _begun(self, item: wire.Item) -> Iterator[Event]:
        match item:
            case wire.AgentMessage() | wire.Reasoning():
                pass
            case wire.Compaction():
                self._compacts = True
            case _:
                yield from self._call(item)

    def _completed(self, item: wire.Item) -> Iterator[Event]:
        match item:
            case wire.AgentMessage():
                self._message = item.text
                self._requests.say()
                yield from self._messages.say(item.id, item.text, whole=True)
            case wire.Reasoning():
                yield from self._thoughts.think_through(item.id, "\n\n".join(item.summary))
            case wire.Compaction():
                self._compacts = False
            case _:
                yield from self._call(item)
                if item.id in self._called:
                    self._requests.answer(item.id)
                    yield item.tool().result()

    def _call(self, item: wire.Tool) -> Iterator[Event]:
        call = item.tool().call()
        if call and item.id not in self._called:
            self._called.add(item.id)
            if not isinstance(item, wire.WebSearch):  # the model API searches within its answer
                self._requests.call(item.id)
                self._go_on()
            yield call

    def _go_on(self) -> None:
        """Record that the model received its earlier text, which therefore does not come again."""
        self._messages.go_on()
        self._thoughts.go_on()

    def _count(self, tokens: wire.TokenUsage) -> None:
        """Record a token count.

        If the thread's earlier total is unknown, subtract the last request from the first total. The difference is
        wrong for an answer that was broken off, because `last` then holds an earlier request.
        """
        total = tokens.total.usage
        self._before = self._before or total - tokens.last.usage
        if total != self.total and not self._compacts:
            self._requests.tell()
            self._go_on()
        self._after = total

    def _trouble(self, error: wire.Failure, will_retry: bool) -> Iterator[Event]:
        """Handle an error. The end of the turn repeats the error that caused the end, so store only the message."""
        if not will_retry:
            self.last_error = error.said
        elif ending := failures.hopeless(error.said):
            yield ending
        else:
            self._messages.cut()
            self._thoughts.cut()
            yield Progress("retry", error.said)

    def _ending(self, turn: wire.Turn) -> RunFinished | RunFailed:
        turns = self._requests.count
        match turn.status:
            case "completed" if not self._is_cut:
                return RunFinished(usage=self.usage, structured_output=self._structured(), turns=turns)
            case "completed" | "interrupted" if self.is_out_of_turns:
                return RunFinished("max_turns", usage=self.usage, turns=turns)
            case "interrupted":
                return RunFailed(Cancelled.code, "codex interrupted the turn", exit_code=1, usage=self.usage)
            case _ if turn.error and (reason := failures.stop_reason(turn.error.message)):
                return RunFinished(reason, usage=self.usage, turns=turns)
            case _ if turn.error:
                return self.failed(turn.error.message, bytes(turn.error.codex_error_info))
            case _:
                return self.failed(self.last_error or "codex ended the turn without success")

    def _structured(self) -> object:
        return items.structured(self._message) if self._wants_json else None
