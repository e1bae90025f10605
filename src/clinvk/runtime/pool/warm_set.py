"""The warm agents in groups of equals: how a warm agent is keyed, started and ended."""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable
from hashlib import blake2b
from math import inf
from typing import NamedTuple, Self

import msgspec
from msgspec.structs import replace

from clinvk.backends.base import Backend, Host, Launch
from clinvk.runtime.pool.file_fingerprints import Fingerprint, fingerprint
from clinvk.runtime.pool.warm_agent import WarmAgent
from clinvk.runtime.process.private_folder import PrivateFolder
from clinvk.runtime.process.process import Process
from clinvk.runtime.process.spawn import Spawner
from clinvk.runtime.process.waiting import finish_shielded
from clinvk.types.errors import ClinvkError, InvalidRequest
from clinvk.types.redaction import redacted, secrets_in

logger = logging.getLogger(__name__)

MAX_HELD = 8
"""The number of conversations that a process keeps open exclusively."""

_MAX_BACKOFF_S = 20.0

_STABLE_AFTER_S = 10.0
"""A process that was up for this time did not fail because of its start."""

_EXIT_TIMEOUT_S = 2.0


class WarmSpec(NamedTuple):
    """The specification of a warm agent; `launch` is a long-lived launch, `is_of_user` is as in `RunSpec`."""

    backend: Backend
    host: Host
    path: str
    launch: Launch
    is_of_user: bool = False

    @property
    def key(self) -> bytes:
        """The digest of everything fixed at an agent's start: the command and its environment, which may have keys."""
        launch, env = _without_conversation(self.launch), sorted(self.host.env.items())
        fixed = (launch.argv, launch.env, launch.cwd, launch.files, launch.links, launch.session_params, launch.reads)
        policy = (launch.max_runs, launch.resumes, self.is_of_user)
        tools = msgspec.json.encode(launch.client_tools)
        return blake2b(repr((self.backend.name, self.path, env, fixed, tools, policy)).encode()).digest()

    def files(self) -> "WarmFiles":
        """Return the current fingerprints of the files that an agent reads. Blocks."""
        launch, env = self.launch, self.host.env
        return WarmFiles(fingerprint((self.path, *launch.reads), env), fingerprint(launch.conversation_reads, env))


class WarmFiles(NamedTuple):
    """The files of an agent: `read` by every process, including the program, `initial` only by new conversations."""

    read: Fingerprint
    initial: Fingerprint


class WarmGroup:
    """Warm agents with the same key; each can carry any run with the key.

    Attributes:
        spec: the specification of an agent; the conversation of the launch has no meaning.
        files: the fingerprints that the agents were started with.
        last_requested_at: when a run last asked for an agent.
        begin_times: when runs that begin a conversation came, for which any ready agent would do.
        failures: the number of failures since a run last went well.
        not_before: no agent is started before this time.
        is_mute: the last agent that failed never spoke its protocol, or the directory of the agents is gone. Only a run
            starts an agent then.
    """

    def __init__(self, spec: WarmSpec, files: WarmFiles) -> None:
        self.spec = spec
        self.files = files
        self.agents: list[WarmAgent] = []
        self.last_requested_at = -inf
        self.begin_times: deque[float] = deque(maxlen=64)
        self.failures = 0
        self.not_before = 0.0
        self.is_mute = False

    @property
    def backend(self) -> str:
        """The name of the backend."""
        return self.spec.backend.name

    @property
    def is_shared(self) -> bool:
        """Whether an agent carries several runs at once."""
        return self.spec.launch.resumes != "named"

    @property
    def launch(self) -> Launch:
        """The launch of an agent without a conversation."""
        return _without_conversation(self.spec.launch)

    def record_request(self, *, begins: bool) -> None:
        """Record that a run asks for an agent; `begins` is whether the run begins a conversation."""
        self.last_requested_at = time.monotonic()
        if begins:
            self.begin_times.append(self.last_requested_at)

    def renew(self, files: WarmFiles) -> None:
        """Adopt the current fingerprints, and retire agents that were started with changed files."""
        has_changed = files.read != self.files.read
        if has_changed:
            self.failures, self.not_before, self.is_mute = 0, 0.0, False
        if files != self.files:
            self.files = files
            for agent in self.agents:
                if has_changed or can_begin(agent):
                    agent.retire()

    def blame(self, agent: WarmAgent, reason: str) -> None:
        """Count a failure and delay the next start, longer with each failure in a row without a good run."""
        if agent.is_blamed:
            return
        agent.is_blamed = True
        was_killed = agent.was_started and (agent.process.exit_code or 0) >= 128  # shows no lack of a protocol
        self.is_mute = not (agent.is_ready or was_killed)
        is_stable = agent.is_ready and time.monotonic() > agent.since + _STABLE_AFTER_S
        self.failures = 1 if agent.is_proven or is_stable else self.failures + 1
        self.not_before = time.monotonic() + min(_MAX_BACKOFF_S, 0.25 * 2.0**self.failures)
        suffix = f" (pid {agent.process.pid})" if agent.was_started else ""
        reason = redacted(reason, secrets_in(self.spec.host.env))
        logger.warning("a kept process of %s%s failed, %d in a row: %s", self.spec.path, suffix, self.failures, reason)


def can_begin(agent: WarmAgent, share: float = 1) -> bool:
    """Return whether an agent can begin a conversation within a `share` of its runs.

    A one-conversation process can begin only its first conversation.
    """
    runs = agent.past_runs + len(agent.handles)
    if agent.channel.capacity == 1:
        return not runs and not agent.launch.resume_args
    return runs < share * agent.launch.max_runs


def best_agent(agents: Iterable[WarmAgent]) -> WarmAgent | None:
    """Return a ready agent if possible, preferring the busiest: idle agents can then be ended."""
    return max(agents, key=lambda agent: (agent.is_ready, agent.past_runs, len(agent.handles)), default=None)


def _without_conversation(launch: Launch) -> Launch:
    argv = tuple(argument for argument in launch.argv if argument not in launch.resume_args)
    return replace(launch, argv=argv, resume_args=())


class WarmSet:
    """All warm agents, in groups. `on_change` is called when a warm agent has gone.

    Attributes:
        groups: the groups by key.
        ending: the agents that are being ended.
    """

    def __init__(self, spawner: Spawner, on_change: Callable[[], None]) -> None:
        self.groups: dict[bytes, WarmGroup] = {}
        self.ending: set[WarmAgent] = set()
        self._spawner = spawner
        self._on_gone = on_change
        self._tasks = asyncio.TaskGroup()

    async def __aenter__(self) -> Self:
        await self._tasks.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        """End all agents; call after the last run."""
        for agent in self.agents:
            self.end(agent)
        await self._tasks.__aexit__(None, None, None)

    @property
    def agents(self) -> list[WarmAgent]:
        """All agents except those being ended."""
        return [agent for group in self.groups.values() for agent in group.agents]

    @property
    def counted(self) -> list[WarmAgent]:
        """The agents that count as kept: all except exclusive agents with a run."""
        return [agent for agent in self.agents if agent.channel.capacity > 1 or not agent.handles]

    @property
    def idle(self) -> list[WarmAgent]:
        """The agents without runs that may take a run, longest idle first."""
        idle = [agent for agent in self.agents if not agent.handles and not agent.is_retiring]
        return sorted(idle, key=lambda agent: agent.idle_since)

    async def group(self, spec: WarmSpec) -> WarmGroup:
        """Return the group of a spec; check the files, which may be many, in a thread."""
        key, files = spec.key, await asyncio.to_thread(spec.files)
        group = self.groups.setdefault(key, WarmGroup(spec, files))
        group.renew(files)
        return group

    def open(self, group: WarmGroup, launch: Launch) -> WarmAgent:
        """Start an agent in the background. The agent admits runs at once, and has a process when `opened` is set.

        A group that was forgotten meanwhile is added to `groups` again.
        """
        group = self.groups.setdefault(group.spec.key, group)
        env = dict(group.spec.host.env)  # shared with the channel, and completed at the start
        channel = group.spec.backend.channel(launch, replace(group.spec.host, env=env))
        folder = PrivateFolder(launch, group.spec.host.env, self._spawner.server_id)
        agent = WarmAgent(launch, channel, folder, lambda: self._on_change(agent))
        agent.group = group
        group.agents.append(agent)
        self._tasks.create_task(self._start(agent, env))
        return agent

    async def _start(self, agent: WarmAgent, env: dict[str, str]) -> None:
        group = agent.group
        try:
            await agent.start(self._spawner, group.spec.path, env)
        except Exception as exc:
            if isinstance(exc, InvalidRequest) and exc.field == "workdir":
                group.is_mute = True  # the directory is gone, as a worktree after its changes were applied
            else:
                is_expected = isinstance(exc, ClinvkError | TimeoutError)
                logger.warning("cannot start a kept process of %s: %s", group.spec.path, exc, exc_info=not is_expected)
                group.blame(agent, "it could not be started")
            group.agents.remove(agent)
            self.ending.discard(agent)

    def _on_change(self, agent: WarmAgent) -> None:
        """Handle output or the exit of an agent."""
        if agent.is_gone and not agent.handles and agent in agent.group.agents:
            if not agent.is_proven:
                agent.group.blame(agent, agent.failure)
            self._on_gone()

    def end(self, agent: WarmAgent) -> None:
        """Retire an agent and end the agent in the background."""
        agent.retire()
        if agent not in self.ending and agent in agent.group.agents:
            self.ending.add(agent)
            self._tasks.create_task(self._end_in_background(agent))

    async def _end_in_background(self, agent: WarmAgent) -> None:
        try:
            await agent.opened.wait()
            await self.end_and_wait(agent, graceful=True)
        except Exception:
            logger.exception("cannot end a kept process")

    async def end_and_wait(self, agent: WarmAgent, *, graceful: bool) -> None:
        """End an agent with all its descendants; if `graceful`, a running process may exit by itself first."""
        if agent not in agent.group.agents:
            return
        agent.group.agents.remove(agent)
        self.ending.add(agent)
        process = agent.process
        try:
            if graceful and agent.is_up:
                await agent.release_all()
                process.write(b"", close=True)
                await _wait_for_exit(process)
        finally:
            agent.close()
            try:
                await self._spawner.sweep(process)
                await finish_shielded(_wait_for_exit(process))  # the loop that receives the exit may end next
            finally:
                self.ending.discard(agent)
                self._on_gone()
                await agent.folder.clear()


async def _wait_for_exit(process: Process) -> None:
    """Wait up to `_EXIT_TIMEOUT_S` for the exit of a process, and drop its output."""
    until = time.monotonic() + _EXIT_TIMEOUT_S
    while process.exit_code is None and time.monotonic() < until:
        await asyncio.sleep(0.02)
        process.take()
