"""The `clinvk` command: argv to a request, through the runtime, to the terminal."""

import os
import sys

from clinvk import __version__

_CANCELLED = 7  # the value of `exits.CANCELLED`, without its import


def main() -> int:
    """Run the command of `sys.argv`; return the exit code.

    The version is printed without any import.
    """
    if sys.argv[1:] in (["version"], ["--version"]) and sys.stdout:
        try:
            os.write(1, f"clinvk {__version__}\n".encode())
        except OSError:
            pass  # the command below reports the error
        else:
            return 0
    code = _enter()
    if code == _CANCELLED:
        import signal

        signal.signal(signal.SIGINT, signal.SIG_IGN)  # while Python exits, another Ctrl-C would change the exit code
    return code


def _enter() -> int:
    import gc
    from contextlib import suppress

    gc.disable()  # until the command is imported: imported objects stay, and every collection would scan them
    try:
        from clinvk.cli.entry import enter
    except KeyboardInterrupt:
        with suppress(OSError):
            os.write(2, b"clinvk: cancelled\n")
        return _CANCELLED
    return enter(sys.argv[1:])
