"""Our record of a run: what was asked, how it went, what came of it."""

from collections.abc import Mapping, Sized
from typing import Literal

import msgspec
from msgspec.structs import replace

from clinvk.types.events import StopReason, Usage
from clinvk.types.request import PartOf

RunKind = Literal["prompt", "parallel", "chain", "compare"]
RunState = Literal["queued", "running", "finished", "failed", "cancelled", "interrupted"]
RUN_STATES: tuple[RunState, ...] = ("queued", "running", "finished", "failed", "cancelled", "interrupted")

SCHEMA_FIELD = "output_schema"
"""What errors about the schema of an answer call it."""

_SAID = ("system_prompt", "stop", SCHEMA_FIELD, "extra", "answer_as")
"""Fields of a `RunRequest` that hold what was said beside the prompt, or may: a flag can be a system prompt too."""


class RunRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A run as it is kept; times are seconds since the epoch.

    Attributes:
        id: 32 hex digits.
        state: `interrupted` is a run whose clinvk died.
        request: the request as it was run, without prompt, images and empty fields.
        output: the answer, as far as it came.
        error_code: a `ClinvkError.code`.
        key_name: the API key that it was asked for with; empty where none was asked for.
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

    @property
    def kind(self) -> RunKind:
        """What it is a run of: one prompt, or an orchestration, whose parts are the runs with this one as parent."""
        return msgspec.convert(self.request.get("kind", "prompt"), RunKind)

    @property
    def part(self) -> PartOf | None:
        """Its place in the orchestration that it is a part of."""
        return msgspec.convert(self.request.get("part"), PartOf | None)


def options_as_kept(options: Mapping[str, object], keeps_text: bool) -> dict[str, object]:
    """Give what was asked beside the prompt as it is kept."""
    return {name: value for name, value in options.items() if keeps_text or name not in _SAID}


def as_kept(message: str, keeps_text: bool) -> str:
    """Give the message of a failure as it is kept: one about a schema quotes that, or the answer."""
    what = message.partition(":")[0]
    return message if keeps_text or SCHEMA_FIELD not in what else what


def without_text(whole: RunRecord) -> RunRecord:
    """Give the record of an orchestration without what its parts were asked and answered, which errors quote."""
    request = {name: value for name, value in whole.request.items() if name != "check"}
    if isinstance(steps := request.get("steps"), Sized):
        request |= {"steps": len(steps), "input": None}
    return replace(whole, prompt="", output="", error_message=None, request=request)


class UsageOfDay(msgspec.Struct, frozen=True, kw_only=True):
    """What the runs that began on one day have used, by key, backend and model; `day` is UTC, as `2026-11-25`.

    `key_name` and `model` are empty for runs without.
    """

    day: str
    key_name: str
    backend: str
    model: str
    runs: int
    usage: Usage
    cost_usd: float
