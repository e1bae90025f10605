"""A wake-up call for one waiter, cheaper than `asyncio.Event`: each run has several, and waits for each line."""

import asyncio


class Wake:
    """Remembers that something has happened until its waiter has looked."""

    __slots__ = ("_happened", "_waiter")

    def __init__(self) -> None:
        self._happened = False
        self._waiter: asyncio.Future[None] | None = None

    def set(self) -> None:
        """Something has happened."""
        self._happened = True
        if self._waiter and not self._waiter.done():
            self._waiter.set_result(None)

    async def wait(self) -> None:
        """Wait until something has happened since the last wait."""
        if not self._happened:
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        self._happened = False
