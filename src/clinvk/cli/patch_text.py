"""A patch of git as a terminal shows it: in the colors that git has by default, and without what is no text. Pure."""

from collections.abc import Iterable, Iterator

from clinvk.cli.output import harmless

_BOLD, _CYAN, _GREEN, _RED, _PLAIN = "\x1b[1m", "\x1b[36m", "\x1b[32m", "\x1b[31m", "\x1b[m"
_COLORS = {"+": _GREEN, "-": _RED}


def readable(patch: Iterable[str], is_colored: bool) -> Iterator[str]:
    """Give the lines of a patch, which may end with a line feed, as a terminal may have them."""
    part = "header"
    for text in patch:
        line = harmless(text.removesuffix("\n"))
        if line.startswith("diff --git "):  # within a file each line has a sign before it
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
        return f"{_BOLD}{line}{_PLAIN}"
    if line.startswith("@@ "):
        place, end, name = line.partition(" @@")
        return f"{_CYAN}{place}{end}{_PLAIN}{name}"
    color = _COLORS.get(line[:1])
    return f"{color}{line}{_PLAIN}" if color else line
