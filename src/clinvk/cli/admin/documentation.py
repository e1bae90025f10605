"""`clinvk help --open`."""

import webbrowser
from collections.abc import Sequence
from pathlib import Path

from clinvk.cli.parse import commands
from clinvk.cli.parse.flags import HelpFlags
from clinvk.cli.parse.settings import CommandContext
from clinvk.cli.terminal.output import print_text

SITE = Path(__file__).parents[2] / "site"
"""The documentation as a site, which `make docs` builds."""


def show(flags: HelpFlags, context: CommandContext) -> int:
    """Print the address of the documentation, and open the documentation in the user's browser."""
    page = address(flags.words)
    print_text(page)
    if not flags.dry_run and not webbrowser.open(page):
        context.notes.info("no browser was found")
    return 0


def address(words: Sequence[str], site: Path = SITE) -> str:
    """Return the address of the site of this version, at a command if named, or of the project if there is no site."""
    page = site / ("cli.html" if words else "index.html")
    if page.exists():
        return page.as_uri() + (f"#clinvk-{words[0]}" if words else "")
    return commands.documentation()
