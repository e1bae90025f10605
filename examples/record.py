"""Record the terminal session of the README: `python examples/record.py --agents FOLDER > docs/terminal.svg`.

The commands run on a terminal with the real Claude Code and Codex, and the stand-in model APIs of the demo. The picture
is an animated SVG without scripts. A viewer without animations, or with reduced motion, shows the last screen.
"""

import argparse
import codecs
import re
import sys
from collections.abc import Iterator, Sequence
from html import escape
from itertools import groupby, pairwise
from pathlib import Path
from typing import NamedTuple

import demo

ROWS = 40
SCENES = (demo.COMPARE.strip(), demo.APPLY, "git diff --unified=0 && make test")
TYPED_S, READ_S, END_S = 1.0, 2.5, 8.0
"""Seconds that the screen stands still: after a command is typed, after its end, and at the end of the recording."""

TITLE = "clinvk gives Claude Code and Codex the same bug, tests both changes, and applies the winner"
FRAME_S = 0.1
"""Changes within this time are one frame."""

CODE = re.compile(r"\x1b\[([0-9;?]*)([A-Za-z])|(\r)|(\n)|([^\x1b\r\n]+)")
UNFINISHED = re.compile(r"\x1b(?:\[[0-9;?]*)?$")
CLASSES = {
    "1": "bold",
    "2": "dim",
    "31": "red",
    "32": "green",
    "33": "yellow",
    "34": "blue",
    "35": "magenta",
    "36": "cyan",
}
STYLE = """
text { font: 14px ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; fill: #e4e6e9;
  white-space: pre; }
.dim { fill: #9aa3ac; } .red { fill: #f08a7d; } .green { fill: #58c78b; } .yellow { fill: #e3c06a; }
.blue { fill: #8fb4f0; } .magenta { fill: #d7a3e8; } .cyan { fill: #7fc8d8; } .bold { font-weight: 600; }
.at { visibility: hidden; animation: %.1fs step-end infinite; } .last { visibility: visible; }
@media (prefers-reduced-motion) { .at { animation: none !important; } }
"""


class Cell(NamedTuple):
    """A character on the screen and its classes."""

    character: str = " "
    classes: str = ""


Row = tuple[Cell, ...]


class Frame(NamedTuple):
    """The screen from a time on, in seconds."""

    at_s: float
    rows: tuple[Row, ...]


class Terminal:
    """Understands the control sequences that clinvk prints, and has the rows of the screen."""

    def __init__(self) -> None:
        self._rows: list[list[Cell]] = [[]]
        self._row = self._column = 0
        self._codes: set[str] = set()
        self._rest = ""

    @property
    def rows(self) -> tuple[Row, ...]:
        return tuple(map(tuple, self._rows[-ROWS:]))

    def feed(self, text: str) -> None:
        """Print a text at the cursor. The beginning of a control sequence at its end waits for the rest."""
        text, self._rest = self._rest + text, ""
        if unfinished := UNFINISHED.search(text):
            text, self._rest = text[: unfinished.start()], unfinished[0]
        for parameters, command, is_return, is_feed, printed in CODE.findall(text):
            if is_return:
                self._column = 0
            elif is_feed:
                self._down(1)
            elif printed:
                self._print(printed)
            else:
                self._control(command, parameters)

    def _down(self, number: int) -> None:
        self._row += number
        while len(self._rows) <= self._row:
            self._rows.append([])

    def _print(self, text: str) -> None:
        classes = " ".join(sorted(CLASSES[code] for code in self._codes))
        for character in text:
            if self._column == demo.COLUMNS:
                self._column = 0
                self._down(1)
            row = self._rows[self._row]
            row += [Cell()] * (self._column - len(row))
            row[self._column : self._column + 1] = [Cell(character, classes)]
            self._column += 1

    def _control(self, command: str, parameters: str) -> None:
        row = self._rows[self._row]
        match command, parameters:
            case "K", "2":
                row.clear()
            case "K", "" | "0":
                del row[self._column :]
            case "J", "" | "0":
                del row[self._column :]
                del self._rows[self._row + 1 :]
            case "A", number:
                self._row = max(0, self._row - int(number or 1))
            case "B", number:
                self._down(int(number or 1))
            case "m", _:
                for code in parameters.split(";"):
                    self._codes = self._codes | {code} if code in CLASSES else set()
            case (("h" | "l"), _):
                pass
            case _:
                raise ValueError(f"unknown control sequence: {parameters}{command}")


def main() -> int:
    """Record the scenes and print the SVG."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--agents", type=Path, default=demo.INSTALLED, help="a folder with claude and codex")
    options = parser.parse_args()
    with demo.temporary_place(options.agents) as place, demo.stand_ins(place) as environment:
        frames = [*record(place, environment | {"TERM": "xterm-256color", "GIT_PAGER": "cat"})]
    print(svg(frames))
    return 0


def record(place: demo.Place, environment: dict[str, str]) -> Iterator[Frame]:
    """Run the scenes, one below the other, and yield the frames."""
    terminal, decoder, now = Terminal(), codecs.getincrementaldecoder("utf-8")(), 0.0
    for command in SCENES:
        terminal.feed("\x1b[0m" + "".join(f"\x1b[1m{line}\x1b[0m\r\n" for line in f"$ {command}".splitlines()))
        yield Frame(now, terminal.rows)
        now += TYPED_S
        last = 0.0
        for piece in play(command, place, environment):
            terminal.feed(decoder.decode(piece.data))
            last = piece.at_s
            yield Frame(now + last, terminal.rows)
        now += last + READ_S
        terminal.feed("\r\n")
    yield Frame(now + END_S, terminal.rows)


def play(command: str, place: demo.Place, environment: dict[str, str]) -> list[demo.Piece]:
    """Run a command on a terminal and return its output.

    Raises:
        DemoFailed: the command failed or took too long.
    """
    with demo.on_terminal(command, place.project, environment, ROWS) as (process, fd):
        pieces = demo.read_to_end(fd)
        if process.wait(demo.TIMEOUT_S):
            raise demo.DemoFailed(f"`{command}` exited with {process.returncode}: {pieces[-20:]}")
    return pieces


class Text(NamedTuple):
    """A row of the screen, and the time from which and until which the row has this content."""

    row: int
    content: Row
    start_s: float
    end_s: float


def texts(frames: Sequence[Frame]) -> Iterator[Text]:
    """Yield the contents of all rows, except empty ones. The last frame only marks the end."""
    end = frames[-1].at_s
    kept = [[*group][-1] for _, group in groupby(frames[:-1], key=lambda frame: int(frame.at_s / FRAME_S))]
    for number in range(max(len(frame.rows) for frame in kept)):
        contents = [(frame.rows[number] if number < len(frame.rows) else (), frame.at_s) for frame in kept]
        changes = [next(group) for _, group in groupby(contents, key=lambda content: content[0])]
        for (content, start), (_, stop) in pairwise([*changes, ((), end)]):
            if content:
                yield Text(number, content, start, stop)


def svg(frames: Sequence[Frame]) -> str:
    """Return the recording as a picture, with an animation for each time in which a text is visible."""
    shown, end = [*texts(frames)], frames[-1].at_s
    names = {
        span: f"a{number}" for number, span in enumerate(dict.fromkeys((each.start_s, each.end_s) for each in shown))
    }
    width, height = round(demo.COLUMNS * 8.45) + 32, 20 * (max(each.row for each in shown) + 1) + 36
    animations = "".join(f"@keyframes {name}{{{keyframes(*span, end)}}}" for span, name in names.items())
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">',
        f"<title>{TITLE}</title>",
        f"<style>{STYLE % end}{animations}</style>",
        '<rect width="100%" height="100%" rx="8" fill="#16181b"/>',
    ]
    for row, content, start, stop in shown:
        classes = "at last" if stop == end else "at"
        place = f'x="16" y="{20 * row + 32}" class="{classes}" style="animation-name:{names[start, stop]}"'
        lines.append(f"<text {place}>{line(content)}</text>")
    return "\n".join([*lines, "</svg>"])


def keyframes(start: float, stop: float, end: float) -> str:
    """Return the keyframes of a text that is visible from `start` to `stop`."""
    before = "0%{visibility:hidden}" if start else ""
    after = f"{stop / end:.2%}{{visibility:hidden}}" if stop < end else ""
    return f"{before}{start / end:.2%}{{visibility:visible}}{after}"


def line(cells: Row) -> str:
    """Return a row as SVG text, with a span for each change of the classes."""
    parts: list[str] = []
    for classes, group in groupby(cells, key=lambda cell: cell.classes):
        text = escape("".join(cell.character for cell in group))
        parts.append(f'<tspan class="{classes}">{text}</tspan>' if classes else text)
    return "".join(parts)


if __name__ == "__main__":
    sys.exit(main())
