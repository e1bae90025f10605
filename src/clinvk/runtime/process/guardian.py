"""The guardian: a small process that outlives a killed clinvk, ends leftover agents and removes their files.

`guardian_process.py` runs `python -I -S guardian.py KIND SERVER CGROUP TEMPORARY [FOLDER…]`. KIND and SERVER are the
kind and the server number of the tags, CGROUP is the cgroup of the agents or empty, TEMPORARY lists the parent
directories of private folders, and each FOLDER holds third-party modules. Stdin is a socket whose peer only clinvk
holds: end of file means that clinvk has exited, for whatever reason.
"""

import os
import signal
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_RETRY_AFTER_S = 0.1


def main(kind: str, server: int, cgroup: str, temporary: str) -> None:
    """Wait until clinvk exits, then end all leftover agent processes and remove their private folders."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    end = prepare_cleanup(kind, server, cgroup, temporary.split(os.pathsep))
    os.read(0, 1)
    while True:
        try:
            end()
        except OSError:  # no file descriptor is left on the machine
            time.sleep(_RETRY_AFTER_S)
        else:
            return


def prepare_cleanup(kind: str, server: int, cgroup: str, temporary: list[str]) -> "Callable[[], None]":
    """Return the cleanup function, with all modules imported: another clinvk may be installed here before the call."""
    from clinvk.runtime.process import process_scan

    tree = None
    if kind != "rlimit":
        from clinvk.runtime.process.process_tags import TreeTags

        tree = TreeTags(server)
        tree.find(None)

    def find() -> set[int]:
        return tree.find(None) if tree else process_scan.stop_tagged(server, None)

    def end() -> None:
        process_scan.kill_tagged(find)
        if cgroup:
            process_scan.kill_cgroup(cgroup)
        process_scan.remove_private_folders(temporary, server)

    return end


if __name__ == "__main__":
    sys.path += [os.path.abspath(f"{__file__}/../../../.."), *sys.argv[5:]]
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4])
