"""Find and end leftover agent processes on this machine, and remove their private folders.

The guardian consists of this module, and each clinvk has a guardian. Few imports keep the guardian small and fast to
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
    from collections.abc import Callable, Container, Iterator, Sequence

RTTIME = 15  # RLIMIT_RTTIME, for which the resource module has no name
STEP = 10**9
GUARDIAN = 0
"""The number of a guardian among the processes of a clinvk; the guardian is never ended together with agents."""
OWNER = STEP - 1
"""The number of a clinvk that runs agents, inherited by what it starts other than agents; it is never ended."""
Tag = tuple[int, int]
"""The numbers of a clinvk and of one of its processes."""
_HAS_PROC = os.path.isdir("/proc/self")
_TERMINATE_TIMEOUT_S = 0.25
_KILL_TIMEOUT_S = 5.0
_MAX_SEARCHES = 50
"""How often a search restarts because a process exited during the search."""


def tag_value(server: int, number: int) -> int:
    """Return the limit that tags agent process `number` of a clinvk and all its descendants."""
    return server * STEP + number % STEP


def stop_tagged(
    server: int, numbers: "Container[int] | None", stop_orphans: "Callable[[], set[int]]" = set
) -> set[int]:
    """Stop the tagged processes of the given agents (None: all agents of this clinvk) with their children.

    Return their pids. Each process is stopped as soon as its tag is read, because a process that repeatedly forks and
    exits would escape the search. `stop_orphans` stops and returns orphans of these agents that may have no tag.

    A clinvk started by an agent tags its agents with different numbers. The guardian of the inner clinvk is not
    stopped: it handles processes whose parents have exited.
    """
    found: set[int] = set()
    dead: set[int] = set()
    for _ in range(_MAX_SEARCHES):
        orphans = stop_orphans()
        tagged, is_complete = _stop_listed(server, numbers)
        tagged |= orphans
        if found := alive(tagged):
            below = {pid for pid in descendants(found) if not _is_guardian(pid)}
            found = alive((found | below) - {os.getpid()})
        if found or (is_complete and tagged <= dead):
            break
        dead |= tagged  # a process that died after the listing may have left a child as well
    return found


def tag_bearers(server: int) -> "dict[int, set[int]]":
    """Return the pids that carry a tag of a clinvk, by agent process number, without stopping any process."""
    found: dict[int, set[int]] = {}
    for pid, number in _read_tags(server):
        if number is not None:
            found.setdefault(number, set()).add(pid)
    return found


def is_tagged(pid: int) -> bool:
    """Return whether a process may descend from an agent of any clinvk; return True if the process has exited.

    A process can remove its tag, but not the tags of its ancestors. An orphan stays below its clinvk, whose tag is that
    of an agent in all descendants; in a sandbox with a separate pid namespace it stays below the first process of the
    sandbox.
    """
    is_ancestor = False
    try:
        while hasattr(resource, "prlimit") and pid:
            tag = _OWN_TAG if pid == os.getpid() and not is_ancestor else tag_of(pid)
            if tag and (is_ancestor or tag[1] != OWNER):
                return True
            if not (stat := _stat(pid)):
                return True
            pid, is_ancestor = stat[1], True
    except OSError:
        return True
    return False


def _is_guardian(pid: int) -> bool:
    try:
        tag = tag_of(pid)
    except ProcessLookupError:
        return False
    return tag is not None and tag[1] == GUARDIAN


def _stop_listed(server: int, numbers: "Container[int] | None") -> tuple[set[int], bool]:
    """Stop the tagged processes; return their pids, and whether no listed process exited during the search.

    A process that exited after the listing may have left an unlisted child.
    """
    tagged: set[int] = set()
    is_complete = True
    for pid, number in _read_tags(server):
        if number is None:
            is_complete = False
        elif numbers is None or number in numbers:
            send(pid, signal.SIGSTOP)
            tagged.add(pid)
    return tagged, is_complete


def _read_tags(server: int) -> "Iterator[tuple[int, int | None]]":
    """Yield pid and number of the tagged agents' processes of a clinvk; None if a process has exited.

    The newest pids come first, since only new processes can hide behind a listing.
    """
    for pid in sorted(_pids() - {os.getpid()}, reverse=True):
        try:
            tag = tag_of(pid)
        except ProcessLookupError:
            yield pid, None
            continue
        if tag and tag[0] == server and tag[1] not in (GUARDIAN, OWNER):
            yield pid, tag[1]


def tag_of(pid: int) -> "Tag | None":
    """Return the clinvk and the number in the tag of a process; None if untagged or unreadable.

    Raises:
        ProcessLookupError: the process has exited.
    """
    try:
        limit = resource.prlimit(pid, RTTIME)[0]
    except ProcessLookupError:
        raise
    except PermissionError:
        limit = _read_limit(pid)
    except (OSError, ValueError):
        return None
    return divmod(limit, STEP) if limit >= 10**8 * STEP else None


_OWN_TAG = tag_of(os.getpid()) if hasattr(resource, "prlimit") else None
"""The tag that this process has inherited: while it spawns an agent, it carries the tag of that agent."""


def _read_limit(pid: int) -> int:
    """Read the limit from `/proc` for a process of this user that prlimit may not read; 0 if unlimited or not ours.

    prlimit is refused if the group differs, as in a setgid program such as `ssh-agent`.

    Raises:
        ProcessLookupError: the process has exited.
    """
    try:
        os.kill(pid, 0)
        with open(f"/proc/{pid}/limits", "rb") as file:
            value = next((line.split()[3] for line in file if line.startswith(b"Max realtime timeout ")), b"")
    except PermissionError:
        return 0
    except FileNotFoundError as exc:
        raise ProcessLookupError from exc
    return int(value) if value.isdigit() else 0


def alive(pids: set[int]) -> set[int]:
    """Return the pids of live processes. A zombie with further live threads counts as alive."""
    return {pid for pid in pids if (stat := _stat(pid)) and (not stat[0] or stat[2] > 1)}


def child_pids() -> set[int]:
    """Return the children of the main thread of this process, with all orphans that were adopted, and with zombies."""
    own = os.getpid()
    try:
        with open(f"/proc/{own}/task/{own}/children", "rb") as file:
            return {int(pid) for pid in file.read().split()}
    except FileNotFoundError:  # a kernel without this file
        return {pid for pid in _pids() if (stat := _stat(pid)) and stat[1] == own}


def descendants(roots: set[int]) -> set[int]:
    """Return all descendants of the given processes."""
    children: dict[int, list[int]] = {}
    for pid in _pids():
        if stat := _stat(pid):
            children.setdefault(stat[1], []).append(pid)
    found: set[int] = set()
    pending = list(roots)
    while pending:
        new = [child for child in children.get(pending.pop(), []) if child not in found]
        found.update(new)
        pending += new
    return found


def kill_tagged(find: "Callable[[], set[int]]") -> None:
    """End all processes that `find` returns. Blocks: run in a thread.

    The processes found first receive SIGTERM: Git then removes its locks, and the sandbox of Codex removes the empty
    folders that the sandbox created in the project. All remaining processes are stopped before the first kill, since a
    stopped process cannot fork. The search repeats until no new process appears; then all are killed and awaited.
    Processes that now belong to another user cannot be signalled and are left.
    """
    if not (found := find()):
        return
    remaining = _terminate(found)  # `find` misses orphans after their parents have exited
    stopped: set[int] = set()
    unkillable: set[int] = set()
    deadline = time.monotonic() + _KILL_TIMEOUT_S
    while found := (find() | alive(remaining | stopped)) - unkillable:
        new = found - stopped
        stopped |= new
        unkillable |= {pid for pid in new if not send(pid, signal.SIGSTOP)}
        if not new:
            for pid in found:
                send(pid, signal.SIGKILL)
            if time.monotonic() > deadline:
                break
            time.sleep(0.001)


def _terminate(found: set[int]) -> set[int]:
    """Send SIGTERM and SIGCONT, wait up to `_TERMINATE_TIMEOUT_S` for exits, and return the remaining pids."""
    for number in (signal.SIGTERM, signal.SIGCONT):
        for pid in found:
            send(pid, number)
    deadline = time.monotonic() + _TERMINATE_TIMEOUT_S
    while (remaining := alive(found)) and time.monotonic() < deadline:
        time.sleep(0.005)
    return remaining


def kill_cgroup(folder: str) -> None:
    """End all processes in a cgroup and its children, and remove the cgroups. Blocks: run in a thread."""
    try:
        with open(f"{folder}/cgroup.kill", "w") as file:
            file.write("1")
    except OSError:  # the cgroup was removed
        return
    deadline = time.monotonic() + _KILL_TIMEOUT_S
    while os.path.exists(folder) and time.monotonic() < deadline:
        for inner, _, _ in os.walk(folder, topdown=False):
            try:
                os.rmdir(inner)
            except OSError:  # a process is still exiting
                time.sleep(0.001)


def private_prefix(server: int) -> str:
    """Return the name prefix of a clinvk's private folders in the folder for temporary files."""
    return f"clinvk-{server}-"


def remove_private_folders(folders: "Sequence[str]", server: int) -> None:
    """Remove the private folders of a clinvk from `folders`; keep the targets of links. Blocks.

    `rm` does the work, since importing `shutil` would double the size of a guardian.
    """
    for folder in folders:
        try:
            names = [name for name in os.listdir(folder) if name.startswith(private_prefix(server))]
            if names:
                argv = ["rm", "-rf", "--", *(f"{folder}/{name}" for name in names)]
                os.waitpid(os.posix_spawnp("rm", argv, {"PATH": os.defpath}), 0)
        except OSError:  # the folder is missing or not readable
            continue


def send(pid: int, number: int) -> bool:
    """Send a signal; return whether the signal is permitted."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass
    except PermissionError:
        return False
    return True


def _pids() -> set[int]:
    if _HAS_PROC:
        return {int(name) for name in os.listdir("/proc") if name.isdigit()}
    import psutil

    return set(psutil.pids())


def _stat(pid: int) -> tuple[bool, int, int] | None:
    """Return whether the first thread of a process has exited, the parent and the number of threads, or None.

    None means that the process is gone.

    Raises:
        OSError: no file can be opened, so whether the process has exited is unknown.
    """
    if not _HAS_PROC:
        return _stat_elsewhere(pid)
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b") ")[2].split()
    except OSError as exc:
        if exc.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
            raise
        return None
    return fields[0] in (b"Z", b"X"), int(fields[1]), int(fields[17])


def _stat_elsewhere(pid: int) -> tuple[bool, int, int] | None:
    import psutil

    try:
        process = psutil.Process(pid)
        return process.status() == psutil.STATUS_ZOMBIE, process.ppid(), process.num_threads()
    except psutil.ZombieProcess:
        return True, 0, 1
    except psutil.AccessDenied:  # another user's
        return False, 0, 1
    except psutil.Error:
        return None
