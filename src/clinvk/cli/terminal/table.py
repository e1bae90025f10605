"""Tables that fit a terminal, and patches in git's default colors. Pure.

`rich` would draw the tables too, but its import takes 20 ms (a sixth of `sessions list`), and columns here shrink by
rules that `rich` does not have.
"""

import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from clinvk.cli.terminal.output import BOLD, CYAN, GREEN, RED, paint
from clinvk.types.text import escape_controls, on_one_line

_GAP = 2
_MORE = "…"
_BETWEEN = " " * _GAP

Style = Callable[[str, str], str]
"""Takes a cell as printed and its whole text; returns the cell with color codes."""


class Column(NamedTuple):
    """A column.

    Attributes:
        least: the minimum width when space is short; None never shrinks.
        from_left: cut the text at the beginning, since the end says more.
        to_right: align to the right.
        is_spare: drop the column if the others do not fit at their minimum widths.
    """

    title: str
    least: int | None = None
    from_left: bool = False
    to_right: bool = False
    is_spare: bool = False


def one_line(text: str, most: int = 1000) -> str:
    """Return the beginning of a text on one line, without characters that control the terminal."""
    return on_one_line(text[:most])


def width(text: str) -> int:
    """Return the cells that a text takes: two for a wide character, none for a combining one."""
    return len(text) if text.isascii() else sum(map(_cells, text))


def _cells(char: str) -> int:
    if unicodedata.category(char) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def cut(text: str, most: int, from_left: bool = False) -> str:
    """Return a text of at most `most` cells, with `…` for a missing end, or a missing beginning."""
    if width(text) <= most:
        return text
    if most <= 0:
        return ""
    kept, room = "", most - 1
    for char in reversed(text) if from_left else text:
        room -= _cells(char)
        if room < 0:
            break
        kept = char + kept if from_left else kept + char
    return _MORE + kept if from_left else kept.rstrip() + _MORE


def colored(colors: Mapping[str, str]) -> Style:
    """Return a style that colors the cells with these texts."""

    def style(shown: str, text: str) -> str:
        return paint(shown, colors.get(text))

    return style


def table(
    columns: Sequence[Column], rows: Sequence[Sequence[str]], most: int | None, style: Style | None = None
) -> list[str]:
    """Return the lines of a table, the head first.

    If the table is wider than `most`, spare columns are dropped until the others fit at their minimum widths; then the
    widest column that may shrink does so; then lines are cut off. `most` is the width of the terminal; None is any.
    """
    widths = [max(map(width, cells)) for cells in zip([column.title for column in columns], *rows, strict=True)]
    if most is not None:
        kept = _kept(columns, widths, most)
        columns, widths = [columns[index] for index in kept], [widths[index] for index in kept]
        rows = [[row[index] for index in kept] for row in rows]
        _shrink(columns, widths, most)
    head = [_line(columns, widths, [column.title for column in columns], most, None)]
    return head + [_line(columns, widths, row, most, style) for row in rows]


def _kept(columns: Sequence[Column], widths: Sequence[int], most: int) -> list[int]:
    """Return the indices of the columns to print: drop spare columns, the last first, until the minimum widths fit."""
    least = [_least(column, wide) for column, wide in zip(columns, widths, strict=True)]
    kept = [*range(len(columns))]
    while sum(least[index] + _GAP for index in kept) - _GAP > most:
        spare = [index for index in kept if columns[index].is_spare]
        if not spare:
            break
        kept.remove(spare[-1])
    return kept


def _least(column: Column, wide: int) -> int:
    """Return the minimum width of a column that is `wide` cells wide."""
    return wide if column.least is None else min(wide, max(column.least, width(column.title)))


def _shrink(columns: Sequence[Column], widths: list[int], most: int) -> None:
    over = sum(widths) + _GAP * (len(widths) - 1) - most
    for _ in range(over):
        giving = [
            index
            for index, (column, wide) in enumerate(zip(columns, widths, strict=True))
            if wide > _least(column, wide)
        ]
        if not giving:
            return
        widths[max(giving, key=widths.__getitem__)] -= 1


def _line(
    columns: Sequence[Column], widths: Sequence[int], row: Sequence[str], most: int | None, style: Style | None
) -> str:
    """Return a row as a line, without the cells that do not fit."""
    parts: list[str] = []
    room = most
    for column, wide, text in zip(columns, widths, row, strict=True):
        if room is not None:
            wide = min(wide, room)
            room = max(0, room - wide - _GAP)
        if wide > 0:
            shown = cut(text, wide, column.from_left)
            space = " " * (wide - width(shown))
            styled = style(shown, text) if style else shown
            parts.append(space + styled if column.to_right else styled + space)
    return _BETWEEN.join(parts).rstrip()


_RESET = "\x1b[m"
_COLORS = {"+": GREEN, "-": RED}


def readable_patch(patch: Iterable[str], is_colored: bool) -> Iterator[str]:
    """Yield the lines of a patch, with or without line feeds, as they are safe for a terminal."""
    part = "header"
    for text in patch:
        line = escape_controls(text.removesuffix("\n"))
        if line.startswith("diff --git "):  # the lines of a file begin with a sign
            part = "header"
        elif line.startswith("@@ "):
            part = "lines"
        elif line == "GIT binary patch":
            part = "binary"
            yield "Binary files differ"
        if part != "binary":
            yield _colored(line, part == "header") if is_colored else line


def _colored(line: str, is_header: bool) -> str:
    if is_header:
        return f"{BOLD}{line}{_RESET}"
    if line.startswith("@@ "):
        place, end, name = line.partition(" @@")
        return f"{CYAN}{place}{end}{_RESET}{name}"
    color = _COLORS.get(line[:1])
    return f"{color}{line}{_RESET}" if color else line
