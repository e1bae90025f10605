"""Work beside the event loop, in threads."""

import asyncio
from _thread import start_new_thread
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

_LARGE = 64 * 1024
_AT_ONCE = 32
_WITHIN_S = 10.0


async def beside_loop(size: int, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Return what `work` returns, which takes time linear in `size`: in a thread where that would hold up others."""
    return work(*args, **kwargs) if size <= _LARGE else await asyncio.to_thread(work, *args, **kwargs)


class Lookups:
    """Runs look-ups in threads, since a network file system may take long to answer or never answer.

    The threads belong to no pool: a stuck thread must not delay the exit of the process.
    """

    def __init__(self, within_s: float = _WITHIN_S) -> None:
        self._within_s = within_s
        self._free = asyncio.Semaphore(_AT_ONCE)

    async def run(self, look: Callable[[], T]) -> T:
        """Return what `look` returns.

        Raises:
            TimeoutError: it took too long, or too many other look-ups are stuck.
        """
        found: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        async with asyncio.timeout(self._within_s):
            await self._free.acquire()
            try:
                start_new_thread(self._work, (look, found))
            except RuntimeError:
                self._free.release()
                raise
            return await found

    def _work(self, look: Callable[[], T], found: "asyncio.Future[T]") -> None:
        try:
            settle = partial(found.set_result, look())
        except Exception as exc:  # noqa: BLE001 - raised where the result is awaited
            settle = partial(found.set_exception, exc)
        with suppress(RuntimeError):  # the loop is closed
            found.get_loop().call_soon_threadsafe(self._over, found, settle)

    def _over(self, found: "asyncio.Future[T]", settle: Callable[[], None]) -> None:
        self._free.release()
        if not found.done():  # nobody has given up on it
            settle()
