"""Write man pages from the texts of `clinvk help`, in the language of man(7), when a wheel is built.

The wheel installs the pages in share/man/man1. The parser of the command line needs no other package.
"""

import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING, Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))

from clinvk import __version__
from clinvk.cli.parse import commands

if TYPE_CHECKING:
    from clinvk.cli.parse.flag import Flag


class ManPagesHook(BuildHookInterface[Any]):
    """Adds the man pages to a wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Write the pages into a temporary folder; an editable installation has none."""
        self._folder = Path(mkdtemp())
        for name, text in pages().items() if version != "editable" else ():
            (self._folder / name).write_text(text)
            build_data["shared_data"][str(self._folder / name)] = f"share/man/man1/{name}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove the folder."""
        shutil.rmtree(self._folder)


def pages() -> dict[str, str]:
    """Return the text of each man page by its file name: `clinvk.1`, and one for each command or group."""
    found = {"clinvk.1": [*_head("clinvk", commands.summary(commands.OVERVIEW)), *_main()]}
    for name in commands.FIRST_WORDS:
        summary = f"{commands.summary(name)} (clinvk {name})"
        found[f"clinvk-{name}.1"] = [*_head(f"clinvk-{name}", summary), *_command(name), *_also(["clinvk"])]
    return {name: "\n".join(lines) + "\n" for name, lines in found.items()}


def _head(name: str, summary: str) -> Iterator[str]:
    yield f'.TH "{name.upper()}" "1" "" "clinvk {__version__}" "clinvk"'
    yield ".nh"
    yield from (".SH NAME", f"{_text(name)} \\- {_text(summary)}")


def _main() -> Iterator[str]:
    overview, prompt = commands.help_of(commands.OVERVIEW), commands.help_of("")
    yield from (".SH SYNOPSIS", *_usage(overview))
    yield from (".SH DESCRIPTION", *_paragraphs(prompt.description), *_paragraphs(prompt.epilog))
    yield from (".SH EXAMPLES", *_verbatim(_lines_of(overview.examples)))
    yield ".SH COMMANDS"
    for name in commands.FIRST_WORDS:
        yield from (".TP", f"\\fBclinvk\\-{_text(name)}\\fR(1)", _text(commands.summary(name)))
    yield from _flags("", ".SH")
    for name, text in commands.topics().items():
        if name != "modes":  # another name of a topic
            lines = _verbatim(text) if name == "service" else _paragraphs(text)
            yield from (f".SH {_text(name.replace('-', ' ').upper())}", *lines)
    yield from _also([f"clinvk-{name}" for name in commands.FIRST_WORDS])


def _command(name: str) -> Iterator[str]:
    """Yield the sections of a command, or of each command of a group."""
    text = commands.help_of(name)
    yield from (".SH SYNOPSIS", *_usage(text), ".SH DESCRIPTION", *_paragraphs(text.description))
    yield from _paragraphs(text.epilog)
    if name not in commands.GROUPS:
        yield from (".SH EXAMPLES", *_verbatim(_lines_of(text.examples)), *_flags(name, ".SH"))
    for word in commands.members(name):
        member = commands.help_of(f"{name} {word}")
        yield from (f".SH {_text(f'{name} {word}'.upper())}", *_usage(member), *_paragraphs(member.description))
        yield from (*_flags(f"{name} {word}", ".SS"), ".SS examples", *_verbatim(_lines_of(member.examples)))
        yield from _paragraphs(member.epilog)


def _usage(text: commands.Help) -> Iterator[str]:
    yield from _verbatim("\n".join(line.strip() for line in text.usage.splitlines()))


def _flags(name: str, heading: str) -> Iterator[str]:
    """Yield the flags of a command below their headings."""
    groups: dict[str, list[Flag]] = {}
    for flag in commands.flags_shown(name):
        if flag.help:
            groups.setdefault(flag.heading, []).append(flag)
    for title, flags in groups.items():
        yield f"{heading} {_text(title.upper() if heading == '.SH' else title)}"
        for flag in flags:
            yield from (".TP", _flag(flag), _text(flag.help))


def _flag(flag: "Flag") -> str:
    names = ", ".join(f"\\fB{_text(name)}\\fR" for name in reversed(flag.names))
    return f"{names} \\fI{_text(flag.metavar)}\\fR" if flag.metavar else names


def _also(names: Sequence[str]) -> Iterator[str]:
    yield from (".SH SEE ALSO", ", ".join(f"\\fB{_text(name)}\\fR(1)" for name in sorted(names)))


def _paragraphs(text: str) -> Iterator[str]:
    """Yield the paragraphs of a text: filled, but tables and samples as they are."""
    for block in filter(None, re.split(r"\n{2,}", text)):
        yield ".PP"
        if re.search(r"^ |^\S.*:$", block, re.MULTILINE):
            yield from _verbatim(block)
        else:
            yield from map(_text, block.splitlines())


def _lines_of(examples: str) -> str:
    return "\n".join(line.removeprefix("  ") for line in examples.splitlines()[1:])


def _verbatim(text: str) -> Iterator[str]:
    yield from (".nf", *map(_text, text.splitlines()), ".fi")


def _text(line: str) -> str:
    """Escape a line for roff: backslashes, hyphens that may be copied, and a control character at the beginning."""
    line = line.replace("\\", "\\e").replace("-", "\\-").replace("…", "...")
    return f"\\&{line}" if line.startswith((".", "'")) else line
