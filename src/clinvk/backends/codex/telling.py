"""What a turn of Codex says and thinks: each character once, though the CLI asks again where a stream broke."""

from collections.abc import Iterator

from clinvk.backends.base import Prose
from clinvk.backends.retold import News, Retold
from clinvk.events import TextDelta, ThinkingDelta


class Telling:
    """The items of one kind. Those of a request to the model that did not end come again, each under another id."""

    def __init__(self) -> None:
        self._item: str | None = None
        self._open = Retold()
        self._told: list[Retold] = []
        self._again: list[Retold] = []

    def begins(self, item: str) -> bool:
        """Turn to an item; say whether it is another than the last, and not one over again."""
        if item == self._item:
            return False
        fresh = not self._again
        self._open = Retold() if fresh else self._again.pop(0)
        self._open.begin(again=not fresh)
        self._told.append(self._open)
        self._item = item
        return fresh

    def piece(self, text: str) -> News:
        """Take a piece of the item."""
        return self._open.piece(text)

    def whole(self, text: str) -> News:
        """Take the item in full: nothing more comes of it."""
        self._item = None
        return self._open.block(text)

    def go_on(self) -> None:
        """The model has gone on to something else: nothing will be told again."""
        self._told, self._again = [], []

    def cut(self) -> None:
        """The stream broke: what the request has told will be told again, whole items too."""
        self._told, self._again = [], self._told + self._again
        self._item = None


class Messages(Telling):
    """The messages of the agent, a blank line apart."""

    def __init__(self) -> None:
        super().__init__()
        self._prose = Prose()

    def say(self, item: str, text: str, whole: bool) -> Iterator[TextDelta]:
        """Take a piece of a message, or all of it."""
        if self.begins(item):
            self._prose.end_message()
        news = self.whole(text) if whole else self.piece(text)
        if news.restarts:
            self._prose.end_message()
        yield from self._prose.say(news.text)


class Thoughts(Telling):
    """The summaries of the model's thinking; they and their parts are a blank line apart."""

    def __init__(self) -> None:
        super().__init__()
        self._part = 0
        self._thought = False

    def think(self, item: str, text: str, part: int) -> Iterator[ThinkingDelta]:
        """Take a piece of a part of a summary."""
        opens = self.begins(item)
        before = "\n\n" if part > (0 if opens else self._part) else ""
        self._part = part
        yield from self._tell(self.piece(before + text), opens)

    def think_through(self, item: str, text: str) -> Iterator[ThinkingDelta]:
        """Take a summary in full."""
        opens = self.begins(item)
        yield from self._tell(self.whole(text), opens)

    def _tell(self, news: News, opens: bool) -> Iterator[ThinkingDelta]:
        if news.text:
            apart = self._thought and (opens or news.restarts)
            self._thought = True
            yield ThinkingDelta(f"\n\n{news.text}" if apart else news.text)
