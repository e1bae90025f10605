"""The heartbeat of this process. The database decides by its own clock which processes are alive."""

import asyncio
import logging
import os
import socket
from collections.abc import Callable
from contextlib import suppress

from clinvk.store.postgres.database import Database
from clinvk.types.errors import StoreUnavailable

logger = logging.getLogger(__name__)

INTERVAL_S = 1.0

_TIMEOUT_S = 2.0
_REPORT = (
    "INSERT INTO owners VALUES (?, ?, ?, clock_timestamp())"
    " ON CONFLICT (id) DO UPDATE SET seen_at = excluded.seen_at,"
    " returned_at = CASE WHEN owners.seen_at < excluded.seen_at - interval '4 s' THEN excluded.seen_at"
    " ELSE owners.returned_at END RETURNING returned_at = seen_at"
)
_LEAVE = (
    "DELETE FROM owners WHERE id = ? OR (seen_at < clock_timestamp() - interval '1 day'"
    " AND NOT EXISTS (SELECT 1 FROM runs WHERE owner = owners.id AND under_way))"
)


class Heartbeat:
    """Reports every second, on a connection of its own. `on_return` is called after a gap of more than 4 s.

    Attributes:
        owner: the id of this process.
    """

    def __init__(self, url: str, on_return: Callable[[], None]) -> None:
        self.owner = os.urandom(16).hex()
        self._database = Database(url, connections=1)
        self._on_return = on_return
        self._has_reported = False

    async def start(self) -> None:
        """Report for the first time, before a run begins."""
        if not self._has_reported:
            await self.report()

    async def report(self) -> None:
        """Report this process as alive. Raises `StoreUnavailable`."""
        async with self._database.connection(_TIMEOUT_S) as db:
            ((has_returned,),) = await db.fetch(_REPORT, self.owner, socket.gethostname(), os.getpid())
        self._has_reported = True
        if has_returned:
            self._on_return()

    async def run(self) -> None:
        """Report until cancelled."""
        while True:
            await asyncio.sleep(INTERVAL_S)
            try:
                await self.report()
            except StoreUnavailable:
                pass  # the operations of the store report the error
            except Exception:
                logger.exception("this process does not report that it is alive")

    async def close(self) -> None:
        """Leave, and close the connection."""
        with suppress(StoreUnavailable):
            if self._has_reported:
                async with self._database.connection(_TIMEOUT_S) as db:
                    await db.execute(_LEAVE, self.owner)
        await self._database.close()
