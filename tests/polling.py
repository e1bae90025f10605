"""Waiting for a state instead of sleeping for it."""

import asyncio
import time
from collections.abc import Callable


async def until(condition: Callable[[], object], within_s: float = 10) -> None:
    """Look until the condition holds.

    Raises:
        AssertionError: it did not in time.
    """
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        await asyncio.sleep(0.01)
