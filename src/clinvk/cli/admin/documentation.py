"""`clinvk help --open`."""

import re
import webbrowser
from collections.abc import Sequence
from pathlib import Path

from clinvk.cli.parse import commands
from clinvk.cli.parse.arguments import help_page
from clinvk.cli.parse.flags import HelpFlags
from clinvk.cli.parse.settings import CommandContext
from clinvk.cli.terminal.output import print_text

SITE = Path(__file__).parents[2] / "site"
"""The documentation as a site, which `make docs` builds."""


def show(flags: HelpFlags, context: CommandContext) -> int:
    """Print the address of the documentation, and open the documentation in the user's browser.

    Raises:
        InvalidRequest: no command or topic has this name.
    """
    help_page(flags.words)
    page = address(flags.words)
    print_text(page)
    if not flags.dry_run and not webbrowser.open(page):
        context.notes.info("no browser was found")
    return 0


def address(words: Sequence[str], site: Path = SITE) -> str:
    """Return the address of the site of this version, at a command or topic, or of the project if there is no site."""
    index, page = site / "index.html", site / "cli.html"
    if not index.exists():
        return commands.DOCUMENTATION
    if not words:
        return index.as_uri()
    name = re.escape(words[0])
    if found := re.search(rf'<h2 id="({name}|[\w-]*clinvk-(?:[\w-]+-)?{name}(?:-[\w-]+)?)"', page.read_text()):
        return f"{page.as_uri()}#{found[1]}"
    topic = site / f"{words[0]}.html"
    return (topic if topic.exists() else page).as_uri()
