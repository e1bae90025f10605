"""What Gemini CLI 0.61.0 writes down of a conversation while it goes on, of which its protocol tells less.

A file of JSON lines, one a message; a message that is written again, with more, has the same `id`. All of a turn is
there when its end is told. A message of the model is there only if it came to its end.
"""

from typing import NamedTuple

import msgspec

from clinvk.backends.base import Host, parsed
from clinvk.backends.gemini.home import conversation_files
from clinvk.events import Usage


class _Tokens(msgspec.Struct):
    input: int = 0
    output: int = 0
    cached: int = 0
    total: int = 0

    @property
    def usage(self) -> Usage:
        """The same in our words; what the total has more than input and output was thinking."""
        output = max(self.total - self.input, self.output)
        return Usage(self.input, output, self.cached, output - self.output)


class _Line(msgspec.Struct):
    id: str = ""
    type: str = ""
    tokens: _Tokens | None = None


_SPEAKERS = ("user", "gemini")
"""The CLI's own screens write notes there too (`info`, `warning`, `error`), which say nothing of the answer."""

_MOST_BYTES = 1024 * 1024
"""What is read of one turn at most, since nothing else goes on meanwhile. Where more was written, that is the last that
is read of the conversation, and the protocol's own counts have to do.
"""

_LINES = msgspec.json.Decoder(_Line)


class Written(NamedTuple):
    """What was written of a turn: its tokens, if any, and whether the last who spoke in it is the model."""

    used: Usage | None
    is_whole: bool


class Record:
    """The record of one conversation."""

    def __init__(self, conversation: str, host: Host) -> None:
        self._conversation = conversation
        self._host = host
        self._path = ""
        self._read = 0
        self._is_too_long = False
        self._counted: set[str] = set()

    def turn(self) -> Written | None:
        """Give what was written since the last call; None where nothing was."""
        lines = [line for text in self._news() if (line := parsed(_LINES, text)) and line.type in _SPEAKERS]
        return Written(self._usage(lines), lines[-1].type == "gemini") if lines else None

    def _news(self) -> list[bytes]:
        if self._is_too_long:
            return []
        if not self._path:
            self._path = next(iter(conversation_files(self._conversation, self._host)), "")
        data = (self._host.part(self._path, self._read, _MOST_BYTES) or b"") if self._path else b""
        self._is_too_long = len(data) == _MOST_BYTES
        if self._is_too_long:
            return []
        data = data[: data.rfind(b"\n") + 1]
        self._read += len(data)
        return data.splitlines()

    def _usage(self, lines: list[_Line]) -> Usage | None:
        """Add up the tokens of the messages, each but once, as they were told last."""
        told = {line.id: line.tokens.usage for line in lines if line.tokens and line.id not in self._counted}
        self._counted.update(told)
        return sum(told.values(), Usage()) if told else None
