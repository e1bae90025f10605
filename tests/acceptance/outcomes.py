"""The JSON output of `parallel`, `chain` and `compare` as structs."""

import msgspec

from clinvk.cli.prompt.printers import TokenUsage
from clinvk.types.orchestration import ChangedFile, Check

Unset = msgspec.UnsetType
UNSET = msgspec.UNSET


class PartOutcome(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The outcome of a task, step or backend; `exit_code` is the exit code of `clinvk PROMPT` for the same run.

    `index` counts from 0, `step` from 1. Which of the first five fields are present depends on the kind.
    """

    index: int | Unset = UNSET
    step: int | Unset = UNSET
    task_id: str | Unset = UNSET
    task_name: str | Unset = UNSET
    name: str | Unset = UNSET
    backend: str
    model: str | None
    output: str
    error: str | None = None
    error_code: str | None = None
    duration_seconds: float
    exit_code: int
    session_id: str | None = None
    run_id: str = ""
    usage: TokenUsage | None = None
    cost_usd: float | None = None
    structured_output: object = None
    meta: dict[str, object] | None = None
    diff: str | None = None
    diff_is_cut: bool = False
    files: tuple[ChangedFile, ...] | None = None
    branch: str = ""
    worktree: str | None = None
    check: Check | None = None
    warnings: tuple[str, ...] = ()


class JudgeOutcome(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The verdict: the index and the backend of the best answer, null if the judge failed and in a dry run."""

    backend: str
    best: int | None
    best_backend: str | None
    reasons: str
    order: tuple[int, ...]
    error: str | None = None
    duration_seconds: float
    run_id: str = ""
    usage: TokenUsage | None = None
    cost_usd: float | None = None


class ParallelOutcome(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The outcome of all tasks; `failed` includes `cancelled`."""

    total_tasks: int
    completed: int
    failed: int
    cancelled: int = 0
    total_duration_seconds: float
    run_id: str = ""
    warnings: tuple[str, ...] = ()
    results: list[PartOutcome]


class ChainOutcome(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The outcome of the steps that ran; `failed_step` counts from 1, and is 0 if no step failed."""

    total_steps: int
    completed_steps: int
    failed_step: int
    total_duration_seconds: float
    run_id: str = ""
    warnings: tuple[str, ...] = ()
    results: list[PartOutcome]


class CompareOutcome(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The outcome of all backends."""

    prompt: str
    backends: list[str]
    results: list[PartOutcome]
    judge: JudgeOutcome | None = None
    total_duration_seconds: float
    run_id: str = ""
    warnings: tuple[str, ...] = ()
