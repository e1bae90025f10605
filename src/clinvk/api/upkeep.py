"""What a server does for the store beside its requests: imports, recovers, cleans."""

import asyncio
import logging
import time
from contextlib import AbstractAsyncContextManager
from itertools import chain, repeat

from clinvk.api.beside import beside
from clinvk.errors import StoreUnavailable
from clinvk.store.sqlite import SqliteStore

logger = logging.getLogger(__name__)

RECOVER_EVERY_S = 10.0
_RECOVER_AGAIN_S = 1.0
"""When it is done the second time: what a clinvk that was just killed had begun to start may have held its lock."""

CLEAN_EVERY_S = 4 * 3600.0
_DAY_S = 86_400
_NAMED_FILES = 20


def tended(
    store: SqliteStore, retention_days: int, recover_every_s: float = RECOVER_EVERY_S
) -> AbstractAsyncContextManager[None]:
    """Tend the store inside this context. Nothing waits for it, and no trouble of the store ends it."""
    return beside(_tend(store, retention_days, recover_every_s))


async def _tend(store: SqliteStore, retention_days: int, recover_every_s: float) -> None:
    is_imported, clean_at, trouble, clock = False, 0.0, "", _Clock()
    for pause_s in chain([min(_RECOVER_AGAIN_S, recover_every_s)], repeat(recover_every_s)):
        try:
            if not is_imported:
                await _import(store)
                is_imported = True
            if recovered := await store.recover():
                logger.info("%d runs were interrupted: their clinvk died", recovered)
            if retention_days and time.monotonic() >= clean_at:
                await _clean(store, retention_days, clock)
                clean_at = time.monotonic() + CLEAN_EVERY_S
            trouble = ""
        except StoreUnavailable as exc:
            if exc.message != trouble:
                logger.warning("sessions cannot be kept: %s", exc.message)
            trouble = exc.message
        except Exception:
            logger.exception("the store of sessions is not tended")
        await asyncio.sleep(pause_s)


async def _import(store: SqliteStore) -> None:
    imported = await store.import_earlier()
    if imported.count:
        logger.info("imported %d sessions of an earlier clinvk", imported.count)
    for damaged in imported.damaged[:_NAMED_FILES]:
        logger.warning("not imported: %s: %s", damaged.file, damaged.reason)
    if (more := len(imported.damaged) - _NAMED_FILES) > 0:
        logger.warning("not imported: %d more files", more)


class _Clock:
    """The clock for the age of sessions: it starts at the last use of a session, and runs while the server is up.

    The clock of the machine may be years ahead when the server starts.
    """

    def __init__(self) -> None:
        self._start: tuple[float, float] | None = None

    async def now(self, store: SqliteStore) -> float:
        """Return the time in seconds since the epoch, never one ahead of the machine's clock."""
        if self._start is None:
            self._start = await store.last_used() or time.time(), time.monotonic()
        last_used, since = self._start
        return min(time.time(), last_used + time.monotonic() - since)


async def _clean(store: SqliteStore, retention_days: int, clock: _Clock) -> None:
    if number := await store.clean(await clock.now(store) - retention_days * _DAY_S):
        logger.info("cleaned %d sessions that were not used for %d days", number, retention_days)
