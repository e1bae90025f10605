"""Cleaning up that a cancellation cannot cut short: shielded, and bounded."""

import asyncio
from collections.abc import Coroutine

WITHIN_S = 10.0


async def finished(work: Coroutine[object, object, object], within_s: float = WITHIN_S) -> None:
    """Do the work to its end whoever cancels the caller, then let the cancellation go on; after `within_s` give it up.

    What the work raises is raised.
    """
    task = asyncio.ensure_future(work)
    deadline = asyncio.get_running_loop().time() + within_s
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task], timeout=deadline - asyncio.get_running_loop().time())
        except asyncio.CancelledError as exc:
            cancelled = exc
        if asyncio.get_running_loop().time() >= deadline:
            task.cancel()
            break
    if cancelled:
        raise cancelled
    if task.done():
        task.result()
