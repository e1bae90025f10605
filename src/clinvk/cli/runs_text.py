"""Runs as people read them: pure, records in, lines out."""

from collections.abc import Iterator, Sequence, Sized

from clinvk.cli.output import without_sequences
from clinvk.cli.sessions_text import directory, short_ids, tokens, took
from clinvk.cli.table import Column, Style, one_line, table
from clinvk.cli.times import ago, at_length
from clinvk.events import Usage
from clinvk.record import RunRecord
from clinvk.request import PartOf

_PROMPT_LEAST = 12
_DIRECTORY_LEAST = 12
_PIPED_PROMPT = 100

COLORS = {
    **dict.fromkeys(("queued", "running", "cancelled"), "\x1b[33m"),
    **dict.fromkeys(("failed", "interrupted"), "\x1b[31m"),
}
"""Those of a state."""

_LISTED = (
    Column("ID"),
    Column("BACKEND"),
    Column("STATE"),
    Column("CREATED", is_spare=True),
    Column("TOOK", to_right=True, is_spare=True),
    Column("DIRECTORY", _DIRECTORY_LEAST, from_left=True),
    Column("PROMPT", _PROMPT_LEAST),
)
_PARTS = (
    Column("ID"),
    Column("BACKEND"),
    Column("STATE"),
    Column("TOOK", to_right=True, is_spare=True),
    Column("IN", to_right=True, is_spare=True),
    Column("OUT", to_right=True, is_spare=True),
    Column("PROMPT", _PROMPT_LEAST),
)
_PARTS_OF = {"parallel": ("task", "tasks"), "chain": ("step", "steps"), "compare": ("backend", "backends")}
"""What a part is called, and where the request of the whole has them, or their number."""


def listing(
    runs: Sequence[RunRecord], now: float, home: str | None, most: int | None = None, style: Style | None = None
) -> list[str]:
    """Give a table of runs, its head first; `most` is the width of the terminal, None is any."""
    rows = [
        (
            short,
            _backend(run),
            run.state,
            ago(run.created_at, now),
            took(run),
            directory(run.workdir, home),
            about(run) if most else about(run)[:_PIPED_PROMPT],
        )
        for short, run in zip(short_ids([run.id for run in runs]), runs, strict=True)
    ]
    return table(_LISTED, rows, most, style)


def about(run: RunRecord) -> str:
    """Say on one line what was asked, or of how many parts it is."""
    if run.prompt or run.kind == "prompt":
        return one_line(run.prompt)
    word, field = _PARTS_OF[run.kind]
    parts = run.request.get(field)
    number = len(parts) if isinstance(parts, Sized) else parts
    return f"{number} {word}{'' if number == 1 else 's'}"


def details(run: RunRecord, now: float, home: str | None) -> list[str]:
    """Give all that is kept of a run but what was said and its parts, a line for each."""
    usage = run.usage or Usage()
    lines = {
        "id": run.id,
        "backend": f"{_backend(run)} ({run.model})" if run.model else _backend(run),
        "about": "" if run.prompt else about(run),
        "state": run.state,
        "error": without_sequences(run.error_message or ""),
        "error code": run.error_code or "",
        "exit code": str(run.exit_code) if run.exit_code else "",
        "stop reason": run.stop_reason if run.stop_reason not in (None, "end_turn") else "",
        "session": run.session_id or "",
        "part of": run.parent_id or "",
        "name": run.part.name if run.part else "",
        "directory": directory(run.workdir, home),
        "created": f"{at_length(run.created_at)} ({ago(run.created_at, now)})",
        "took": took(run),
        "tokens": tokens(usage) if usage != Usage() else "",
        "cost": f"${run.cost_usd:.4f}" if run.cost_usd is not None else "",
        "API key": run.key_name,
    }
    return [f"{name:<11}  {one_line(text)}" for name, text in lines.items() if text]


def parts(
    whole: RunRecord, runs: Sequence[RunRecord], most: int | None = None, style: Style | None = None
) -> list[str]:
    """Give a table of the parts of a run, in their order; steps are counted from 1."""
    number, first = ("STEP", 1) if whole.kind == "chain" else ("INDEX", 0)
    placed = sorted(((run.part or PartOf("", 0), run) for run in runs), key=lambda own: _order(*own))
    rows = [
        (
            str(place.index + first),
            short,
            _backend(run),
            run.state,
            took(run),
            f"{run.usage.input_tokens:,}" if run.usage else "",
            f"{run.usage.output_tokens:,}" if run.usage else "",
            _named(place, run) if most else _named(place, run)[:_PIPED_PROMPT],
        )
        for short, (place, run) in zip(short_ids([run.id for _, run in placed]), placed, strict=True)
    ]
    return table((Column(number, to_right=True), *_PARTS), rows, most, style)


def said(run: RunRecord) -> Iterator[str]:
    """Give the prompt and the answer of a run, each below its head; of several agents their last answer, if any."""
    for head, text in (("prompt", run.prompt), ("answer", run.output)):
        if text.strip():
            yield f"\n── {head} ──"
            yield text.strip("\n")


def _named(place: PartOf, run: RunRecord) -> str:
    return one_line(f"{place.name}: {run.prompt}" if place.name else run.prompt)


def _order(place: PartOf, run: RunRecord) -> tuple[int, float]:
    return place.index, run.created_at


def _backend(run: RunRecord) -> str:
    return one_line(run.backend or run.kind)
