"""Sessions and their turns as text: records in, lines out."""

import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import NamedTuple, TypeVar

import msgspec

from clinvk.cli.terminal.output import RED, YELLOW, date_and_time, duration, printable, time_ago
from clinvk.cli.terminal.table import Column, Style, colored, cut, one_line, table
from clinvk.types.choices import state_word
from clinvk.types.errors import Cancelled
from clinvk.types.events import Usage
from clinvk.types.prompt_xml import without_context
from clinvk.types.record import RunRecord, Session, run_messages
from clinvk.types.text import without_sequences

_T = TypeVar("_T")

_SHORT_DIGITS = 8
_LEAST = 12
_LEAST_TITLE = 20
_SHORT_TITLE = 50
_PIPED_TITLE = 100
_PIPED_PROMPT = 200
_LABEL = 13
_YELLOW = ("queued", "running", "waiting", "cancelled")
_RED = ("failed", "interrupted")
STATE_STYLE = colored({**dict.fromkeys(_YELLOW, YELLOW), **dict.fromkeys(_RED, RED)})

Fields = Sequence[tuple[Column, Callable[[_T], str]]]
"""The columns of a table, each with the text of its cell."""


class TextView(NamedTuple):
    """What the text of a record depends on besides the record.

    Attributes:
        now: the time, in seconds since the epoch.
        home: the user's home without symbolic links, printed as `~`.
        most: the width of the terminal; None is any.
        style: colors the cells of tables; None colors nothing.
        here: the current directory without symbolic links, printed as `.` in tables.
        is_rendered: the Markdown of answers is rendered.
    """

    now: float
    home: str | None = None
    most: int | None = None
    style: Style | None = None
    here: str | None = None
    is_rendered: bool = False

    def table(self, fields: Fields[_T], records: Sequence[_T]) -> list[str]:
        """Return a table of records, the head first; no line without records."""
        rows = [[text(record) for _, text in fields] for record in records]
        return table([column for column, _ in fields], rows, self.most, self.style) if rows else []

    def title(self, text: str) -> str:
        """Return the text of a last column, which only a terminal cuts to its width."""
        return one_line(text) if self.most else one_line(text)[:_PIPED_TITLE]

    def answer(self, text: str, wide: int | None = None) -> str:
        """Return an answer for stdout; rendered Markdown fits `wide` cells, or else the terminal."""
        if not self.is_rendered:
            return printable(text.strip("\n"))
        from clinvk.cli.terminal.markdown import BlockRenderer  # a slow import

        renderer = BlockRenderer(lambda: wide or self.most or 80, is_column=wide is not None)
        return (renderer.feed(text) + renderer.flush()).rstrip("\n")

    def ago(self, at: float) -> str:
        """Return how long ago a time was."""
        return time_ago(at, self.now)

    def when(self, at: float) -> str:
        """Return a time, and how long ago it was."""
        return f"{date_and_time(at)} ({self.ago(at)})"

    def directory(self, path: str) -> str:
        """Return a directory with `~` for the home."""
        return directory(path, self.home)

    def place(self, path: str) -> str:
        """Return a directory for a table."""
        return "." if path == self.here else self.directory(path)


DIRECTORY = Column("DIRECTORY", _LEAST, from_left=True)
TITLE = Column("TITLE", _LEAST_TITLE)
MATCH = Column("MATCH", _LEAST_TITLE)
PROMPT = Column("PROMPT", _LEAST_TITLE)
ANSWER = Column("ANSWER", _LEAST_TITLE)
TOKENS = Column("TOKENS", to_right=True, is_spare=True)
COST = Column("COST", to_right=True, is_spare=True)
CREATED = Column("CREATED", is_spare=True)
STATE = Column("STATE")
BACKEND = Column("BACKEND")


def node_field(records: Sequence[Session | RunRecord]) -> Fields[Session | RunRecord]:
    """Return the column with the nodes of a cluster, if the records have any."""
    return [(Column("NODE"), lambda record: record.node)] if any(record.node for record in records) else []


def sessions_table(
    sessions: Sequence[Session],
    costs: Mapping[str, float],
    view: TextView,
    titles: Collection[str] = (),
    matches: Mapping[str, str] = {},
) -> list[str]:
    """Return a table of sessions with their known costs and matches, the head first.

    `titles` are those of the columns to print, by default all; without matches that column is left out.
    """
    fields: Fields[Session] = (
        (Column("ID"), lambda session: short_id(session.id)),
        (BACKEND, lambda session: one_line(session.backend)),
        (Column("STATE", is_spare=True), lambda session: state_word(session.status)),
        (Column("TURNS", to_right=True, is_spare=True), lambda session: str(session.turn_count)),
        (Column("USED"), lambda session: view.ago(session.last_used)),
        *node_field(sessions),
        (DIRECTORY, lambda session: view.place(session.project)),
        (TOKENS, lambda session: short_tokens(session.token_usage)),
        (COST, lambda session: cost_text(costs.get(session.id))),
        (TITLE, lambda session: view.title(session_title(session))),
        *([(MATCH, lambda session: view.title(matches.get(session.id, "")))] if matches else ()),
    )
    return view.table([field for field in fields if not titles or field[0].title in titles], sessions)


def session_title(session: Session) -> str:
    """Return the title of a session, or else its first prompt, on one line."""
    return one_line(session.title or without_context(session.initial_prompt))


def short_title(session: Session) -> str:
    """Return the beginning of a session's title."""
    return cut(session_title(session), _SHORT_TITLE)


def directory(path: str, home: str | None) -> str:
    """Return a directory with `~` for the home."""
    stem = home.rstrip("/") if home else None
    if stem is not None and (path == stem or path.startswith(f"{stem}/")):
        path = f"~{path[len(stem) :]}"
    return "".join(char if char.isprintable() else "?" for char in path)


def named_lines(fields: Mapping[str, str]) -> list[str]:
    """Return the fields of a record, one per line, without the empty ones."""
    return [f"{name:<11}  {one_line(text)}" for name, text in fields.items() if text]


def details(session: Session, view: TextView) -> list[str]:
    """Return the fields of a session except its turns, one per line."""
    used = session.token_usage
    return named_lines(
        {
            "id": short_id(session.id),
            "title": session.title,
            "prompt": opening_lines(session.initial_prompt, view.most),
            "backend": with_model(session.backend, session.model),
            "status": state_word(session.status) + (", archived" if session.archived else ""),
            "error": without_sequences(session.error_message or ""),
            "directory": view.directory(session.project),
            "worktree": session.worktree or "",
            "created": view.when(session.created_at),
            "last used": view.when(session.last_used),
            "turns": str(session.turn_count),
            "tokens": tokens(used) if used != Usage() else "",
            "tags": ", ".join(map(one_line, session.tags)),
            "forked from": short_id(session.parent_id or ""),
            "agent's id": session.backend_session_id or "",
            "node": session.node,
            "metadata": msgspec.json.encode(session.metadata).decode() if session.metadata else "",
        }
    )


def with_model(backend: str, model: str | None) -> str:
    """Return a backend with the model in parentheses."""
    return f"{backend} ({model})" if model else backend


RUN_COSTS: Fields[RunRecord] = (
    (Column("DURATION", to_right=True, is_spare=True), lambda run: duration_of(run)),
    (Column("IN", to_right=True, is_spare=True), lambda run: f"{run.usage.input_tokens:,}" if run.usage else ""),
    (Column("OUT", to_right=True, is_spare=True), lambda run: f"{run.usage.output_tokens:,}" if run.usage else ""),
)
"""The columns of a table of runs that belong together: duration and tokens."""


def turns(runs: Sequence[RunRecord], view: TextView, first: int = 1) -> list[str]:
    """Return a table of the turns of a session, in the order of `runs`; `first` is the number of the first one."""
    number = {run.id: str(at) for at, run in enumerate(runs, first)}
    fields: Fields[RunRecord] = (
        (Column("TURN", to_right=True), lambda run: number[run.id]),
        (STATE, lambda run: state_word(run.state)),
        (CREATED, lambda run: view.ago(run.created_at)),
        *RUN_COSTS,
        (PROMPT, lambda run: view.title(without_context(run.prompt))),
    )
    return view.table(fields, runs)


def part_name(kind: str, index: int, backend: str, name: str) -> str:
    """Return a short name for a part of a run of some kind, e.g. `step 2 claude review`."""
    number = f"step {index + 1}" if kind == "chain" else f"[{index + 1}]"
    return " ".join(filter(None, (number, backend, name)))


def part_number(kind: str) -> Column:
    """Return the column with the numbers of parts, which count from 1."""
    return Column("STEP" if kind == "chain" else "#", to_right=True)


def heading(name: str) -> str:
    """Return the line above the answer of a part, or another text of a run."""
    return f"── {name} ──"


def section(name: str, content: str) -> Iterator[str]:
    """Yield a text below its heading; nothing for an empty text."""
    if content.strip():
        yield f"\n{heading(name)}"
        yield content.strip("\n")


def conversation(runs: Sequence[RunRecord], view: TextView, first: int = 1) -> Iterator[str]:
    """Yield the prompts and answers of turns, below headings, for stdout; `first` is the number of the first turn."""
    for number, run in enumerate(runs, first):
        for role, message, _ in run_messages(run):
            if role == "user":
                yield from section(f"prompt {number}", printable(message))
            else:
                yield from section(f"answer {number}", answer(run, message, view))
        if run.error_message or run.ended_at is None:
            yield f"\n({failure(run.state, run.error_message or '')})"


def answer(run: RunRecord, text: str, view: TextView) -> str:
    """Return an answer of a run for stdout; JSON for a schema is not rendered."""
    return view._replace(is_rendered=view.is_rendered and "output_schema" not in run.request).answer(text)


def opening_lines(prompt: str, most: int | None) -> str:
    """Return the beginning of a prompt on one line that fits a terminal of width `most` after the name of the field."""
    return cut(one_line(prompt), most - _LABEL) if most else one_line(prompt, _PIPED_PROMPT)


def failure(state: str, message: str) -> str:
    """Return a state with its error message, or alone if the message says no more."""
    return state if message in ("", Cancelled.DEFAULT_MESSAGE) else f"{state}: {one_line(without_sequences(message))}"


def duration_of(run: RunRecord) -> str:
    """Return the duration of a run; empty if the run has not ended or never started."""
    return duration(run.ended_at - run.started_at) if run.started_at and run.ended_at else ""


def short_tokens(usage: Usage) -> str:
    """Return the number of tokens as short text, such as `18.2k`."""
    count = usage.total_tokens
    if count < 1000:
        return str(count)
    return f"{count / 1e3:.1f}k" if count < 999_950 else f"{count / 1e6:.1f}M"


def cost_text(cost_usd: float | None) -> str:
    """Return a cost for a table; empty if it is unknown or nothing."""
    return f"${cost_usd:.2f}" if cost_usd else ""


def tokens(usage: Usage) -> str:
    """Return the number of tokens as text."""
    cached = f" ({usage.cached_tokens:,} cached)" if usage.cached_tokens else ""
    return f"{usage.input_tokens:,} in{cached}, {usage.output_tokens:,} out"


def markdown(session: Session, runs: Sequence[RunRecord], home: str | None) -> str:
    """Return a session as a Markdown document: its fields, then each prompt with its answer."""
    about = [
        f"# {session_title(session) or session.id}",
        "",
        f"- session: {session.id}",
        f"- agent: {with_model(session.backend, session.model)}",
        f"- directory: `{directory(session.working_dir, home)}`",
        f"- from {date_and_time(session.created_at)} to {date_and_time(session.last_used)}",
        f"- tokens: {tokens(session.token_usage)}",
    ]
    if session.tags:
        about.append(f"- tags: {', '.join(map(one_line, session.tags))}")
    for number, run in enumerate(runs, 1):
        for role, message, _ in run_messages(run):
            if role == "user" or message.strip():
                heading = "Prompt" if role == "user" else "Answer"
                about += ["", f"## {number}. {heading}", "", message.rstrip()]
        if run.error_message or run.ended_at is None:
            about += ["", f"> {failure(run.state, run.error_message or '')}"]
    return "\n".join(about) + "\n"


def home_of(home: str | None) -> str | None:
    """Return the home without symbolic links, as sessions store directories."""
    return os.path.realpath(home) if home else None


def short_id(own: str) -> str:
    """Return the beginning of an ID, which commands accept, for a table or a message."""
    return own[:_SHORT_DIGITS]
