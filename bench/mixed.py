"""What the kept processes take through a thousand prompts of every kind, looked at from outside.

Prompts come for all agents, in several profiles, ephemeral and in sessions that go on; clients leave in the middle, and
agent processes are killed. After each few all rest, and what is there then is kept.
"""

import random
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import psutil

from bench.agents import CLIS, agents
from bench.asking import MODELS, Told, ask, kept
from bench.report import Budget, Figure
from bench.server import Server, serving
from bench.workplace import BenchBroken, Workplace

_RUNS = 1000
_TOGETHER = 25
_CLIENTS = 4
_LIMIT_MB = 800
_CONFIG = (
    f"warm: {{kept_backends: [claude, codex, gemini], max_memory_mb: {_LIMIT_MB}, max_processes: 6}}\n"
    f"server: {{max_concurrent_runs: {_CLIENTS}, max_concurrent_per_backend: {_CLIENTS}}}\n"
)
_POLL_INTERVAL_S = 0.2
_ENDS_TIMEOUT_S = 1.0
"""What is being ended when the last run has ended may take so long."""

_RESTS_S = 2.0
_AT_REST_TIMEOUT_S = 30.0
_SEED = 1
_KILLED = "agent_crashed"
_MB = 1024 * 1024


def mixed(place: Workplace) -> list[Figure]:
    """Run the prompts; report the agents' highest memory, the failed runs, and the leftover processes."""
    count = place.some(_RUNS)
    with agents(place) as machine:
        with serving(machine, _CONFIG) as server:
            outside = _Outside(server, machine.env["CLINVK_HOME"])
            crowd = _Crowd(machine, server, outside)
            for number in range(0, count, _TOGETHER):
                crowd.come(min(_TOGETHER, count - number))
                outside.look_at_rest()
        left = outside.left
    return [*_taken(outside, count), _of_failures(crowd.failures, count), _of_left(left, outside)]


def _taken(outside: "_Outside", count: int) -> Iterator[Figure]:
    """Report the memory of the warm processes, alone and with the active runs."""
    yield Figure(
        name=f"most memory kept, {count} mixed runs",
        unit="MB",
        ours=[outside.at_rest_mb],
        peer_name="the setting",
        peer=[_LIMIT_MB],
        budget=Budget("share", 1.0),
    )
    yield Figure(
        name="most memory, with what runs have of their own",
        unit="MB",
        ours=[outside.highest_mb],
        peer_name=f"the setting, and {_CLIENTS} of the largest",
        peer=[_LIMIT_MB + _CLIENTS * outside.largest_mb],
    )


def _of_failures(failures: "Counter[str]", count: int) -> Figure:
    """Report failed runs, except runs whose process was killed."""
    for why, number in failures.items():
        print(f"failed unharmed, {number} times: {why}", file=sys.stderr)
    return Figure(
        name="mixed runs that failed unharmed",
        unit="",
        ours=[failures.total()],
        peer_name="runs",
        peer=[count],
        budget=Budget("at most", 0),
    )


def _of_left(left: int, outside: "_Outside") -> Figure:
    return Figure(
        name="processes left after the stop",
        unit="",
        ours=[left],
        peer_name="before, at most",
        peer=[outside.most],
        budget=Budget("at most", 0),
    )


class _Outside:
    """The agents of a server as another program of the user sees them, by a variable of theirs."""

    def __init__(self, server: Server, home: str) -> None:
        self.at_rest_mb = self.highest_mb = self.largest_mb = 0.0
        self.most = 0
        self._server = server
        self._home = home

    @property
    def agents(self) -> list[psutil.Process]:
        """Return all processes of agents."""
        found: list[psutil.Process] = []
        for process in psutil.process_iter():
            try:
                if process.pid != self._server.pid and process.environ().get("CLINVK_HOME") == self._home:
                    found.append(process)
            except (psutil.Error, OSError):
                continue
        return found

    @property
    def left(self) -> int:
        """Return the number of processes."""
        return len(self.agents)

    def look(self) -> float:
        """Return the resident memory of all of them together."""
        sizes: list[float] = []
        for process in self.agents:
            try:
                sizes.append(process.memory_info().rss / _MB)
            except psutil.Error:
                continue
        self.highest_mb = max(self.highest_mb, sum(sizes))
        self.largest_mb = max(self.largest_mb, *sizes, 0.0)
        self.most = max(self.most, len(sizes))
        return sum(sizes)

    def look_at_rest(self) -> None:
        """Measure for a while when no run is active: all processes are warm."""
        until = time.monotonic() + _AT_REST_TIMEOUT_S
        while kept(self._server).runs:
            if time.monotonic() > until:
                raise BenchBroken("runs are under way that nobody waits for")
            time.sleep(0.05)
        time.sleep(_ENDS_TIMEOUT_S)
        until = time.monotonic() + _RESTS_S
        while time.monotonic() < until:
            self.at_rest_mb = max(self.at_rest_mb, self.look())
            time.sleep(_POLL_INTERVAL_S)

    def look_while(self, busy: threading.Event) -> None:
        """Look again and again."""
        while busy.is_set():
            self.look()
            time.sleep(_POLL_INTERVAL_S)


class _Crowd:
    """The clients."""

    def __init__(self, place: Workplace, server: Server, outside: _Outside) -> None:
        self.failures: Counter[str] = Counter()
        self._server = server
        self._outside = outside
        self._random = random.Random(_SEED)
        self._folders = [place.root, place.root / "other"]
        self._folders[1].mkdir()
        self._sessions: deque[tuple[str, str]] = deque()

    def come(self, count: int) -> None:
        """Run so many, several at once, and kill an agent meanwhile."""
        busy = threading.Event()
        busy.set()
        with ThreadPoolExecutor(_CLIENTS + 1) as threads:
            looking = threads.submit(self._outside.look_while, busy)
            kinds = [self._random.random() for _ in range(count)]
            bodies = [self._body(kind) for kind in kinds]
            runs = [threads.submit(self._run, kind, body) for kind, body in zip(kinds, bodies, strict=True)]
            runs[count // 2].add_done_callback(lambda _: self._kill())
            told = [run.result() for run in runs]
            self.failures.update(f"{run.failure}: {run.why}" for run in told if run.failure not in ("", _KILLED))
            busy.clear()
            looking.result()

    def _body(self, kind: float) -> dict[str, object]:
        """Make a prompt for an agent; two models, two directories and with or without a system prompt are profiles."""
        if kind < 0.25 and self._sessions:
            backend, session = self._sessions.popleft()
            return {"backend": backend, "session_id": session, "model": MODELS[backend][0], "prompt": "on [[words=3]]"}
        backend = self._random.choice(CLIS)
        prompt = "wait [[words=200]] [[delay=0.05]]" if kind > 0.85 else "hello [[words=20]]"
        return {
            "backend": backend,
            "prompt": prompt,
            "model": self._random.choice(MODELS[backend]),
            "workdir": str(self._random.choice(self._folders)),
            "ephemeral": kind > 0.5,
            **({"system_prompt": "Answer briefly."} if self._random.random() < 0.2 else {}),
        }

    def _run(self, kind: float, body: dict[str, object]) -> Told:
        told = ask(self._server, body, leaves=kind > 0.85)
        if not told.failure and told.session and kind <= 0.5:
            self._sessions.append((str(body["backend"]), told.session))
        return told

    def _kill(self) -> None:
        """Kill a random agent, which may have runs, be idle, or be starting."""
        if found := self._outside.agents:
            with suppress(psutil.NoSuchProcess):
                self._random.choice(found).kill()
