"""The guardian: a small process that outlives a killed clinvk, to end what its agents started and remove their files.

`guardian_process.py` runs it as `python -I -S guardian.py KIND SERVER CGROUP TEMPORARY [FOLDER…]`: the kind and
the number of the marks, the cgroup of the agents or nothing, where private folders may be, and where the modules of
others are. Its stdin is a socket whose other end clinvk alone holds: the end of that is the end of clinvk, whatever
killed it.
"""

import os
import signal
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_AGAIN_AFTER_S = 0.1


def main(kind: str, server: int, cgroup: str, temporary: str) -> None:
    """Wait for the end of clinvk, then end all that its agents have left, and remove their private folders."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    end = prepared(kind, server, cgroup, temporary.split(os.pathsep))
    os.read(0, 1)
    while True:
        try:
            end()
        except OSError:  # the machine has no file descriptor left
            time.sleep(_AGAIN_AFTER_S)
        else:
            return


def prepared(kind: str, server: int, cgroup: str, temporary: list[str]) -> "Callable[[], None]":
    """Bring in what the search needs before it is needed: by then another clinvk may be installed here."""
    from clinvk.runtime.process import process_scan

    find: Callable[[], set[int]] = lambda: process_scan.marked(server, None)  # noqa: E731
    alive = process_scan.alive
    if kind != "rlimit":
        from clinvk.runtime.process.process_tags import TreeMarks

        tree = TreeMarks(server)
        tree.find(None)
        find, alive = lambda: tree.find(None), tree.alive

    def end() -> None:
        process_scan.end(find, alive)
        if cgroup:
            process_scan.end_cgroup(cgroup)
        process_scan.remove_private_folders(temporary, server)

    return end


if __name__ == "__main__":
    sys.path += [os.path.abspath(f"{__file__}/../../../.."), *sys.argv[5:]]
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4])
