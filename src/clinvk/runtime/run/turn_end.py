"""The end of a turn: log the ending of the run, or continue the run with one more turn of its conversation."""

from msgspec.structs import replace

from clinvk.runtime.run.answer_filter import SchemaFilter, check_answer, retry_prompt
from clinvk.runtime.run.failover import can_fall_back
from clinvk.runtime.run.run_io import RunIO
from clinvk.runtime.run.task import RunTask
from clinvk.types.errors import InvalidRequest, error_from_code
from clinvk.types.events import Ending, RunFailed, RunFinished, Usage
from clinvk.types.interaction import Interaction
from clinvk.types.record import Resume
from clinvk.types.request import RunRequest


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
        costs = io.costs
        ending = replace(ending, usage=(costs and costs.usage) or io.used, cost_usd=costs and costs.cost_usd)
    if isinstance(ending, RunFinished) and ending.turns is None:
        ending = replace(ending, turns=io.activity.turns)
    task.raw = io.raw
    schema = task.request.output_schema
    if isinstance(io.text_filter, SchemaFilter) and schema is not None:
        checked = await check_answer(io.text_filter, ending, schema, task.spawner, task.spec.env)
        may_retry = task.spec.launch.retries_schema and not task.spending.earlier
        if checked.fault and may_retry and await _prepare(task, retry_prompt(task.spec.request, checked.fault), ending):
            return
        ending, rest = checked.ending, checked.rest
    else:
        rest = io.text_filter.rest() if io.text_filter else ()
    await task.record([*rest], 0)
    if schema is None and await _is_budget_extended(task, ending):
        task.spending.budgets += 1
        if await _prepare(task, replace(task.spec.request, prompt="Continue.", images=()), ending):
            return
    await task.end(ending)


async def _is_budget_extended(task: RunTask, ending: Ending) -> bool:
    """Ask whether the run may use its budget once more, if the request says so and the agent can continue."""
    request = task.request
    if not (isinstance(ending, RunFinished) and ending.stop_reason == "max_budget" and request.on_budget == "ask"):
        return False
    if request.ephemeral or not task.conversation:
        return False
    used = task.spending.used_budget(request, ending)
    title = f"The run has used {used}. Continue with as much again?"
    answer = await task.ask(Interaction(id="budget", kind="budget", title=title, choices=("allow", "deny")))
    return answer is not None and answer.choice == "allow"


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
