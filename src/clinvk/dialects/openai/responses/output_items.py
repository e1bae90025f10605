"""Convert an agent's output to the items of a response and the events of its stream."""

from collections.abc import Iterable, Iterator

import msgspec

from clinvk.dialects import vendor
from clinvk.dialects.dialect import Call
from clinvk.dialects.openai.responses import response_object
from clinvk.dialects.openai.responses.response_object import (
    Item,
    ItemStatus,
    MessageItem,
    OutputText,
    ReasoningItem,
    Response,
    SummaryText,
)
from clinvk.types.events import Ending, Event, RunFailed, RunFinished, TextDelta


class _Message(msgspec.Struct):
    """A message in progress."""

    id: str
    index: int
    pieces: list[str]

    def item(self, status: ItemStatus) -> MessageItem:
        return MessageItem(id=self.id, status=status, content=(OutputText("".join(self.pieces)),))

    def begin(self) -> Iterator[response_object.Frame]:
        yield response_object.ItemAdded(output_index=self.index, item=MessageItem(id=self.id, status="in_progress"))
        yield response_object.PartAdded(item_id=self.id, output_index=self.index, part=OutputText(""))

    def add(self, text: str) -> response_object.Frame:
        self.pieces.append(text)
        return response_object.TextDelta(item_id=self.id, output_index=self.index, delta=text)

    def end(self, item: Item) -> Iterator[response_object.Frame]:
        text = "".join(self.pieces)
        yield response_object.TextDone(item_id=self.id, output_index=self.index, text=text)
        yield response_object.PartDone(item_id=self.id, output_index=self.index, part=OutputText(text))
        yield response_object.ItemDone(output_index=self.index, item=item)


class _Reasoning(msgspec.Struct):
    """A reasoning item in progress."""

    id: str
    index: int
    pieces: list[str]

    def item(self, _: ItemStatus) -> ReasoningItem:
        return ReasoningItem(id=self.id, summary=(SummaryText("".join(self.pieces)),))

    def begin(self) -> Iterator[response_object.Frame]:
        yield response_object.ItemAdded(output_index=self.index, item=ReasoningItem(id=self.id))
        yield response_object.SummaryAdded(item_id=self.id, output_index=self.index, part=SummaryText(""))

    def add(self, text: str) -> response_object.Frame:
        self.pieces.append(text)
        return response_object.SummaryTextDelta(item_id=self.id, output_index=self.index, delta=text)

    def end(self, item: Item) -> Iterator[response_object.Frame]:
        text = "".join(self.pieces)
        yield response_object.SummaryTextDone(item_id=self.id, output_index=self.index, text=text)
        yield response_object.SummaryDone(item_id=self.id, output_index=self.index, part=SummaryText(text))
        yield response_object.ItemDone(output_index=self.index, item=item)


_PREFIXES: dict[type[_Message | _Reasoning], str] = {_Message: "msg", _Reasoning: "rs"}


class Output:
    """Builds a response from the events of a run: text and thinking become items, in order of arrival.

    `response` is the current state. A response that did not fail has a message, possibly empty.
    """

    def __init__(self, begun: Response, call: Call, run_id: str) -> None:
        self.response = begun
        self._call = call
        self._run_id = run_id
        self._has_begun = False
        self._has_acted = False
        self._items: list[Item] = []
        self._open: _Message | _Reasoning | None = None

    def feed(self, event: Event) -> Iterable[response_object.Frame]:
        """Return the stream events for an event of the run."""
        if isinstance(event, TextDelta) and event.text and isinstance(self._open, _Message):
            return (self._open.add(event.text),)  # fast path for the most common event; the result is the same
        return list(self._grow(event))

    def keep_alive(self) -> Iterable[response_object.Frame]:
        """Return events that keep an idle stream alive; readers require the start of the response first."""
        if not self._has_begun:
            return list(self._begin_once())
        return (response_object.KeepAlive(),) if self.response.status == "in_progress" else ()

    def _begin_once(self) -> Iterator[response_object.Frame]:
        if not self._has_begun:
            self._has_begun = True
            yield response_object.Created(response=self.response)
            yield response_object.InProgress(response=self.response)

    def _grow(self, event: Event) -> Iterator[response_object.Frame]:
        yield from self._begin_once()
        match event:
            case TextDelta(text=text) if text:
                yield from self._say(_Message, text)
            case RunFinished() | RunFailed():
                yield from self._end(event)
            case _:
                if text := vendor.thought(event, self._call):
                    yield from self._say(_Reasoning, text)
        self._has_acted = self._has_acted or vendor.tells_something(event)

    def _say(self, kind: type[_Message | _Reasoning], text: str) -> Iterator[response_object.Frame]:
        if not isinstance(self._open, kind):
            yield from self._close("completed")
            yield from self._begin(kind)
        assert self._open
        yield self._open.add(text)

    def _begin(self, kind: type[_Message | _Reasoning]) -> Iterator[response_object.Frame]:
        index = len(self._items)
        self._open = kind(f"{_PREFIXES[kind]}_{self._run_id}_{index}", index, [])
        yield from self._open.begin()

    def _close(self, status: ItemStatus) -> Iterator[response_object.Frame]:
        if self._open:
            item = self._open.item(status)
            self._items.append(item)
            yield from self._open.end(item)
            self._open = None

    def _end(self, ending: Ending) -> Iterator[response_object.Frame]:
        status = response_object.status_of(ending)
        if isinstance(ending, RunFinished) and not self._has_message():
            yield from self._close("completed")
            yield from self._begin(_Message)
        yield from self._close("completed" if status == "completed" else "incomplete")
        self.response = response_object.ended(self.response, tuple(self._items), ending, self._has_acted)
        last = {"completed": response_object.Completed, "incomplete": response_object.Incomplete}.get(
            status, response_object.Failed
        )
        yield last(response=self.response)

    def _has_message(self) -> bool:
        return isinstance(self._open, _Message) or any(isinstance(item, MessageItem) for item in self._items)
