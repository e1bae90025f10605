"""Background work of a server: import, recover, clean and index the store, free memory, raise limits.

Short-lived lines, bodies and responses are allocated between long-lived objects. glibc keeps a heap for each thread,
allocates large blocks there too once a large block was freed, and returns free memory at the end of a heap only: after
10,000 mixed requests the server held 240 MB, of which 18 were in use. `mallopt` and `malloc_trim` avoid this. https://man7.org/linux/man-pages/man3/mallopt.3.html
"""

import asyncio
import gc
import logging
import resource
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from itertools import chain, repeat
from typing import TYPE_CHECKING

from clinvk.store.protocol import SessionStore
from clinvk.store.sqlite.sqlite import SqliteStore
from clinvk.types.errors import StoreUnavailable

if TYPE_CHECKING:
    import ctypes

logger = logging.getLogger(__name__)

RECOVER_INTERVAL_S = 10.0
_FIRST_RECOVERY_S = 1.0
"""The delay of the second recovery: a process just started by a killed clinvk may still have held the lock."""

CLEAN_INTERVAL_S = 4 * 3600.0
_INDEX_PAUSE_S = 0.05
_DAY_S = 86_400
_LONG_UNUSED_DAYS = 7
_NAMED_FILES = 20


async def maintain_store(
    store: SessionStore, retention_days: int, recover_interval_s: float, clean_interval_s: float = CLEAN_INTERVAL_S
) -> None:
    """Import, recover, clean and index the store until cancelled. Errors of the store are logged."""
    is_imported, clean_at, last_error = False, 0.0, ""
    for pause_s in chain([min(_FIRST_RECOVERY_S, recover_interval_s)], repeat(recover_interval_s)):
        try:
            if not is_imported:
                await _import(store)
                is_imported = True
            if recovered := await store.recover():
                logger.info("%d runs were interrupted: their clinvk died", recovered)
            if retention_days and time.monotonic() >= clean_at:
                if clean_at or not await _may_be_ahead(store):
                    await _clean(store, retention_days)
                clean_at = time.monotonic() + clean_interval_s
            await _index(store, recover_interval_s)
            last_error = ""
        except StoreUnavailable as exc:
            if exc.message != last_error:
                logger.warning("sessions cannot be kept: %s", exc.message)
            last_error = exc.message
        except Exception:
            logger.exception("the store of sessions is not tended")
        await asyncio.sleep(pause_s)


async def _import(store: SessionStore) -> None:
    if not isinstance(store, SqliteStore):
        return
    imported = await store.import_earlier()
    if imported.count:
        logger.info("imported %d sessions of an earlier clinvk", imported.count)
    for damaged in imported.damaged[:_NAMED_FILES]:
        logger.warning("not imported: %s: %s", damaged.file, damaged.reason)
    if (more := len(imported.damaged) - _NAMED_FILES) > 0:
        logger.warning("not imported: %d more files", more)


async def _index(store: SessionStore, longest_s: float) -> None:
    """Index runs for searches, with pauses for other writes: a store of an earlier clinvk has many runs to index."""
    until = time.monotonic() + longest_s
    has_more = True
    while has_more and time.monotonic() < until:
        has_more = await store.index_runs()
        await asyncio.sleep(_INDEX_PAUSE_S)


async def _may_be_ahead(store: SessionStore) -> bool:
    """Return whether the clock may be ahead: by the clock, no session was used for `_LONG_UNUSED_DAYS`."""
    last_used = await store.last_used()
    if last_used is None or time.time() < last_used + _LONG_UNUSED_DAYS * _DAY_S:
        return False
    logger.warning("no session was used for %d days, or the clock is ahead: cleaning later", _LONG_UNUSED_DAYS)
    return True


async def _clean(store: SessionStore, retention_days: int) -> None:
    if number := await store.clean(time.time() - retention_days * _DAY_S):
        logger.info("cleaned %d sessions that were not used for %d days", number, retention_days)


TRIM_INTERVAL_S = 10.0

_MMAP_THRESHOLD, _ARENA_MAX = -3, -8
_LARGE_BYTES = 128 * 1024
_MAX_HEAPS = 2
"""One heap for the event loop, and one for all other threads."""


def limit_malloc_arenas() -> None:
    """Limit malloc to few heaps, without large blocks. Call before any thread starts."""
    if library := _glibc():
        library.mallopt(_ARENA_MAX, _MAX_HEAPS)
        library.mallopt(_MMAP_THRESHOLD, _LARGE_BYTES)


async def trim_memory(requests: Callable[[], int], interval_s: float = TRIM_INTERVAL_S) -> None:
    """Return free memory to the system at intervals until cancelled, whenever `requests` has changed."""
    last_count = requests()
    while True:
        await asyncio.sleep(interval_s)
        if (count := requests()) != last_count:
            last_count = count
            gc.collect()
            await asyncio.to_thread(_trim)


def _trim() -> None:
    if library := _glibc():
        library.malloc_trim(0)


@cache
def _glibc() -> "ctypes.CDLL | None":
    """Return the C library, or None if the library is not glibc."""
    import ctypes

    library = ctypes.CDLL(None)
    return library if hasattr(library, "mallopt") and hasattr(library, "malloc_trim") else None


_LIMITS = (65_536, 10_240)
"""Limits to try, in order. Some releases of macOS accept only the second, regardless of the hard limit."""


def raise_open_file_limit() -> int | None:
    """Raise the soft limit of open files: the usual 1024 is less than the number of prompts that may wait.

    Return the former limit, or None if unchanged. The new soft limit stays below the hard limit: agents raise their
    limit to the hard limit, which must differ from an inherited limit.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for target in _LIMITS:
        limit = target if hard == resource.RLIM_INFINITY else min(target, hard - 1)
        if limit <= soft or soft == resource.RLIM_INFINITY:
            return None
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
            return soft
    return None
