"""Import of the sessions of earlier versions: one JSON file per session in the folder `sessions` of the home.

The files are only read. A file is imported once, by name: changes to the session here stay, whatever an earlier clinvk
still in use writes to the file. A damaged file is read again after it has changed. While the folder has no new names,
no file is opened.
"""

import math
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeGuard, get_args

import msgspec

from clinvk.store import ids
from clinvk.store.protocol import settled_record
from clinvk.store.sqlite.turns import SqliteTurns
from clinvk.store.turns import Connection
from clinvk.types.choices import SessionStatus
from clinvk.types.events import Usage
from clinvk.types.record import Session
from clinvk.types.text import readable

if TYPE_CHECKING:
    import sqlite3

FOLDER = "sessions"

_STATUSES: dict[str, SessionStatus] = {status: status for status in get_args(SessionStatus)}
_EPOCH_YEAR = 1971
_LATEST_S = 1e11
_MAX_NUMBER = 2**53 - 1
_MAX_BYTES = 64 * 1024 * 1024

_KNOWN = "SELECT name, size, mtime_ns, damage IS NOT NULL FROM imports"
_REMEMBER = (
    "INSERT INTO imports (name, size, mtime_ns, damage) VALUES (?, ?, ?, ?)"
    " ON CONFLICT (name) DO UPDATE SET size = excluded.size, mtime_ns = excluded.mtime_ns, damage = excluded.damage"
)


class DamagedFile(NamedTuple):
    """A file that is not a valid session, and the reason."""

    file: Path
    reason: str


class ImportReport(msgspec.Struct, frozen=True):
    """How many sessions were imported, and which files could not be read. A damaged file is reported once."""

    count: int
    damaged: tuple[DamagedFile, ...]


class LegacyFile(NamedTuple):
    """A file to import, and the name under which the store remembers the file."""

    path: Path
    name: str
    size: int
    mtime_ns: int


LegacySession = tuple[LegacyFile, Session | str]
"""A file, with the session read from the file or the reason why the file is damaged."""


def find_sessions(connection: "sqlite3.Connection", folder: Path) -> list[LegacyFile] | str:
    """Return the files that were neither imported nor reported as damaged, or why the folder cannot be read."""
    known = {name: (size, mtime_ns, damaged) for name, size, mtime_ns, damaged in connection.execute(_KNOWN)}
    try:
        with os.scandir(folder) as entries:
            return [file for entry in entries if (file := _unknown(entry, known))]
    except FileNotFoundError:
        return []
    except OSError as exc:
        return exc.strerror or str(exc)


def _unknown(entry: "os.DirEntry[str]", known: dict[str, tuple[int, int, bool]]) -> LegacyFile | None:
    """Return a file, or None if the file was already imported or reported as damaged."""
    name = readable(entry.name)
    _, _, damaged = before = known.get(name, (0, 0, True))
    if not damaged or not name.endswith(".json"):
        return None
    try:
        status = entry.stat()
    except OSError:
        return None
    if not stat.S_ISREG(status.st_mode) or before == (status.st_size, status.st_mtime_ns, True):
        return None
    return LegacyFile(Path(entry.path), name, status.st_size, status.st_mtime_ns)


def read(file: LegacyFile) -> LegacySession:
    """Read a file."""
    if file.size > _MAX_BYTES:
        return file, f"it is larger than {_MAX_BYTES} bytes"
    try:
        return file, parse(file.path.read_bytes(), file.path.stem, file.mtime_ns / 1e9)
    except OSError as exc:
        return file, exc.strerror or str(exc)
    except (ValueError, OverflowError, RecursionError) as exc:
        return file, str(exc)


async def import_sessions(db: Connection, turns: SqliteTurns, files: Sequence[LegacySession], at: float) -> int:
    """Insert the sessions read from files, and return how many were new."""
    count = 0
    for file, session in files:
        damage = session if isinstance(session, str) else None
        await db.execute(_REMEMBER, file.name, file.size, file.mtime_ns, damage)
        count += isinstance(session, Session) and await turns.insert(db, session, imported_at=at)
    return count


def parse(data: bytes, name: str, mtime: float) -> Session:
    """Parse the bytes of a file. Missing fields come from the file's name and mtime, or stay empty.

    Raises:
        ValueError: the file is not a session.
    """
    fields = _object(data)
    backend = _text(fields, "backend")
    if not backend:
        raise ValueError("it names no backend")
    created = _time(fields.get("created_at")) or max(0.0, min(mtime, _LATEST_S))
    original_id = _text(fields, "id") or name
    metadata = _mapping(fields.get("metadata"))
    session_id = _id(original_id)
    if session_id != original_id:
        metadata = {**metadata, "imported_id": original_id}
    return settled_record(
        Session(
            id=session_id,
            backend=backend,
            created_at=created,
            last_used=_time(fields.get("last_used")) or created,
            working_dir=_text(fields, "working_dir"),
            initial_prompt=_text(fields, "initial_prompt"),
            backend_session_id=_text(fields, "backend_session_id") or None,
            model=_text(fields, "model") or None,
            status=_STATUSES.get(_text(fields, "status"), "completed"),
            turn_count=_number(fields.get("turn_count")),
            token_usage=_usage(fields.get("token_usage")),
            tags=_texts(fields.get("tags")),
            title=_text(fields, "title"),
            parent_id=_id(parent) if (parent := _text(fields, "parent_id")) else None,
            error_message=_text(fields, "error_message") or None,
            metadata=metadata,
        )
    )


def _object(data: bytes) -> dict[str, object]:
    try:
        return msgspec.json.decode(data.removeprefix(b"\xef\xbb\xbf"), type=dict[str, object])
    except msgspec.DecodeError as exc:
        raise ValueError(f"it is not a JSON object: {exc}") from exc


def _id(text: str) -> str:
    """Return the id for a session of an earlier clinvk: the same id if valid, else a digest of the text."""
    import hashlib  # imported late: not needed for prompts

    digits = text.replace("-", "").lower()
    return digits if ids.is_id(digits) else hashlib.sha256(readable(text).encode()).hexdigest()[: ids.ID_DIGITS]


def _text(fields: dict[str, object], name: str) -> str:
    value = fields.get(name)
    return value if isinstance(value, str) else ""


def _mapping(value: object) -> dict[str, object]:
    return msgspec.convert(value, dict[str, object]) if isinstance(value, dict) else {}


def _texts(value: object) -> tuple[str, ...]:
    if not isinstance(value, list):
        return ()
    return tuple(text for text in msgspec.convert(value, list[object]) if isinstance(text, str))


def _number(value: object) -> int:
    return max(0, min(_MAX_NUMBER, int(value))) if _is_finite(value) else 0


def _usage(value: object) -> Usage:
    counts = _mapping(value)
    return Usage(**{name: _number(counts.get(name)) for name in Usage.__struct_fields__})


def _time(value: object) -> float | None:
    """Parse RFC 3339, or a number of seconds, milli-, micro- or nanoseconds; return None before 1971.

    Raises:
        ValueError: the time is too far in the future.
    """
    from datetime import UTC, datetime  # imported late: not needed for prompts

    if isinstance(value, str):
        try:
            parsed = datetime.fromisoformat(value)
        except ValueError:
            return None
        if parsed.year < _EPOCH_YEAR:
            return None
        seconds = (parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).timestamp()
        if seconds > _LATEST_S:
            raise ValueError(f"it has the time {value!r}")
        return seconds
    if not _is_finite(value) or value <= 0:
        return None
    seconds = float(value)
    while seconds > _LATEST_S:
        seconds /= 1000
    return seconds


def _is_finite(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and math.isfinite(value)
