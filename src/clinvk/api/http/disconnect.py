"""Cancel a request when its client disconnects before the end of the response."""

import asyncio
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self

from starlette.types import Receive

from clinvk.api.http.response import ClientDisconnected, HttpResponse

_WATCH_AFTER_S = 0.1


class DisconnectWatch:
    """Cancels the task of this context when the client disconnects; `quiet` is called every `wait_s()`.

    Watching begins with `watch`, after the body was read: both read from the client.

    Raises:
        ClientDisconnected: the client disconnected, or stopped reading.
    """

    __slots__ = ("_quiet", "_reason", "_receive", "_reply", "_task", "_timer", "_wait_s", "_watcher")

    def __init__(
        self, receive: Receive, reply: HttpResponse, wait_s: Callable[[], float], quiet: Callable[[], Awaitable[None]]
    ) -> None:
        self._receive = receive
        self._reply = reply
        self._wait_s = wait_s
        self._quiet = quiet
        self._timer: asyncio.TimerHandle | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._task: asyncio.Task[object] | None = None
        self._reason: BaseException | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.current_task()
        return self

    async def __aexit__(
        self, _: type[BaseException] | None, error: BaseException | None, __: TracebackType | None
    ) -> None:
        if self._timer:
            self._timer.cancel()
        if self._watcher:
            self._watcher.remove_done_callback(self._watched)
            self._watcher.cancel()
            self._watcher = None  # its error refers to this object: a cycle would keep the request in memory
        if self._reason and self._task and isinstance(error, asyncio.CancelledError) and not self._task.uncancel():
            raise self._reason from None

    def watch(self) -> None:
        """Start watching soon: a fast response then saves the cost of a watcher."""
        self._timer = asyncio.get_running_loop().call_later(_WATCH_AFTER_S, self._start)

    def _start(self) -> None:
        self._timer = None
        self._watcher = asyncio.get_running_loop().create_task(self._watch())
        self._watcher.add_done_callback(self._watched)

    def _watched(self, watcher: asyncio.Task[None]) -> None:
        if not watcher.cancelled() and (reason := watcher.exception()) and self._task:
            self._reason = reason
            self._task.cancel()

    async def _watch(self) -> None:
        while True:
            try:
                async with asyncio.timeout(self._reply.look_within(self._wait_s())):
                    message = await self._receive()
            except TimeoutError:
                self._reply.refuse_stuck()
                if not self._reply.ended:
                    await self._quiet()
            else:
                if message["type"] == "http.disconnect":
                    if self._reply.ended:
                        return
                    raise ClientDisconnected("before the end of its answer")
