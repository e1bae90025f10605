"""A plan is refused whole, before anything runs: each part is completed and looked at first."""

import asyncio
from collections.abc import Awaitable, Callable

from msgspec.structs import replace

from clinvk.config import Settings
from clinvk.errors import BackendUnavailable, ClinvkError, InvalidRequest, placed
from clinvk.orchestrate.isolation import Grounds
from clinvk.plan import Chain, Compare, Parallel, Part, Plan
from clinvk.request import RunRequest
from clinvk.runtime.runs import Runs

Admit = Callable[[RunRequest], Awaitable[RunRequest]]
"""Completes a request from the settings, or raises why it cannot be run."""

_LIST = {"parallel": "tasks", "chain": "steps", "compare": "backends"}
_AT_A_TIME = 100


def settled(plan: Plan, settings: Settings) -> Plan:
    """Fill what a plan left open from the settings."""
    if settings.unified_flags.dry_run:
        plan = replace(plan, parts=tuple(replace(part, dry_run=True) for part in plan.parts))
    if not isinstance(plan, Parallel):
        return plan
    own = settings.parallel
    fail_fast = own.fail_fast if plan.fail_fast is None else plan.fail_fast
    return replace(plan, max_parallel=plan.max_parallel or own.max_workers, fail_fast=fail_fast)


async def admitted(plan: Plan, admit: Admit, require: Callable[[str], object], runs: Runs, grounds: Grounds) -> Plan:
    """Give the plan with every request completed; `require` raises where the CLI of a backend is not there.

    Raises:
        ClinvkError: a part cannot be run; its `field` says which, and why.
    """
    found: set[str] = set()
    parts: list[Part] = []
    for index, part in enumerate(plan.parts):
        if index % _AT_A_TIME == _AT_A_TIME - 1:
            await asyncio.sleep(0)  # others have their turn: a plan may have thousands of parts
        try:
            parts.append(replace(part, request=await _admitted(part, admit, runs)))
            if not part.dry_run:
                _require(parts[-1].request.backend, require, found)
                if part.isolation != "none":
                    await grounds.check(parts[-1].request.workdir or "")
        except ClinvkError as exc:
            raise _placed(exc, plan, index) from exc
    match plan:
        case Parallel() | Chain():
            return replace(plan, parts=tuple(parts))
        case Compare():
            return replace(plan, parts=tuple(parts), judge=await _judge(plan, admit, require, runs))


async def _admitted(part: Part, admit: Admit, runs: Runs) -> RunRequest:
    request = await admit(part.request)
    if part.isolation != "none" and request.session_id:
        raise InvalidRequest("a session goes on in its own directory, so it cannot be isolated", "isolation")
    await runs.plan(request)
    return request


async def _judge(plan: Compare, admit: Admit, require: Callable[[str], object], runs: Runs) -> RunRequest | None:
    if plan.judge is None:
        return None
    try:
        request = await admit(plan.judge)
        await runs.plan(request)
        if not all(part.dry_run for part in plan.parts):
            require(request.backend)
    except ClinvkError as exc:
        raise placed(exc, "judge") from exc
    return request


def _require(backend: str, require: Callable[[str], object], found: set[str]) -> None:
    """Look for each CLI but once."""
    if backend and backend not in found:
        require(backend)
        found.add(backend)


def _placed(error: ClinvkError, plan: Plan, index: int) -> ClinvkError:
    """Say which part an error is of; what all backends of a compare share stands in the body itself."""
    if isinstance(plan, Compare) and not isinstance(error, BackendUnavailable):
        return error
    return placed(error, f"{_LIST[plan.kind]}[{index}]")
