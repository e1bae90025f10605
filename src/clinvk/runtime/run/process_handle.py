"""A run's handle on its agent process: `OwnProcess` here, `PooledProcess` in the pool."""

from collections.abc import Iterable, Iterator
from typing import Protocol

from clinvk.backends.base import Channel, Delivery
from clinvk.runtime.process.spawn import Process
from clinvk.types.request import RunRequest
from clinvk.types.session import Resume


class ProcessHandle(Protocol):
    """One run's view of its agent process.

    Only a process that serves a single run has an `exit_code`, an `at_eof` and a `too_long`. A run in a shared process
    learns of the exit from the run's ending.
    """

    @property
    def exit_code(self) -> int | None:
        """The exit code; None before the process has exited."""
        ...

    @property
    def at_eof(self) -> bool:
        """Whether the process has closed its output and all output was read."""
        ...

    @property
    def too_long(self) -> bool:
        """Whether the process printed a line over the limit."""
        ...

    @property
    def is_answered(self) -> bool:
        """Whether the process has printed anything since the run began."""
        ...

    def begin(self, request: RunRequest, resume: Resume | None) -> None:
        """Send the prompt."""
        ...

    def read(self) -> Iterable[tuple[bytes, Iterable[Delivery]]]:
        """Return the lines since the last call, each with the deliveries that the channel decoded."""
        ...

    def read_stderr(self) -> list[bytes]:
        """Return the new lines of stderr, if the run asked for stderr."""
        ...

    def closed(self) -> Iterable[Delivery]:
        """Return the ending that follows from the exit."""
        ...

    def write(self, data: bytes) -> None:
        """Answer a request of the process."""
        ...

    def stderr_message(self) -> str:
        """Return the line of stderr that best explains the agent's trouble."""
        ...

    def finish(self) -> None:
        """Tell the process that the run has ended."""
        ...


class OwnProcess:
    """A process started for a single run."""

    __slots__ = ("_channel", "_long_lived", "_run", "process")

    is_answered = False

    def __init__(self, run: str, process: Process, channel: Channel, long_lived: bool) -> None:
        self.process = process
        self._run = run
        self._channel = channel
        self._long_lived = long_lived

    @property
    def exit_code(self) -> int | None:
        """The exit code; None before the process has exited."""
        return self.process.exit_code

    @property
    def at_eof(self) -> bool:
        """Whether the process has closed its output and all output was read."""
        return self.process.at_eof

    @property
    def too_long(self) -> bool:
        """Whether the process printed a line over the limit."""
        return self.process.too_long

    def begin(self, request: RunRequest, resume: Resume | None) -> None:
        """Send the prompt; stdin stays open only if the protocol needs it."""
        self.process.write(self._channel.start(self._run, request, resume), close=not self._long_lived)

    def read(self) -> Iterator[tuple[bytes, Iterable[Delivery]]]:
        """Yield each new line after the previous line was handled."""
        return ((line, self._channel.receive(line)) for line in self.process.take())

    def read_stderr(self) -> list[bytes]:
        """Return the new lines of stderr, if the run asked for stderr."""
        return self.process.take_stderr()

    def closed(self) -> Iterable[Delivery]:
        """Return the ending of a run whose agent exited without reporting an ending."""
        return self._channel.closed(self.process.exit_code or 0, self.process.stderr)

    def write(self, data: bytes) -> None:
        """Answer a request of the process."""
        self.process.write(data, close=False)

    def interrupt(self) -> bool:
        """Ask the agent to end the turn and report its cost; return False if the protocol has no such request."""
        data = self._channel.interrupt(self._run)
        if data:
            self.process.write(data, close=False)
        return data is not None

    def stderr_message(self) -> str:
        """Return the line of stderr that best explains the agent's trouble."""
        return self._channel.complaint(self.process.stderr)

    def finish(self) -> None:
        """Close stdin, which makes a long-lived process exit."""
        self.process.write(b"", close=True)
