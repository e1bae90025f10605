"""Tables that fit the terminal, and times as text."""

import unicodedata
from datetime import datetime

import pytest

from clinvk.cli.parse.settings import age_s
from clinvk.cli.terminal.output import duration, time_ago
from clinvk.cli.terminal.table import Column, cut, one_line, table, width
from clinvk.types.errors import InvalidRequest

COLUMNS = (Column("ID"), Column("N", to_right=True), Column("PLACE", 6, from_left=True), Column("TITLE", 8))


@pytest.mark.parametrize(
    ("text", "expected"),
    [("", 0), ("abc", 3), ("長い", 4), ("e\u0301", 1), ("\uff41", 2), ("a\u200bb", 2), ("한글", 4), ("é", 1)],
)
def test_width_counts_terminal_cells(text: str, expected: int) -> None:
    assert width(text) == expected


@pytest.mark.parametrize("text", ["plain text here", "長い長い長い長い長い", "e\u0301" * 20, "a長" * 9, ""])
@pytest.mark.parametrize("most", [0, 1, 2, 3, 7, 8, 30, 60])
def test_cut_text_fits_and_keeps_the_beginning_or_the_end(text: str, most: int) -> None:
    for shown, is_part in ((cut(text, most), text.startswith), (cut(text, most, from_left=True), text.endswith)):
        assert width(shown) <= most
        assert shown == text or (width(text) > most and is_part(shown.strip("…")))
        assert shown == text or most == 0 or "…" in shown


def test_one_line_replaces_control_characters() -> None:
    text = one_line("a\r\n\tb \x1b[31m\u202e\x00\x9b c\u2028d\x1b\n")
    assert text == "a b ?[31m??? c d?"
    assert all(unicodedata.category(char)[0] != "C" for char in text)


@pytest.mark.parametrize("char", "\u061c\u200b\u200e\u200f\u202a\u202e\u2060\u2066\u2069\ufeff")
def test_one_line_replaces_bidi_and_zero_width_characters(char: str) -> None:
    assert one_line(f"a{char}b") == "a?b"


def test_one_line_keeps_joiners_of_a_script() -> None:
    for text in ("\U0001f469\u200d\U0001f4bb", "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645"):
        assert one_line(text) == text


def test_columns_fit_their_content_without_a_width_limit() -> None:
    rows = [("1234", "7", "/a", "first"), ("5", "12345", "/much/longer", "")]
    assert table(COLUMNS, rows, None) == [
        "ID        N  PLACE         TITLE",
        "1234      7  /a            first",
        "5     12345  /much/longer",
    ]


def test_widest_column_shrinks_first_and_paths_are_cut_on_the_left() -> None:
    rows = [("1234", "7", "/home/someone/place", "a title that is longer than the place")]
    assert table(COLUMNS, rows, 40)[1] == "1234  7  …someone/place  a title that i…"
    assert table(COLUMNS, rows, 26)[1] == "1234  7  …/place  a title…"


@pytest.mark.parametrize("most", [*range(1, 60, 3), 200])
def test_no_line_is_wider_than_the_terminal(most: int) -> None:
    rows = [("長い長い", "7", "/家/家/家/家/家", "題" * 30), ("1", "1" * 30, "x", "y")]
    assert max(map(width, table(COLUMNS, rows, most))) <= most


def test_spare_columns_are_dropped_before_others_become_too_narrow() -> None:
    columns = (Column("ID"), Column("STATE", is_spare=True), Column("N", is_spare=True), Column("TITLE", 8))
    rows = [("1234", "done", "7", "a title of some length")]
    assert table(columns, rows, 24)[1] == "1234  done   7  a title…"
    assert table(columns, rows, 23)[1] == "1234  done   a title o…"
    assert table(columns, rows, 19)[1] == "1234  a title of s…"
    assert table(columns, rows, 10)[1] == "1234  a t…"


def test_style_does_not_change_column_widths() -> None:
    rows = [("ab", "1", "x", "y")]
    styled = table(COLUMNS, rows, 40, lambda shown, text: f"<{shown}>" if text == "ab" else shown)
    assert styled[1].replace("<ab>", "ab") == table(COLUMNS, rows, 40)[1]


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (-5, "just now"),
        (0.9, "just now"),
        (1, "1 s ago"),
        (59.9, "59 s ago"),
        (60, "1 min ago"),
        (3599, "59 min ago"),
        (3600, "1 h ago"),
        (86399, "23 h ago"),
        (86400, "1 d ago"),
        (59.5 * 86400, "59 d ago"),
    ],
)
def test_ago_shows_the_largest_unit(seconds: float, expected: str) -> None:
    assert time_ago(1_700_000_000 - seconds, 1_700_000_000) == expected


def test_ago_shows_a_date_for_old_times() -> None:
    at = datetime(2023, 4, 28, 12).timestamp()  # where this runs
    assert time_ago(at, at + 86400 * 200) == "2023-04-28"


@pytest.mark.parametrize(
    ("seconds", "expected"), [(0.04, "0.0 s"), (59.94, "59.9 s"), (61, "1 min 1 s"), (7260, "2 h 1 min")]
)
def test_duration_has_at_most_two_units(seconds: float, expected: str) -> None:
    assert duration(seconds) == expected


@pytest.mark.parametrize(
    ("text", "hours"), [("12h", 12), ("30", 720), ("30d", 720), ("2w", 336), ("2 W", 336), ("001d", 24)]
)
def test_age_is_parsed_from_hours_days_or_weeks(text: str, hours: int) -> None:
    assert age_s(text, "--older-than") == hours * 3600


@pytest.mark.parametrize("text", ["", "0", "0h", "-3d", "3 days", "1.5", "30m", "1e3", "٣", "d", "3dd", "99999999"])
def test_invalid_age_is_rejected_with_its_value(text: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        age_s(text, "--older-than")
    assert repr(text) in caught.value.message
