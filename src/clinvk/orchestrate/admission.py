"""A plan is refused whole, before anything runs: each part is completed and looked at first."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from functools import partial

from msgspec.structs import replace

from clinvk.config.model import Settings, refuse_nesting
from clinvk.orchestrate import judge as judging
from clinvk.orchestrate.parts import JudgeOf
from clinvk.policy.rules import APPROVAL, within
from clinvk.runtime.runs import Runs
from clinvk.runtime.worktrees.worktrees import Worktrees
from clinvk.types.errors import ClinvkError, InvalidRequest, placed
from clinvk.types.orchestration import Chain, Compare, Parallel, Part, Plan, is_dry_run
from clinvk.types.request import RunRequest

Admit = Callable[[RunRequest], Awaitable[RunRequest]]
"""Completes a request from the settings, or raises why it cannot be run."""

_LIST = {"parallel": "tasks", "chain": "steps", "compare": "backends"}
_TURN_S = 0.005
"""After how long others have their turn: a plan may have thousands of parts."""


def settled(plan: Plan, settings: Settings) -> Plan:
    """Fill what a plan left open from the settings."""
    if settings.unified_flags.dry_run:
        plan = replace(plan, parts=tuple(replace(part, dry_run=True) for part in plan.parts))
    words = within(APPROVAL, settings.policy.max_approval_mode)
    if isinstance(plan, Compare) and plan.judge and plan.judge.approval_mode not in words:
        plan = replace(plan, judge=replace(plan.judge, approval_mode=None))  # no client has asked for this word
    if not isinstance(plan, Parallel):
        return plan
    own = settings.parallel
    fail_fast = own.fail_fast if plan.fail_fast is None else plan.fail_fast
    return replace(plan, max_parallel=plan.max_parallel or own.max_workers, fail_fast=fail_fast)


async def admitted(
    plan: Plan, admit: Admit, require: Callable[[str], object], runs: Runs, worktrees: Worktrees, judge: JudgeOf
) -> Plan:
    """Give the plan with every request completed; `require` raises where the CLI of a backend is not there.

    `judge` is as in `Orchestrations`.

    Raises:
        ClinvkError: a part cannot be run; its `field` says which, and why.
    """
    admission = _Admission(admit, require, runs, worktrees, judge)
    done = plan.done if isinstance(plan, Chain) else ()
    parts = [replace(plan.parts[result.index], request=result.part.request) for result in done]
    began = time.monotonic()
    for index in range(len(done), len(plan.parts)):
        if time.monotonic() - began > _TURN_S:
            await asyncio.sleep(0)
            began = time.monotonic()
        try:
            parts.append(await admission.part(_where_it_follows(plan.parts[index], parts)))
        except ClinvkError as exc:
            raise _placed(exc, plan, index) from exc
    match plan:
        case Parallel() | Chain():
            return replace(plan, parts=tuple(parts))
        case Compare():
            return replace(plan, parts=tuple(parts), judge=await admission.judge(plan))


class _Admission:
    """Completes parts one by one, and the judge; CLIs and repositories are looked at once."""

    def __init__(
        self, admit: Admit, require: Callable[[str], object], runs: Runs, worktrees: Worktrees, judge: JudgeOf
    ) -> None:
        self._admit = admit
        self._require = require
        self._runs = runs
        self._worktrees = worktrees
        self._judge = judge
        self._found: set[str] = set()
        self._fit: set[str] = set()

    async def part(self, part: Part) -> Part:
        refuse_nesting("meta", part.meta)
        request = await self._admit(part.request)
        if part.isolation != "none" and request.session_id:
            raise InvalidRequest("a session goes on in its own directory, so it cannot be isolated", "isolation")
        await self._runs.plan(request)
        if not part.dry_run:
            self._look_for(request.backend)
        if part.isolation != "none":
            await self._look_at(request)
        return replace(part, request=request)

    async def judge(self, plan: Compare) -> RunRequest | None:
        if plan.judge is None:
            return None
        try:
            request = await self._admit(plan.judge)
            await self._runs.plan(judging.shaped(request, judging.FEWEST))
            if not is_dry_run(plan):
                self._look_for(request.backend)
        except ClinvkError as exc:
            if exc.field == "output_schema":  # clinvk's own
                exc.field = None
            raise placed(exc, "judge") from exc
        return request

    def _look_for(self, backend: str) -> None:
        if backend and backend not in self._found:
            self._require(backend)
            self._found.add(backend)

    async def _look_at(self, request: RunRequest) -> None:
        directory = request.workdir or ""
        if directory not in self._fit:
            await self._worktrees.examine(directory, partial(self._judge, request))
            self._fit.add(directory)


def _where_it_follows(part: Part, before: list[Part]) -> Part:
    """Give a part that follows in the directory of the one before; of a worktree, in what that is made from."""
    followed = before[-1].request.workdir if part.follows and before else None
    return replace(part, request=replace(part.request, workdir=followed)) if followed else part


def _placed(error: ClinvkError, plan: Plan, index: int) -> ClinvkError:
    """Say which part an error is of; what all backends of a compare share stands in the body itself."""
    own = {"backend"} if len({part.request.model for part in plan.parts}) == 1 else {"backend", "model"}
    if isinstance(plan, Compare) and error.field not in own:
        return error
    return placed(error, f"{_LIST[plan.kind]}[{index}]")
