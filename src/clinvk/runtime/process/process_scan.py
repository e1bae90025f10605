"""What is left of agent processes on this machine, their folders included, and its end.

The guardian is made of this alone, and there is one for each clinvk: imports are few, to keep it small and quick to
start.
"""

import errno
import os
import resource
import signal
import time

# Not from `collections.abc` and `typing`, whose import costs more than all the rest of this module.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Container, Sequence

RTTIME = 15  # RLIMIT_RTTIME, which the resource module has no name for
STEP = 10**9
GUARDIAN = 0
"""The number of a guardian among the processes of a clinvk: it is ended with none of them, nor with what is around."""
_LEAVES_WITHIN_S = 0.25
_GONE_WITHIN_S = 5.0
_LOOKS = 50
"""How often a search begins again because something went while it looked."""


def mark(server: int, number: int) -> int:
    """Give the limit that the agent process `number` of a clinvk has, and all that came of it."""
    return server * STEP + number % STEP


def marked(server: int, numbers: "Container[int] | None") -> set[int]:
    """Find all with the mark of a clinvk and one of these agent processes (None: any), and the children of those.

    Those with the mark are stopped as soon as it is read: what starts a child and ends, again and again, would be gone
    by the time that the search is over.

    A clinvk among them marks its own agents anew. Its guardian is left: it sees to those that are nobody's children.
    """
    found: set[int] = set()
    dead: set[int] = set()
    for _ in range(_LOOKS):
        ours, is_whole = _stopped(server, numbers)
        found = alive(ours)
        if found or (is_whole and ours <= dead):
            break
        dead |= ours  # what has died since it was listed may have left a child as well
    if not found:
        return found
    below = descendants(found)
    found |= {pid for pid in below if not _is_guardian(pid)}
    return alive(found - {os.getpid()})


def bearers(server: int) -> "dict[int, set[int]]":
    """Give who carries a mark of a clinvk, by the number of the agent process. They are left as they are."""
    found: dict[int, set[int]] = {}
    for pid in _pids() - {os.getpid()}:
        try:
            own = _mark_of(pid)
        except ProcessLookupError:
            continue
        if own and own[0] == server and own[1] != GUARDIAN:
            found.setdefault(own[1], set()).add(pid)
    return found


def is_marked(pid: int) -> bool:
    """Say whether a process came of an agent of any clinvk, as far as can be seen; one that is gone may have.

    It can take off its own mark, not that of those above it. In a sandbox with processes of its own it does not come
    away from those either: who has lost its parents there is still below the sandbox's first.
    """
    try:
        while hasattr(resource, "prlimit") and pid > 1:
            if _mark_of(pid) is not None:
                return True
            if not (stat := _stat(pid)):
                return True
            pid = stat[1]
    except OSError:
        return True
    return False


def _is_guardian(pid: int) -> bool:
    try:
        own = _mark_of(pid)
    except ProcessLookupError:
        return False
    return own is not None and own[1] == GUARDIAN


def _stopped(server: int, numbers: "Container[int] | None") -> tuple[set[int], bool]:
    """Stop those that carry a mark; give them, and whether all processes were still there to be looked at.

    One that has gone since it was listed may have left a child that was not listed. The newest come first: those hide.
    """
    ours: set[int] = set()
    is_whole = True
    for pid in sorted(_pids() - {os.getpid()}, reverse=True):
        try:
            own = _mark_of(pid)
        except ProcessLookupError:
            is_whole = False
            continue
        if own and own[0] == server and own[1] != GUARDIAN and (numbers is None or own[1] in numbers):
            _send(pid, signal.SIGSTOP)
            ours.add(pid)
    return ours, is_whole


def _mark_of(pid: int) -> "tuple[int, int] | None":
    """Give clinvk and number of a process; None where it has no mark, or does not let us see it.

    Raises:
        ProcessLookupError: it is not there any more.
    """
    try:
        limit = resource.prlimit(pid, RTTIME)[0]
    except ProcessLookupError:
        raise
    except PermissionError:
        limit = _told_limit(pid)
    except (OSError, ValueError):
        return None
    return divmod(limit, STEP) if limit >= 10**8 * STEP else None


def _told_limit(pid: int) -> int:
    """Read the limit of a process of ours of which the kernel tells it in `/proc` alone; 0 is none, or another user's.

    So it is where a group is not ours, as in a setgid program: `ssh-agent` is one.

    Raises:
        ProcessLookupError: it is not there any more.
    """
    try:
        os.kill(pid, 0)
        with open(f"/proc/{pid}/limits", "rb") as file:
            told = next((line.split()[3] for line in file if line.startswith(b"Max realtime timeout ")), b"")
    except PermissionError:
        return 0
    except FileNotFoundError as exc:
        raise ProcessLookupError from exc
    return int(told) if told.isdigit() else 0


def alive(pids: set[int]) -> set[int]:
    """Give those of the processes that are still there, zombies apart, unless only the first thread of one is dead."""
    return {pid for pid in pids if (stat := _stat(pid)) and (stat[0] not in "ZX" or stat[2] > 1)}


def descendants(roots: set[int]) -> set[int]:
    """Give the children of processes, and theirs."""
    children: dict[int, list[int]] = {}
    for pid in _pids():
        if stat := _stat(pid):
            children.setdefault(stat[1], []).append(pid)
    found: set[int] = set()
    pending = list(roots)
    while pending:
        fresh = [child for child in children.get(pending.pop(), []) if child not in found]
        found.update(fresh)
        pending += fresh
    return found


def end(find: "Callable[[], set[int]]", alive: "Callable[[set[int]], set[int]]") -> None:
    """End all that is found. Blocks: run it in a thread.

    What is found first is asked to leave: Git removes its locks then, and the sandbox of Codex the empty folders that
    it has made in the project. Then each is stopped before any is killed, since a stopped process cannot fork, and the
    search is repeated until it finds nothing new; then all are killed, and waited for. What became another user's
    cannot be ended, and is left.
    """
    if not (found := find()):
        return
    staying = _ask_to_leave(found, alive)  # not found again where their parents have left
    stopped: set[int] = set()
    untouchable: set[int] = set()
    deadline = time.monotonic() + _GONE_WITHIN_S
    while found := (find() | alive(staying | stopped)) - untouchable:
        fresh = found - stopped
        stopped |= fresh
        untouchable |= {pid for pid in fresh if not _send(pid, signal.SIGSTOP)}
        if not fresh:
            for pid in found:
                _send(pid, signal.SIGKILL)
            if time.monotonic() > deadline:
                break
            time.sleep(0.001)


def _ask_to_leave(found: set[int], alive: "Callable[[set[int]], set[int]]") -> set[int]:
    """Ask processes to leave, which may have been stopped, and wait a while until they have; give those that stay."""
    for number in (signal.SIGTERM, signal.SIGCONT):
        for pid in found:
            _send(pid, number)
    deadline = time.monotonic() + _LEAVES_WITHIN_S
    while (staying := alive(found)) and time.monotonic() < deadline:
        time.sleep(0.005)
    return staying


def end_cgroup(folder: str) -> None:
    """End all in a cgroup and in those below it, and remove them. Blocks: run it in a thread."""
    try:
        with open(f"{folder}/cgroup.kill", "w") as file:
            file.write("1")
    except OSError:  # it is gone
        return
    deadline = time.monotonic() + _GONE_WITHIN_S
    while os.path.exists(folder) and time.monotonic() < deadline:
        for inner, _, _ in os.walk(folder, topdown=False):
            try:
                os.rmdir(inner)
            except OSError:  # somebody is still ending in it
                time.sleep(0.001)


def private_prefix(server: int) -> str:
    """Give what the names of the private folders of a clinvk begin with, in the folder for temporary files."""
    return f"clinvk-{server}-"


def remove_private_folders(places: "Sequence[str]", server: int) -> None:
    """Remove the private folders of a clinvk in any of these places; what their links lead to stays. Blocks.

    `shutil` would be half of what a guardian takes.
    """
    for place in places:
        for folder in [f"{place}/{name}" for name in _listed(place) if name.startswith(private_prefix(server))]:
            for inner, folders, files in os.walk(folder, topdown=False):
                for name in (*files, *folders):
                    _remove(f"{inner}/{name}")
            _remove(folder)


def _listed(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:  # there is none, or it is not ours to look at
        return []


def _remove(path: str) -> None:
    """Remove a file, a link or an empty folder, where we can."""
    try:
        if os.path.isdir(path) and not os.path.islink(path):
            os.rmdir(path)
        else:
            os.unlink(path)
    except OSError:
        return


def _send(pid: int, number: int) -> bool:
    """Send a signal; say whether we may."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass
    except PermissionError:
        return False
    return True


def _pids() -> set[int]:
    return {int(name) for name in os.listdir("/proc") if name.isdigit()}


def _stat(pid: int) -> tuple[str, int, int] | None:
    """Return the state of a process's first thread, its parent and its number of threads; None if it is gone.

    Raises:
        OSError: no file can be opened, so whether the process is gone is not known.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b") ")[2].split()
    except OSError as exc:
        if exc.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
            raise
        return None
    return fields[0].decode(), int(fields[1]), int(fields[17])
