"""What several agents are to do together, and what came of it: the words of parallel, chain and compare.

A *part* is one agent's share: a task, a step, or a backend that is compared. The whole is an *orchestration*.
"""

from typing import Literal

import msgspec

from clinvk.types.errors import Cancelled, ClinvkError
from clinvk.types.events import RunFailed, RunFinished, Usage
from clinvk.types.request import RunRequest
from clinvk.types.result import RunResult

Kind = Literal["parallel", "chain", "compare"]

Isolation = Literal["none", "worktree"]
"""Where a part works: in its directory itself, or in a git worktree of that directory's repository."""


class Part(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One agent's share.

    Attributes:
        id, name, meta: the caller's own, for the caller.
        dry_run: nothing is run; the command is the answer.
        follows: it works where the step before did, also where that was a worktree.
        is_judge: it is none of those that were asked for: it says which of their answers is the best.
    """

    request: RunRequest
    id: str = ""
    name: str = ""
    meta: dict[str, object] = {}
    dry_run: bool = False
    isolation: Isolation = "none"
    follows: bool = False
    is_judge: bool = False


class Parallel(msgspec.Struct, frozen=True, kw_only=True):
    """Tasks that do not wait for each other. What is None is decided by the settings.

    Attributes:
        max_parallel: how many agents at once.
        fail_fast: the first task that fails ends those that run, and those that wait are not run.
    """

    kind: Kind = "parallel"
    parts: tuple[Part, ...]
    max_parallel: int | None = None
    fail_fast: bool | None = None


class Chain(msgspec.Struct, frozen=True, kw_only=True):
    """Steps one after the other; the prompts are templates.

    Attributes:
        input: what `{{input}}` stands for; None leaves it as it is.
        stop_on_failure: the steps after one that failed are not run.
        done: how the first steps went, in the chain that this one goes on from.
        resumed: the run of that chain.
    """

    kind: Kind = "chain"
    parts: tuple[Part, ...]
    input: str | None = None
    stop_on_failure: bool = False
    done: "tuple[PartResult, ...]" = ()
    resumed: str = ""


class Compare(msgspec.Struct, frozen=True, kw_only=True):
    """One prompt for several backends.

    Attributes:
        check: a shell command that is run in the worktree of each.
        judge: the request of one more agent, which says what answer is the best; its prompt is what it shall look at.
    """

    kind: Kind = "compare"
    prompt: str
    parts: tuple[Part, ...]
    sequential: bool = False
    check: str = ""
    judge: RunRequest | None = None


Plan = Parallel | Chain | Compare


def is_dry_run(plan: Plan) -> bool:
    """Say whether nothing of a plan is run."""
    return all(part.dry_run for part in plan.parts)


Alteration = Literal["added", "modified", "deleted", "type-changed"]


class ChangedFile(msgspec.Struct, frozen=True):
    """A file that is not as it was; `path` begins at the top of the repository."""

    path: str
    change: Alteration


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """What an agent changed in a worktree of its own.

    Attributes:
        diff: the patch from what it began with, for `git apply`: text that is no UTF-8 has signs in its place.
        is_cut: `diff` is the beginning only.
        files: what was added, changed and deleted; new files count, ignored ones do not.
        path: where its agent worked in it.
        kept: one without changes is removed.
        warnings: what is in the agent's directory and not in the worktree, or could not be looked at.
    """

    diff: str
    is_cut: bool
    files: tuple[ChangedFile, ...]
    branch: str
    path: str
    kept: bool
    warnings: tuple[str, ...] = ()


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """What the command said about a worktree.

    Attributes:
        passed: whether it ended with 0.
        exit_code: 128 + n where signal n ended it; None where it did not end in time.
        output: the last of what it printed on stdout and stderr, in that order of time.
    """

    passed: bool
    exit_code: int | None
    output: str


class PartResult(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """How one part went.

    Attributes:
        run_id: empty where no run was begun.
        workdir: where its agent worked, and what comes after it can.
    """

    index: int
    part: Part
    result: RunResult
    run_id: str = ""
    session_id: str | None = None
    model: str | None = None
    workdir: str = ""
    duration_s: float = 0.0
    change: Change | None = None
    check: Check | None = None

    @property
    def error(self) -> RunFailed | None:
        """Why it failed, or None."""
        return self.result.error

    @property
    def is_cancelled(self) -> bool:
        """Whether it was ended, or not begun, because the whole was."""
        return self.error is not None and self.error.code == Cancelled.code


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What the judge said; in a dry run just who it would be.

    Attributes:
        best: the index of the better answer; None where the judge failed, and in a dry run.
        order: the indices of the answers, in the order in which the judge saw them.
        told: how the judge's own run went.
    """

    best: int | None
    reasons: str
    order: tuple[int, ...]
    told: PartResult

    @property
    def is_failed(self) -> bool:
        """Whether the judge was asked and named none."""
        return self.best is None and not self.told.part.dry_run


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """How an orchestration went; `results` are in the order of the parts, and have no more than those."""

    run_id: str
    plan: Plan
    results: tuple[PartResult, ...]
    duration_s: float
    warnings: tuple[str, ...] = ()
    verdict: Verdict | None = None

    @property
    def completed(self) -> int:
        """Parts that succeeded."""
        return sum(result.error is None for result in self.results)

    @property
    def failed(self) -> int:
        """Parts that did not, those included that were cancelled."""
        return len(self.results) - self.completed

    @property
    def cancelled(self) -> int:
        """Parts that were ended or not begun, because the whole was."""
        return sum(result.is_cancelled for result in self.results)

    @property
    def first_failed(self) -> int | None:
        """The index of the first part that failed."""
        return next((result.index for result in self.results if result.error), None)

    @property
    def usage(self) -> Usage:
        """The tokens of all parts, and of the judge."""
        told = [*self.results, *([self.verdict.told] if self.verdict else [])]
        return sum((result.result.usage or Usage() for result in told), Usage())

    @property
    def cost_usd(self) -> float | None:
        """What the agents told that they cost, in US dollars."""
        told = [*self.results, *([self.verdict.told] if self.verdict else [])]
        costs = [cost for result in told if (cost := result.result.ending.cost_usd) is not None]
        return sum(costs) if costs else None


def not_run(index: int, part: Part, error: ClinvkError) -> PartResult:
    """Give the result of a part whose agent was not started."""
    failed = RunFailed(error.code, error.message)
    return PartResult(index=index, part=part, result=RunResult(text="", started=None, ending=failed))


def described(index: int, part: Part, command: str) -> PartResult:
    """Give the result of a part that was but to be shown."""
    result = RunResult(text=command, started=None, ending=RunFinished())
    return PartResult(index=index, part=part, result=result, model=part.request.model)
