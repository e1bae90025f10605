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
_RUN_MB = 512
_RUNS_PER_CORE = 8
"""Agents mostly wait for their model, so one core carries several agents."""


class Capacity(NamedTuple):
    """The number of runs at once, and its reason."""

    runs: int
    reason: str


def capacity(server: ServerSettings) -> Capacity:
    """Return `server.max_concurrent_runs`, or if unset the capacity of the machine."""
    if server.max_concurrent_runs is not None:
        return Capacity(server.max_concurrent_runs, "set by server.max_concurrent_runs")
    return capacity_of_machine(_cores(), _memory_bytes() // _MIB)


def capacity_of_machine(cores: int, memory_mb: int) -> Capacity:
    """Return the capacity of a machine with the given cores and memory."""
    by_cores, by_memory = cores * _RUNS_PER_CORE, memory_mb // _RUN_MB
    count = f"{cores} core{'' if cores == 1 else 's'}"
    machine = f"{count} ({_RUNS_PER_CORE} runs each), {memory_mb:,} MB of memory ({_RUN_MB} MB per run)"
    if (runs := min(by_cores, by_memory)) < MIN_RUNS:
        return Capacity(MIN_RUNS, f"the minimum; this machine has {machine}")
    return Capacity(runs, machine)


def _memory_bytes() -> int:
    """Return the memory of the machine, or the memory limit of the process's cgroup if smaller."""
    own = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min((own, *(limit for (limit,) in _cgroup_limits("memory.max"))))


def _cores() -> int:
    """Return the cores available to the process, or the CPU quota of the process's cgroup if smaller."""
    own = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return min((own, *(math.ceil(quota / period) for quota, period in _cgroup_limits("cpu.max"))))


def _cgroup_limits(name: str) -> Iterator[list[int]]:
    """Yield the numbers in the file `name` of the process's cgroup and its ancestors, except for unlimited ones."""
    with suppress(ConfigError):
        own = Path(own_cgroup())
        for folder in (own, *own.parents):
            with suppress(OSError, ValueError):  # "max" is no limit
                yield [int(number) for number in (folder / name).read_text().split()]
