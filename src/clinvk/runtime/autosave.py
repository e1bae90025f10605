"""What running agents say, stored while they run: if clinvk is killed, little of what clients have read is lost."""

import asyncio
import logging
from collections.abc import Callable, Coroutine

from clinvk.errors import ClinvkError
from clinvk.runtime.log import EventLog
from clinvk.store import SessionStore

logger = logging.getLogger(__name__)

EVERY_S = 0.2
"""How long an event stays unsaved, without the time that the transaction takes."""

_RETRY_AFTER_S = 2.0


class Autosave:
    """Stores the new events of all runs together, in one transaction every `EVERY_S`; an idle server has no timer.

    `spawn` starts the task of a transaction, and owns that task. Events that cannot be stored do not end their run:
    they stay in its log, and are stored with later ones or with the end of the run.
    """

    def __init__(self, store: SessionStore, spawn: Callable[[Coroutine[None, None, None]], object]) -> None:
        self._store = store
        self._spawn = spawn
        self._logs: dict[str, EventLog] = {}
        self._is_planned = False
        self._trouble = ""

    def add(self, run_id: str, log: EventLog) -> None:
        """Store the new events of a run with the next transaction."""
        self._logs[run_id] = log
        if not self._is_planned:
            self._plan(EVERY_S)

    def forget(self, run_id: str) -> None:
        """Leave the events of a run to the record of its end."""
        self._logs.pop(run_id, None)

    def _plan(self, delay_s: float) -> None:
        self._is_planned = True
        asyncio.get_running_loop().call_later(delay_s, self._start)

    def _start(self) -> None:
        if self._logs:
            self._spawn(self._save())
        else:
            self._is_planned = False

    async def _save(self) -> None:
        logs, self._logs = self._logs, {}
        events = {run_id: log.unsaved() for run_id, log in logs.items()}
        try:
            await self._store.append(events)
        except ClinvkError as exc:
            self._postpone(logs, exc.message)
        except Exception:
            logger.exception("new events of %d runs are not stored", len(logs))  # a faulty store must not end a run
            self._postpone(logs, "")
        else:
            self._trouble = ""
            for run_id, log in logs.items():
                log.saved += len(events[run_id])
            self._is_planned = False
            if self._logs:
                self._plan(EVERY_S)

    def _postpone(self, logs: dict[str, EventLog], trouble: str) -> None:
        if trouble and trouble != self._trouble:
            logger.warning("new events of %d runs are not stored: %s", len(logs), trouble)
        self._trouble = trouble
        self._logs = {run_id: log for run_id, log in logs.items() if not log.ending} | self._logs
        self._plan(_RETRY_AFTER_S)
