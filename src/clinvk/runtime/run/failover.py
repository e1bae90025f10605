"""The failover of a run: another agent takes the prompt, or the run waits until a limit has reset."""

import time

from clinvk.runtime.run.task import RunTask
from clinvk.types.errors import ClinvkError

RESET_MARGIN_S = 10.0
"""How long after the reset of a limit a waiting run starts its agent: clocks differ."""

_CLOCK_CHECK_S = 30.0
"""How often a run that waits for a limit reads the clock, which may jump, as after a suspend."""


def can_fall_back(task: RunTask, error: ClinvkError) -> bool:
    """Return whether another agent, or the agent after the reset of its limit, may take the prompt."""
    is_untouched = not (task.log.count or task.spending.earlier or task.stopped_by)
    return is_untouched and task.candidates.accept(error)


async def fall_back(task: RunTask, error: ClinvkError) -> None:
    """Prepare the next agent after an error of this one.

    Raises:
        ClinvkError: no agent can take the prompt.
    """
    candidates = task.candidates
    error.message = task.redacted(error.message)
    task.slot.release()
    try:
        candidates.reject(error)
        spec = await candidates.choose()
    except ClinvkError as exc:
        if task.request.on_limit != "wait":
            raise
        if not (resets_at := await candidates.reset_time()):
            exc.message += "; the run cannot wait: no agent has reported when its limit resets"
            raise
        await _wait_for_reset(task, resets_at)
        spec = await candidates.choose() if candidates.has_several else task.spec
    await task.reassign(spec)


async def _wait_for_reset(task: RunTask, resets_at: float) -> None:
    """Wait in the queue, without a slot, until a limit has reset or the run was stopped."""
    await task.wait_for_limit(resets_at)
    while not task.stopped_by and (left_s := resets_at + RESET_MARGIN_S - time.time()) > 0:
        await task.alarm.wait_until(task.now() + min(left_s, _CLOCK_CHECK_S))
    task.slot.release()
