"""A warm agent: an agent process that outlives its runs, and carries several runs at once if the CLI can."""

import asyncio
import enum
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from clinvk.backends.base import Channel, Delivery, Launch, ProtocolNotSupported
from clinvk.runtime.pool.file_fingerprints import Fingerprint
from clinvk.runtime.pool.run_process import PAUSE_BYTES, PooledProcess
from clinvk.runtime.process.private_folder import PrivateFolder
from clinvk.runtime.process.process import DRAIN_S, LINGER_S, MAX_LINE_BYTES, Process
from clinvk.runtime.process.spawn import Spawner
from clinvk.runtime.process.waiting import WakeUp
from clinvk.types.errors import ClinvkError
from clinvk.types.redaction import redacted, secrets_in

if TYPE_CHECKING:
    from clinvk.runtime.pool.warm_set import WarmGroup

logger = logging.getLogger(__name__)

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


class WarmState(enum.IntEnum):
    """The states of an agent, in order. An agent may skip states, but never goes back to an earlier one."""

    OPENING = 1
    """The process is being started; runs may be admitted already."""
    SERVING = 2
    """The process is up and takes runs."""
    RETIRING = 3
    """The agent takes no more runs, and ends after its last run has left."""
    GONE = 4
    """The process has exited or was given up."""


class WarmAgent:
    """A warm process and the runs in it.

    Attributes:
        group: the agents with the same key; set by the `WarmSet`.
        state: where the agent is in its life.
        is_ready: the process has spoken its protocol.
        is_proven: a run went well in the process.
        is_blamed: the failure of the process was counted.
        failure: why the process, or a run in it, was first given up.
        has_leftover_tools: runs may have left tools that cannot be told from the tools of other runs.
        ending_tools: held while all tools in the process are killed; no run begins meanwhile.
        handles: the handles of the runs in the process, by run.
        past_runs: the number of runs that have left.
        opened: set once the process has started, or could not start.
        held: the conversations that the process can resume, by the agent's id.
        memory: the resident bytes of the process and its descendants, as last measured.
        since, idle_since: when the start began, and when a run last left, by `time.monotonic`.
        last_output_at, pinged_at: when the process last printed anything, and was last pinged, by the loop's clock.
    """

    group: "WarmGroup"

    def __init__(self, launch: Launch, channel: Channel, folder: PrivateFolder, on_change: Callable[[], None]) -> None:
        self.launch = launch
        self.channel = channel
        self.folder = folder
        self.state = WarmState.OPENING
        self.handles: dict[str, PooledProcess] = {}
        self.held: dict[str, HeldConversation] = {}
        self.opened = asyncio.Event()
        self.is_ready = self.is_proven = self.is_blamed = self.has_leftover_tools = False
        self.ending_tools = asyncio.Lock()
        self.past_runs = 0
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

    async def start(self, spawner: Spawner, path: str, env: dict[str, str]) -> None:
        """Start the program at `path` and prepare the process; `env` becomes the environment of the process.

        Raises:
            ClinvkError: the process cannot be started.
            TimeoutError: the disk hangs.
        """
        try:
            await self.folder.prepare()
            env |= self.folder.environment()
            command, cwd = self.folder.command(path), self.launch.cwd
            self._process = spawner.spawn(command, env, cwd, self.flush, real_path=cwd or "")
            self.state = max(self.state, WarmState.SERVING)
            self._process.write(self.channel.greet(), close=False)
        finally:
            if not self._process:
                await self.folder.clear()
            self.opened.set()

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
        """Whether the agent takes no more runs."""
        return self.state >= WarmState.RETIRING

    @property
    def is_gone(self) -> bool:
        """Whether the process has exited or was given up."""
        return self.state is WarmState.GONE

    @property
    def free_slots(self) -> int:
        """The number of runs that the agent can still take."""
        return 0 if self.is_retiring else self.channel.capacity - len(self.handles)

    @property
    def is_paused(self) -> bool:
        """Whether reading is paused for the slow reader of the only run."""
        return self.channel.capacity == 1 and any(handle.unread_bytes > PAUSE_BYTES for handle in self.handles.values())

    def admit(self, run: str, wake: Callable[[], None]) -> PooledProcess:
        """Admit a run, and return its handle."""
        handle = self.handles[run] = PooledProcess(run, self, wake)
        return handle

    def leave(self, run: str) -> None:
        """Remove a run from the agent."""
        if self.handles.pop(run, None):
            self.past_runs += 1
            self.idle_since = time.monotonic()

    def retire(self) -> None:
        """Take no more runs."""
        self.state = max(self.state, WarmState.RETIRING)

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
        """Ask the process to release a conversation, and wait for the release; retire the agent on a timeout."""
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
        if process.has_overlong_line:
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
            text = redacted(line.decode(errors="replace"), secrets_in(self.folder.environment()))
            logger.warning("a kept process of %s takes no more runs: it printed %r", self.launch.argv[0], text[:80])
            self.retire()
        self.is_ready = self.is_ready or (is_json and line.rstrip().endswith(b"}"))
        self.last_output_at = self._loop.time()
        self._deliver(line, lambda: self.channel.receive(line))

    def _deliver(self, line: bytes, receive: Callable[[], Iterable[Delivery]]) -> None:
        recipients = dict.fromkeys(self.handles.values() if self.channel.capacity == 1 else ())
        for handle in recipients:
            handle.add(line)
        try:
            for delivery in receive():
                if isinstance(delivery, bytes):
                    self.process.write(delivery, close=False)
                elif handle := self.handles.get(delivery[0]):
                    recipients[handle] = None
                    handle.add(line, delivery[1])
        except ProtocolNotSupported as exc:
            self.fail(str(exc))
        except Exception:
            logger.exception("cannot decode the output of a kept process of %s", self.launch.argv[0])
            self.fail("clinvk itself failed; its log has the details")
        for handle in self.handles.values():
            handle.is_answered = self.is_ready
        for handle in recipients:  # once per line, since a woken run reads immediately
            handle.wake()

    def _exited(self) -> None:
        if not self.is_up:
            return
        for line in self.process.take():
            self._handle(line)
        code, stderr = self.process.exit_code or 0, self.process.stderr
        for handle in self.handles.values():
            handle.is_lost = handle.is_lost or not handle.is_over
        self._deliver(b"", lambda: self.channel.closed(code, stderr))
        said = "" if self.is_ready else self.channel.stderr_message(stderr)
        self.fail(f"the agent's process exited with code {code}{f': {said}' if said else ''}")

    def _output_closed(self) -> None:
        if self.process.exit_code is None and not self.is_gone:
            self.fail("the agent closed its output but did not exit")

    def close(self) -> None:
        """Mark the process as gone, and cancel the timer, which would keep the agent in memory."""
        self.state = WarmState.GONE
        if self._timer:
            self._timer.cancel()

    def fail(self, reason: str) -> None:
        """Abandon the process and all its runs."""
        self.close()
        self.failure = self.failure or reason
        for handle in self.handles.values():
            handle.fail(reason)
        self._on_change()

    def abandon(self, handle: PooledProcess, reason: str) -> None:
        """Fail one run and ask the process to stop the run; the agent takes no more runs."""
        self.retire()
        self.failure = self.failure or reason
        handle.interrupt()
        handle.fail(reason)

    def ping(self) -> None:
        """Ping the process."""
        self.process.write(self.launch.ping, close=False)
        self.pinged_at = self._loop.time()


async def probe_protocol(
    spawner: Spawner, path: str, launch: Launch, channel: Channel, env: Mapping[str, str], timeout_s: float
) -> str | None:
    """Start the program at `path`; return why the program does not speak its protocol, or None."""
    changed = WakeUp()
    agent = WarmAgent(launch, channel, PrivateFolder(launch, env, spawner.server_id), changed.set)
    try:
        await agent.start(spawner, path, dict(env))
        async with asyncio.timeout(timeout_s):
            while not (agent.is_ready or agent.is_gone):
                await changed.wait()
        return None if agent.is_ready else agent.failure
    except ClinvkError as exc:
        return exc.message
    except TimeoutError:
        return f"it does not answer within {timeout_s:g} s"
    finally:
        agent.close()
        if agent.was_started:
            await spawner.sweep(agent.process)
            await agent.folder.clear()
