"""Sessions, runs and events as rows.

Sessions and runs have a column for each field, as JSON if the field is not a plain value. The events of a run are
chunks: JSON in which consecutive deltas are one text, deflated if the JSON is long. Decoding restores the same events:
a chunk keeps the lengths, numbers and times of the merged deltas.
"""

import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from itertools import accumulate, groupby, pairwise
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

import msgspec
from msgspec.structs import replace

from clinvk.types.errors import Cancelled, ClinvkError, Interrupted, StoreUnavailable
from clinvk.types.events import Event, Logged, RunFailed, RunFinished, TextDelta, ThinkingDelta, ToolCall
from clinvk.types.interaction import Interaction
from clinvk.types.record import LimitWindow, RunRecord, Session, with_tags
from clinvk.types.text import readable

FIXED_SESSION_FIELDS = (
    *("backend", "created_at", "working_dir", "project", "initial_prompt", "parent_id", "title", "tags", "node"),
    "archived",
)
"""The fields of a session that its runs do not change, except that `reassign` changes the backend, and that a run which
claims the session ends `archived`."""

FIXED_RUN_FIELDS = (
    *("id", "session_id", "parent_id", "backend", "created_at", "workdir", "request", "prompt", "key_name", "node"),
)
"""The fields of a run that never change after `begin`, except by `reassign` and `change_request`."""

SEARCHED_CHARS = 1000
"""How many characters of a session's title and first prompt, together, `SessionQuery.text` searches."""

Value = str | bytes | int | float | None
"""The types of values in a database."""

_T = TypeVar("_T", bound=msgspec.Struct)


class Unreadable(StoreUnavailable):
    """A page or a stored value is damaged."""

    def __init__(self, damage: object, path: Path | None = None) -> None:
        repair = "Restore a backup, or stop clinvk and run the repair that clinvk doctor shows"
        message = f"the database is damaged ({damage}). {repair}"
        super().__init__(f"{path}: {message}" if path else message)


_value_decoder = msgspec.json.Decoder(float_hook=float)
"""With `float_hook`, because msgspec's own parser takes 13 µs for a float like `1e300`."""


def _names(columns: Sequence[str]) -> str:
    """Return the columns for a statement, quoted: `window` is a keyword of PostgreSQL."""
    return ", ".join(f'"{name}"' for name in columns)


class Table(Generic[_T]):
    """The table of one type, listed by the column `at`.

    `columns` are the fields of the type, in order; the columns in `coded` are JSON. `by_id` is the statement that
    selects the row with an id, for a table that has ids; `newest_first` is an order of rows.
    """

    def __init__(self, name: str, type_: type[_T], at: str, *coded: str) -> None:
        self.columns: tuple[str, ...] = type_.__struct_fields__
        self.name = name
        self.at = at
        self.newest_first = f"{at} DESC, key DESC"
        self._type = type_
        msgspec.json.Decoder(type_)  # threads may read the first rows, and msgspec crashes if two prepare one type
        self._coded = coded
        self.by_id = self.select("WHERE id = ?")

    def select(self, rest: str) -> str:
        """Return a statement for selecting whole rows."""
        return f"SELECT {_names(self.columns)} FROM {self.name} {rest}"  # noqa: S608 - our own names

    def insert(self, *more: str) -> str:
        """Return a statement for inserting a row; `more` are columns after the fields."""
        names = (*self.columns, *more)
        marks = ", ".join("?" * len(names))
        return f"INSERT INTO {self.name} ({_names(names)}) VALUES ({marks})"  # noqa: S608 - our own names

    def update(self, columns: Sequence[str]) -> str:
        """Return a statement that updates columns of the row with an id."""
        return f"UPDATE {self.name} SET {self.assignments(columns)} WHERE id = ?"  # noqa: S608 - our own names

    def assignments(self, columns: Sequence[str]) -> str:
        """Return the assignments of parameters to columns."""
        return ", ".join(f"{name} = ?" for name in columns)

    def values(self, item: _T, columns: Sequence[str] | None = None) -> tuple[Value, ...]:
        """Return an item's values for `columns`, by default for all columns."""
        return tuple(_plain(getattr(item, name)) for name in columns or self.columns)

    def read(self, row: Sequence[object] | None) -> _T:
        """Make the item of a whole row.

        Raises:
            Unreadable: the row is missing, or has values that are never stored.
        """
        if row is None:
            raise Unreadable(f"a row of {self.name} is missing")
        fields = dict(zip(self.columns, row, strict=True))
        try:
            for name in self._coded:
                if isinstance(text := fields[name], str):
                    fields[name] = _value_decoder.decode(text)
            return msgspec.convert(fields, self._type, strict=False)
        except msgspec.DecodeError as exc:
            raise Unreadable(f"{exc} in a row of {self.name}") from exc


Conditions = list[tuple[str, tuple[Value, ...]]]
"""SQL conditions, each with the values of its parameters."""


def equal(query: msgspec.Struct, names: Sequence[str]) -> Conditions:
    """Return the conditions that columns equal those of the named fields of a query that are given."""
    return [(f"{name} = ?", (_plain(value),)) for name in names if (value := getattr(query, name)) is not None]


def where(conditions: Conditions) -> tuple[str, list[Value]]:
    """Return a `WHERE` clause, empty without conditions, and the values of its parameters."""
    clause = f"WHERE {' AND '.join(condition for condition, _ in conditions)}" if conditions else ""
    return clause, [value for _, values in conditions for value in values]


SESSIONS = Table("sessions", Session, "last_used", "token_usage", "counted", "tags", "metadata")
RUNS = Table("runs", RunRecord, "created_at", "request", "usage", "steering")
INTERACTIONS = Table("interactions", Interaction, "created_at", "input", "fields", "choices", "answer")
LIMITS = Table("limits", LimitWindow, "updated_at")


RUN_CHANGES = tuple(name for name in RUNS.columns if name not in FIXED_RUN_FIELDS)
SESSION_CHANGES = tuple(name for name in SESSIONS.columns if name not in (*FIXED_SESSION_FIELDS, "id"))
DESCRIPTION = ("title", "tags", "archived")
LAST_TURN_FIRST = "coalesce(started_at, ended_at, 9e99) DESC, CASE waits WHEN 0 THEN 3 ELSE waits END, key DESC"
"""The order of the runs of a session. A run that never started has the place at which it ended."""

RUN_TEXTS = ("prompt", "output", "error_message", "request")
"""The fields of an orchestration that `without_text` empties."""


def is_resumable(session: Session) -> bool:
    """Return whether the agent has reported a handle."""
    return bool(session.backend_session_id)


def to_json(value: object) -> bytes:
    """Encode a value as JSON, `readable`."""
    try:
        return msgspec.json.encode(value)
    except UnicodeEncodeError:
        import json  # imported late: not needed for prompts

        return json.dumps(msgspec.to_builtins(value), ensure_ascii=False).encode("utf-8", "replace")


def _plain(value: object) -> Value:
    if value is None or isinstance(value, int | float):
        return value
    return readable(value) if isinstance(value, str) else to_json(value).decode()


def described(**changes: object) -> Callable[[Session], Session]:
    """Return a change of `DESCRIPTION` of a session; None leaves a value unchanged."""
    given = {name: value for name, value in changes.items() if value is not None}
    return lambda session: replace(session, **given)


def tagged(add: Sequence[str], remove: Collection[str]) -> Callable[[Session], Session]:
    """Return a change of some tags of a session."""
    return lambda session: replace(session, tags=with_tags(session.tags, add, remove))


def searched_text(session: Session) -> str:
    """Return the searched text of a session, casefolded."""
    return case_folded(f"{session.title}\n{session.initial_prompt}"[:SEARCHED_CHARS])


def case_folded(text: str) -> str:
    """Return a text casefolded, for comparison."""
    return readable(text).casefold().replace("\0", " ")


_TICKS_PER_S = 2**22
"""A float of seconds since the epoch has no finer steps between 2004 and 2038."""

_DEFLATE_BYTES = 2048
_LEVEL = 1


class _Pieces(msgspec.Struct):
    """Deltas in a row; `ticks` are from each to the next."""

    text: str
    lengths: list[int]
    ticks: list[int]


class _TextPieces(_Pieces, tag="text_pieces"):
    """Text deltas."""


class _ThinkingPieces(_Pieces, tag="thinking_pieces"):
    """Thinking deltas."""


class _Entry(msgspec.Struct, array_like=True):
    """An event or several, and the ticks since the entry before."""

    ticks: int
    event: Event | _TextPieces | _ThinkingPieces


class _Stored(msgspec.Struct, array_like=True):
    first: int
    ticks: int
    entries: list[_Entry]


_decoder = msgspec.json.Decoder(_Stored)


class Chunk(NamedTuple):
    """Events with consecutive numbers, from `first` to `last`."""

    first: int
    last: int
    data: bytes


def pack_events(events: Sequence[Logged]) -> list[Chunk]:
    """Encode events, which must be in order of number. A gap in the numbers starts a new chunk."""
    return [Chunk(part[0].number, part[-1].number, encode_events(part)) for part in _contiguous(events)]


def encode_events(events: Sequence[Logged]) -> bytes:
    """Encode events with consecutive numbers."""
    try:
        data = _json(events)
    except RecursionError:
        data = _json([logged._replace(event=_shallow(logged.event)) for logged in events])
    return data if len(data) < _DEFLATE_BYTES else zlib.compress(data, _LEVEL)


def decode_events(data: bytes) -> list[Logged]:
    """Read events back.

    Raises:
        Unreadable: they are damaged.
    """
    try:
        return list(_decoded(data))
    except (zlib.error, msgspec.DecodeError, ValueError, TypeError) as exc:
        raise Unreadable(f"{exc} in events of a run") from exc


def _decoded(data: bytes) -> Iterator[Logged]:
    chunk = _decoder.decode(data if data.startswith(b"[") else zlib.decompress(data))
    number, at = chunk.first, chunk.ticks
    for entry in chunk.entries:
        at += entry.ticks
        match entry.event:
            case _Pieces() as pieces:
                for ticks, event in zip((0, *pieces.ticks), _split(pieces), strict=True):
                    at += ticks
                    yield Logged(number, at / _TICKS_PER_S, event)
                    number += 1
            case event:
                yield Logged(number, at / _TICKS_PER_S, event)
                number += 1


def _json(events: Sequence[Logged]) -> bytes:
    start = _ticks(events[0].at)
    return to_json(_Stored(events[0].number, start, list(_entries(events, start))))


def _shallow(event: Event) -> Event:
    """Return an event without JSON from the agent that is nested too deeply to be encoded."""
    try:
        to_json(_Entry(0, event))
    except RecursionError:
        pass
    else:
        return event
    match event:
        case ToolCall():
            return replace(event, input={})
        case RunFinished():
            return replace(event, structured_output=None)
        case _:
            return event


def _contiguous(events: Sequence[Logged]) -> Iterator[Sequence[Logged]]:
    for _, part in groupby(enumerate(events), lambda indexed: indexed[1].number - indexed[0]):
        yield [logged for _, logged in part]


def _entries(events: Sequence[Logged], before: int) -> Iterator[_Entry]:
    for kind, same in groupby(events, lambda logged: type(logged.event)):
        for entry in [[*same]] if kind in (TextDelta, ThinkingDelta) else ([logged] for logged in same):
            at = [_ticks(logged.at) for logged in entry]
            yield _Entry(at[0] - before, _merge([logged.event for logged in entry], at))
            before = at[-1]


def _merge(events: list[Event], at: list[int]) -> Event | _TextPieces | _ThinkingPieces:
    if len(events) == 1:
        return events[0]
    texts = [event.text for event in events if isinstance(event, TextDelta | ThinkingDelta)]
    pieces = _TextPieces if isinstance(events[0], TextDelta) else _ThinkingPieces
    return pieces("".join(texts), [len(text) for text in texts], [b - a for a, b in pairwise(at)])


def _split(pieces: _Pieces) -> Iterator[TextDelta | ThinkingDelta]:
    delta = TextDelta if isinstance(pieces, _TextPieces) else ThinkingDelta
    for end, length in zip(accumulate(pieces.lengths), pieces.lengths, strict=True):
        yield delta(pieces.text[end - length : end])


def _ticks(at: float) -> int:
    return round(at * _TICKS_PER_S)


_UNSAVED = 1_000_000
"""An upper bound for the number of unstored events that clients may have read when a run was interrupted."""

INTERRUPTED = RunFailed(Interrupted.code, "the run was interrupted: its clinvk process ended")
WITHDRAWN = RunFailed(Cancelled.code, "the run was cancelled before it started")
NOT_KEPT = RunFailed(ClinvkError.code, "the store refused the record of the end of the run")


class Stopped(NamedTuple):
    """The outcome of a run that ended without its process: the time, and the stored part of the answer.

    `added` is an ending that is missing in the stored events. Its number is higher than the number of any event that a
    client may have read, so that no client skips the ending as already read.
    """

    at: float
    output: str
    added: Logged | None


def stopped(stored: Iterable[Logged], began_at: float, ending: RunFailed) -> Stopped:
    """Return the outcome of a run with these stored events, at the time of the last event."""
    events = [*stored]
    last = events[-1] if events else Logged(0, began_at, ending)
    output = "".join(logged.event.text for logged in events if isinstance(logged.event, TextDelta))
    has_ending = bool(events) and isinstance(last.event, RunFinished | RunFailed)
    return Stopped(last.at, output, None if has_ending else Logged(last.number + 1 + _UNSAVED, last.at, ending))
