"""A message as a stream of events: https://docs.claude.com/en/docs/build-with-claude/streaming."""

from typing import Literal

import msgspec

from clinvk.dialects import vendor
from clinvk.dialects.anthropic import answer, errors
from clinvk.dialects.base import Call, Facts
from clinvk.events import Event, RunFailed, RunFinished, RunStarted, TextDelta

PULSE = b'event: ping\ndata: {"type":"ping"}\n\n'
"""What keeps a quiet stream alive; it may come anywhere, also before the first event of the message."""

_START = b'event: message_start\ndata: {"type":"message_start","message":%s}\n\n'
_BLOCK_START = b'event: content_block_start\ndata: {"type":"content_block_start","index":%d,"content_block":%s}\n\n'
_BLOCK_DELTA = (
    b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,'
    b'"delta":{"type":"%s_delta","%s":%s}}\n\n'
)
_BLOCK_STOP = b'event: content_block_stop\ndata: {"type":"content_block_stop","index":%d}\n\n'
_END = (
    b'event: message_delta\ndata: {"type":"message_delta","delta":%s,"usage":%s}\n\n'
    b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
)
_ERROR = b"event: error\ndata: %s\n\n"

_encode = msgspec.json.Encoder().encode

_Kind = Literal["text", "thinking"]


class MessageEncoder:
    """Gives the events of one message.

    Text and thinking come in blocks in the order in which the agent gave them. A message has a text block also where
    the agent said nothing, as clients read the first one without a look.
    """

    def __init__(self, call: Call, facts: Facts) -> None:
        self._call = call
        self._facts = facts
        self._started = False
        self._blocks = 0
        self._open: _Kind | None = None
        self._has_text = False

    def feed(self, event: Event, at: float) -> bytes:
        """Give the bytes of one event; none for what the client did not ask to see."""
        match event:
            case TextDelta(text=text):
                return self._delta("text", text)
            case RunStarted():
                return self._start()
            case RunFinished():
                return self._finish(event)
            case RunFailed():
                return self._start() + _ERROR % errors.broken_off(event)
            case _:
                thought = vendor.thought(event, self._call)
                return self._delta("thinking", thought) if thought else b""

    def _start(self) -> bytes:
        """Begin the message, once. The tokens of its input are known at its end only."""
        if self._started:
            return b""
        self._started = True
        message = answer.Message(id=answer.message_id(self._facts), model=self._call.model, usage=answer.usage(None))
        return _START % _encode(message)

    def _delta(self, kind: _Kind, text: str) -> bytes:
        opening = b"" if self._open == kind else self._close() + self._begin(kind)
        name = kind.encode()
        return opening + _BLOCK_DELTA % (self._blocks - 1, name, name, _encode(text))

    def _begin(self, kind: _Kind) -> bytes:
        self._open = kind
        self._has_text = self._has_text or kind == "text"
        self._blocks += 1
        block = answer.TextBlock("") if kind == "text" else answer.ThinkingBlock("", "")
        return _BLOCK_START % (self._blocks - 1, _encode(block))

    def _close(self) -> bytes:
        """End the block that is open. One of thinking gets its signature first."""
        closed, self._open = self._open, None
        index = self._blocks - 1
        if closed is None:
            return b""
        if closed == "text":
            return _BLOCK_STOP % index
        signature = _encode(answer.signature(self._facts))
        return _BLOCK_DELTA % (index, b"signature", b"signature", signature) + _BLOCK_STOP % index

    def _finish(self, ending: RunFinished) -> bytes:
        text = b"" if self._has_text else self._close() + self._begin("text")
        return text + self._close() + _END % (_encode(answer.stop(ending)), _encode(answer.usage(ending.usage)))
