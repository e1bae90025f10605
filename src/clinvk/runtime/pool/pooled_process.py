"""The handle of one run on a warm agent: the run's unread output, and what the run has done in the process."""

import asyncio
from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING

from clinvk.backends.base import Report
from clinvk.runtime.process.process import Process
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


class PooledProcess:
    """The handle of one run on a warm agent; see `OwnProcess` for the other kind.

    Attributes:
        is_over: the run's ending has arrived.
        is_lost: the process was lost before the run's ending arrived.
        is_answered: the process has printed something since the run began.
        has_begun: the process has printed something about the run.
        began_at: when the prompt was sent, by the loop's clock.
        wake: makes the run read its new lines.
        has_used_tools: the run has used tools, which may have left processes behind.
        is_parked: the agent waits for outputs of client tools or for a person, without work.
        tools: the environment variable, name and value, that the run's tools carry.
        conversation: the agent's id of the run's conversation, once known.
    """

    def __init__(self, run: str, agent: "WarmAgent", wake: Callable[[], None]) -> None:
        self.run = run
        self.agent = agent
        self.wake = wake
        self.is_over = self.is_lost = self.is_answered = self.has_begun = self.has_used_tools = False
        self.is_parked = False
        self.tools: tuple[str, str] | None = None
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
        self.process.write(self.agent.channel.start(self.run, request, resume), close=False)

    def steer(self, request: RunRequest) -> bool:
        """Give the agent a further prompt; return False if the agent cannot receive a prompt now."""
        return self._send(self.agent.channel.steer(self.run, request))

    def interrupt(self) -> bool:
        """Ask the process to end the run; return False if the protocol has no such request."""
        return self._send(self.agent.channel.interrupt(self.run))

    def _send(self, data: bytes | None) -> bool:
        if data:
            self.process.write(data, close=False)
        return data is not None

    def answer(self, output: ToolOutput) -> None:
        """Give the agent the output of a client tool."""
        self.is_parked = False
        self.process.write(self.agent.channel.answer(self.run, output), close=False)

    def resolve(self, request_id: str, answer: InteractionAnswer) -> None:
        """Give the agent the answer to an interaction."""
        self.is_parked = False
        self.process.write(self.agent.channel.resolve(self.run, request_id, answer), close=False)

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
            self.tools = self.agent.channel.tool_variable(self.run)
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

    def stderr_message(self) -> str:
        """Return the line of stderr that best explains the agent's trouble."""
        return self.agent.channel.stderr_message(self.process.stderr)
