"""The file in which Gemini CLI 0.61.0 records a session, because the record holds more than the protocol reports.

The record is a file of JSON lines, one line per message; a longer version of a message has the same `id`. The record of
a turn is complete when the protocol reports the end of the turn. A model message is recorded only if the message is
complete.
"""

from typing import NamedTuple

import msgspec

from clinvk.backends.base import Host
from clinvk.backends.gemini.decoder import Tokens
from clinvk.backends.gemini.home import conversation_files
from clinvk.backends.shared import decode_line
from clinvk.types.events import Usage


class _Tokens(Tokens):
    total_tokens: int = msgspec.field(name="total", default=0)
    input_tokens: int = msgspec.field(name="input", default=0)
    output_tokens: int = msgspec.field(name="output", default=0)


class _Line(msgspec.Struct):
    id: str = ""
    type: str = ""
    tokens: _Tokens | None = None


_MESSAGE_TYPES = ("user", "gemini")
"""The types of conversation messages. The CLI's screens also record notes (`info`, `warning`, `error`), which are not
part of the answer.
"""

_MAX_BYTES = 1024 * 1024
"""The maximum bytes to read per turn, because the read blocks everything else. After a longer turn, the record of the
conversation is no longer read, and the protocol's token counts are used instead.
"""

_LINES = msgspec.json.Decoder(_Line)


class RecordedTurn(NamedTuple):
    """The record of a turn: the token usage, if recorded, and whether the last message is from the model."""

    used: Usage | None
    is_whole: bool


class ConversationRecord:
    """The record of one conversation."""

    def __init__(self, conversation: str, host: Host) -> None:
        self._conversation = conversation
        self._host = host
        self._path = ""
        self._read = 0
        self._is_too_long = False
        self._counted: set[str] = set()

    def turn(self) -> RecordedTurn | None:
        """Return the messages recorded since the last call, summed up; None if there are none."""
        lines = [
            line for text in self._new_lines() if (line := decode_line(_LINES, text)) and line.type in _MESSAGE_TYPES
        ]
        return RecordedTurn(self._usage(lines), lines[-1].type == "gemini") if lines else None

    def _new_lines(self) -> list[bytes]:
        self._path = self._path or next(iter(conversation_files(self._conversation, self._host)), "")
        if self._is_too_long or not self._path:
            return []
        data = self._host.read_range(self._path, self._read, _MAX_BYTES) or b""
        self._is_too_long = len(data) == _MAX_BYTES
        whole = b"" if self._is_too_long else data[: data.rfind(b"\n") + 1]
        self._read += len(whole)
        return whole.splitlines()

    def _usage(self, lines: list[_Line]) -> Usage | None:
        """Return the sum of the messages' tokens, with the latest count of each message."""
        reported = {line.id: line.tokens.usage for line in lines if line.tokens and line.id not in self._counted}
        self._counted.update(reported)
        return sum(reported.values(), Usage()) if reported else None
