"""Plans for several agents (parallel, chain, compare) and their results.

A *part* is the share of one agent: a task, a step, or one of the compared backends. All parts together are an
*orchestration*.
"""

from collections.abc import Mapping
from typing import ClassVar, Literal

import msgspec

from clinvk.types.choices import Isolation
from clinvk.types.errors import Cancelled, ClinvkError
from clinvk.types.events import RunFailed, RunFinished, RunResult, Usage
from clinvk.types.request import Placement, RunRequest

Kind = Literal["parallel", "chain", "compare"]

PART_NOUNS: Mapping[Kind, str] = {"parallel": "task", "chain": "step", "compare": "backend"}
"""What a user calls a part of each kind."""


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """The share of one agent.

    Attributes:
        id, name, meta: chosen by the caller and returned with the result.
        dry_run: return the command instead of running it.
        follows: work in the directory of the previous step, even if that directory is a worktree.
        is_judge: the part judges the answers of the other parts.
        placement: the node of a cluster that the part asks for.
    """

    request: RunRequest
    id: str = ""
    name: str = ""
    meta: dict[str, object] = {}
    dry_run: bool = False
    isolation: Isolation = "none"
    follows: bool = False
    is_judge: bool = False
    placement: Placement = Placement()


class Parallel(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="parallel"):
    """Independent tasks. The settings decide each option that is None.

    Attributes:
        max_parallel: the most agents that run at once.
        fail_fast: the first failure cancels the running tasks and skips the waiting ones.
    """

    kind: ClassVar[Kind] = "parallel"
    parts: tuple[Part, ...]
    max_parallel: int | None = None
    fail_fast: bool | None = None


class Chain(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="chain"):
    """Steps that run in order. The prompts are templates.

    Attributes:
        input: the value of `{{input}}`; None leaves the place unfilled.
        stop_on_failure: a failure skips the remaining steps.
        done: results of the steps that a resumed chain has finished already.
        resumed: the run id of the resumed chain.
    """

    kind: ClassVar[Kind] = "chain"
    parts: tuple[Part, ...]
    input: str | None = None
    stop_on_failure: bool = False
    done: "tuple[PartResult, ...]" = ()
    resumed: str = ""


class Compare(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="compare"):
    """One prompt for several backends.

    Attributes:
        check: a shell command that runs in each worktree after the agent.
        judge: the request of an agent that names the best answer; the prompt adds criteria.
    """

    kind: ClassVar[Kind] = "compare"
    prompt: str
    parts: tuple[Part, ...]
    sequential: bool = False
    check: str = ""
    judge: RunRequest | None = None


Plan = Parallel | Chain | Compare


def is_dry_run(plan: Plan) -> bool:
    """Return whether no part of a plan runs an agent."""
    return all(part.dry_run for part in plan.parts)


def may_move(plan: Plan, part: Part) -> bool:
    """Return whether any node of a cluster may run a part: a step and an isolated part need files of their node."""
    return not (isinstance(plan, Chain) or part.isolation != "none" or part.dry_run)


def is_ephemeral(plan: Plan) -> bool:
    """Return whether the store must keep no prompt and no answer of a plan."""
    return any(part.request.ephemeral for part in plan.parts)


def all_requests(plan: Plan) -> list[RunRequest]:
    """Return the requests of the parts and of the judge."""
    judge = [plan.judge] if isinstance(plan, Compare) and plan.judge else []
    return [*(part.request for part in plan.parts), *judge]


def agents_at_once(plan: Plan) -> int:
    """Return how many agents a plan runs at once, if there are enough slots."""
    match plan:
        case Parallel(max_parallel=most):
            return most or 1
        case Compare(sequential=False, parts=parts):
            return len(parts)
        case Chain() | Compare():
            return 1


Alteration = Literal["added", "modified", "deleted", "type-changed"]


class ChangedFile(msgspec.Struct, frozen=True):
    """A file that is not as it was; `path` begins at the top of the repository."""

    path: str
    change: Alteration


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """The changes of an agent in its worktree.

    Attributes:
        diff: the patch from the initial state, for `git apply`; replacement characters stand for invalid UTF-8.
        is_cut: `diff` is truncated.
        files: added, changed and deleted files; new files count, ignored files do not.
        path: the directory of the agent in the worktree.
        kept: the worktree has changes and was kept; an unchanged worktree is removed.
        warnings: files of the original directory that the worktree lacks, or that could not be read.
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


class PartResult(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of one part.

    Attributes:
        run_id: empty if no run began.
        workdir: the directory of the agent, in which a following step can work.
        node: the node of the cluster that ran the part; empty without a cluster.
    """

    index: int
    part: Part
    result: RunResult
    run_id: str = ""
    session_id: str | None = None
    model: str | None = None
    workdir: str = ""
    node: str = ""
    duration_s: float = 0.0
    change: Change | None = None
    check: Check | None = None

    @property
    def error(self) -> RunFailed | None:
        """The failure of the part, or None."""
        return self.result.error

    @property
    def is_cancelled(self) -> bool:
        """Whether the end of the orchestration cancelled or skipped the part."""
        return self.error is not None and self.error.code == Cancelled.code


class JudgeVerdict(msgspec.Struct, frozen=True, kw_only=True):
    """The verdict of the judge; of a dry run only the judge's request.

    Attributes:
        best: the index of the best answer; None if the judge failed, and in a dry run.
        order: the indices of the answers, in the order in which the judge saw the answers.
        result: the outcome of the judge's own run.
    """

    best: int | None
    reasons: str
    order: tuple[int, ...]
    result: PartResult

    @property
    def is_failed(self) -> bool:
        """Whether the judge ran and named no answer."""
        return self.best is None and not self.result.part.dry_run


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of an orchestration; `results` are in the order of the parts, without parts that were skipped."""

    run_id: str
    plan: Plan
    results: tuple[PartResult, ...]
    duration_s: float
    warnings: tuple[str, ...] = ()
    verdict: JudgeVerdict | None = None

    @property
    def completed(self) -> int:
        """The number of successful parts."""
        return sum(result.error is None for result in self.results)

    @property
    def failed(self) -> int:
        """The number of failed parts, cancelled parts included."""
        return len(self.results) - self.completed

    @property
    def cancelled(self) -> int:
        """The number of cancelled parts."""
        return sum(result.is_cancelled for result in self.results)

    @property
    def first_failed(self) -> PartResult | None:
        """The result of the first failed part."""
        return next((result for result in self.results if result.error), None)

    @property
    def usage(self) -> Usage:
        """The tokens of all parts and of the judge."""
        return sum((result.result.usage or Usage() for result in self._all), Usage())

    @property
    def cost_usd(self) -> float | None:
        """The reported cost of all parts and of the judge, in US dollars; None if no agent reported a cost."""
        costs = [cost for result in self._all if (cost := result.result.ending.cost_usd) is not None]
        return sum(costs) if costs else None

    @property
    def _all(self) -> tuple[PartResult, ...]:
        return (*self.results, self.verdict.result) if self.verdict else self.results


def not_run(index: int, part: Part, error: ClinvkError) -> PartResult:
    """Return the result of a part whose agent did not start."""
    failed = RunFailed(error.code, error.message)
    return PartResult(index=index, part=part, result=RunResult(text="", started=None, ending=failed))


def dry_run_result(index: int, part: Part, command: str) -> PartResult:
    """Return the result of a dry run: the command is the answer."""
    result = RunResult(text=command, started=None, ending=RunFinished())
    return PartResult(index=index, part=part, result=result, model=part.request.model)
