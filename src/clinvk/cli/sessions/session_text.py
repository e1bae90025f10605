"""Sessions and their turns as text: records in, lines out. Pure."""

import os
from collections.abc import Sequence

import msgspec

from clinvk.cli.terminal.output import without_sequences
from clinvk.cli.terminal.table import Column, Style, cut, one_line, table
from clinvk.cli.terminal.times import ago, at_length, duration
from clinvk.types.events import Usage
from clinvk.types.record import RunRecord
from clinvk.types.session import Session

_SHORT_DIGITS = 8
_TITLE_LEAST = 12
_DIRECTORY_LEAST = 12
_PIPED_TITLE = 100
_PIPED_PROMPT = 200
_LABEL = 13

COLORS = {"active": "\x1b[33m", "paused": "\x1b[33m", "error": "\x1b[31m"}
"""The colors of a status."""

_LISTED = (
    Column("ID"),
    Column("BACKEND"),
    Column("STATUS", is_spare=True),
    Column("TURNS", to_right=True, is_spare=True),
    Column("USED"),
    Column("DIRECTORY", _DIRECTORY_LEAST, from_left=True),
    Column("TITLE", _TITLE_LEAST),
)
_CHOICES = (
    Column("BACKEND"),
    Column("USED"),
    Column("DIRECTORY", _DIRECTORY_LEAST, from_left=True),
    Column("TITLE", _TITLE_LEAST),
)
_TURNS = (
    Column("TURN", to_right=True),
    Column("STATE"),
    Column("CREATED", is_spare=True),
    Column("TOOK", to_right=True, is_spare=True),
    Column("IN", to_right=True, is_spare=True),
    Column("OUT", to_right=True, is_spare=True),
    Column("PROMPT", _TITLE_LEAST),
)


def listing(
    sessions: Sequence[Session], now: float, home: str | None, most: int | None = None, style: Style | None = None
) -> list[str]:
    """Return a table of sessions, the head first; `most` is the width of the terminal, None is any."""
    rows = [
        (
            short,
            one_line(session.backend),
            session.status,
            str(session.turn_count),
            ago(session.last_used, now),
            directory(session.working_dir, home),
            titled(session) if most else titled(session)[:_PIPED_TITLE],
        )
        for short, session in zip(short_ids([session.id for session in sessions]), sessions, strict=True)
    ]
    return table(_LISTED, rows, most, style)


def choices(sessions: Sequence[Session], now: float, home: str | None, most: int) -> list[str]:
    """Return a table of sessions to choose from, the head first."""
    rows = [
        (
            one_line(session.backend),
            ago(session.last_used, now),
            directory(session.working_dir, home),
            titled(session),
        )
        for session in sessions
    ]
    return table(_CHOICES, rows, most)


def titled(session: Session) -> str:
    """Return the title of a session, or else its first prompt, on one line."""
    return one_line(session.title or session.initial_prompt)


def directory(path: str, home: str | None) -> str:
    """Return a directory with `~` for the home."""
    stem = home.rstrip("/") if home else None
    if stem is not None and (path == stem or path.startswith(f"{stem}/")):
        path = f"~{path[len(stem) :]}"
    return "".join(char if char.isprintable() else "?" for char in path)


def details(session: Session, now: float, home: str | None, most: int | None) -> list[str]:
    """Return the fields of a session except its turns, one per line."""
    used = session.token_usage
    lines = {
        "id": session.id,
        "title": one_line(session.title),
        "prompt": opening(session.initial_prompt, most),
        "backend": f"{session.backend} ({session.model})" if session.model else session.backend,
        "status": session.status,
        "error": one_line(without_sequences(session.error_message or "")),
        "directory": directory(session.working_dir, home),
        "created": f"{at_length(session.created_at)} ({ago(session.created_at, now)})",
        "last used": f"{at_length(session.last_used)} ({ago(session.last_used, now)})",
        "turns": str(session.turn_count),
        "tokens": tokens(used) if used != Usage() else "",
        "tags": ", ".join(map(one_line, session.tags)),
        "forked from": session.parent_id or "",
        "agent's id": one_line(session.backend_session_id or ""),
        "metadata": msgspec.json.encode(session.metadata).decode() if session.metadata else "",
    }
    return [f"{name:<11}  {one_line(text)}" for name, text in lines.items() if text]


def turns(runs: Sequence[RunRecord], now: float, most: int | None) -> list[str]:
    """Return a table of the turns of a session, in the order of `runs`."""
    rows = [
        (
            str(number),
            run.state,
            ago(run.created_at, now),
            took(run),
            f"{run.usage.input_tokens:,}" if run.usage else "",
            f"{run.usage.output_tokens:,}" if run.usage else "",
            one_line(run.prompt) if most else one_line(run.prompt)[:_PIPED_TITLE],
        )
        for number, run in enumerate(runs, 1)
    ]
    return table(_TURNS, rows, most)


def opening(prompt: str, most: int | None) -> str:
    """Return the beginning of a prompt on one line that fits a terminal of width `most` after the name of the field."""
    return cut(one_line(prompt), most - _LABEL) if most else one_line(prompt, _PIPED_PROMPT)


def took(run: RunRecord) -> str:
    """Return the duration of a run; empty if the run has not ended or never started."""
    return duration(run.ended_at - run.started_at) if run.started_at and run.ended_at else ""


def tokens(usage: Usage) -> str:
    """Return the number of tokens as text."""
    cached = f" ({usage.cached_tokens:,} cached)" if usage.cached_tokens else ""
    return f"{usage.input_tokens:,} in{cached}, {usage.output_tokens:,} out"


def markdown(session: Session, runs: Sequence[RunRecord], home: str | None) -> str:
    """Return a session as a Markdown document: its fields, then each prompt with its answer."""
    about = [
        f"# {titled(session) or session.id}",
        "",
        f"- session: {session.id}",
        f"- agent: {session.backend}" + (f" ({session.model})" if session.model else ""),
        f"- directory: `{directory(session.working_dir, home)}`",
        f"- from {at_length(session.created_at)} to {at_length(session.last_used)}",
        f"- tokens: {tokens(session.token_usage)}",
    ]
    if session.tags:
        about.append(f"- tags: {', '.join(map(one_line, session.tags))}")
    for number, run in enumerate(runs, 1):
        about += ["", f"## {number}. Prompt", "", run.prompt.rstrip()]
        about += ["", f"## {number}. Answer", "", run.output.rstrip()] if run.output.strip() else []
        if run.error_message:
            about += ["", f"> {run.state}: {one_line(without_sequences(run.error_message))}"]
        elif run.ended_at is None:
            about += ["", f"> {run.state}"]
    return "\n".join(about) + "\n"


def home_of(home: str | None) -> str | None:
    """Return the home without symbolic links, as sessions store directories."""
    return os.path.realpath(home) if home else None


def short_ids(ids: Sequence[str]) -> list[str]:
    """Return the shortest unique beginnings of IDs, with eight digits or more."""
    ordered = sorted(set(ids))
    shared = [0, *map(_shared, ordered, ordered[1:]), 0]
    digits = {own: max(_SHORT_DIGITS, shared[at] + 1, shared[at + 1] + 1) for at, own in enumerate(ordered)}
    return [own[: digits[own]] for own in ids]


def _shared(one: str, other: str) -> int:
    """Return the length of the common beginning."""
    pairs = zip(one, other, strict=False)
    return next((at for at, (left, right) in enumerate(pairs) if left != right), min(len(one), len(other)))
