"""Cleaning up that a cancellation cannot cut short: shielded, and bounded."""

import asyncio
from collections.abc import Coroutine

WITHIN_S = 10.0


async def finished(work: Coroutine[object, object, object], within_s: float = WITHIN_S) -> None:
    """Do the work to its end whoever cancels the caller, then let the cancellation go on. What it raises is raised.

    Raises:
        TimeoutError: it took longer than `within_s`, and was given up.
    """
    task = asyncio.ensure_future(work)
    loop = asyncio.get_running_loop()
    deadline = loop.time() + within_s
    cancelled: asyncio.CancelledError | None = None
    while not task.done() and loop.time() < deadline:
        try:
            await asyncio.wait([task], timeout=deadline - loop.time())
        except asyncio.CancelledError as exc:
            cancelled = exc
    given_up = task.cancel()
    if cancelled:
        raise cancelled
    if given_up:
        raise TimeoutError(f"cleaning up took longer than {within_s:g} s")
    task.result()
