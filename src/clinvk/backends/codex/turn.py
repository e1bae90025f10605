"""One turn of a thread of `codex app-server`, as events."""

from collections.abc import Iterable, Iterator

import msgspec

from clinvk.backends.base import Prose
from clinvk.backends.codex import failures, items, wire
from clinvk.backends.retold import News, Retold
from clinvk.errors import Cancelled
from clinvk.events import (
    Event,
    Progress,
    RunFailed,
    RunFinished,
    RunStarted,
    TextDelta,
    ThinkingDelta,
    Usage,
)


class Telling:
    """An item that comes in pieces, as often as the CLI asks its model for it: each character is given once."""

    def __init__(self) -> None:
        self._retold = Retold()
        self._item = ""
        self._cut = False

    def begins(self, item: str) -> bool:
        """Turn to an item; say whether it is another than the last, and not that one over again."""
        if item == self._item:
            return False
        fresh = not self._cut
        self._retold.begin(again=self._cut)
        self._item, self._cut = item, False
        return fresh

    def piece(self, text: str) -> News:
        """Take a piece of the item."""
        return self._retold.piece(text)

    def whole(self, text: str) -> News:
        """Take the item in full: nothing more comes of it."""
        news = self._retold.block(text)
        self._item = ""
        return news

    def go_on(self) -> None:
        """The model has gone on to something else: nothing will be told again."""
        self._cut = False

    def cut(self) -> None:
        """The stream broke: the item that is open will be told again, under another id."""
        if self._item:
            self._item, self._cut = "", True


class TurnDecoder:
    """Turns what is said of a thread into the events of a run that is one turn of it."""

    def __init__(self, wants_json: bool, before: Usage | None) -> None:
        """`before` are the tokens of the thread's former turns, where they are known."""
        self.last_error = ""
        self.model: str | None = None
        self._wants_json = wants_json
        self._started = False
        self._early: list[Event] = []
        self._prose = Prose()
        self._text = Telling()
        self._thinking = Telling()
        self._thought = False
        self._part = 0
        self._message = ""
        self._called: set[str] = set()
        self._before = before
        self._after: Usage | None = None

    @property
    def total(self) -> Usage | None:
        """The tokens of the thread, this turn included, as far as they are known."""
        return self._after or self._before

    @property
    def usage(self) -> Usage | None:
        """The tokens of the turn so far; the totals are those of the thread, and begin with its former turns."""
        return self._after - self._before if self._after and self._before else None

    def feed(self, told: wire.Notification) -> Iterable[Event]:
        """Take what is said of the thread. What is said before its turn has begun comes after the start."""
        if self._started:
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

    def _events(self, told: wire.Notification) -> Iterable[Event]:
        match told:
            case wire.MessageDelta(params=piece):
                return self._say(piece.item_id, piece.delta, whole=False)
            case wire.SummaryDelta(params=piece):
                return self._think(piece.item_id, piece.delta, piece.summary_index)
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
            case _:
                yield from self._call(item)

    def _completed(self, item: wire.Item) -> Iterator[Event]:
        match item:
            case wire.AgentMessage():
                self._message = item.text
                yield from self._say(item.id, item.text, whole=True)
            case wire.Reasoning():
                yield from self._thought_through(item)
            case _:
                yield from self._call(item)
                if item.id in self._called:
                    yield item.tool().result()

    def _call(self, item: wire.Tool) -> Iterator[Event]:
        call = item.tool().call()
        if call and item.id not in self._called:
            self._called.add(item.id)
            self._text.go_on()
            self._thinking.go_on()
            yield call

    def _say(self, item: str, text: str, whole: bool) -> Iterator[TextDelta]:
        if self._text.begins(item):
            self._prose.end_message()
        news = self._text.whole(text) if whole else self._text.piece(text)
        if news.restarts:
            self._prose.end_message()
        yield from self._prose.say(news.text)

    def _think(self, item: str, text: str, part: int) -> Iterator[ThinkingDelta]:
        opens = self._thinking.begins(item)
        before = "\n\n" if part > (0 if opens else self._part) else ""
        self._part = part
        yield from self._thought_of(self._thinking.piece(before + text), opens)

    def _thought_through(self, item: wire.Reasoning) -> Iterator[ThinkingDelta]:
        opens = self._thinking.begins(item.id)
        yield from self._thought_of(self._thinking.whole("\n\n".join(item.summary)), opens)

    def _thought_of(self, news: News, opens: bool) -> Iterator[ThinkingDelta]:
        if news.text:
            apart = self._thought and (opens or news.restarts)
            self._thought = True
            yield ThinkingDelta(f"\n\n{news.text}" if apart else news.text)

    def _count(self, tokens: wire.TokenUsage) -> None:
        """Where it is not known how many there were before, the first count tells: it has the last request alone, too.

        Only of an answer that was broken off it has not, but an earlier request.
        """
        self._before = self._before or tokens.total.usage - tokens.last.usage
        self._after = tokens.total.usage

    def _trouble(self, error: wire.Failure, will_retry: bool) -> Iterator[Event]:
        """The error that ends a turn is repeated by its end."""
        if not will_retry:
            self.last_error = error.said
        elif ending := failures.hopeless(error.said):
            yield ending
        else:
            self._text.cut()
            self._thinking.cut()
            yield Progress("retry", error.said)

    def _ending(self, turn: wire.Turn) -> RunFinished | RunFailed:
        match turn.status:
            case "completed":
                return RunFinished(usage=self.usage, structured_output=self._structured())
            case "interrupted":
                return RunFailed(Cancelled.code, "codex interrupted the turn", exit_code=1, usage=self.usage)
            case _ if turn.error and (reason := failures.stop_reason(turn.error.message)):
                return RunFinished(reason, usage=self.usage)
            case _ if turn.error:
                return self.failed(turn.error.message, bytes(turn.error.codex_error_info))
            case _:
                return self.failed(self.last_error or "codex ended the turn without success")

    def _structured(self) -> object:
        return items.structured(self._message) if self._wants_json else None
