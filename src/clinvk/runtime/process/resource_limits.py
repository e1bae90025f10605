"""Resource limits of each agent process, limits and a separate cgroup, and how many runs this machine can carry.

A shell sets both and then execs the agent, so the agent never runs without limits; without limits no shell is started.
Limits that clinvk raised for its own use are lowered right after the spawn. Limits:
https://man7.org/linux/man-pages/man2/getrlimit.2.html, cgroups: https://docs.kernel.org/admin-guide/cgroup-v2.html.
"""

import math
import os
import resource
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from clinvk.config.model import AgentSettings, ServerSettings
from clinvk.runtime.process.process_scan import kill_cgroup
from clinvk.types.errors import BackendUnavailable, ConfigError

_EXEC = '; exec "$@"'
_KIB_PER_MB = 1024


class ResourceLimits:
    """The limits of all processes of one clinvk: `open` before the first spawn, `close` after the last exit.

    `open_files` is the soft limit on open files that clinvk was started with, if clinvk has raised the limit since.
    """

    def __init__(self, agents: AgentSettings, server: int, open_files: int | None = None) -> None:
        self.cgroup = ""
        """The parent folder of the agents' cgroups; empty if agents have no cgroup."""
        self._limits = "; ".join(_limits(agents))
        self._wants_cgroup = agents.cgroup
        self._server = server
        self._open_files = None if agents.max_open_files else open_files

    def open(self) -> None:
        """Create the parent cgroup.

        Raises:
            ConfigError: the cgroup cannot be created.
        """
        if self._wants_cgroup:
            self.cgroup = os.path.join(own_cgroup(), f"clinvk-{self._server}")
            try:
                os.mkdir(self.cgroup)
                self._check_permissions()
            except OSError as exc:
                with suppress(OSError):
                    os.rmdir(self.cgroup)
                raise ConfigError(
                    f"agents.cgroup: {exc.strerror} ({exc.filename}); clinvk needs a cgroup that it may divide: "
                    "Delegate=yes in its unit, or systemd-run --user --scope -p Delegate=yes clinvk …"
                ) from exc

    def wrap(self, argv: Sequence[str], number: int) -> Sequence[str]:
        """Return the command that starts `argv` within the limits, as the process `number`.

        Raises:
            BackendUnavailable: the cgroup of the process cannot be created.
        """
        if not (self._limits or self.cgroup) or _is_no_program(argv[0]):
            return argv
        if not self.cgroup:
            return "/bin/sh", "-c", f"set -e; {self._limits}{_EXEC}", "clinvk", *argv
        folder = self._folder(number)
        try:
            os.mkdir(folder)
        except OSError as exc:
            raise BackendUnavailable(f"cannot make the agent's cgroup {folder!r}: {exc.strerror}") from exc
        join = 'echo 0 > "$0"'
        steps = f"{self._limits}; {join}" if self._limits else join
        return "/bin/sh", "-c", f"set -e; {steps}{_EXEC}", f"{folder}/cgroup.procs", *argv

    def lower_open_files(self, pid: int) -> None:
        """Lower the soft limit on open files of a new process to the limit that clinvk was started with.

        A program that waits with `select` breaks above 1024 files. Lowering clinvk's limit during the spawn would break
        file access elsewhere in clinvk. A process that has already set a limit keeps the limit: Node.js programs, for
        example, raise the soft limit to the hard limit.
        """
        if self._open_files is None:
            return
        with suppress(AttributeError, OSError):  # not Linux, or the process has exited
            inherited = resource.getrlimit(resource.RLIMIT_NOFILE)
            if resource.prlimit(pid, resource.RLIMIT_NOFILE) == inherited:
                resource.prlimit(pid, resource.RLIMIT_NOFILE, (self._open_files, inherited[1]))

    def end(self, numbers: Iterable[int]) -> None:
        """End all processes in the cgroups of the given process numbers. Blocks: run in a thread."""
        if self.cgroup:
            for number in numbers:
                kill_cgroup(self._folder(number))

    def close(self) -> None:
        """End all processes in the parent cgroup and remove the cgroup. Blocks."""
        if self.cgroup:
            kill_cgroup(self.cgroup)

    def _check_permissions(self) -> None:
        """Raise OSError if processes cannot be moved into the cgroup or killed there."""
        for name in ("cgroup.procs", "cgroup.kill"):
            os.close(os.open(os.path.join(self.cgroup, name), os.O_WRONLY))
        above = os.path.join(os.path.dirname(self.cgroup), "cgroup.procs")
        os.close(os.open(above, os.O_WRONLY))

    def _folder(self, number: int) -> str:
        return os.path.join(self.cgroup, str(number))


def are_per_process(agents: AgentSettings) -> bool:
    """Return whether several runs in one process would share limits meant for a single run."""
    return bool(agents.max_memory_mb or agents.max_cpu_secs or agents.max_open_files)


def check_resource_limits(agents: AgentSettings) -> None:
    """Check that agents can have the configured limits.

    Raises:
        ConfigError: the limits are not available.
    """
    limits = ResourceLimits(agents, os.getpid())
    limits.open()
    limits.close()


def _limits(agents: AgentSettings) -> Iterator[str]:
    """Yield the shell commands for the limits, each capped at clinvk's hard limit."""
    if agents.max_memory_mb:
        yield f"ulimit -d {_capped(resource.RLIMIT_DATA, agents.max_memory_mb * _KIB_PER_MB, 1024)}"
    if agents.max_open_files:
        yield f"ulimit -n {_capped(resource.RLIMIT_NOFILE, agents.max_open_files)}"
    if agents.max_cpu_secs:
        # SIGXCPU first, which names the cause, and SIGKILL a second later.
        yield f"ulimit -S -t {_capped(resource.RLIMIT_CPU, agents.max_cpu_secs)}"
        yield f"ulimit -H -t {_capped(resource.RLIMIT_CPU, agents.max_cpu_secs + 1)}"


def _is_no_program(path: str) -> bool:
    """Return whether a spawn is bound to fail: without a shell around the command, the spawn raises the error."""
    return os.path.isabs(path) and not os.access(path, os.X_OK)


def _capped(limit: int, value: int, unit: int = 1) -> int:
    hard = resource.getrlimit(limit)[1]
    return value if hard == resource.RLIM_INFINITY else min(value, hard // unit)


def own_cgroup() -> str:
    """Return the folder of clinvk's cgroup.

    Raises:
        ConfigError: the machine has no version 2 cgroups.
    """
    try:
        with open("/proc/self/cgroup") as groups, open("/proc/self/mountinfo") as mounts:
            path = next(line.strip().removeprefix("0::") for line in groups if line.startswith("0::"))
            mount = next(line.split()[4] for line in mounts if " - cgroup2 " in line)
    except (OSError, StopIteration) as exc:
        raise ConfigError("agents.cgroup: this machine has no cgroups of version 2") from exc
    return f"{mount}{path}".rstrip("/")


_MIB = 1024 * 1024
MIN_RUNS = 16
_RUN_MB = 350
_RUNS_PER_CORE = 32
"""Agents mostly wait for their model, so memory limits their number, and one core carries many."""


class Capacity(NamedTuple):
    """The number of runs at once, and its reason; and the number of cores."""

    runs: int
    reason: str
    cores: int


def capacity(server: ServerSettings, machine: Capacity | None = None) -> Capacity:
    """Return `server.max_concurrent_runs`, or if unset the capacity of the machine, by default as it is now."""
    machine = machine or capacity_of_machine(_cores(), _available_bytes() // _MIB)
    if server.max_concurrent_runs is None:
        return machine
    return machine._replace(runs=server.max_concurrent_runs, reason="set by server.max_concurrent_runs")


def capacity_of_machine(cores: int, available_mb: int) -> Capacity:
    """Return the capacity of a machine with the given cores and available memory."""
    by_memory, by_cores = available_mb // _RUN_MB, cores * _RUNS_PER_CORE
    count = f"{cores} core{'' if cores == 1 else 's'} (at most {_RUNS_PER_CORE} runs each)"
    machine = f"{available_mb:,} MB of memory available ({_RUN_MB} MB per run), {count}"
    if (runs := min(by_memory, by_cores)) < MIN_RUNS:
        return Capacity(MIN_RUNS, f"the minimum; this machine has {machine}", cores)
    return Capacity(runs, machine, cores)


def _available_bytes() -> int:
    """Return the memory that is available now on the machine, or within the limits of the process's cgroup if less.

    Memory is available if it is free or caches files. On macOS, return the memory of the machine.
    """
    available = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with suppress(OSError, ValueError, KeyError):
        available = _counts(Path("/proc/meminfo"))["MemAvailable:"] * 1024
    for folder in _cgroups():
        with suppress(OSError, ValueError, KeyError):  # "max" is no limit
            limit, used = (int((folder / name).read_text()) for name in ("memory.max", "memory.current"))
            available = min(available, limit - used + _counts(folder / "memory.stat")["inactive_file"])
    return max(0, available)


def _counts(file: Path) -> dict[str, int]:
    """Return the numbers in a file of the kernel, by name."""
    return {name: int(number) for name, number, *_ in map(str.split, file.read_text().splitlines())}


def _cores() -> int:
    """Return the cores available to the process, or the CPU quota of the process's cgroup if smaller."""
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    for folder in _cgroups():
        with suppress(OSError, ValueError):  # "max" is no limit
            quota, period = map(int, (folder / "cpu.max").read_text().split())
            cores = min(cores, math.ceil(quota / period))
    return cores


def _cgroups() -> Iterator[Path]:
    """Yield the folders of the process's cgroup and its ancestors."""
    with suppress(ConfigError):
        own = Path(own_cgroup())
        yield from (own, *own.parents)
