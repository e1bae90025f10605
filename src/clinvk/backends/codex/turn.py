"""One turn of a thread of `codex app-server`, as events, and the requests to the model that it makes."""

from collections.abc import Iterable, Iterator

import msgspec

from clinvk.backends.codex import failures, items, wire
from clinvk.backends.codex.items import Messages, Thoughts
from clinvk.types.errors import Cancelled
from clinvk.types.events import Event, Progress, RunFailed, RunFinished, RunStarted, Usage


class Requests:
    """Counts them; `are_spent` once the turn has made the most that it may, and is about to make another.

    One has ended when its tokens are told: of a command that the sandbox denies nothing else is. Where the model's
    provider tells no tokens, it has when something follows the results of its tools.

    One that said something and called nothing may be the answer, or have called what was denied. Which it was only
    shows by what follows: then there is one request more than there may be.
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
        """Those that have ended; None where that is not told."""
        return self._ended if self._are_told or self.are_spent else None

    def go_on(self) -> None:
        """Something begins: a message, a thought, a call."""
        if not self._are_told and self._called and not self._open:
            self._end()
        self._follow()

    def say(self) -> None:
        """Something is said."""
        self._said = True

    def call(self, tool: str) -> None:
        """A tool is called."""
        self._called = True
        self._open.add(tool)

    def answer(self, tool: str) -> None:
        """A tool has given its result."""
        self._open.discard(tool)
        self._look()

    def tell(self) -> None:
        """The tokens of a request are told."""
        self._follow()
        if not self._are_told:
            self._are_told, self._ended = True, 0
        self._end()
        self._look()

    def _end(self) -> None:
        self._ended += 1
        self._is_over = True

    def _follow(self) -> None:
        """This is of another request than the one that has ended."""
        if self._is_over:
            self._spend()
            self._is_over = self._said = self._called = False

    def _look(self) -> None:
        """See whether another is about to follow."""
        if self._is_over and not self._open and (self._called or not self._said):
            self._spend()

    def _spend(self) -> None:
        self.are_spent = self.are_spent or (self._most is not None and self._ended >= self._most)


class TurnDecoder:
    """Turns what is said of a thread into the events of a run that is one turn of it."""

    def __init__(self, wants_json: bool, before: Usage | None, most_requests: int | None = None) -> None:
        """`before` are the tokens of the thread's former turns, where they are known."""
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
        """The tokens of the thread, this turn included, as far as they are known."""
        return self._after or self._before

    @property
    def usage(self) -> Usage | None:
        """The tokens of the turn so far; the totals are those of the thread, and begin with its former turns."""
        return self._after - self._before if self._after and self._before else None

    @property
    def is_out_of_turns(self) -> bool:
        """Whether the turn is to end, since it would ask the model more often than it may."""
        return self._requests.are_spent

    def feed(self, told: wire.Notification) -> Iterable[Event]:
        """Take what is said of the thread. What is said before its turn has begun comes after the start."""
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
        """Give the ending by an error of the CLI; its process would go on."""
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
            if not isinstance(item, wire.WebSearch):  # the model API does that within its answer
                self._requests.call(item.id)
                self._go_on()
            yield call

    def _go_on(self) -> None:
        """The model has what it said before: that does not come again."""
        self._messages.go_on()
        self._thoughts.go_on()

    def _count(self, tokens: wire.TokenUsage) -> None:
        """Where it is not known how many there were before, the first count tells: it has the last request alone, too.

        Only of an answer that was broken off it has not, but an earlier request.
        """
        total = tokens.total.usage
        self._before = self._before or total - tokens.last.usage
        if total != self.total and not self._compacts:
            self._requests.tell()
            self._go_on()
        self._after = total

    def _trouble(self, error: wire.Failure, will_retry: bool) -> Iterator[Event]:
        """The error that ends a turn is repeated by its end."""
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
