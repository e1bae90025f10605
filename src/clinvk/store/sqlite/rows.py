"""Sessions and runs as rows: a column for each field, as JSON if the field is not a plain value."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Generic, TypeVar

import msgspec

from clinvk.store.sqlite.database import Unreadable, skipping
from clinvk.types.record import RunRecord
from clinvk.types.session import Session
from clinvk.types.text import readable

if TYPE_CHECKING:
    import sqlite3

Value = str | bytes | int | float | None
"""The types of values in SQLite."""

_T = TypeVar("_T", bound=msgspec.Struct)


_json = msgspec.json.Decoder(float_hook=float)
"""With `float_hook`, because msgspec's own parser takes 13 µs for a float like `1e300`."""


class Table(Generic[_T]):
    """The table of one type, listed by the column `at`.

    `columns` are the fields of the type, in order; the columns in `coded` are JSON.
    """

    def __init__(self, name: str, type_: type[_T], at: str, *coded: str) -> None:
        self.columns: tuple[str, ...] = type_.__struct_fields__
        self.name = name
        self.at = at
        self._type = type_
        self._coded = coded

    def select(self, rest: str) -> str:
        """Return a statement for selecting whole rows."""
        return f"SELECT {', '.join(self.columns)} FROM {self.name} {rest}"  # noqa: S608 - our own names

    def insert(self, *more: str) -> str:
        """Return a statement for inserting a row; `more` are columns after the fields."""
        names = (*self.columns, *more)
        marks = ", ".join("?" * len(names))
        return f"INSERT INTO {self.name} ({', '.join(names)}) VALUES ({marks})"  # noqa: S608 - our own names

    def update(self, columns: Sequence[str]) -> str:
        """Return a statement that updates columns of the row with an id."""
        changes = ", ".join(f"{name} = ?" for name in columns)
        return f"UPDATE {self.name} SET {changes} WHERE id = ?"  # noqa: S608 - our own names

    def values(self, item: _T, columns: Sequence[str] | None = None) -> tuple[Value, ...]:
        """Return the values of an item for these columns, or for all."""
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
                    fields[name] = _json.decode(text)
            return msgspec.convert(fields, self._type, strict=False)
        except msgspec.DecodeError as exc:
            raise Unreadable(f"{exc} in a row of {self.name}") from exc

    def by_key(
        self, connection: "sqlite3.Connection", keys: Iterable[int], note: Callable[[str], None]
    ) -> Iterator[tuple[int, _T]]:
        """Yield the items of rows, with the keys. Skip damaged rows, and pass the damage to `note`."""
        for key in keys:
            with skipping(note):
                yield key, self.read(connection.execute(self.select("WHERE key = ?"), (key,)).fetchone())

    def keys(self, connection: "sqlite3.Connection", note: Callable[[str], None]) -> list[int]:
        """Return all keys, newest first, read without an index; at damage, read from both ends."""
        keys: set[int] = set()
        for order in ("", "DESC"):
            with skipping(note):
                select = f"SELECT key FROM {self.name} NOT INDEXED ORDER BY key {order}"  # noqa: S608 - our own names
                for (key,) in connection.execute(select):
                    keys.add(key)
                break
        return sorted(keys, reverse=True)


SESSIONS = Table("sessions", Session, "last_used", "token_usage", "counted", "tags", "metadata")
RUNS = Table("runs", RunRecord, "created_at", "request", "usage")


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
