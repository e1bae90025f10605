"""Admission of a plan: every part is completed and examined first, so that a plan is refused before any agent runs."""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import PurePath
from typing import NamedTuple

from msgspec.structs import replace

from clinvk.config.model import Settings, refuse_nesting
from clinvk.orchestrate import chain, judge
from clinvk.orchestrate.orchestration import Resources
from clinvk.policy.rules import APPROVAL, may_edit, modes_up_to
from clinvk.types.errors import ClinvkError, InvalidRequest, with_position
from clinvk.types.orchestration import (
    PART_NOUNS,
    Chain,
    Compare,
    Parallel,
    Part,
    Plan,
    agents_at_once,
    is_dry_run,
    may_move,
)
from clinvk.types.request import RunRequest

Admit = Callable[[RunRequest], Awaitable[RunRequest]]
"""Completes a request from the settings, or raises why the request cannot run."""

_TURN_S = 0.005
"""How long admission may block the event loop: a plan may have thousands of parts."""


def complete_plan(plan: Plan, settings: Settings) -> Plan:
    """Return a plan with the options that the settings decide."""
    if settings.unified_flags.dry_run:
        plan = replace(plan, parts=tuple(replace(part, dry_run=True) for part in plan.parts))
    allowed = modes_up_to(APPROVAL, settings.policy.max_approval_mode)
    if isinstance(plan, Compare) and plan.judge and plan.judge.approval_mode not in allowed:
        plan = replace(plan, judge=replace(plan.judge, approval_mode=None))  # clinvk's own choice, not the client's
    if not isinstance(plan, Parallel):
        return plan
    fail_fast = settings.parallel.fail_fast if plan.fail_fast is None else plan.fail_fast
    return replace(plan, max_parallel=plan.max_parallel or settings.parallel.max_workers, fail_fast=fail_fast)


class Admission(NamedTuple):
    """Completes the parts of a plan and the judge. Each CLI and each repository is examined once.

    Attributes:
        complete: completes a request.
        require: raises if a backend's CLI is missing.
        examined: the directories that were examined already.
    """

    complete: Admit
    require: Callable[[str], object]
    resources: Resources
    examined: set[str]

    async def admit(self, plan: Plan) -> Plan:
        """Return a plan with every request completed.

        Raises:
            ClinvkError: a part cannot run; `field` names the part and the reason.
        """
        done = plan.done if isinstance(plan, Chain) else ()
        parts = [replace(plan.parts[result.index], request=result.part.request) for result in done]
        began = time.monotonic()
        for index in range(len(done), len(plan.parts)):
            if time.monotonic() - began > _TURN_S:
                await asyncio.sleep(0)
                began = time.monotonic()
            try:
                parts.append(await self._admit_part(plan, _in_followed_directory(plan.parts[index], parts)))
            except ClinvkError as exc:
                raise _placed(exc, plan, index) from exc
        plan = replace(plan, parts=tuple(parts))
        return replace(plan, judge=await self._judge(plan)) if isinstance(plan, Compare) else plan

    async def _admit_part(self, plan: Plan, part: Part) -> Part:
        nodes = self.resources.nodes if may_move(plan, part) else None
        return await (nodes.admit(part, self.admit_here) if nodes else self.admit_here(part))

    async def admit_here(self, part: Part) -> Part:
        """Return a part that this machine is to run. Raise the errors of `admit` without the name of the part."""
        refuse_nesting("meta", part.meta)
        part.placement.check(self.resources.cluster.node, self.resources.cluster.labels)
        request = await self.complete(part.request)
        if part.isolation != "none" and request.session_id:
            raise InvalidRequest("a session continues in its own directory, so it cannot be isolated", "isolation")
        if request.on_busy == "steer":  # then the part might have no run of its own
            raise InvalidRequest("steer is for single prompts; a part accepts reject and queue", "on_busy")
        await self.resources.runs.plan(request)
        if request.backend and not part.dry_run:
            self.require(request.backend)
        if part.isolation != "none":
            await self._examine(request)
        return replace(part, request=request)

    async def _judge(self, plan: Compare) -> RunRequest | None:
        if plan.judge is None:
            return None
        request = judge.with_ruling_schema(plan.judge, judge.MIN_ANSWERS)
        part = Part(request=request, is_judge=True, dry_run=is_dry_run(plan))
        try:
            return (await self._admit_part(plan, part)).request
        except ClinvkError as exc:
            if exc.field == "output_schema":  # clinvk's own schema
                exc.field = None
            raise with_position(exc, "judge") from exc

    async def _examine(self, request: RunRequest) -> None:
        directory = request.workdir or ""
        if directory not in self.examined:
            await self.resources.worktrees.examine(directory, partial(self.resources.rule, request))
            self.examined.add(directory)


def _in_followed_directory(part: Part, before: list[Part]) -> Part:
    """Return a following part in the directory of the part before; for a worktree, in the original directory."""
    followed = before[-1].request.workdir if part.follows and before else None
    return replace(part, request=replace(part.request, workdir=followed)) if followed else part


def _placed(error: ClinvkError, plan: Plan, index: int) -> ClinvkError:
    """Name the part in an error; the fields that all backends of a compare share belong to the body itself."""
    own = {"backend"} if len({part.request.model for part in plan.parts}) == 1 else {"backend", "model"}
    if isinstance(plan, Compare) and error.field not in own:
        return error
    return with_position(error, f"{PART_NOUNS[plan.kind]}s[{index}]")


def plan_warnings(plan: Plan) -> Iterator[str]:
    """Yield warnings about what a plan allows, but the user probably does not intend."""
    if isinstance(plan, Chain):
        yield from chain.warnings(plan)
    elif agents_at_once(plan) > 1:
        yield from _shared_directories(plan.parts, f"{PART_NOUNS[plan.kind]}s")


def _shared_directories(parts: tuple[Part, ...], what: str) -> Iterator[str]:
    """Yield a warning for each directory in which, or below which, several agents may change files at once."""
    edits = (part for part in parts if part.isolation == "none" and not part.dry_run and may_edit(part.request))
    editing = Counter(part.request.workdir or "" for part in edits)
    shared: Counter[str] = Counter()
    for directory, count in editing.items():
        around = [str(path) for path in PurePath(directory).parents if str(path) in editing]
        shared[around[-1] if around else directory] += count
    for directory, count in shared.items():
        if count > 1:
            yield (
                f"{count} {what} may change files in {directory!r} at the same time, and undo each other's "
                "work; isolation: worktree gives each a tree of its own"
            )
