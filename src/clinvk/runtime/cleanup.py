"""Cleaning up that a cancellation cannot cut short: shielded, and bounded."""

import asyncio
from collections.abc import Awaitable

WITHIN_S = 10.0


async def finished(work: Awaitable[object], within_s: float = WITHIN_S) -> None:
    """Do the work to its end whoever cancels the caller, then let the cancellation go on. What it raises is raised.

    Raises:
        TimeoutError: it took longer than `within_s`, and was given up.
    """
    future = asyncio.ensure_future(work)
    timer = asyncio.get_running_loop().call_later(within_s, future.cancel)
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
        raise TimeoutError(f"cleaning up took longer than {within_s:g} s")
    future.result()
