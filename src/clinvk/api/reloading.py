"""What SIGHUP renews while the server serves: all of it, or nothing where something is wrong."""

import logging
from collections.abc import Awaitable, Callable, Sequence

from clinvk.config import Settings
from clinvk.errors import ClinvkError

logger = logging.getLogger(__name__)

Prepare = Callable[[Settings], Awaitable[Callable[[], None]]]
"""Reads and checks what a part of the server needs under other settings; what it gives puts that into force."""


class Reload:
    """Loads the settings anew and hands them to the parts that can change while they serve."""

    def __init__(self, load: Callable[[], Settings], parts: Sequence[Prepare]) -> None:
        self._load = load
        self._parts = parts

    async def __call__(self) -> None:
        """Renew every part, or none and log why."""
        try:
            settings = self._load()
            ready = [await prepare(settings) for prepare in self._parts]
        except ClinvkError as exc:
            logger.warning("not reloaded, all stays as it was: %s", exc.message)
            return
        for put_into_force in ready:
            put_into_force()
        logger.info("reloaded keys, limits and log level; other settings wait for a restart")
