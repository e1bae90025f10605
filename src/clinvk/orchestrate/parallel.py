"""Parts that do not wait for each other, a few at a time."""

import asyncio
from collections.abc import Iterable

from clinvk.orchestrate.performing import Performing
from clinvk.plan import Part, PartResult

_READY = 8
"""How many parts are made ready while others run, at most."""


async def perform(performing: Performing, parts: Iterable[Part], fail_fast: bool = False) -> tuple[PartResult, ...]:
    """Run parts, as many at once as their share has it; give the results in the order of the parts.

    Only what runs has a task of its own, and what is next: that has been recorded by the time that its turn comes. A
    part that waits for longer takes no more than it is itself. With `fail_fast` each waits for how the one before went.
    """
    at_once = performing.share.at_once
    ready = 0 if fail_fast else min(at_once, _READY)
    waiting = enumerate(parts)
    results: dict[int, PartResult] = {}

    async def work() -> None:
        for index, part in waiting:
            result = results[index] = await performing.perform(index, part)
            if fail_fast and result.error and not performing.stopped:
                await performing.stop(f"tasks[{index}] failed, and fail_fast ends the others")

    async with asyncio.TaskGroup() as group:
        for _ in range(at_once + ready):
            group.create_task(work())
    return tuple(results[index] for index in sorted(results))
