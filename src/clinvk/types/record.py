"""clinvk's record of a run: the request, the progress and the outcome."""

from collections.abc import Mapping, Sized
from typing import Literal

import msgspec
from msgspec.structs import replace

from clinvk.types.choices import RunState
from clinvk.types.events import StopReason, Usage
from clinvk.types.request import FailedAgent, PartPosition

RunKind = Literal["prompt", "parallel", "chain", "compare"]

SCHEMA_FIELD = "output_schema"
"""The name of the answer's schema in error messages."""

_TEXT_FIELDS = ("system_prompt", "stop", SCHEMA_FIELD, "extra", "answer_as")
"""Fields of a `RunRequest` that may contain user text besides the prompt: a flag can be a system prompt too."""


class RunRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A run as the store keeps it; times are in seconds since the epoch.

    Attributes:
        id: 32 hex digits.
        state: `interrupted` means that the clinvk process of the run died.
        request: the request as it was run, without prompt, images and empty fields.
        output: the answer; if the run broke off, the part received so far.
        error_code: a `ClinvkError.code`.
        key_name: the API key of the request; empty if no key was required.
        node: the node of the cluster that runs the run; empty on a machine without a cluster.
    """

    id: str
    backend: str
    prompt: str
    state: RunState
    created_at: float
    session_id: str | None = None
    parent_id: str | None = None
    workdir: str = ""
    model: str | None = None
    request: dict[str, object] = {}
    started_at: float | None = None
    ended_at: float | None = None
    usage: Usage | None = None
    cost_usd: float | None = None
    stop_reason: StopReason | None = None
    exit_code: int | None = None
    error_code: str | None = None
    error_message: str | None = None
    output: str = ""
    key_name: str = ""
    node: str = ""

    @property
    def kind(self) -> RunKind:
        """Return the kind of run: a prompt, or an orchestration, which is the parent of its parts' runs."""
        return msgspec.convert(self.request.get("kind", "prompt"), RunKind)

    @property
    def part(self) -> PartPosition | None:
        """Return the place of the run in an orchestration, or None."""
        return msgspec.convert(self.request.get("part"), PartPosition | None)

    @property
    def fallback(self) -> tuple[FailedAgent, ...]:
        """Return the agents that could not take the prompt."""
        return msgspec.convert(self.request.get("fell_back", ()), tuple[FailedAgent, ...])

    @property
    def waits_until(self) -> float | None:
        """Return when the limit resets for which the run waits, or None."""
        return msgspec.convert(self.request.get("waits_until"), float | None)


def recorded_options(options: Mapping[str, object], keeps_text: bool) -> dict[str, object]:
    """Return the options of a request as the store keeps them."""
    return {name: value for name, value in options.items() if keeps_text or name not in _TEXT_FIELDS}


def recorded_result(message: str, keeps_text: bool) -> str:
    """Return a failure message as the store keeps it; an error about a schema quotes the schema or the answer."""
    what = message.partition(":")[0]
    return message if keeps_text or SCHEMA_FIELD not in what else what


def without_text(whole: RunRecord) -> RunRecord:
    """Return the record of an orchestration without prompts, answers and errors; an error may quote the other two."""
    request = {name: value for name, value in whole.request.items() if name != "check"}
    if isinstance(steps := request.get("steps"), Sized):
        request |= {"steps": len(steps), "input": None}
    return replace(whole, prompt="", output="", error_message=None, request=request)


class UsageOfDay(msgspec.Struct, frozen=True, kw_only=True):
    """Usage of the runs that started on one day, by key, backend and model; `day` is UTC, as `2026-11-25`.

    `key_name` and `model` are empty for runs without a key or a model.
    """

    day: str
    key_name: str
    backend: str
    model: str
    runs: int
    usage: Usage
    cost_usd: float


LimitStatus = Literal["allowed", "warning", "rejected"]


class LimitWindow(msgspec.Struct, frozen=True, kw_only=True):
    """The use of one limit of the user's account, as the agent reports it; times are in seconds since the epoch.

    Attributes:
        window: the length as `5h` or `7d`, and the share of the account that the limit covers, as in `7d_opus`.
        used_percent: None if unknown; above 100 if the vendor allows use beyond the limit.
        status: whether the vendor accepts requests, accepts them near the limit, or rejects them.
        updated_at: when the agent reported the state; 0 until the report is recorded.
    """

    backend: str
    window: str
    used_percent: float | None
    status: LimitStatus
    resets_at: float
    updated_at: float = 0.0
