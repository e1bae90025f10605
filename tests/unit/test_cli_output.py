"""The output of programs on a terminal."""

import fcntl
import os
import struct
import termios
from pathlib import Path

import pytest

from clinvk.cli.terminal.output import Notes, wrap
from clinvk.types.text import on_one_line, without_sequences


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\x1b[1;31mred\x1b[m, \x1b[2Kline \x1b[?25lhidden", "red, line hidden"),
        ("\x1b]0;title\x07a \x1b]8;;http://a\x1b\\link\x1b]8;;\x1b\\", "a link"),
        ("\x1bP1$r0m\x1b\\a\x1b(B\x1b7\x1bM", "a"),
        ("\x1b]0;without an end", "0;without an end"),
        ("\x1b[31", "31"),
        ("\x1b", "?"),
        ("長\x1b[1m\u0301い [31m", "長\u0301い [31m"),
    ],
)
def test_escape_sequences_are_removed_from_messages(text: str, expected: str) -> None:
    assert on_one_line(without_sequences(text)) == expected


def test_escape_sequences_are_removed_only_from_errors(capfd: pytest.CaptureFixture[str]) -> None:
    notes = Notes({})
    notes.info("safe\x1b]0;evil\x07.py")
    notes.error("\x1b[31mfailed\x1b[m")
    assert capfd.readouterr().err == "clinvk: safe?]0;evil?.py\nclinvk: failed\n"


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        (12, "note: one\n      two\n      http://127.0.0.1/x\nshort"),
        (80, "note: one two http://127.0.0.1/x\nshort"),
        (0, "note: one two http://127.0.0.1/x\nshort"),
    ],
)
def test_lines_of_a_terminal_break_between_words(columns: int, expected: str) -> None:
    leader, follower = os.openpty()
    try:
        fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("4H", 24, columns, 0, 0))
        assert wrap("note: one two http://127.0.0.1/x\nshort", follower, 6) == expected
    finally:
        os.close(leader)
        os.close(follower)


def test_lines_of_a_file_are_not_wrapped(tmp_path: Path) -> None:
    with (tmp_path / "file").open("w") as file:
        assert wrap("word " * 100, file.fileno(), 2) == "word " * 100
