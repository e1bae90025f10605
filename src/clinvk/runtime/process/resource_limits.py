"""What each agent process may use of the machine: limits, and a cgroup of its own.

Both are put on by a shell that then becomes the agent, so that there is no moment without them; a program without
bounds is started without one. What clinvk has raised for itself is lowered right after the start. Limits:
https://man7.org/linux/man-pages/man2/getrlimit.2.html, cgroups: https://docs.kernel.org/admin-guide/cgroup-v2.html.
"""

import os
import resource
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress

from clinvk.config.model import AgentSettings
from clinvk.runtime.process.process_scan import end_cgroup
from clinvk.types.errors import BackendUnavailable, ConfigError

_BECOME = '; exec "$@"'
_KIB_PER_MB = 1024


class Bounds:
    """The bounds of all that one clinvk starts. `open` before the first start, `close` after the last has ended.

    Where clinvk has raised its own soft limit on open files, `open_files` is the one that it was started with.
    """

    def __init__(self, agents: AgentSettings, server: int, open_files: int | None = None) -> None:
        self.cgroup = ""
        """The folder with the cgroups of the agents; empty where they have none."""
        self._limits = "; ".join(_limits(agents))
        self._wants_cgroup = agents.cgroup
        self._server = server
        self._open_files = None if agents.max_open_files else open_files

    def open(self) -> None:
        """Make the cgroup.

        Raises:
            ConfigError: there can be none.
        """
        if self._wants_cgroup:
            self.cgroup = os.path.join(own_cgroup(), f"clinvk-{self._server}")
            try:
                os.mkdir(self.cgroup)
                self._try()
            except OSError as exc:
                with suppress(OSError):
                    os.rmdir(self.cgroup)
                raise ConfigError(
                    f"agents.cgroup: {exc.strerror} ({exc.filename}); clinvk needs a cgroup that it may divide: "
                    "Delegate=yes in its unit, or systemd-run --user --scope -p Delegate=yes clinvk …"
                ) from exc

    def around(self, argv: Sequence[str], number: int) -> Sequence[str]:
        """Give the command that starts a command within the bounds, as the process `number`.

        Raises:
            BackendUnavailable: no cgroup can be made for it.
        """
        if not (self._limits or self.cgroup) or _is_no_program(argv[0]):
            return argv
        if not self.cgroup:
            return "/bin/sh", "-c", f"set -e; {self._limits}{_BECOME}", "clinvk", *argv
        folder = self._of(number)
        try:
            os.mkdir(folder)
        except OSError as exc:
            raise BackendUnavailable(f"cannot make the agent's cgroup {folder!r}: {exc.strerror}") from exc
        join = 'echo 0 > "$0"'
        steps = f"{self._limits}; {join}" if self._limits else join
        return "/bin/sh", "-c", f"set -e; {steps}{_BECOME}", f"{folder}/cgroup.procs", *argv

    def settle(self, pid: int) -> None:
        """Give a process that was just started the soft limit on open files that clinvk itself was started with.

        A program that waits with `select` breaks above 1024. To lower clinvk's own limit for the moment of a start
        would fail whatever opens a file meanwhile. A process that has set a limit of its own by now keeps it, as those
        of Node.js do, which raise it to the hard one.
        """
        if self._open_files is None:
            return
        with suppress(AttributeError, OSError):  # no Linux, or it is gone already
            inherited = resource.getrlimit(resource.RLIMIT_NOFILE)
            if resource.prlimit(pid, resource.RLIMIT_NOFILE) == inherited:
                resource.prlimit(pid, resource.RLIMIT_NOFILE, (self._open_files, inherited[1]))

    def end(self, numbers: Iterable[int]) -> None:
        """End all that is in the cgroups of processes. Blocks: run it in a thread."""
        if self.cgroup:
            for number in numbers:
                end_cgroup(self._of(number))

    def close(self) -> None:
        """Remove the cgroup, with all that is in it. Blocks."""
        if self.cgroup:
            end_cgroup(self.cgroup)

    def _try(self) -> None:
        """Find out whether processes may be put there and ended there."""
        for name in ("cgroup.procs", "cgroup.kill"):
            os.close(os.open(os.path.join(self.cgroup, name), os.O_WRONLY))
        above = os.path.join(os.path.dirname(self.cgroup), "cgroup.procs")
        os.close(os.open(above, os.O_WRONLY))

    def _of(self, number: int) -> str:
        return os.path.join(self.cgroup, str(number))


def are_per_process(agents: AgentSettings) -> bool:
    """Say whether a process of several runs would reach limits that were meant for one."""
    return bool(agents.max_memory_mb or agents.max_cpu_secs or agents.max_open_files)


def check(agents: AgentSettings) -> None:
    """Find out whether agents can have the bounds that the settings ask for.

    Raises:
        ConfigError: they cannot.
    """
    bounds = Bounds(agents, os.getpid())
    bounds.open()
    bounds.close()


def _limits(agents: AgentSettings) -> Iterator[str]:
    """Give the shell's words for the limits; one that is above what clinvk itself has is that."""
    if agents.max_memory_mb:
        yield f"ulimit -d {_at_most(resource.RLIMIT_DATA, agents.max_memory_mb * _KIB_PER_MB, 1024)}"
    if agents.max_open_files:
        yield f"ulimit -n {_at_most(resource.RLIMIT_NOFILE, agents.max_open_files)}"
    if agents.max_cpu_secs:
        # First SIGXCPU, which tells what it was, and SIGKILL a second later.
        yield f"ulimit -S -t {_at_most(resource.RLIMIT_CPU, agents.max_cpu_secs)}"
        yield f"ulimit -H -t {_at_most(resource.RLIMIT_CPU, agents.max_cpu_secs + 1)}"


def _is_no_program(path: str) -> bool:
    """Say whether a start is bound to fail, and is to tell that itself; a shell would say it on stderr."""
    return os.path.isabs(path) and not os.access(path, os.X_OK)


def _at_most(limit: int, wanted: int, unit: int = 1) -> int:
    hard = resource.getrlimit(limit)[1]
    return wanted if hard == resource.RLIM_INFINITY else min(wanted, hard // unit)


def own_cgroup() -> str:
    """Give the folder of the cgroup that clinvk is in.

    Raises:
        ConfigError: this machine has none.
    """
    try:
        with open("/proc/self/cgroup") as groups, open("/proc/self/mountinfo") as mounts:
            path = next(line.strip().removeprefix("0::") for line in groups if line.startswith("0::"))
            mount = next(line.split()[4] for line in mounts if " - cgroup2 " in line)
    except (OSError, StopIteration) as exc:
        raise ConfigError("agents.cgroup: this machine has no cgroups of version 2") from exc
    return f"{mount}{path}".rstrip("/")
