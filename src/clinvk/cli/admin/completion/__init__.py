"""`clinvk completion`: a script that completes the command line in a shell. It starts clinvk only to list sessions."""

from collections.abc import Mapping

from clinvk.cli.admin.completion import bash, fish, zsh
from clinvk.cli.admin.completion.grammar import SHELLS, grammar
from clinvk.cli.parse.flags import Flags
from clinvk.cli.terminal.output import Notes, tell
from clinvk.types.errors import InvalidRequest

_SCRIPTS = {"bash": bash.script, "zsh": zsh.script, "fish": fish.script}


def completion(flags: Flags, environ: Mapping[str, str], notes: Notes) -> int:
    """Print the script for a shell.

    Raises:
        InvalidRequest: there is none for it.
    """
    shell = flags.words[0]
    if shell not in _SCRIPTS:
        raise InvalidRequest(f"no completion for {shell!r}; have {', '.join(SHELLS)}")
    tell(_SCRIPTS[shell](grammar()))
    return 0
