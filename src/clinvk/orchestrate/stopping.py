"""The end of an orchestration before its time: what waits is woken by it, and what works is ended."""

import asyncio
from collections.abc import Coroutine
from typing import TypeVar

from clinvk.errors import Cancelled, ClinvkError

_T = TypeVar("_T")


class Stopping:
    """Whether the whole is to end; `why` is empty until then."""

    def __init__(self) -> None:
        self.why = ""
        self._begun = asyncio.Event()

    def begin(self, why: str) -> None:
        """End the whole; the first reason counts."""
        self.why = self.why or why
        self._begun.set()

    async def unless(self, work: Coroutine[None, None, _T]) -> _T:
        """Do work to its end, or until the whole is to end: then the work is cancelled.

        Raises:
            Cancelled: it is.
            ClinvkError: as the work, by itself: what a task of a group raises leaves that in a group of errors.
        """

        async def told() -> _T | ClinvkError:
            try:
                return await work
            except ClinvkError as exc:
                return exc

        async with asyncio.TaskGroup() as group:
            working = group.create_task(told())
            stopping = group.create_task(self._begun.wait())
            await asyncio.wait((working, stopping), return_when=asyncio.FIRST_COMPLETED)
            stopping.cancel()
            working.cancel()
        if working.cancelled():
            raise Cancelled(f"not run: {self.why}")
        result = working.result()
        if isinstance(result, ClinvkError):
            raise result
        return result
