"""A kept agent process: up before a run comes, there when it has gone, and of several runs at once where it can."""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from math import inf
from typing import NamedTuple

from clinvk.backends.base import Channel, Delivery, Launch, NotSpoken
from clinvk.runtime.pool.agent_programs import Fingerprint
from clinvk.runtime.process.private_folder import PrivateFolder
from clinvk.runtime.process.spawn import DRAIN_S, LINGER_S, MAX_LINE_BYTES, Process
from clinvk.types.errors import AgentCrashed, AgentFailed
from clinvk.types.events import Event, RunFailed, RunFinished, RunStarted, ToolCall
from clinvk.types.request import RunRequest
from clinvk.types.session import Resume

logger = logging.getLogger(__name__)

_MOST_WAITING_BYTES = 64 * 1024 * 1024
"""How much may wait for a run whose reader is behind. Reading on is what the other runs need."""

_REST_BYTES = 1024 * 1024
"""The same where there are no others: then it is the process that waits."""

_LETS_GO_WITHIN_S = 2.0
_LOOKS_EVERY_S = 0.005


class Held(NamedTuple):
    """A conversation that a process has in its memory.

    Nobody else has gone on with it while the store counts as many `turns`, which tells what any clinvk did at once,
    and its record on disk is as it was a while after the last turn, which tells what others did.
    """

    since: float
    turns: int
    fingerprint: Fingerprint | None = None


class Worker:
    """A process that stays, and the seats in it.

    Attributes:
        is_retiring: it takes no more runs, and is to be ended once it is empty.
        is_ready: it has spoken its protocol.
        is_gone: it was given up, or has exited.
        is_proven: a run went well in it.
        is_blamed: it has failed, and that was noted.
        trouble: why it, or a run in it, was given up.
        has_leavings: runs may have left something at work that could not be told from what others have at work.
        ending_tools: held while all tools in it are ended, during which no run begins that would lose its own.
        served: runs that have left it.
        opened: set once it was started, or could not be.
        held: the conversations it can go on with, by the agent's id.
        memory: what it and its children take, in bytes, as last measured.
        since, idle_since: when it was begun to be started, and when a run has last left it, by `time.monotonic`.
        heard_at, pinged_at: when it has last said something, and was last asked for it, by the loop's clock.
    """

    def __init__(self, launch: Launch, channel: Channel, folder: PrivateFolder, changed: Callable[[], None]) -> None:
        self.launch = launch
        self.channel = channel
        self.folder = folder
        self.seats: dict[str, PooledProcess] = {}
        self.held: dict[str, Held] = {}
        self.opened = asyncio.Event()
        self.is_retiring = False
        self.is_ready = False
        self.is_gone = self.is_proven = self.is_blamed = self.has_leavings = False
        self.ending_tools = asyncio.Lock()
        self.served = 0
        self.trouble = ""
        self._leaving: set[str] = set()
        self.memory = self.memory_at_first = 0
        self._loop = asyncio.get_running_loop()
        self.since = self.idle_since = time.monotonic()
        self.heard_at = self.pinged_at = self._loop.time()
        self._changed = changed
        self._process: Process | None = None
        self._timer: asyncio.TimerHandle | None = None

    @property
    def process(self) -> Process:
        """The process; it was started."""
        assert self._process
        return self._process

    def attach(self, process: Process) -> None:
        """Take the process that was started for this, and have it get ready."""
        self._process = process
        process.write(self.channel.greet(), close=False)

    @property
    def was_started(self) -> bool:
        """Whether there is a process, or was one."""
        return self._process is not None

    @property
    def is_up(self) -> bool:
        """Whether it was started and has not gone."""
        return self.was_started and not self.is_gone

    @property
    def room(self) -> int:
        """Runs that it can take at this moment."""
        return 0 if self.is_retiring or self.is_gone else self.channel.capacity - len(self.seats)

    def admit(self, run: str, wake: Callable[[], None]) -> "PooledProcess":
        """Give a run a seat."""
        seat = self.seats[run] = PooledProcess(run, self, wake)
        return seat

    def leave(self, run: str) -> None:
        """Take a seat back."""
        if self.seats.pop(run, None):
            self.served += 1
            self.idle_since = time.monotonic()

    def let_go(self, conversation: str) -> bool:
        """Have the process leave a conversation to others; say whether it keeps it from them at this moment.

        One that was given up may do so as well until it has exited.
        """
        self.held.pop(conversation, None)
        is_there = self.was_started and self.process.exit_code is None
        data = self.channel.let_go(conversation) if is_there else None
        if data:
            self.process.write(data, close=False)
            self._leaving.add(conversation)
        return data is not None

    async def all_left_to_others(self) -> None:
        """Wait until the process has left what it was to leave: if it goes before, they perhaps do not get it."""
        left = self._leaving - self.held.keys()
        await asyncio.gather(*(self.left_to_others(conversation) for conversation in left))

    async def left_to_others(self, conversation: str) -> None:
        """Have the process leave a conversation to others, and wait until it has."""
        until = self._loop.time() + _LETS_GO_WITHIN_S
        while self.let_go(conversation):
            if self._loop.time() > until:
                self.retire()
                return
            await asyncio.sleep(_LOOKS_EVERY_S)

    def retire(self) -> None:
        """Take no more runs."""
        self.is_retiring = True

    def pump(self) -> None:
        """Hand what the process has said to those it is for; called whenever it has said something or is gone."""
        if not self.is_up or self.rests:
            return
        process = self.process
        for line in process.take():
            self._hear(line)
        if process.too_long:
            self.fail(f"the agent printed a line of over {MAX_LINE_BYTES} bytes")
        if process.exit_code is not None and process.at_eof:
            self._exited()
        elif process.exit_code is not None:
            self._call_once(DRAIN_S, self._exited)
        elif process.at_eof:
            self._call_once(LINGER_S, self._stays)
        self._changed()

    def _call_once(self, delay_s: float, look: Callable[[], None]) -> None:
        """Call `look` once, `delay_s` from now, unless the process is closed before or a timer is already set."""
        if not (self._timer or self.is_gone):
            self._timer = self._loop.call_later(delay_s, look)

    def _hear(self, line: bytes) -> None:
        """Take a line, unless the process was given up at one before it."""
        if not self.is_gone:
            self._judge(line)
            self._deliver(line, lambda: self.channel.receive(line))

    def _judge(self, line: bytes) -> None:
        """Doubt a process that speaks its protocol and then prints something else: who knows what it has lost."""
        if self.is_ready and not self.is_retiring and line.strip() and not line.startswith(b"{"):
            logger.warning("a kept process of %s takes no more runs: it printed %r", self.launch.argv[0], line[:80])
            self.retire()
        self.is_ready = self.is_ready or line.startswith(b"{")
        self.heard_at = self._loop.time()

    @property
    def rests(self) -> bool:
        """Say whether reading waits for the one run that is read too slowly."""
        return self.channel.capacity == 1 and any(seat.waiting_bytes > _REST_BYTES for seat in self.seats.values())

    def _deliver(self, line: bytes, told: Callable[[], Iterable[Delivery]]) -> None:
        concerned = dict.fromkeys(self.seats.values() if self.channel.capacity == 1 else ())
        for seat in concerned:
            seat.put(line)
        try:
            for delivery in told():
                if isinstance(delivery, bytes):
                    self.process.write(delivery, close=False)
                elif seat := self.seats.get(delivery[0]):
                    concerned[seat] = None
                    seat.put(line, delivery[1])
                    self._note(seat, delivery[1])
        except NotSpoken as exc:
            for seat in self.seats.values():
                seat.refuse(str(exc))
            self.fail(str(exc))
        except Exception:
            logger.exception("what a kept process of %s says cannot be read", self.launch.argv[0])
            self.fail("clinvk itself failed; its log has the details")
        for seat in self.seats.values():
            seat.is_answered = self.is_ready
        for seat in concerned:  # once a line: whoever is woken looks at once
            seat.wake()

    def _note(self, seat: "PooledProcess", event: Event) -> None:
        if isinstance(event, RunStarted) and event.backend_session_id:
            seat.conversation = event.backend_session_id
            seat.tools = self.channel.tools_of(seat.run)
        elif seat.waiting_bytes > _MOST_WAITING_BYTES and not seat.is_over:
            seat.put(b"", RunFailed(AgentFailed.code, "whoever reads this run is too far behind", exit_code=1))
            self.stop(seat.run)

    def stop(self, run: str) -> bool:
        """Have a run end; say whether the process can be told so."""
        data = self.channel.interrupt(run)
        if data:
            self.process.write(data, close=False)
        return data is not None

    def _exited(self) -> None:
        if not self.is_up:
            return
        for line in self.process.take():
            self._hear(line)
        code, stderr = self.process.exit_code or 0, self.process.stderr
        for seat in self.seats.values():
            seat.is_lost = seat.is_lost or not seat.is_over
        self._deliver(b"", lambda: self.channel.closed(code, stderr))
        self.fail(f"the agent's process exited with code {code}")

    def _stays(self) -> None:
        if self.process.exit_code is None and not self.is_gone:
            self.fail("the agent closed its output but did not exit")

    def close(self) -> None:
        """Mark the process as gone, and cancel the timer that would keep this object in memory."""
        self.is_gone = True
        if self._timer:
            self._timer.cancel()

    def fail(self, why: str) -> None:
        """Give the process up, and all runs in it."""
        self.close()
        self.trouble = why
        self.retire()
        for seat in self.seats.values():
            self._lose(seat, why)
        self._changed()

    def give_up(self, seat: "PooledProcess", why: str) -> None:
        """Give up one run, which is to do nothing if the process comes to it after all; it takes no more."""
        self.retire()
        self.trouble = why
        self.stop(seat.run)
        self._lose(seat, why)

    def ping(self) -> None:
        """Ask for a sign of life."""
        self.process.write(self.launch.ping, close=False)
        self.pinged_at = self._loop.time()

    def _lose(self, seat: "PooledProcess", why: str) -> None:
        if seat.is_over:
            return
        seat.is_lost = True
        if not seat.is_refused:
            seat.put(b"", RunFailed(AgentCrashed.code, why, exit_code=self.process.exit_code))
        seat.wake()


class PooledProcess:
    """A run's seat in a process that stays.

    Attributes:
        is_over: the ending has come.
        is_lost: the process went before it told how the run ended.
        is_answered: it has said something since the run began.
        is_heard: it has said something of the run.
        began_at: when it was given the prompt, by the loop's clock.
        wake: has the run look at what was kept for it.
        has_used_tools: the run has; they may have left something at work.
        tools: the variable that what it leaves at work has in its environment.
        conversation: the agent's id of the run's conversation, once told.
    """

    exit_code = None
    at_eof = False
    too_long = False

    def __init__(self, run: str, worker: Worker, wake: Callable[[], None]) -> None:
        self.run = run
        self.worker = worker
        self.is_over = self.is_lost = self.is_answered = self.is_heard = self.has_used_tools = False
        self.conversation: str | None = None
        self.tools: tuple[str, str] | None = None
        self.waiting_bytes = 0
        self.began_at = inf
        self.wake = wake
        self._waiting: list[tuple[bytes, list[Delivery]]] = []
        self._refused = ""

    @property
    def is_refused(self) -> bool:
        """Whether the process turned out not to speak its protocol."""
        return bool(self._refused)

    def begin(self, request: RunRequest, resume: Resume | None) -> None:
        """Give the prompt to the process."""
        self.is_answered = False
        self.began_at = asyncio.get_running_loop().time()
        self.worker.process.write(self.worker.channel.start(self.run, request, resume), close=False)

    def put(self, line: bytes, event: Event | None = None) -> None:
        """Keep a line, or one more event of the same line, until the run is woken and looks."""
        if self.is_over:
            return
        if not self._waiting or self._waiting[-1][0] is not line:
            self._waiting.append((line, []))
            self.waiting_bytes += len(line)
        if event is not None:
            self._waiting[-1][1].append((self.run, event))
            self.is_heard = True
            self.has_used_tools = self.has_used_tools or isinstance(event, ToolCall)
            self.is_over = isinstance(event, RunFinished | RunFailed)

    def refuse(self, why: str) -> None:
        """Have the run learn that the process does not speak its protocol."""
        self._refused = why
        self.wake()

    def read(self) -> list[tuple[bytes, Iterable[Delivery]]]:
        """Give what came since the last call.

        Raises:
            NotSpoken: the process does not speak its protocol.
        """
        if self._refused:
            raise NotSpoken(self._refused)
        heard: list[tuple[bytes, Iterable[Delivery]]] = [*self._waiting]
        rested, self.waiting_bytes = self.waiting_bytes > _REST_BYTES, 0
        self._waiting.clear()
        if rested:
            self.worker.pump()
        return heard

    def read_stderr(self) -> list[bytes]:
        """Nothing: nobody knows whose line is whose."""
        return []

    def closed(self) -> Iterable[Delivery]:
        """Nothing: the process is not the run's own."""
        return ()

    def write(self, data: bytes) -> None:
        """Nothing is left to answer: the process was answered when it asked."""
        raise AssertionError(data)

    def stderr_message(self) -> str:
        """Give the line of stderr that says best what troubles the agent."""
        return self.worker.channel.complaint(self.worker.process.stderr)

    def finish(self) -> None:
        """The process stays."""
