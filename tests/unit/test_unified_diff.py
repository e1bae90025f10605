"""Diffs of approvals show the whole change, however long the file is."""

import pytest

from clinvk.backends.shared import unified_diff

LINES = [f"line {number}\n" for number in range(20_000)]
BEFORE = "".join(LINES)


def patched(before: str, diff: str) -> str:
    """Apply a diff of one hunk without context."""
    head, *lines = diff.splitlines(keepends=True)[2:]
    old, new = (part.lstrip("-+").split(",") for part in head.split()[1:3])
    at = int(old[0]) - (old[1] != "0")
    kept = before.splitlines(keepends=True)
    assert "".join(kept[at : at + int(old[1])]) == "".join(line[1:] for line in lines if line[0] == "-")
    added = [line[1:] for line in lines if line[0] == "+"]
    assert len(added) == int(new[1])
    return "".join([*kept[:at], *added, *kept[at + int(old[1]) :]])


@pytest.mark.parametrize(
    ("start", "end", "added"),
    [(0, 1, ["first\n"]), (0, 0, ["new\n"]), (9, 12, []), (9, 10, ["x\n", "y\n"]), (20_000, 20_000, ["last\n"])],
)
def test_edit_of_a_long_file_is_shown_whole(start: int, end: int, added: list[str]) -> None:
    after = "".join([*LINES[:start], *added, *LINES[end:]])
    diff = unified_diff("/p/a", BEFORE, after)
    assert diff.startswith("--- /p/a\n+++ /p/a\n@@ ")
    assert patched(BEFORE, diff) == after
    assert len(diff) < 200


def test_line_without_a_newline_is_marked() -> None:
    diff = unified_diff("a", BEFORE, f"{BEFORE}end")
    assert diff == "--- a\n+++ a\n@@ -20000,0 +20001,1 @@\n+end\n\\ No newline at end of file\n"


def test_equal_texts_have_no_diff() -> None:
    assert unified_diff("a", BEFORE, BEFORE) == ""
