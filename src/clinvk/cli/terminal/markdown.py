"""Render Markdown for a terminal, block by block as the text arrives. Pure; importing it takes a tenth of a second."""

import re
from collections.abc import Callable
from io import StringIO
from typing import ClassVar

from markdown_it import MarkdownIt
from markdown_it.token import Token
from rich.console import Console, ConsoleOptions, RenderResult
from rich.markdown import CodeBlock, Heading, Markdown, MarkdownElement, TableElement
from rich.style import Style
from rich.syntax import ANSI_LIGHT, ANSISyntaxTheme, Syntax
from rich.table import Table
from rich.theme import Theme

from clinvk.types.text import escape_controls

_PARSER = MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"]).disable(["image", "reference"])
"""Nothing of an answer may be lost: HTML is text such as `Vec<T>`, and a definition of a reference is text as well."""

_STYLE = re.compile("\x1b\\[[0-9;]*m")
_THEME = Theme(
    {
        "markdown.code": "cyan",
        "markdown.code_block": "none",
        "markdown.h1": "bold underline",
        "markdown.h2": "bold",
        "markdown.h3": "bold",
        "markdown.block_quote": "dim",
        "markdown.link_url": "underline",
        "markdown.item.number": "none",
        "markdown.item.bullet": "none",
    }
)
_BRIGHT_BLUE = Style(color="bright_blue")
_CODE_THEME = ANSISyntaxTheme(
    {kind: _BRIGHT_BLUE if style == Style(color="blue") else style for kind, style in ANSI_LIGHT.items()}
)
"""Colors that are readable on a dark and on a light background."""


class _PlainHeading(Heading):
    """A heading at the left, without a frame."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        self.text.justify = "left"
        yield self.text


class _PlainCode(CodeBlock):
    """Code without padding and background. Only inside lists are long lines broken, so that code can be copied."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        code = str(self.text).rstrip()
        is_inside = options.max_width < console.width
        syntax = Syntax(code, self.lexer_name, theme=_CODE_THEME, background_color="default", word_wrap=is_inside)
        if is_inside:
            yield syntax
        else:
            text = syntax.highlight(code)
            text.rstrip()
            text.no_wrap, text.overflow = True, "ignore"
            yield text


class _WholeTable(TableElement):
    """A table that breaks long words instead of leaving out their ends."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for part in super().__rich_console__(console, options):
            for column in part.columns if isinstance(part, Table) else ():
                column.overflow = "fold"
            yield part


class _PlainMarkdown(Markdown):
    elements: ClassVar[dict[str, type[MarkdownElement]]] = {
        **Markdown.elements,
        "heading_open": _PlainHeading,
        "fence": _PlainCode,
        "table_open": _WholeTable,
        "code_block": _PlainCode,
    }


class BlockRenderer:
    """Renders each block (paragraph, list item, code, table) once the next one begins, or at `flush`.

    `width` returns the width of the terminal, or with `is_column` of a column, in which long lines of code are broken.
    """

    def __init__(self, width: Callable[[], int], is_column: bool = False) -> None:
        self._width = width
        self._is_column = is_column
        self._rest = ""
        self._is_joined = True  # no empty line before the first block, and between the items of a list

    def feed(self, text: str) -> str:
        """Return the blocks that have ended."""
        self._rest += escape_controls(text)
        return self._blocks(is_ended=False) if "\n" in text else ""

    def flush(self) -> str:
        """Return the rest."""
        return self._blocks(is_ended=True)

    def unfinished(self, most: int) -> list[str]:
        """Return the last lines, at most `most`, of the block that has not ended; no line is wider than the width."""
        tokens = _PARSER.parse(self._rest)
        if not tokens:
            return []
        text = self._rest
        if tokens[0].type == "fence" and tokens[0].map:  # long code is cut before the colors, which take time
            head, *lines = text.split("\n")[tokens[0].map[0] :]
            text = "\n".join([head, *lines[-most - 1 :]])
        rendered = self._render(text, is_wrapped=True).rstrip("\n")
        return f"{'' if self._is_joined else chr(10)}{rendered}".split("\n")[-most:] if rendered else []

    def _blocks(self, is_ended: bool) -> str:
        """Return the finished blocks, and remove them from the rest."""
        starts = _starts(_PARSER.parse(self._rest))
        lines = self._rest.split("\n")
        ends = [start for start, _ in starts[1:]] + ([len(lines)] if is_ended else [])
        rendered: list[str] = []
        for (start, is_joined), end in zip(starts, ends, strict=False):
            rendered.append(("" if self._is_joined or is_joined else "\n") + self._render("\n".join(lines[start:end])))
            self._is_joined = False
        if ends:
            self._rest = "\n".join(lines[ends[-1] :])
            self._is_joined = len(starts) > len(ends) and starts[-1][1]
        return "".join(rendered)

    def _render(self, text: str, is_wrapped: bool = False) -> str:
        markdown = _PlainMarkdown(text, hyperlinks=False)
        markdown.parsed = _PARSER.parse(text)
        for token in markdown.parsed:
            for child in token.children or ():
                if child.type == "softbreak":  # agents mean the line ends that they write
                    child.type = "hardbreak"
        file = StringIO()
        width = self._width()
        around = width + (self._is_column or is_wrapped)
        console = Console(file=file, width=around, force_terminal=True, color_system="standard", theme=_THEME)
        console.print(markdown, width=width, crop=False)
        lines = [line.rstrip() if _STYLE.sub("", line).strip() else "" for line in file.getvalue().split("\n")]
        return "\n".join(lines).strip("\n") + "\n"


def _starts(tokens: list[Token]) -> list[tuple[int, bool]]:
    """Return the first line of each block, and whether the block is a further item of a list."""
    starts: list[tuple[int, bool]] = []
    is_further = False
    for token in tokens:
        if token.map is None:
            continue
        if token.level == 0 and token.type.endswith("list_open"):
            is_further = False
        elif token.level == 0:
            starts.append((token.map[0], False))
        elif token.level == 1 and token.type == "list_item_open":
            starts.append((token.map[0], is_further))
            is_further = True
    return starts
