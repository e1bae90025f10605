"""The `clinvk` command: argv to a request, through the runtime, to the terminal."""

import os
import sys

from clinvk import __version__


def main() -> int:
    """Run the command that `sys.argv` names; give the exit code.

    The version is answered before anything is imported.
    """
    if sys.argv[1:] in (["version"], ["--version"]) and sys.stdout:
        try:
            os.write(1, f"clinvk {__version__}\n".encode())
        except OSError:
            return _enter()  # what is wrong is told there
        return 0
    return _enter()


def _enter() -> int:
    import gc

    gc.disable()  # until the command is imported: what is made by then stays, and would be looked at again and again
    from clinvk.cli.entry import enter

    return enter(sys.argv[1:])
