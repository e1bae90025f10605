"""Parts that several backends share: one-shot processes, repeated text, project folders, and TOML values."""

import re
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, Protocol

from clinvk.backends.base import Delivery
from clinvk.types.events import Event, RunFailed, RunFinished
from clinvk.types.request import RunRequest
from clinvk.types.session import Resume


class Decoder(Protocol):
    """Turns the lines of one CLI run into events; each backend has its own."""

    def feed(self, line: bytes) -> Iterable[Event]:
        """Take one line; may give the ending."""
        ...

    def closed(self, exit_code: int, stderr: bytes) -> Event:
        """Give the ending of a run whose process is gone and has told none."""
        ...

    def complaint(self, stderr: bytes) -> str:
        """Give the line of stderr that says best what troubles the agent; empty where all is noise."""
        ...


class OneShotChannel:
    """The channel of a process that serves a single run."""

    __slots__ = ("_decoder", "_ended", "_prompt", "_run")

    capacity = 1

    def __init__(self, decoder: Decoder, prompt: Callable[[RunRequest], bytes]) -> None:
        self._decoder = decoder
        self._prompt = prompt
        self._run = ""
        self._ended = False

    def greet(self) -> bytes:
        """A one-shot process is told its prompt and nothing else."""
        return b""

    def start(self, run: str, request: RunRequest, resume: Resume | None) -> bytes:
        """Give the prompt as the CLI reads it from stdin."""
        self._run = run
        return self._prompt(request)

    def receive(self, line: bytes) -> Iterable[Delivery]:
        """Give the events of one line, up to the ending."""
        if self._ended:
            return
        for event in self._decoder.feed(line):
            yield self._run, event
            if isinstance(event, RunFinished | RunFailed):
                self._ended = True
                return

    def interrupt(self, run: str) -> bytes | None:
        """One-shot processes are signalled."""
        return None

    def tools_of(self, run: str) -> tuple[str, str] | None:
        """Nothing: they end with the process."""
        return None

    def let_go(self, conversation: str) -> bytes | None:
        """Nothing: what it knows of one keeps nobody from it."""
        return None

    def closed(self, exit_code: int, stderr: bytes) -> Iterable[Delivery]:
        """Give the ending that the process did not tell."""
        if not self._ended:
            self._ended = True
            yield self._run, self._decoder.closed(exit_code, stderr)

    def complaint(self, stderr: bytes) -> str:
        """Give what the decoder takes for the agent's complaint."""
        return self._decoder.complaint(stderr)


class News(NamedTuple):
    """What was not said yet; `restarts` where it is a whole answer that differs from the one that was cut off."""

    text: str
    restarts: bool = False


class Retold:
    """The text blocks (or the thinking blocks) of one message, each character given once."""

    def __init__(self) -> None:
        self._said: list[str] = []
        self._expected = ""
        self._blocks: list[list[str]] = []
        self._full = 0

    def begin(self, again: bool) -> None:
        """Another message begins, or the same one `again` from its start."""
        if again:
            self._expected = "".join(self._said)
        else:
            self._said = []
            self._expected = ""
        self._blocks = []
        self._full = 0

    def open_block(self) -> None:
        """The pieces that follow are of another block."""
        self._blocks.append([])

    def piece(self, text: str) -> News:
        """Take a piece of the open block."""
        if not self._blocks:
            self.open_block()
        self._blocks[-1].append(text)
        return self._add(text)

    def block(self, text: str) -> News:
        """Take a block in full: the n-th so taken is the n-th that was streamed, and maybe more than its pieces."""
        streamed = "".join(self._blocks[self._full]) if self._full < len(self._blocks) else ""
        self._full += 1
        return self._add(text[len(streamed) :]) if text.startswith(streamed) else News("")

    def _add(self, text: str) -> News:
        if self._expected.startswith(text):
            self._expected = self._expected[len(text) :]
            return News("")
        if text.startswith(self._expected):
            text = text[len(self._expected) :]
            self._expected = ""
            self._said.append(text)
            return News(text)
        said = "".join(self._said)
        whole = said[: len(said) - len(self._expected)] + text
        self._said = [whole]
        self._expected = ""
        return News(whole, restarts=True)


def upwards(directory: str) -> Iterator[str]:
    """Give a directory and those above it, the nearest first, each with a slash at its end."""
    place = f"{directory.rstrip('/')}/"
    while place:
        yield place
        place = place[: place.rfind("/", 0, -1) + 1]


_UNQUOTABLE = re.compile(r'[\x00-\x1f"\\\x7f]')
_SHORT = {"\b": r"\b", "\t": r"\t", "\n": r"\n", "\f": r"\f", "\r": r"\r", '"': r"\"", "\\": r"\\"}


def string(text: str) -> str:
    """Write a basic string: quotes, backslashes and control characters escaped, all else as it is."""
    return '"' + _UNQUOTABLE.sub(lambda found: _SHORT.get(found[0], f"\\u{ord(found[0]):04X}"), text) + '"'


def table(entries: dict[str, str]) -> str:
    """Write an inline table; the values are TOML already."""
    return "{" + ", ".join(f"{string(key)} = {value}" for key, value in entries.items()) + "}"
