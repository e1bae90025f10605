"""The guardian: a small process that outlives a killed clinvk, and ends what its agents have started.

`clinvk.runtime.guarding` runs it as `python -I -S guardian.py KIND SERVER [FOLDER…]`: the kind and the number of the
marks, and where the modules of others are. Its stdin is a socket whose other end clinvk alone holds: the end of that is
the end of clinvk, whatever killed it.
"""

import os
import signal
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


def main(kind: str, server: int) -> None:
    """Wait for the end of clinvk, then end all that its agents have left."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    end = _prepared(kind, server)
    os.read(0, 1)
    end()


def _prepared(kind: str, server: int) -> "Callable[[], None]":
    """Bring in what the search needs before it is needed: by then another clinvk may be installed here."""
    from clinvk.runtime import remains

    if kind == "rlimit":
        return lambda: remains.end(lambda: remains.marked(server, None), remains.alive)
    from clinvk.runtime import marks

    tree = marks.TreeMarks(server)
    tree.find(None)
    return lambda: marks.kill(tree, None)


if __name__ == "__main__":
    sys.path += [os.path.abspath(f"{__file__}/../../.."), *sys.argv[3:]]
    main(sys.argv[1], int(sys.argv[2]))
