"""Staggered starts: an agent computes while it starts and mostly waits for its model afterwards."""

import asyncio
from collections import deque
from collections.abc import Callable

_PER_CORE = 4
_MAX_START_S = 3.0
"""Some agents print nothing before their answer, so a start counts no longer than this."""


class Start:
    """The start of one agent, which may begin once `is_granted`."""

    def __init__(self, on_grant: Callable[[], None]) -> None:
        self.is_granted = False
        self.on_grant = on_grant
        self.timer: asyncio.TimerHandle | None = None


class Starts:
    """The agents that start at the same time: at most four for each core. Others wait in order."""

    def __init__(self, cores: int) -> None:
        self._most = cores * _PER_CORE
        self._starting: set[Start] = set()
        self._waiting: deque[Start] = deque()

    def begin(self, on_grant: Callable[[], None]) -> Start:
        """Return a start, which is granted at once or later; then call `on_grant`."""
        start = Start(on_grant)
        self._waiting.append(start)
        self._grant()
        return start

    def end(self, start: Start) -> None:
        """Grant the next start: the agent has started, or will not start. Further calls do nothing."""
        if start in self._starting:
            self._starting.remove(start)
        elif start in self._waiting:
            self._waiting.remove(start)
        if start.timer:
            start.timer.cancel()
        self._grant()

    def _grant(self) -> None:
        while self._waiting and len(self._starting) < self._most:
            start = self._waiting.popleft()
            self._starting.add(start)
            start.timer = asyncio.get_running_loop().call_later(_MAX_START_S, self.end, start)
            start.is_granted = True
            start.on_grant()
