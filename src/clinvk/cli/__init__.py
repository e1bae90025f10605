"""The `clinvk` command: argv to a request, through the runtime, to the terminal."""

import os
import sys

from clinvk import __version__

_CANCELLED = 7  # as `exits` has it, which is not imported for a version


def main() -> int:
    """Run the command that `sys.argv` names; give the exit code.

    The version is answered before anything is imported.
    """
    if sys.argv[1:] in (["version"], ["--version"]) and sys.stdout:
        try:
            os.write(1, f"clinvk {__version__}\n".encode())
        except OSError:
            pass  # what is wrong is told below
        else:
            return 0
    code = _enter()
    if code == _CANCELLED:
        import signal

        signal.signal(signal.SIGINT, signal.SIG_IGN)  # another Ctrl-C would be the exit code, while Python exits
    return code


def _enter() -> int:
    import gc
    from contextlib import suppress

    gc.disable()  # until the command is imported: what is made by then stays, and would be looked at again and again
    try:
        from clinvk.cli.entry import enter
    except KeyboardInterrupt:
        with suppress(OSError):
            os.write(2, b"clinvk: cancelled\n")
        return _CANCELLED
    return enter(sys.argv[1:])
