"""The end of a turn: log the ending of the run, take one more turn, or let another agent take the prompt."""

import time

from msgspec.structs import replace

from clinvk.runtime.run.answer_filter import SchemaFilter, check_answer, retry_prompt
from clinvk.runtime.run.run_io import RunIO
from clinvk.runtime.run.task import RunTask
from clinvk.types.errors import ClinvkError, InvalidRequest, error_from_code
from clinvk.types.events import Ending, RunFailed, RunFinished, Usage
from clinvk.types.interaction import Interaction
from clinvk.types.record import Resume
from clinvk.types.request import RunRequest

RESET_MARGIN_S = 10.0
"""How long after the reset of a limit a waiting run starts its agent: clocks differ."""

_CLOCK_CHECK_S = 30.0
"""How often a run that waits for a limit reads the clock, which may jump, as after a suspend."""


async def finish_turn(task: RunTask, io: RunIO, ending: Ending) -> None:
    """Log the ending, or prepare one more turn: for a valid answer, or beyond the budget.

    Raises:
        ClinvkError: the agent failed, and another agent may take the prompt.
    """
    if isinstance(ending, RunFailed) and not io.activity.turns:
        error = error_from_code(ending.code, ending.message)
        if can_fall_back(task, error):
            raise error
    if ending is not io.ending:  # a stopped run still costs the usage that the agent reported
        costs = io.reported
        ending = replace(ending, usage=(costs and costs.usage) or io.used, cost_usd=costs and costs.cost_usd)
    if isinstance(ending, RunFinished) and ending.turns is None:
        ending = replace(ending, turns=io.activity.turns)
    schema = task.request.output_schema
    if isinstance(io.text_filter, SchemaFilter) and schema is not None:
        checked = await check_answer(io.text_filter, ending, schema, task.spawner, task.spec.host.env)
        may_retry = task.spec.launch.retries_schema and not task.spending.earlier
        if checked.fault and may_retry and await _prepare(task, retry_prompt(task.spec.request, checked.fault), ending):
            return
        ending, rest = checked.ending, checked.rest
    else:
        rest = io.text_filter.rest() if io.text_filter else ()
    await task.record([*rest], 0)
    if schema is None and await _extend_budget(task, ending):
        return
    await task.end(ending)


async def _extend_budget(task: RunTask, ending: Ending) -> bool:
    """If the request says so, ask whether the run may use its budget once more; return whether the run continues."""
    request = task.request
    if not (isinstance(ending, RunFinished) and ending.stop_reason == "max_budget" and request.on_budget == "ask"):
        return False
    if request.ephemeral or not task.conversation:
        return False
    used = task.spending.used_budget(request, ending)
    title = f"The run has used {used}. Continue with as much again?"
    answer = await task.ask(Interaction(id="budget", kind="budget", title=title, choices=("allow", "deny")))
    if answer is None or answer.choice != "allow":
        return False
    return await _prepare(task, replace(task.spec.request, prompt="Continue.", images=()), ending)


async def _prepare(task: RunTask, request: RunRequest, ending: Ending) -> bool:
    """Prepare one more turn of the conversation; return False if no further turn is possible."""
    spec = task.spec
    if task.stopped_by or not task.conversation:
        return False
    used = (spec.resume.used if spec.resume else Usage()) + (ending.usage or Usage())
    resume = Resume(task.conversation, used)
    try:
        launch = await spec.relaunch(request, resume)
    except InvalidRequest:  # the file system of the directory no longer responds
        return False
    task.begin_turn(replace(spec, request=request, resume=resume, launch=launch), ending)
    return True


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
