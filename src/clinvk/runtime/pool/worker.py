"""The worker: a warm agent process that outlives its runs, and carries several runs at once if the CLI can."""

import asyncio
import enum
import logging
import time
from collections.abc import Callable, Iterable
from math import inf
from typing import NamedTuple

from clinvk.backends.base import Channel, Delivery, Launch, ProtocolNotSupported
from clinvk.runtime.pool.agent_programs import Fingerprint
from clinvk.runtime.process.private_folder import PrivateFolder
from clinvk.runtime.process.spawn import DRAIN_S, LINGER_S, MAX_LINE_BYTES, Process
from clinvk.types.errors import AgentCrashed, AgentFailed
from clinvk.types.events import Event, RunFailed, RunFinished, RunStarted, ToolCall
from clinvk.types.request import RunRequest
from clinvk.types.session import Resume

logger = logging.getLogger(__name__)

_MAX_UNREAD_BYTES = 64 * 1024 * 1024
"""Maximum unread output of a run with a slow reader while other runs need the process's output."""

_PAUSE_BYTES = 1024 * 1024
"""Maximum unread output of the only run of a process: above the limit, the process itself is paused."""

_RELEASE_TIMEOUT_S = 2.0
_POLL_S = 0.005


class HeldConversation(NamedTuple):
    """A conversation in the memory of a process.

    The memory is current while two values are unchanged: the store counts `turns` turns, which covers every clinvk, and
    the CLI's record on disk has the `fingerprint` taken some time after the last turn, which covers all other programs.
    """

    since: float
    turns: int
    fingerprint: Fingerprint | None = None


class WorkerState(enum.IntEnum):
    """The states of a worker, in order. A worker may skip states, but never goes back to an earlier one."""

    OPENING = 1
    """The process is being started; runs may be admitted already."""
    SERVING = 2
    """The process is up and takes runs."""
    RETIRING = 3
    """The worker takes no more runs, and ends after its last run has left."""
    GONE = 4
    """The process has exited or was given up."""


class Worker:
    """A warm process and the runs in it.

    Attributes:
        state: where the worker is in its life.
        is_ready: the process has spoken its protocol.
        is_proven: a run went well in the process.
        is_blamed: the failure of the process was counted.
        failure: why the process, or a run in it, was given up.
        has_leftover_tools: runs may have left tools that cannot be told from the tools of other runs.
        ending_tools: held while all tools in the process are killed; no run begins meanwhile.
        handles: the handles of the runs in the process, by run.
        served: the number of runs that have left.
        opened: set once the process has started, or could not start.
        held: the conversations that the process can resume, by the agent's id.
        memory: the resident bytes of the process and its descendants, as last measured.
        since, idle_since: when the start began, and when a run last left, by `time.monotonic`.
        last_output_at, pinged_at: when the process last printed anything, and was last pinged, by the loop's clock.
    """

    def __init__(self, launch: Launch, channel: Channel, folder: PrivateFolder, on_change: Callable[[], None]) -> None:
        self.launch = launch
        self.channel = channel
        self.folder = folder
        self.state = WorkerState.OPENING
        self.handles: dict[str, PooledProcess] = {}
        self.held: dict[str, HeldConversation] = {}
        self.opened = asyncio.Event()
        self.is_ready = self.is_proven = self.is_blamed = self.has_leftover_tools = False
        self.ending_tools = asyncio.Lock()
        self.served = 0
        self.failure = ""
        self.memory = self.first_memory = 0
        self._loop = asyncio.get_running_loop()
        self.since = self.idle_since = time.monotonic()
        self.last_output_at = self.pinged_at = self._loop.time()
        self._releasing: set[str] = set()
        self._on_change = on_change
        self._process: Process | None = None
        self._timer: asyncio.TimerHandle | None = None

    @property
    def process(self) -> Process:
        """The process, which has been started."""
        assert self._process
        return self._process

    def attach(self, process: Process) -> None:
        """Attach the started process and send the greeting."""
        self._process = process
        self.state = max(self.state, WorkerState.SERVING)
        process.write(self.channel.greet(), close=False)

    @property
    def was_started(self) -> bool:
        """Whether the process was started, even if the process has exited."""
        return self._process is not None

    @property
    def is_up(self) -> bool:
        """Whether the process was started and is not gone."""
        return self.was_started and not self.is_gone

    @property
    def is_retiring(self) -> bool:
        """Whether the worker takes no more runs."""
        return self.state >= WorkerState.RETIRING

    @property
    def is_gone(self) -> bool:
        """Whether the process has exited or was given up."""
        return self.state is WorkerState.GONE

    @property
    def free_slots(self) -> int:
        """The number of runs that the worker can still take."""
        return 0 if self.is_retiring else self.channel.capacity - len(self.handles)

    @property
    def is_paused(self) -> bool:
        """Whether reading is paused for the slow reader of the only run."""
        return self.channel.capacity == 1 and any(
            handle.unread_bytes > _PAUSE_BYTES for handle in self.handles.values()
        )

    def admit(self, run: str, wake: Callable[[], None]) -> "PooledProcess":
        """Admit a run, and return its handle."""
        handle = self.handles[run] = PooledProcess(run, self, wake)
        return handle

    def leave(self, run: str) -> None:
        """Remove a run from the worker."""
        if self.handles.pop(run, None):
            self.served += 1
            self.idle_since = time.monotonic()

    def retire(self) -> None:
        """Take no more runs."""
        self.state = max(self.state, WorkerState.RETIRING)

    def release_session(self, conversation: str) -> bool:
        """Ask the process to release a conversation; return whether the process still holds an exclusive lock.

        Works even for a process that was given up, until the exit.
        """
        self.held.pop(conversation, None)
        is_running = self.was_started and self.process.exit_code is None
        data = self.channel.release_session(conversation) if is_running else None
        if data:
            self.process.write(data, close=False)
            self._releasing.add(conversation)
        return data is not None

    async def release_all(self) -> None:
        """Wait until the process has released all conversations due for release; an exit could lose a conversation."""
        remaining = self._releasing - self.held.keys()
        await asyncio.gather(*(self.release(conversation) for conversation in remaining))

    async def release(self, conversation: str) -> None:
        """Ask the process to release a conversation, and wait for the release; retire the worker on a timeout."""
        until = self._loop.time() + _RELEASE_TIMEOUT_S
        while self.release_session(conversation):
            if self._loop.time() > until:
                self.retire()
                return
            await asyncio.sleep(_POLL_S)

    def flush(self) -> None:
        """Deliver new output to the runs; called after every output and at the exit."""
        if not self.is_up or self.is_paused:
            return
        process = self.process
        for line in process.take():
            self._handle(line)
        if process.too_long:
            self.fail(f"the agent printed a line of over {MAX_LINE_BYTES} bytes")
        if process.exit_code is not None and process.at_eof:
            self._exited()
        elif process.exit_code is not None:
            self._call_once(DRAIN_S, self._exited)
        elif process.at_eof:
            self._call_once(LINGER_S, self._output_closed)
        self._on_change()

    def _call_once(self, delay_s: float, callback: Callable[[], None]) -> None:
        """Call `callback` once after `delay_s`, unless the process is closed earlier or a timer is already set."""
        if not (self._timer or self.is_gone):
            self._timer = self._loop.call_later(delay_s, callback)

    def _handle(self, line: bytes) -> None:
        """Handle a line, unless an earlier line made clinvk give up the process."""
        if self.is_gone:
            return
        is_json = line.startswith(b"{")
        if self.is_ready and not self.is_retiring and not is_json and line.strip():  # other lines may be lost
            logger.warning("a kept process of %s takes no more runs: it printed %r", self.launch.argv[0], line[:80])
            self.retire()
        self.is_ready = self.is_ready or is_json
        self.last_output_at = self._loop.time()
        self._deliver(line, lambda: self.channel.receive(line))

    def _deliver(self, line: bytes, receive: Callable[[], Iterable[Delivery]]) -> None:
        recipients = dict.fromkeys(self.handles.values() if self.channel.capacity == 1 else ())
        for handle in recipients:
            handle.put(line)
        try:
            for delivery in receive():
                if isinstance(delivery, bytes):
                    self.process.write(delivery, close=False)
                elif handle := self.handles.get(delivery[0]):
                    recipients[handle] = None
                    handle.put(line, delivery[1])
                    self._note(handle, delivery[1])
        except ProtocolNotSupported as exc:
            for handle in self.handles.values():
                handle.refuse(str(exc))
            self.fail(str(exc))
        except Exception:
            logger.exception("cannot decode the output of a kept process of %s", self.launch.argv[0])
            self.fail("clinvk itself failed; its log has the details")
        for handle in self.handles.values():
            handle.is_answered = self.is_ready
        for handle in recipients:  # once per line, since a woken run reads immediately
            handle.wake()

    def _note(self, handle: "PooledProcess", event: Event) -> None:
        if isinstance(event, RunStarted) and event.backend_session_id:
            handle.conversation = event.backend_session_id
            handle.tools = self.channel.tools_of(handle.run)
        elif handle.unread_bytes > _MAX_UNREAD_BYTES and not handle.is_over:
            handle.put(
                b"",
                RunFailed(
                    AgentFailed.code, "the client reads too slowly: more than 64 MB of output are unread", exit_code=1
                ),
            )
            self.stop(handle.run)

    def stop(self, run: str) -> bool:
        """Ask the process to end a run; return False if the protocol has no such request."""
        data = self.channel.interrupt(run)
        if data:
            self.process.write(data, close=False)
        return data is not None

    def _exited(self) -> None:
        if not self.is_up:
            return
        for line in self.process.take():
            self._handle(line)
        code, stderr = self.process.exit_code or 0, self.process.stderr
        for handle in self.handles.values():
            handle.is_lost = handle.is_lost or not handle.is_over
        self._deliver(b"", lambda: self.channel.closed(code, stderr))
        self.fail(f"the agent's process exited with code {code}")

    def _output_closed(self) -> None:
        if self.process.exit_code is None and not self.is_gone:
            self.fail("the agent closed its output but did not exit")

    def close(self) -> None:
        """Mark the process as gone, and cancel the timer, which would keep the worker in memory."""
        self.state = WorkerState.GONE
        if self._timer:
            self._timer.cancel()

    def fail(self, reason: str) -> None:
        """Give up the process and all its runs."""
        self.close()
        self.failure = reason
        for handle in self.handles.values():
            self._fail_run(handle, reason)
        self._on_change()

    def abandon(self, handle: "PooledProcess", reason: str) -> None:
        """Fail one run and ask the process to stop the run; the worker takes no more runs."""
        self.retire()
        self.failure = reason
        self.stop(handle.run)
        self._fail_run(handle, reason)

    def _fail_run(self, handle: "PooledProcess", reason: str) -> None:
        if handle.is_over:
            return
        handle.is_lost = True
        if not handle.is_unsupported:
            handle.put(b"", RunFailed(AgentCrashed.code, reason, exit_code=self.process.exit_code))
        handle.wake()

    def ping(self) -> None:
        """Ping the process."""
        self.process.write(self.launch.ping, close=False)
        self.pinged_at = self._loop.time()


class PooledProcess:
    """The handle of one run on a worker; see `OwnProcess` for the other kind.

    Attributes:
        is_over: the run's ending has arrived.
        is_lost: the process was lost before the run's ending arrived.
        is_answered: the process has printed something since the run began.
        has_begun: the process has printed something about the run.
        began_at: when the prompt was sent, by the loop's clock.
        wake: makes the run look at its new lines.
        has_used_tools: the run has used tools, which may have left processes behind.
        tools: the environment variable, name and value, that the run's tools carry.
        conversation: the agent's id of the run's conversation, once known.
    """

    exit_code = None
    at_eof = False
    too_long = False

    def __init__(self, run: str, worker: Worker, wake: Callable[[], None]) -> None:
        self.run = run
        self.worker = worker
        self.is_over = self.is_lost = self.is_answered = self.has_begun = self.has_used_tools = False
        self.conversation: str | None = None
        self.tools: tuple[str, str] | None = None
        self.unread_bytes = 0
        self.began_at = inf
        self.wake = wake
        self._unread: list[tuple[bytes, list[Delivery]]] = []
        self._refused = ""

    @property
    def process(self) -> Process:
        """The process that carries the run."""
        return self.worker.process

    def interrupt(self) -> bool:
        """Ask the process to end the run; return False if the protocol has no such request."""
        return self.worker.stop(self.run)

    @property
    def is_unsupported(self) -> bool:
        """Whether the process does not speak its protocol."""
        return bool(self._refused)

    def begin(self, request: RunRequest, resume: Resume | None) -> None:
        """Send the prompt."""
        self.is_answered = False
        self.began_at = asyncio.get_running_loop().time()
        self.worker.process.write(self.worker.channel.start(self.run, request, resume), close=False)

    def put(self, line: bytes, event: Event | None = None) -> None:
        """Queue a line, or another event of the last line, for the run's next `read`."""
        if self.is_over:
            return
        if not self._unread or self._unread[-1][0] is not line:
            self._unread.append((line, []))
            self.unread_bytes += len(line)
        if event is not None:
            self._unread[-1][1].append((self.run, event))
            self.has_begun = True
            self.has_used_tools = self.has_used_tools or isinstance(event, ToolCall)
            self.is_over = isinstance(event, RunFinished | RunFailed)

    def refuse(self, reason: str) -> None:
        """Make the run fail with `ProtocolNotSupported`."""
        self._refused = reason
        self.wake()

    def read(self) -> list[tuple[bytes, Iterable[Delivery]]]:
        """Return the lines since the last call with their events.

        Raises:
            ProtocolNotSupported: the process does not speak the protocol.
        """
        if self._refused:
            raise ProtocolNotSupported(self._refused)
        lines: list[tuple[bytes, Iterable[Delivery]]] = [*self._unread]
        was_paused, self.unread_bytes = self.unread_bytes > _PAUSE_BYTES, 0
        self._unread.clear()
        if was_paused:
            self.worker.flush()
        return lines

    def read_stderr(self) -> list[bytes]:
        """Return nothing: the stderr of a shared process belongs to no run."""
        return []

    def closed(self) -> Iterable[Delivery]:
        """Return nothing: the worker delivers the events that follow from the exit."""
        return ()

    def write(self, data: bytes) -> None:
        """Never called: the worker answers the requests of the process."""
        raise AssertionError(data)

    def stderr_message(self) -> str:
        """Return the line of stderr that best explains the agent's trouble."""
        return self.worker.channel.stderr_message(self.worker.process.stderr)

    def finish(self) -> None:
        """Do nothing: the process outlives the run."""
