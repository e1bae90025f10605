"""Parts in git worktrees of their own: what they changed, and what a check says about it."""

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial

from msgspec.structs import replace

from clinvk.errors import Cancelled, ClinvkError
from clinvk.orchestrate.stopping import Stopping
from clinvk.plan import Change, Check, Part, PartResult
from clinvk.request import RunRequest
from clinvk.runtime.worktrees import Worktree, Worktrees

JudgeOf = Callable[[RunRequest, str], Sequence[str]]
"""A `Judge` of where the files of a worktree may come from that is made for a request."""

CHECK_WITHIN_S = 600.0
"""How long a check may take where the part has no time limit."""


class Isolation:
    """The worktrees of one orchestration; `check` is a command, or empty, and `judge` as in `Orchestrations`."""

    def __init__(self, worktrees: Worktrees, check: str, judge: JudgeOf) -> None:
        self._worktrees = worktrees
        self._check = check
        self._judge = judge

    def worktree(self, part: Part) -> AbstractAsyncContextManager[Worktree]:
        """Make a worktree for a part. At the end it is removed, unless something was changed in it.

        Raises:
            InvalidRequest, ClinvkError: none can be made.
        """
        label = part.name or part.id or part.request.backend
        judge = partial(self._judge, part.request)
        return self._worktrees.isolated(part.request.workdir or "", label, judge)

    async def judged(self, worktree: Worktree, result: PartResult, stopping: Stopping) -> PartResult:
        """Tell what a part did in its worktree, and what the check says about it, which ends with the whole."""
        check, warnings = None, worktree.warnings
        try:
            check = await self._checked(worktree, result, stopping)
        except ClinvkError as exc:
            warnings += (f"the check could not be run: {exc.message}",)
        try:
            change = await self._worktrees.outcome(worktree)
        except ClinvkError as exc:
            warnings += (f"what was changed cannot be told: {exc.message}",)
            change = Change(diff="", is_cut=False, files=(), branch=worktree.branch, path=worktree.path, kept=True)
        return replace(result, change=replace(change, warnings=(*warnings, *change.warnings)), check=check)

    async def _checked(self, worktree: Worktree, result: PartResult, stopping: Stopping) -> Check | None:
        """Run the check, over whatever the agent left, unless all is to end."""
        if not self._check or result.is_cancelled:
            return None
        timeout_s = result.part.request.timeout_s or CHECK_WITHIN_S
        try:
            return await stopping.unless(self._worktrees.check(worktree, self._check, timeout_s))
        except Cancelled:
            return None
