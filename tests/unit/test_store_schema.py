"""The schema of the SQLite store has a column for every stored field."""

import sqlite3
from pathlib import Path

import msgspec
import pytest

from clinvk.store.sqlite.database import Database
from clinvk.types.record import LimitWindow, RunRecord, Session


@pytest.mark.parametrize(("table", "kept"), [("sessions", Session), ("runs", RunRecord), ("limits", LimitWindow)])
def test_each_field_has_a_column(tmp_path: Path, table: str, kept: type[msgspec.Struct]) -> None:
    """A field that is added to the type needs a migration."""
    connection = Database(tmp_path, 10).connect()
    columns = {row[1] for row in connection.execute(f"PRAGMA table_info({table})")}
    connection.close()
    assert set(kept.__struct_fields__) <= columns


def test_totals_reject_an_unknown_list_name(tmp_path: Path) -> None:
    """The lists of the schema name themselves, so that a slip of the pen in a trigger is refused."""
    connection = Database(tmp_path, 10).connect()
    with pytest.raises(sqlite3.IntegrityError):
        connection.execute("INSERT INTO totals VALUES ('session', '', '', '', 0, 0, 1)")
    connection.close()
