"""How a file of an earlier clinvk is read."""

import json

import pytest

from clinvk.store import ids
from clinvk.store.sqlite.legacy import parse
from clinvk.types.events import Usage
from clinvk.types.record import Session

ID = "0123456789abcdef" * 2
WHOLE = {
    "id": ID,
    "backend": "claude",
    "created_at": "2024-01-15T10:30:00.123456789+08:00",
    "last_used": "2024-02-01T00:00:00Z",
    "working_dir": "/home/user/project",
    "backend_session_id": "handle",
    "model": "sonnet",
    "initial_prompt": "explain",
    "status": "completed",
    "turn_count": 3,
    "token_usage": {"input_tokens": 5, "output_tokens": 4, "cached_tokens": 3, "reasoning_tokens": 2, "total": 9},
    "tags": ["a", "b"],
    "title": "A title",
    "parent_id": "f" * 32,
    "error_message": "no",
    "metadata": {"k": {"deep": 1}},
    "unknown": [1, 2],
}


def parsed(**fields: object) -> Session:
    return parse(json.dumps({**WHOLE, **fields}).encode(), "name", 7.5)


def test_complete_session_is_read() -> None:
    session = parsed()
    assert session.id == ID
    assert (session.backend, session.model, session.backend_session_id) == ("claude", "sonnet", "handle")
    assert session.created_at == pytest.approx(1705285800.123456)
    assert session.last_used == 1706745600
    assert (session.working_dir, session.initial_prompt, session.title) == ("/home/user/project", "explain", "A title")
    assert (session.status, session.turn_count, session.error_message) == ("completed", 3, "no")
    assert session.token_usage == Usage(5, 4, 3, 2)
    assert (session.tags, session.parent_id, session.metadata) == (("a", "b"), "f" * 32, {"k": {"deep": 1}})


def test_only_the_backend_is_required() -> None:
    session = parse(b'{"backend": "some-other-cli"}', ID, 7.5)
    assert (session.id, session.backend, session.created_at, session.last_used) == (ID, "some-other-cli", 7.5, 7.5)
    assert (session.status, session.tags, session.token_usage) == ("completed", (), Usage())


@pytest.mark.parametrize(
    ("time", "expected"),
    [
        (1700000000, 1700000000),
        (1700000000.5, 1700000000.5),
        (1700000000500, 1700000000.5),
        (1700000000500000000, 1700000000.5),
        ("2023-11-14T22:13:20Z", 1700000000),
        ("2023-11-14T22:13:20", 1700000000),
        ("2023-11-14T15:13:20-0700", 1700000000),
        ("0001-01-01T00:00:00Z", 7.5),
        ("yesterday", 7.5),
        (0, 7.5),
        (-1, 7.5),
        (None, 7.5),
        ([], 7.5),
        ({}, 7.5),
    ],
)
def test_times_are_strings_or_numbers(time: object, expected: float) -> None:
    """The time of the file replaces an invalid time."""
    assert parsed(created_at=time).created_at == expected


@pytest.mark.parametrize("given", [ID.upper(), "01234567-89ab-cdef-0123-456789abcdef"])
def test_id_in_another_notation_is_normalized(given: str) -> None:
    session = parsed(id=given)
    assert session.id == ID
    assert session.metadata["imported_id"] == given


def test_foreign_id_is_mapped_and_kept_in_metadata() -> None:
    first, second = parsed(id="my session"), parsed(id="my sessions")
    assert ids.is_id(first.id)
    assert first.id == parsed(id="my session").id != second.id
    assert first.metadata["imported_id"] == "my session"
    assert parsed(parent_id="my session").parent_id == first.id


def test_active_session_is_imported_as_paused() -> None:
    """No run of it is under way here."""
    assert parsed(status="active").status == "paused"
    assert parsed(status="archived").status == "completed"


@pytest.mark.parametrize(
    "fields",
    [
        {"tags": None, "metadata": None, "token_usage": None, "turn_count": None, "title": None, "status": None},
        {"tags": "a", "metadata": [], "token_usage": 5, "turn_count": "3", "title": 7, "status": []},
        {"tags": [1, None], "token_usage": {"input_tokens": -5, "output_tokens": "x"}, "turn_count": -1},
    ],
)
def test_field_of_the_wrong_type_is_ignored(fields: dict[str, object]) -> None:
    session = parsed(**fields)
    assert (session.tags, session.token_usage, session.turn_count) == ((), Usage(), 0)


def test_huge_number_is_clamped() -> None:
    session = parsed(turn_count=10**30, token_usage={"input_tokens": 10**30})
    assert session.turn_count == session.token_usage.input_tokens == 2**53 - 1


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"text"',
        b"{}",
        b'{"backend": ""}',
        b'{"backend": 5}',
        b'{"backend": "cl',
        b'{"backend": "\xff"}',
        b"\0" * 100,
        b'{"backend": "claude", "turn_count": 1e999}',
        b'{"backend": "claude", "last_used": "9999-12-31T23:59:59-14:00"}',
        b'{"backend": "claude", "created_at": "6000-01-01T00:00:00Z"}',
    ],
)
def test_invalid_session_is_rejected(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"^it |^'utf-8'"):
        parse(data, ID, 7.5)


def test_byte_order_mark_is_accepted() -> None:
    assert parse(b'\xef\xbb\xbf{"backend": "claude"}', ID, 7.5).backend == "claude"
