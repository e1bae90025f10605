"""Parts that several backends share: one-shot processes, repeated text, project folders, and TOML values."""

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, NamedTuple, Protocol, TypeVar

from clinvk.backends.base import Channel, Delivery
from clinvk.types.events import Event, RunFailed, RunFinished, TextDelta, ThinkingDelta
from clinvk.types.request import RunRequest
from clinvk.types.session import Resume

Delta = TypeVar("Delta", TextDelta, ThinkingDelta)


class Decoder(Protocol):
    """Decodes the lines of one CLI run into events. Each backend implements a decoder."""

    def feed(self, line: bytes) -> Iterable[Event]:
        """Decode one line; the events may include the ending."""
        ...

    def closed(self, exit_code: int, stderr: bytes) -> Event:
        """Return the ending of a run whose process exited without reporting an ending."""
        ...

    def stderr_message(self, stderr: bytes) -> str:
        """Return the line of stderr that best describes the agent's problem; empty if stderr holds only noise."""
        ...


class OneShotChannel(Channel):
    """The channel of a process that serves a single run, and that a signal stops."""

    def __init__(self, decoder: Decoder, prompt: Callable[[RunRequest], bytes]) -> None:
        self._decoder = decoder
        self._prompt = prompt
        self._run = ""
        self._ended = False

    def start(self, run: str, request: RunRequest, resume: Resume | None) -> bytes:
        """Return the prompt in the form that the CLI reads from stdin."""
        self._run = run
        return self._prompt(request)

    def receive(self, line: bytes) -> Iterable[Delivery]:
        """Yield the events of one line, up to the ending."""
        if self._ended:
            return
        for event in self._decoder.feed(line):
            yield self._run, event
            if isinstance(event, RunFinished | RunFailed):
                self._ended = True
                return

    def closed(self, exit_code: int, stderr: bytes) -> Iterable[Delivery]:
        """Yield the ending if the process reported no ending."""
        if not self._ended:
            self._ended = True
            yield self._run, self._decoder.closed(exit_code, stderr)

    def stderr_message(self, stderr: bytes) -> str:
        """Return the line of stderr that the decoder selects."""
        return self._decoder.stderr_message(stderr)


class NewText(NamedTuple):
    """Text that was not reported before.

    `restarts` is set if the text is a full answer that differs from the interrupted answer.
    """

    text: str
    restarts: bool = False


class Prose(Generic[Delta]):
    """Inserts a blank line between the messages of an answer, so that the deltas of one type read as one text.

    `has_text` is whether any delta was returned.
    """

    def __init__(self, delta: type[Delta]) -> None:
        self.has_text = False
        self._delta = delta
        self._breaks = False

    def say(self, text: str) -> Iterator[Delta]:
        """Yield the delta for a piece of the current message."""
        if text:
            yield self._delta(f"\n\n{text}" if self._breaks else text)
            self.has_text, self._breaks = True, False

    def add(self, news: NewText) -> Iterator[Delta]:
        """Yield the delta for new text, which is a message of its own if the answer restarts."""
        if news.restarts:
            self.end_message()
        yield from self.say(news.text)

    def end_message(self) -> None:
        """End the current message; the next piece starts a new message."""
        self._breaks = self.has_text


class TextDeduplicator:
    """The text blocks (or the thinking blocks) of one message; each character is returned once."""

    def __init__(self) -> None:
        self._said: list[str] = []
        self._expected = ""
        self._blocks: list[list[str]] = []
        self._full = 0

    def begin(self, again: bool) -> None:
        """Begin a message; `again` repeats the previous message from its start."""
        if again:
            self._expected = "".join(self._said)
        else:
            self._said = []
            self._expected = ""
        self._blocks = []
        self._full = 0

    def open_block(self) -> None:
        """Begin a block for the pieces that follow."""
        self._blocks.append([])

    def piece(self, text: str) -> NewText:
        """Add a piece to the open block and return the text that is new."""
        if not self._blocks:
            self.open_block()
        self._blocks[-1].append(text)
        return self._add(text)

    def block(self, text: str) -> NewText:
        """Add a complete block and return the text that is new.

        The n-th complete block is the n-th streamed block, and may be longer than the streamed pieces.
        """
        streamed = "".join(self._blocks[self._full]) if self._full < len(self._blocks) else ""
        self._full += 1
        return self._add(text[len(streamed) :]) if text.startswith(streamed) else NewText("")

    def _add(self, text: str) -> NewText:
        if self._expected.startswith(text):
            self._expected = self._expected[len(text) :]
            return NewText("")
        if text.startswith(self._expected):
            text = text[len(self._expected) :]
            self._expected = ""
            self._said.append(text)
            return NewText(text)
        said = "".join(self._said)
        whole = said[: len(said) - len(self._expected)] + text
        self._said = [whole]
        self._expected = ""
        return NewText(whole, restarts=True)


def parent_directories(directory: str) -> Iterator[str]:
    """Yield a directory and its parents, nearest first, each with a trailing slash."""
    place = f"{directory.rstrip('/')}/"
    while place:
        yield place
        place = place[: place.rfind("/", 0, -1) + 1]


_UNQUOTABLE = re.compile(r'[\x00-\x1f"\\\x7f]')
_SHORT = {"\b": r"\b", "\t": r"\t", "\n": r"\n", "\f": r"\f", "\r": r"\r", '"': r"\"", "\\": r"\\"}


def toml_string(text: str) -> str:
    """Return a TOML basic string, with quotes, backslashes and control characters escaped."""
    return '"' + _UNQUOTABLE.sub(lambda found: _SHORT.get(found[0], f"\\u{ord(found[0]):04X}"), text) + '"'


def toml_table(entries: dict[str, str]) -> str:
    """Return a TOML inline table; the values must be TOML already."""
    return "{" + ", ".join(f"{toml_string(key)} = {value}" for key, value in entries.items()) + "}"
