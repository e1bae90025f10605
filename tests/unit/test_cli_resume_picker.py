"""Choosing a session: keys in, lines out."""

import pytest
from msgspec.structs import replace

from clinvk.cli.sessions.picker import KeyDecoder, Picker
from clinvk.cli.sessions.session_text import TextView
from clinvk.cli.terminal.table import width
from clinvk.types.session import Session

NOW = 1_700_000_000.0
VIEW = TextView(NOW)
ONE = Session(
    id="a" * 32,
    backend="claude",
    created_at=NOW,
    last_used=NOW,
    working_dir="/x",
    initial_prompt="prompt 0",
    status="paused",
)


def some(number: int) -> list[Session]:
    return [replace(ONE, id=f"{at:032x}", initial_prompt=f"prompt {at}") for at in range(number)]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"ab", ["a", "b"]),
        ("é長".encode(), ["é", "長"]),
        (b"\x1b[A\x1b[B\x1bOA", ["up", "down", "up"]),
        (b"\x1b[5~\x1b[6~\x1b[H\x1b[4~", ["page_up", "page_down", "home", "end"]),
        (b"\r\n", ["enter", "enter"]),
        (b"\x7f\x15\x10\x0e", ["erase", "erase_all", "up", "down"]),
        (b"\x03\x04", ["escape", "escape"]),
        (b"\x1b[1;5C\x1b[200~\t\x1a", ["", "", "", ""]),
        (b"\x1bx", ["escape", "x"]),
        (b"\xffa", ["a"]),
    ],
)
def test_keys_are_decoded_from_split_bytes(data: bytes, expected: list[str]) -> None:
    assert KeyDecoder().feed(data) == expected
    apart = KeyDecoder()
    assert [key for at in range(len(data)) for key in apart.feed(data[at : at + 1])] == expected
    assert not apart.is_waiting


def test_lone_escape_is_a_key_after_flush() -> None:
    keys = KeyDecoder()
    assert (keys.feed(b"\x1b"), keys.is_waiting, keys.flush()) == ([], True, ["escape"])
    assert (keys.feed(b"\x1b["), keys.flush(), keys.flush()) == ([], ["escape"], [])
    assert (keys.feed(b"\xc3"), keys.is_waiting, keys.feed(b"\xa9")) == ([], False, ["é"])


def test_selection_stays_within_the_list_and_visible() -> None:
    picker = Picker(some(100), VIEW)
    for key in [*["down"] * 40, "up", "page_down", "page_down", "end", "down", "page_up", "home", "up", "down"]:
        picker.press(key)
        lines = picker.lines(80, 24)
        (marked,) = [line for line in lines if "\x1b[7m" in line]
        assert picker.selected
        assert picker.selected.initial_prompt in marked
        assert len(lines) <= 24
    assert picker.selected == some(100)[1]


def test_typing_searches_and_selects_the_first_result() -> None:
    picker = Picker(some(5), VIEW)
    picker.press("down")
    picker.press("x")
    picker.press("y")
    assert (picker.text, picker.state) == ("xy", "searching")
    picker.show(some(2))
    assert (picker.state, picker.selected) == ("open", some(2)[0])
    picker.press("erase")
    assert (picker.text, picker.state) == ("x", "searching")
    picker.press("erase_all")
    assert picker.text == ""


def test_key_without_effect_starts_no_search() -> None:
    picker = Picker(some(2), VIEW)
    for key in ("", "erase", "erase_all"):
        picker.press(key)
    assert picker.state == "open"


def test_enter_chooses_only_an_existing_session() -> None:
    picker = Picker([], VIEW)
    picker.press("enter")
    assert (picker.state, picker.selected) == ("open", None)
    assert any("nothing found" in line for line in picker.lines(80, 24))
    picker.show(some(1))
    picker.press("enter")
    assert picker.state == "chosen"
    assert picker.is_over


@pytest.mark.parametrize("columns", [1, 7, 20, 80, 300])
@pytest.mark.parametrize("rows", [1, 2, 3, 4, 24])
def test_picker_fits_any_terminal(columns: int, rows: int) -> None:
    wide = [replace(session, initial_prompt="長い" * 200, working_dir="/家" * 90) for session in some(50)]
    picker = Picker(wide, VIEW)
    picker.press("長")
    picker.show(wide)
    lines = [line.replace("\x1b[7m", "").replace("\x1b[0m", "") for line in picker.lines(columns, rows)]
    assert len(lines) <= rows
    assert max(map(width, lines)) <= columns
