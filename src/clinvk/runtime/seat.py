"""A run's side of the agent process that carries it: of its own, or one that carries others too."""

from collections.abc import Iterable, Iterator
from typing import Protocol

from clinvk.backends.base import Channel, Delivery
from clinvk.request import RunRequest
from clinvk.runtime.process import Process
from clinvk.session import Resume


class Seat(Protocol):
    """What a run sees of its process.

    `exit_code` and `at_eof` are of a process that is the run's own; of one that carries others too the run learns by
    its ending alone.
    """

    @property
    def exit_code(self) -> int | None:
        """How the process exited, once it has."""
        ...

    @property
    def at_eof(self) -> bool:
        """Whether it has closed its output and all was heard."""
        ...

    @property
    def too_long(self) -> bool:
        """Whether it printed a line that is too long to be kept."""
        ...

    @property
    def is_answered(self) -> bool:
        """Whether the process is known to have said something since."""
        ...

    def begin(self, request: RunRequest, resume: Resume | None) -> None:
        """Give it the prompt."""
        ...

    def hear(self) -> Iterable[tuple[bytes, Iterable[Delivery]]]:
        """Give the lines that came since the last call, and what each delivers."""
        ...

    def hear_stderr(self) -> list[bytes]:
        """Give the lines of stderr, where these were asked for."""
        ...

    def closed(self) -> Iterable[Delivery]:
        """Give what follows from the exit."""
        ...

    def write(self, data: bytes) -> None:
        """Answer it."""
        ...

    def complaint(self) -> str:
        """Give the line of stderr that says best what troubles the agent."""
        ...

    def finish(self) -> None:
        """The run has told how it ended."""
        ...


class OwnSeat:
    """The seat in a process that was started for this run and serves no other."""

    __slots__ = ("_channel", "_long_lived", "_run", "process")

    is_answered = False

    def __init__(self, run: str, process: Process, channel: Channel, long_lived: bool) -> None:
        self.process = process
        self._run = run
        self._channel = channel
        self._long_lived = long_lived

    @property
    def exit_code(self) -> int | None:
        """How it exited, once it has."""
        return self.process.exit_code

    @property
    def at_eof(self) -> bool:
        """Whether it has closed its output and all was heard."""
        return self.process.at_eof

    @property
    def too_long(self) -> bool:
        """Whether it printed a line that is too long to be kept."""
        return self.process.too_long

    def begin(self, request: RunRequest, resume: Resume | None) -> None:
        """Give it the prompt; stdin stays open only where the protocol needs it."""
        self.process.write(self._channel.start(self._run, request, resume), close=not self._long_lived)

    def hear(self) -> Iterator[tuple[bytes, Iterable[Delivery]]]:
        """Give each line when the one before has been looked through."""
        return ((line, self._channel.receive(line)) for line in self.process.take())

    def hear_stderr(self) -> list[bytes]:
        """Give the lines of stderr, where these were asked for."""
        return self.process.take_stderr()

    def closed(self) -> Iterable[Delivery]:
        """Give the ending that it did not tell."""
        return self._channel.closed(self.process.exit_code or 0, self.process.stderr)

    def write(self, data: bytes) -> None:
        """Answer it."""
        self.process.write(data, close=False)

    def interrupt(self) -> bool:
        """Have the run end, so that it tells what it cost; say whether the process can be told so."""
        data = self._channel.interrupt(self._run)
        if data:
            self.process.write(data, close=False)
        return data is not None

    def complaint(self) -> str:
        """Give the line of stderr that says best what troubles the agent."""
        return self._channel.complaint(self.process.stderr)

    def finish(self) -> None:
        """Close stdin: a process that would stay has no other run, and exits."""
        self.process.write(b"", close=True)
