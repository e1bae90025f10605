"""Work that goes on beside what a context is for, and ends with it."""

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from contextlib import asynccontextmanager


@asynccontextmanager
async def beside(work: Coroutine[None, None, None]) -> AsyncGenerator[None]:
    """Do work inside this context. Leaving it cancels the work; what the work raises ends the context."""
    async with asyncio.TaskGroup() as group:
        working = group.create_task(work)
        yield
        working.cancel()
