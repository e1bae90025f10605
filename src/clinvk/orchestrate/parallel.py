"""Parts that do not wait for each other, a few at a time."""

import asyncio
from collections.abc import Iterable

from clinvk.orchestrate.performing import Performing
from clinvk.plan import Part, PartResult


async def perform(
    performing: Performing, parts: Iterable[Part], at_once: int, fail_fast: bool = False
) -> tuple[PartResult, ...]:
    """Run parts, `at_once` at a time; give the results in the order of the parts.

    Only what runs has a task of its own, so that a part that waits takes no more than it is itself.
    """
    waiting = enumerate(parts)
    results: dict[int, PartResult] = {}

    async def work() -> None:
        for index, part in waiting:
            result = results[index] = await performing.perform(index, part)
            if fail_fast and result.error and not performing.stopped:
                await performing.stop(f"tasks[{index}] failed, and fail_fast ends the others")

    async with asyncio.TaskGroup() as group:
        for _ in range(at_once):
            group.create_task(work())
    return tuple(results[index] for index in sorted(results))
