"""One process for one prompt: the prompt on stdin, then lines until the process exits."""

from collections.abc import Callable, Iterable
from typing import Protocol

from clinvk.backends.base import Delivery
from clinvk.events import Event, RunFailed, RunFinished
from clinvk.request import RunRequest
from clinvk.session import Resume


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
