"""The handle of one run on its agent process: a process of the run's own, or a warm process of several runs."""

import asyncio
from collections.abc import Callable, Iterable, Iterator
from math import inf
from typing import TYPE_CHECKING

from clinvk.backends.base import Channel, Delivery, Report
from clinvk.runtime.process.process import Process
from clinvk.runtime.process.tool_socket import ToolSocket
from clinvk.types.errors import AgentCrashed, AgentFailed
from clinvk.types.events import Ending, RunFailed, RunStarted, ToolCall, Waiting
from clinvk.types.interaction import InteractionAnswer
from clinvk.types.record import Resume
from clinvk.types.request import RunRequest, ToolOutput

if TYPE_CHECKING:
    from clinvk.runtime.pool.warm_agent import WarmAgent

PAUSE_BYTES = 1024 * 1024
"""Maximum unread output of the only run of a process: above the limit, the process itself is paused."""

_MAX_UNREAD_BYTES = 64 * 1024 * 1024
"""Maximum unread output of a run with a slow reader while other runs need the process's output."""


class RunProcess:
    """What both kinds of handles share: the messages to the agent.

    Attributes:
        is_answered: the process has spoken its protocol, or printed something since the run began.
        tools: the environment variable, name and value, that the run's tools carry; None if unknown.
    """

    def __init__(self, run: str, channel: Channel) -> None:
        self.run = run
        self.channel = channel
        self.is_answered = False
        self.tools: tuple[str, str] | None = None

    @property
    def process(self) -> Process:
        """The process that carries the run."""
        raise NotImplementedError

    def write(self, data: bytes) -> None:
        """Write a message to the process."""
        self.process.write(data, close=False)

    def steer(self, request: RunRequest) -> bool:
        """Give the agent a further prompt; return False if the agent cannot receive a prompt now."""
        return self._send(self.channel.steer(self.run, request))

    def interrupt(self) -> bool:
        """Ask the agent to end the turn and report its cost; return False if the protocol has no such request."""
        return self._send(self.channel.interrupt(self.run))

    def _send(self, data: bytes | None) -> bool:
        if data:
            self.write(data)
        return data is not None

    def answer(self, output: ToolOutput) -> None:
        """Give the agent the output of a client tool."""
        self.write(self.channel.answer(self.run, output))

    def resolve(self, request_id: str, answer: InteractionAnswer) -> None:
        """Give the agent the answer to an interaction."""
        self.write(self.channel.resolve(self.run, request_id, answer))

    def stderr_message(self) -> str:
        """Return the line of stderr that best explains the agent's trouble."""
        return self.channel.stderr_message(self.process.stderr)


class OwnProcess(RunProcess):
    """The handle on a process that was started for this run only; `tool_socket` is the socket of the client tools."""

    def __init__(
        self, run: str, process: Process, channel: Channel, long_lived: bool, tool_socket: ToolSocket | None
    ) -> None:
        super().__init__(run, channel)
        self._process = process
        self._long_lived = long_lived
        self._tool_socket = tool_socket

    @property
    def process(self) -> Process:
        """The process that carries the run."""
        return self._process

    @property
    def is_lost(self) -> bool:
        """Whether the process has exited."""
        return self.process.exit_code is not None

    def begin(self, request: RunRequest, resume: Resume | None) -> None:
        """Send the prompt; stdin stays open only if the protocol needs it."""
        self.process.write(self.channel.start(self.run, request, resume), close=not self._long_lived)

    def read(self) -> Iterator[tuple[bytes, Iterable[Report]]]:
        """Yield each new line with its events, after the previous line was handled. Tool messages have no line."""
        messages = self._tool_socket.take() if self._tool_socket else ()
        if messages:
            self.process.read_pipe()
        for line in self.process.take():
            yield line, self._events(self.channel.receive(line), self.write)
        for message in messages:
            yield b"", self._events(self.channel.receive_tool_message(message), (self._tool_socket or self).write)

    def closed(self) -> Iterable[Report]:
        """Return the ending of a run whose agent exited without reporting an ending."""
        return self._events(self.channel.closed(self.process.exit_code or 0, self.process.stderr), self.write)

    def _events(self, deliveries: Iterable[Delivery], reply: Callable[[bytes], None]) -> Iterator[Report]:
        """Yield the events, and answer requests with `reply`."""
        for delivery in deliveries:
            self.is_answered = True
            if isinstance(delivery, bytes):
                reply(delivery)
            else:
                yield delivery[1]

    def answer(self, output: ToolOutput) -> None:
        """Give the agent the output of a client tool, over the tool bridge if the launch has one."""
        (self._tool_socket or self).write(self.channel.answer(self.run, output))

    def finish(self) -> None:
        """Close stdin, which makes a long-lived process exit."""
        self.process.write(b"", close=True)


class PooledProcess(RunProcess):
    """The handle on a warm agent, with the run's unread output.

    Attributes:
        is_over: the run's ending has arrived.
        is_lost: the process was lost before the run's ending arrived.
        has_begun: the process has printed something about the run.
        began_at: when the prompt was sent, by the loop's clock.
        wake: makes the run read its new lines.
        has_used_tools: the run has used tools, which may have left processes behind.
        is_parked: the agent waits for outputs of client tools or for a person, without work.
        conversation: the agent's id of the run's conversation, once known.
    """

    def __init__(self, run: str, agent: "WarmAgent", wake: Callable[[], None]) -> None:
        super().__init__(run, agent.channel)
        self.agent = agent
        self.wake = wake
        self.is_over = self.is_lost = self.has_begun = self.has_used_tools = self.is_parked = False
        self.conversation = ""
        self.began_at = inf
        self.unread_bytes = 0
        self._unread: list[tuple[bytes, list[Report]]] = []

    @property
    def process(self) -> Process:
        """The process that carries the run."""
        return self.agent.process

    def begin(self, request: RunRequest, resume: Resume | None) -> None:
        """Send the prompt."""
        self.is_answered = False
        self.began_at = asyncio.get_running_loop().time()
        self.write(self.channel.start(self.run, request, resume))

    def write(self, data: bytes) -> None:
        """Write a message to the process, which is then no longer parked."""
        self.is_parked = False
        super().write(data)

    def add(self, line: bytes, event: Report | None = None) -> None:
        """Queue a line, or another event of the last line, for the run's next `read`."""
        if self.is_over:
            return
        if not self._unread or self._unread[-1][0] is not line:
            self._unread.append((line, []))
            self.unread_bytes += len(line)
        if event is None:
            return
        self._unread[-1][1].append(event)
        self.has_begun = True
        self.is_parked = isinstance(event, Waiting)
        self.has_used_tools = self.has_used_tools or isinstance(event, ToolCall)
        self.is_over = isinstance(event, Ending)
        if isinstance(event, RunStarted) and event.backend_session_id:
            self.conversation = event.backend_session_id
            self.tools = self.channel.tool_variable(self.run)
        elif self.unread_bytes > _MAX_UNREAD_BYTES and not self.is_over:
            message = "the client reads too slowly: more than 64 MB of output are unread"
            self.add(b"", RunFailed(AgentFailed.code, message, exit_code=1))
            self.interrupt()

    def fail(self, reason: str) -> None:
        """Make the run fail because the process is lost or was given up, unless the run is over."""
        if self.is_over:
            return
        self.is_lost = True
        self.add(b"", RunFailed(AgentCrashed.code, reason, exit_code=self.process.exit_code))
        self.wake()

    def read(self) -> list[tuple[bytes, list[Report]]]:
        """Return the lines since the last call with their events."""
        unread, self._unread = self._unread, []
        was_paused, self.unread_bytes = self.unread_bytes > PAUSE_BYTES, 0
        if was_paused:
            self.agent.flush()
        return unread
