"""A run's handle on an agent process of its own."""

from collections.abc import Iterable, Iterator

from clinvk.backends.base import Channel, Delivery, Report
from clinvk.runtime.process.process import Process
from clinvk.runtime.process.tool_socket import ToolSocket
from clinvk.types.interaction import InteractionAnswer
from clinvk.types.record import Resume
from clinvk.types.request import RunRequest, ToolOutput


class OwnProcess:
    """A run's handle on a process started for this run only; see `PooledProcess` for a process of the pool.

    `is_answered` is whether the process has spoken its protocol. `tool_socket` is the socket of the client tools, if
    the launch has one.
    """

    tools = None

    def __init__(
        self, run: str, process: Process, channel: Channel, long_lived: bool, tool_socket: ToolSocket | None = None
    ) -> None:
        self.process = process
        self.is_answered = False
        self._run = run
        self._channel = channel
        self._long_lived = long_lived
        self._tool_socket = tool_socket

    @property
    def is_lost(self) -> bool:
        """Whether the process has exited."""
        return self.process.exit_code is not None

    def begin(self, request: RunRequest, resume: Resume | None) -> None:
        """Send the prompt; stdin stays open only if the protocol needs it."""
        self.process.write(self._channel.start(self._run, request, resume), close=not self._long_lived)

    def read(self) -> Iterator[tuple[bytes, Iterable[Report]]]:
        """Yield each new line with its events, after the previous line was handled. Tool messages have no line."""
        messages = self._tool_socket.take() if self._tool_socket else ()
        if messages:
            self.process.read_pipe()
        for line in self.process.take():
            yield line, self._events(self._channel.receive(line))
        for message in messages:
            yield b"", self._events(self._channel.receive_tool_message(message), of_tools=True)

    def closed(self) -> Iterable[Report]:
        """Return the ending of a run whose agent exited without reporting an ending."""
        return self._events(self._channel.closed(self.process.exit_code or 0, self.process.stderr))

    def _events(self, deliveries: Iterable[Delivery], *, of_tools: bool = False) -> Iterator[Report]:
        """Yield the events, and answer the requests of the process, or of its tool bridge."""
        for delivery in deliveries:
            self.is_answered = True
            if isinstance(delivery, bytes):
                self._write(delivery, of_tools=of_tools)
            else:
                yield delivery[1]

    def _write(self, data: bytes, *, of_tools: bool) -> None:
        """Write to stdin, or to the tool bridge if the launch has one."""
        if of_tools and self._tool_socket:
            self._tool_socket.write(data)
        else:
            self.process.write(data, close=False)

    def answer(self, output: ToolOutput) -> None:
        """Give the agent the output of a client tool."""
        self._write(self._channel.answer(self._run, output), of_tools=True)

    def resolve(self, request_id: str, answer: InteractionAnswer) -> None:
        """Send the agent the answer to an interaction."""
        self._write(self._channel.resolve(self._run, request_id, answer), of_tools=False)

    def steer(self, request: RunRequest) -> bool:
        """Give the agent a further prompt; return False if the agent cannot receive a prompt now."""
        return self._send(self._channel.steer(self._run, request))

    def interrupt(self) -> bool:
        """Ask the agent to end the turn and report its cost; return False if the protocol has no such request."""
        return self._send(self._channel.interrupt(self._run))

    def _send(self, data: bytes | None) -> bool:
        if data:
            self.process.write(data, close=False)
        return data is not None

    def stderr_message(self) -> str:
        """Return the line of stderr that best explains the agent's trouble."""
        return self._channel.stderr_message(self.process.stderr)

    def finish(self) -> None:
        """Close stdin, which makes a long-lived process exit."""
        self.process.write(b"", close=True)
