"""One turn of a Codex thread as events, from the items of the turn, and the model requests of the turn.

Each character of the text is reported once, although the CLI repeats a request after a broken stream.
"""

from collections.abc import Iterable, Iterator
from typing import Generic

import msgspec

from clinvk.backends.codex import failures, wire
from clinvk.backends.shared import Delta, MessageJoiner, TextDeduplicator
from clinvk.types import events
from clinvk.types.errors import Cancelled
from clinvk.types.text import last_line

_OUTPUT_CHARS = 200


class ItemText(Generic[Delta]):
    """The text of the items of one kind: messages, or summaries of the model's thinking.

    Each character is reported once. After a broken stream, the CLI repeats the items of the unfinished model request
    under different ids. Blank lines separate the items, and the parts of a summary.
    """

    def __init__(self, delta: type[Delta]) -> None:
        self._prose = MessageJoiner(delta)
        self._item: str | None = None
        self._part = 0
        self._open = TextDeduplicator()
        self._sent: list[TextDeduplicator] = []
        self._repeats: list[TextDeduplicator] = []

    def piece(self, item: str, text: str, part: int = 0) -> Iterator[Delta]:
        """Yield the new text in a piece of one part of an item."""
        self._select(item)
        text = f"\n\n{text}" if part > self._part else text
        self._part = part
        yield from self._prose.add(self._open.piece(text))

    def complete(self, item: str, text: str) -> Iterator[Delta]:
        """Yield the new text in the complete item, which receives no more pieces."""
        self._select(item)
        self._item = None
        yield from self._prose.add(self._open.block(text))

    def advance(self) -> None:
        """Record that the model has moved on, after which no item repeats."""
        self._sent, self._repeats = [], []

    def cut(self) -> None:
        """Record a broken stream, after which every item of the request repeats, including complete items."""
        self._sent, self._repeats = [], self._sent + self._repeats
        self._item = None

    def _select(self, item: str) -> None:
        """Select an item, which may repeat an earlier item."""
        if item == self._item:
            return
        is_new = not self._repeats
        if is_new:
            self._prose.end_message()
            self._part = 0
        self._open = TextDeduplicator() if is_new else self._repeats.pop(0)
        self._open.begin(again=not is_new)
        self._sent.append(self._open)
        self._item = item


class RequestCounter:
    """Count the model requests of a turn. The counter is exhausted if the turn has reached `most` and needs one more.

    A request has ended when its tokens are reported; a command that the sandbox denies leaves no other trace. If the
    model's provider reports no tokens, a request has ended when something follows the results of its tools.

    A request with text and no tool call may be the final answer, or may have made a call that the sandbox denied. Only
    the next notification shows which. In the second case the turn makes one request more than the limit.
    """

    def __init__(self, most: int | None) -> None:
        self.is_exhausted = False
        self._most = most
        self._ended = 0
        self._has_tokens = self._is_over = self._has_text = self._has_called = False
        self._open: set[str] = set()

    @property
    def count(self) -> int | None:
        """The number of finished requests, or None if the provider reports no tokens."""
        return self._ended if self._has_tokens or self.is_exhausted else None

    def begin_item(self) -> None:
        """Record the start of a message, a thought or a tool call."""
        if not self._has_tokens and self._has_called and not self._open:
            self._end()
        self._begin_request()

    def record_text(self) -> None:
        """Record that the request has produced text."""
        self._has_text = True

    def record_call(self, tool: str) -> None:
        """Record a tool call."""
        self._has_called = True
        self._open.add(tool)

    def record_result(self, tool: str) -> None:
        """Record a tool result."""
        self._open.discard(tool)
        self._check_limit()

    def record_tokens(self) -> None:
        """Record the token count of a request."""
        self._begin_request()
        if not self._has_tokens:
            self._has_tokens, self._ended = True, 0
        self._end()
        self._check_limit()

    def _end(self) -> None:
        self._ended += 1
        self._is_over = True

    def _begin_request(self) -> None:
        """Start the next request if the previous request has ended."""
        if self._is_over:
            self._exhaust()
            self._is_over = self._has_text = self._has_called = False

    def _check_limit(self) -> None:
        """Check whether the turn is about to make another request."""
        if self._is_over and not self._open and (self._has_called or not self._has_text):
            self._exhaust()

    def _exhaust(self) -> None:
        self.is_exhausted = self.is_exhausted or (self._most is not None and self._ended >= self._most)


class TurnDecoder:
    """Turn the notifications of a thread into the events of a run, which is one turn of the thread.

    Attributes:
        model: the model of the thread, once known.
        last_error: the last error after which no retry follows.
    """

    def __init__(self, *, wants_json: bool, before: events.Usage | None, most_requests: int | None = None) -> None:
        """Set `before` to the tokens of the thread's former turns, or None if unknown."""
        self.model: str | None = None
        self.last_error = ""
        self._wants_json = wants_json
        self._messages = ItemText(events.TextDelta)
        self._thoughts = ItemText(events.ThinkingDelta)
        self._answer = ""
        self._called: set[str] = set()
        self._requests = RequestCounter(most_requests)
        self._before = before
        self._after: events.Usage | None = None
        self._context: events.Context | None = None
        self._early_warnings: list[events.Event] = []
        self._is_started = self._is_cut = self._compacts = False

    @property
    def total(self) -> events.Usage | None:
        """The tokens of the thread including this turn, or None if unknown."""
        return self._after or self._before

    @property
    def usage(self) -> events.Usage | None:
        """The tokens of the turn so far. The CLI reports thread totals, which include former turns."""
        return self._after - self._before if self._after and self._before else None

    @property
    def is_out_of_turns(self) -> bool:
        """Whether the turn must end because the turn would exceed its limit of model requests."""
        return self._requests.is_exhausted

    def feed(self, method: str, params: wire.Params) -> Iterable[events.Event]:
        """Return the events of a notification. Warnings from before the turn follow the start event."""
        if self._begins(method, params):
            self._requests.begin_item()
        if self._is_started and method == wire.OUTPUT:
            if last := last_line(params.delta):
                yield events.Progress("output", last[:_OUTPUT_CHARS])
        elif self.is_out_of_turns and method not in ("thread/tokenUsage/updated", "turn/completed"):
            self._is_cut = True
        elif self._is_started:
            yield from self._events(method, params)
        elif method == "warning":
            self._early_warnings.append(events.Progress("warning", params.message))
        elif method == "thread/tokenUsage/updated":
            self._before = params.token_usage.total.usage
        else:
            self._is_started = True
            yield events.RunStarted(self.model, params.thread_id)
            yield from self._early_warnings
            yield from self._events(method, params)

    def ending(self, message: str, kind: bytes = b"null") -> events.RunFailed:
        """Return the ending for an error of the CLI, whose process keeps running."""
        return msgspec.structs.replace(failures.server_failure(message, kind), usage=self.usage)

    def _begins(self, method: str, params: wire.Params) -> bool:
        if method == "item/completed":
            return params.item.id not in self._called
        return method in ("item/started", "item/agentMessage/delta", "item/reasoning/summaryTextDelta")

    def _events(self, method: str, params: wire.Params) -> Iterator[events.Event]:
        match method:
            case "item/agentMessage/delta":
                self._requests.record_text()
                yield from self._messages.piece(params.item_id, params.delta)
            case "item/reasoning/summaryTextDelta":
                yield from self._thoughts.piece(params.item_id, params.delta, params.summary_index)
            case "item/started":
                self._compacts = self._compacts or params.item.compacts
                yield from self._item_started(params.item)
            case "item/completed":
                self._compacts = self._compacts and not params.item.compacts
                yield from self._item_completed(params.item)
            case "error":
                yield from self._error_reported(params.error.text, will_retry=params.will_retry)
            case "turn/plan/updated":
                yield events.plan(step.planned for step in params.plan)
            case "thread/tokenUsage/updated":
                self._count(params.token_usage)
            case "warning":
                yield events.Progress("warning", params.message)
            case "turn/completed":
                yield self._ended(params.turn)
            case _:
                pass

    def _count(self, tokens: wire.TokenUsage) -> None:
        """Record a token count.

        If the thread's earlier total is unknown, subtract the last request from the first total. The difference is
        wrong for an answer that was broken off, because `last` then holds an earlier request.
        """
        total = tokens.total.usage
        self._before = self._before or total - tokens.last.usage
        if total != self.total and not self._compacts:
            self._requests.record_tokens()
            self._advance()
        self._after = total
        if size := tokens.model_context_window:
            self._context = events.Context(tokens.last.usage.total_tokens, size)

    def _ended(self, turn: wire.Turn) -> events.Ending:
        finished = events.RunFinished(usage=self.usage, turns=self._requests.count, context=self._context)
        match turn.status:
            case "completed" if not self._is_cut:
                return msgspec.structs.replace(finished, structured_output=self._structured_output)
            case "completed" | "interrupted" if self.is_out_of_turns:
                return msgspec.structs.replace(finished, stop_reason="max_turns")
            case "interrupted":
                return events.RunFailed(Cancelled.code, "codex interrupted the turn", exit_code=1, usage=self.usage)
            case _ if turn.error and (reason := failures.stop_reason(turn.error.message)):
                return msgspec.structs.replace(finished, stop_reason=reason)
            case _ if turn.error:
                return self.ending(turn.error.message, bytes(turn.error.codex_error_info))
            case _:
                return self.ending(self.last_error or "codex ended the turn without success")

    @property
    def _structured_output(self) -> object:
        """The JSON value of the last message, if the request has a schema."""
        return wire.structured(self._answer) if self._wants_json else None

    def _item_started(self, item: wire.Item) -> Iterator[events.Event]:
        """Yield the events of an item that has started or changed."""
        if (call := item.call()) and item.id not in self._called:
            self._called.add(item.id)
            if item.kind != "web_search":  # the model API searches within its answer
                self._requests.record_call(item.id)
                self._advance()
            yield call

    def _item_completed(self, item: wire.Item) -> Iterator[events.Event]:
        """Yield the events of a complete item; instantaneous items have not been reported as begun."""
        match item.kind:
            case "agent_message":
                self._answer = item.text
                self._requests.record_text()
                yield from self._messages.complete(item.id, item.text)
            case "reasoning":
                yield from self._thoughts.complete(item.id, "\n\n".join(item.summary))
            case _:
                yield from self._item_started(item)
                if item.id in self._called:
                    self._requests.record_result(item.id)
                    yield item.tool_result()

    def _error_reported(self, message: str, *, will_retry: bool) -> Iterator[events.Event]:
        """Handle an error. The end of the turn repeats the error that caused the end, so store only the message."""
        if not will_retry:
            self.last_error = message
        elif ending := failures.refused_login(message):
            yield ending
        else:
            self._messages.cut()
            self._thoughts.cut()
            yield events.Progress("retry", message)

    def _advance(self) -> None:
        """Record that the model received its earlier text, which therefore does not come again."""
        self._messages.advance()
        self._thoughts.advance()
