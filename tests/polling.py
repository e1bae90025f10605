"""Waiting for a state instead of sleeping for it, and whether a process runs."""

import asyncio
import time
from collections.abc import Awaitable, Callable

import psutil


async def until(condition: Callable[[], object], within_s: float = 30) -> None:
    """Poll until the condition holds.

    To look at all processes takes longer than 10 ms, and the loop that looks is the one that is to bring it about: it
    gets four times as long as a look takes.

    Raises:
        AssertionError: it did not in time.
    """
    deadline = time.monotonic() + within_s
    looked_at = time.monotonic()
    while not condition():
        now = time.monotonic()
        assert now < deadline, "it did not come true in time"
        await asyncio.sleep(max(0.01, 4 * (now - looked_at)))
        looked_at = time.monotonic()


async def settled(read: Callable[[], str], for_s: float = 1.0) -> str:
    """Read until the text is not empty and no longer changes; return the text."""
    seen, since = "", time.monotonic()
    while True:
        text = read()
        if text and text != seen:
            seen, since = text, time.monotonic()
        elif seen and time.monotonic() - since > for_s:
            return seen
        await asyncio.sleep(0.02)


async def until_told(condition: Callable[[], Awaitable[object]], within_s: float = 30) -> None:
    """Ask until the answer is true.

    Raises:
        AssertionError: it was not in time.
    """
    deadline = time.monotonic() + within_s
    while not await condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        await asyncio.sleep(0.01)


def is_alive(pid: int) -> bool:
    """Return whether a process runs and is no zombie."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
