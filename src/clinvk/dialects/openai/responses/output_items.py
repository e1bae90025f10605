"""Convert an agent's output to the items of a response and the events of its stream.

https://platform.openai.com/docs/api-reference/responses-streaming
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from msgspec import UNSET
from msgspec.structs import replace

from clinvk.dialects import vendor
from clinvk.dialects.client_tools import OPENAI, arguments, client_name, takes_text, text_input
from clinvk.dialects.dialect import Call
from clinvk.dialects.openai.responses import response_object
from clinvk.dialects.openai.responses.response_object import Item, ItemStatus, OutputText, Response
from clinvk.types.events import Ending, Event, RunFailed, RunFinished, TextDelta, ToolCall, ToolCallDelta

_ARGUMENTS = "response.function_call_arguments"


class StreamEvent(NamedTuple):
    """An event of the stream; the encoder adds the sequence number, which counts from 0."""

    type: str
    fields: dict[str, object]


def _event(type_: str, **fields: object) -> StreamEvent:
    return StreamEvent(type_, fields)


class _OpenItem:
    """An item in progress, with one part of text: a message or a reasoning item."""

    def __init__(self, is_message: bool, run_id: str, index: int) -> None:
        self.is_message = is_message
        self._id = f"{'msg' if is_message else 'rs'}_{run_id}_{index}"
        self._index = index
        self._pieces: list[str] = []
        self._part = "response.content_part" if is_message else "response.reasoning_summary_part"
        self._text = "response.output_text" if is_message else "response.reasoning_summary_text"
        part_index = "content_index" if is_message else "summary_index"
        self._place = {"item_id": self._id, "output_index": index, part_index: 0}
        self._more: dict[str, object] = {"logprobs": ()} if is_message else {}

    def item(self, status: ItemStatus) -> Item:
        parts = () if status == "in_progress" else ("".join(self._pieces),)
        if self.is_message:
            return response_object.MessageItem(id=self._id, status=status, content=tuple(map(OutputText, parts)))
        return response_object.ReasoningItem(id=self._id, summary=tuple(map(response_object.SummaryText, parts)))

    def begin(self) -> Iterator[StreamEvent]:
        yield _event("response.output_item.added", output_index=self._index, item=self.item("in_progress"))
        yield _event(f"{self._part}.added", **self._place, part=self._part_of(""))

    def add(self, text: str) -> StreamEvent:
        self._pieces.append(text)
        return _event(f"{self._text}.delta", **self._place, delta=text, **self._more)

    def end(self, item: Item) -> Iterator[StreamEvent]:
        text = "".join(self._pieces)
        yield _event(f"{self._text}.done", **self._place, text=text, **self._more)
        yield _event(f"{self._part}.done", **self._place, part=self._part_of(text))
        yield _event("response.output_item.done", output_index=self._index, item=item)

    def _part_of(self, text: str) -> OutputText | response_object.SummaryText:
        return OutputText(text) if self.is_message else response_object.SummaryText(text)


class Output:
    """Builds a response from the events of a run: text and thinking become items, in order of arrival.

    `response` is the current state. A response that did not fail has a message, possibly empty.
    """

    def __init__(self, response: Response, call: Call, run_id: str) -> None:
        self.response = response
        self._call = call
        self._run_id = run_id
        self._has_begun = False
        self._has_acted = False
        self._items: list[Item] = []
        self._open: _OpenItem | None = None
        self._calls: dict[str, int] = {}

    def feed(self, event: Event, at: float) -> Sequence[StreamEvent]:
        """Return the stream events for an event of the run, which happened `at` seconds since the epoch."""
        if isinstance(event, TextDelta) and event.text and self._open and self._open.is_message:
            return (self._open.add(event.text),)  # fast path for the most common event; the result is the same
        return list(self._grow(event, at))

    def begin(self) -> Iterable[StreamEvent]:
        """Return the start of the response, unless the stream has begun."""
        if self._has_begun:
            return ()
        self._has_begun = True
        return (_event("response.created", response=self.response), self.in_progress)

    @property
    def in_progress(self) -> StreamEvent:
        """A `response.in_progress` event with the current state of the response."""
        return _event("response.in_progress", response=self.response)

    def _grow(self, event: Event, at: float) -> Iterator[StreamEvent]:
        yield from self.begin()
        match event:
            case TextDelta(text=text) if text:
                yield from self._say(text, is_message=True)
            case ToolCallDelta():
                yield from self._arguments(event)
            case ToolCall(for_client=True):
                yield from self._call_tool(event)
            case RunFinished() | RunFailed():
                yield from self._end(event, at)
            case _:
                if text := vendor.visible_thinking(event, self._call):
                    yield from self._say(text, is_message=False)
        self._has_acted = self._has_acted or vendor.is_activity(event)

    def _arguments(self, piece: ToolCallDelta) -> Iterator[StreamEvent]:
        """Yield the events of a piece; the text of a custom tool and the calls of a vendor's tool are sent whole."""
        if self._is_vendor_tool(piece.name) or takes_text(piece.name, self._call.request):
            return
        if piece.id not in self._calls:
            yield from self._begin_call(piece)
        index = self._calls[piece.id]
        yield _event(f"{_ARGUMENTS}.delta", item_id=self._items[index].id, output_index=index, delta=piece.arguments)

    def _begin_call(self, call: ToolCall | ToolCallDelta) -> Iterator[StreamEvent]:
        yield from self._close("completed")
        request = self._call.request
        index = self._calls[call.id] = len(self._items)
        space, name = client_name(call.name, request)
        place = f"{self._run_id}_{index}"
        fields: dict[str, Any] = {
            "call_id": call.id,
            "name": name,
            "status": "in_progress",
            "namespace": space or UNSET,
        }
        if takes_text(call.name, request):
            item = response_object.CustomCallItem(id=f"ctc_{place}", input="", **fields)
        else:
            item = response_object.FunctionCallItem(id=f"fc_{place}", arguments="", **fields)
        self._items.append(item)
        yield _event("response.output_item.added", output_index=index, item=item)

    def _call_tool(self, call: ToolCall) -> Iterator[StreamEvent]:
        if self._is_vendor_tool(call.name):
            yield from self._call_vendor_tool(call)
            return
        is_streamed = call.id in self._calls
        if not is_streamed:
            yield from self._begin_call(call)
        index = self._calls[call.id]
        begun = self._items[index]
        if isinstance(begun, response_object.CustomCallItem):
            kind, whole = "response.custom_tool_call_input", {"input": text_input(call)}
        else:
            kind, whole = _ARGUMENTS, {"arguments": arguments(call)}
        if not is_streamed:
            yield _event(f"{kind}.delta", item_id=begun.id, output_index=index, delta=next(iter(whole.values())))
        item = self._items[index] = replace(begun, status="completed", **whole)
        yield _event(f"{kind}.done", item_id=begun.id, output_index=index, **whole)
        yield _event("response.output_item.done", output_index=index, item=item)

    def _is_vendor_tool(self, name: str) -> bool:
        return name in OPENAI and OPENAI[name] in self._call.request.client_tools

    def _call_vendor_tool(self, call: ToolCall) -> Iterator[StreamEvent]:
        yield from self._close("completed")
        index = len(self._items)
        item = response_object.vendor_call(call.name, f"{call.name[:2]}_{self._run_id}_{index}", call)
        self._items.append(item)
        yield _event("response.output_item.added", output_index=index, item=replace(item, status="in_progress"))
        yield _event("response.output_item.done", output_index=index, item=item)

    def _say(self, text: str, is_message: bool) -> Iterator[StreamEvent]:
        if self._open is None or self._open.is_message != is_message:
            yield from self._begin(is_message)
        assert self._open
        yield self._open.add(text)

    def _begin(self, is_message: bool) -> Iterator[StreamEvent]:
        yield from self._close("completed")
        self._open = _OpenItem(is_message, self._run_id, len(self._items))
        yield from self._open.begin()

    def _close(self, status: ItemStatus) -> Iterator[StreamEvent]:
        if self._open:
            item = self._open.item(status)
            self._items.append(item)
            yield from self._open.end(item)
            self._open = None

    def _end(self, ending: Ending, at: float) -> Iterator[StreamEvent]:
        status = response_object.status_of(ending)
        if isinstance(ending, RunFinished) and ending.stop_reason != "tool_use" and not self._has_message():
            yield from self._begin(is_message=True)
        yield from self._close("completed" if status == "completed" else "incomplete")
        items = tuple(map(response_object.unless_cut, self._items))
        self.response = response_object.ended(self.response, items, ending, at, self._has_acted)
        last = status if status in ("completed", "incomplete") else "failed"
        yield _event(f"response.{last}", response=self.response)

    def _has_message(self) -> bool:
        is_open = self._open is not None and self._open.is_message
        return is_open or any(isinstance(item, response_object.MessageItem) for item in self._items)
