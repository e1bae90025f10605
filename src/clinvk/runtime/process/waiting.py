"""Waiting for asyncio work: wake-ups, clean-up that a cancellation cannot cut short, and background tasks."""

import asyncio
import time
from _thread import start_new_thread
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from functools import partial
from math import inf
from typing import ParamSpec, TypeVar

from clinvk.types.errors import ClinvkError, InvalidRequest

CLEANUP_TIMEOUT_S = 10.0


async def finish_shielded(work: Awaitable[object], timeout_s: float = CLEANUP_TIMEOUT_S) -> None:
    """Finish the work even if the caller is cancelled, then raise the cancellation or the work's exception.

    Raises:
        TimeoutError: the work took longer than `timeout_s` and was cancelled.
    """
    future = asyncio.ensure_future(work)
    timer = asyncio.get_running_loop().call_later(timeout_s, future.cancel)
    cancelled: asyncio.CancelledError | None = None
    while not future.done():
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError as exc:
            cancelled = exc
    timer.cancel()
    if cancelled:
        raise cancelled
    if future.cancelled():
        raise TimeoutError(f"cleaning up took longer than {timeout_s:g} s")
    future.result()


class WakeUp:
    """A wake-up for one waiter; a wake-up before the wait is not lost."""

    __slots__ = ("_is_set", "_waiter")

    def __init__(self) -> None:
        self._is_set = False
        self._waiter: asyncio.Future[None] | None = None

    def set(self) -> None:
        """Wake the waiter, or let the next wait return at once."""
        self._is_set = True
        if self._waiter and not self._waiter.done():
            self._waiter.set_result(None)

    async def wait(self) -> None:
        """Wait for a wake-up since the last wait."""
        if not self._is_set:
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        self._is_set = False


class Alarm(WakeUp):
    """A wake-up with a timer. `at` is when the timer wakes the waiter, on the loop's clock."""

    __slots__ = ("_timer", "at")

    def __init__(self) -> None:
        super().__init__()
        self.at = inf
        self._timer: asyncio.TimerHandle | None = None

    def ring_at(self, until: float) -> None:
        """Wake the waiter at `until` on the loop's clock, unless a timer is set for an earlier time."""
        if until < self.at:
            self.close()
            self.at, self._timer = until, asyncio.get_running_loop().call_at(until, self._ring)

    async def wait_until(self, until: float) -> None:
        """Wait for a wake-up, or until about `until` on the loop's clock.

        A timer set for an earlier time stays set, since deadlines usually move: the wait may end early.
        """
        self.ring_at(until)
        await self.wait()

    def close(self) -> None:
        """Cancel the timer."""
        if self._timer:
            self._timer.cancel()

    def _ring(self) -> None:
        self.at = inf
        self.set()


P = ParamSpec("P")
T = TypeVar("T")

_LARGE = 64 * 1024
_MAX_THREADS = 32
_TRUSTED_S = 2.0
_MAX_TRUSTED = 1000
_TIMEOUT_S = 10.0


async def run_in_loop_thread(size: int, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run `work`, which takes time linear in `size`, in a thread if its duration would delay other requests.

    A thread helps with Python code. C code such as msgspec's holds the interpreter lock in a thread as well: only the
    limits on body sizes bound its duration.
    """
    return work(*args, **kwargs) if size <= _LARGE else await asyncio.to_thread(work, *args, **kwargs)


class Lookups:
    """Runs look-ups in threads, since a network file system may take long to answer or never answer.

    A thread costs several times what a look-up does. Directories that answered within the last `_TRUSTED_S` seconds
    are therefore looked up on the event loop: a file system that hangs in that time can hold up the loop.

    The threads belong to no pool, since a stuck thread must not delay the exit of the process.
    """

    def __init__(self, timeout_s: float = _TIMEOUT_S) -> None:
        self._timeout_s = timeout_s
        self._free = asyncio.Semaphore(_MAX_THREADS)
        self._answered_at: dict[str, float] = {}

    async def run(self, lookup: Callable[[], T], *directories: str | None) -> T:
        """Return the result of `lookup`, which accesses only `directories`; without directories, always use a thread.

        Raises:
            InvalidRequest: the look-up took too long, or too many other look-ups are stuck.
        """
        answered_at, paths = self._answered_at, [path for path in directories if path]
        oldest = min([answered_at.get(path, 0.0) for path in paths], default=0.0)
        found = lookup() if oldest > time.monotonic() - _TRUSTED_S else await self._in_thread(lookup)
        if len(answered_at) > _MAX_TRUSTED:
            answered_at.clear()
        for path in paths:
            answered_at[path] = time.monotonic()
        return found

    async def _in_thread(self, lookup: Callable[[], T]) -> T:
        loop = asyncio.get_running_loop()
        found: asyncio.Future[T] = loop.create_future()

        def finish(set_outcome: Callable[[], None]) -> None:
            self._free.release()
            if not found.done():  # the waiter has not given up
                set_outcome()

        def work() -> None:
            try:
                set_outcome = partial(found.set_result, lookup())
            except Exception as exc:  # noqa: BLE001 - raised where the result is awaited
                set_outcome = partial(found.set_exception, exc)
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(finish, set_outcome)

        try:
            async with asyncio.timeout(self._timeout_s):
                await self._free.acquire()
                try:
                    start_new_thread(work, ())
                except RuntimeError:
                    self._free.release()
                    raise
                return await found
        except TimeoutError:
            raise InvalidRequest("the file system of workdir or add_dirs does not answer", "workdir") from None


THREAD_TIMEOUT_S = 60.0


async def finish_thread(work: Awaitable[object], work_name: str, timeout_s: float = THREAD_TIMEOUT_S) -> None:
    """Finish the work as `finish_shielded` does; `work_name` names the work in the error.

    Raises:
        ClinvkError: the work took longer than `timeout_s` and was cancelled.
    """
    try:
        await finish_shielded(work, timeout_s)
    except TimeoutError as exc:
        raise ClinvkError(f"{work_name} took over {timeout_s:g} s") from exc


@asynccontextmanager
async def in_background(work: Coroutine[None, None, None]) -> AsyncGenerator[None]:
    """Run the work inside this context. Leaving cancels the work; an exception of the work ends the context.

    Raises:
        ExceptionGroup: the work failed. An exception inside the context leaves it as raised.
    """
    error: Exception | None = None
    async with asyncio.TaskGroup() as group:
        task = group.create_task(work)
        try:
            yield
        except Exception as exc:  # noqa: BLE001  # raised below, since the group would wrap the exception
            error = exc
        task.cancel()
    if error:
        raise error
