"""Check clinvk's own files, warm agents, the port of the server, and this machine."""

import asyncio
import errno
import socket
import stat
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Literal

import msgspec

from clinvk.api.server.port_owner import Health, health_of
from clinvk.backends.registry import BACKENDS
from clinvk.config.model import ServerSettings, Settings
from clinvk.remote.remote_runs import ServerDeclined, server_of
from clinvk.runtime.capacity import capacity
from clinvk.runtime.process import resource_limits
from clinvk.runtime.process.executables import run_tool, without_secrets
from clinvk.runtime.process.process_tags import ProcessTags, RlimitTags
from clinvk.runtime.process.spawn import Spawner
from clinvk.types.errors import ClinvkError, StoreUnavailable

Status = Literal["ok", "warning", "problem", "skipped"]

_FILES, _MACHINE = "files", "machine"
SESSIONS = "sessions"
"""The name of the check whether sessions can be stored."""

_FORMER_LIMIT = 16
_TIMEOUT_S = 10.0
_ANSWERS_TIMEOUT_S = 5.0
_REPAIR = (
    "To save what can be read, stop clinvk and run (SQLite's own command, package sqlite3): cd {home} &&"
    " sqlite3 clinvk.db .recover | grep -av '^CREATE TABLE sqlite_sequence' | sqlite3 repaired.db &&"
    " mv clinvk.db damaged.db &&"
    " rm -f clinvk.db-wal clinvk.db-shm && mv repaired.db clinvk.db"
)


class Check(msgspec.Struct, frozen=True):
    """The result of a check. A problem stops clinvk or an agent; a warning does not."""

    section: str
    name: str
    status: Status
    message: str


def is_kept_warm(settings: Settings, backend: str) -> bool:
    """Return whether the server keeps warm processes of a backend."""
    return not _why_not(settings) and backend in settings.warm.kept_backends


def check_warm(settings: Settings) -> list[Check]:
    """Report the backends with warm processes, or why no backend has any; and agents that are never prestarted."""
    if why := _why_not(settings):
        return [Check("settings", "warm", "skipped", f"each prompt starts its agent: {why}")]
    warm = settings.warm
    others = [name for name in BACKENDS if name not in warm.kept_backends]
    memory = f", of {warm.max_memory_mb} MB together" if warm.max_memory_mb else ""
    message = f"clinvk serve keeps processes of {', '.join(warm.kept_backends)}: at most {warm.max_processes}{memory}"
    if others:
        message += f"; not of {', '.join(others)} (warm.kept_backends)"
    checks = [Check("settings", "warm", "ok", message)]
    if names := warm.never_started:
        about = f"warm.prestart starts none of {', '.join(names)}: not in warm.kept_backends"
        checks.append(Check("settings", "warm", "warning", about))
    return checks


def _why_not(settings: Settings) -> str:
    if not settings.warm.enabled:
        return "warm.enabled: false"
    if resource_limits.are_per_process(settings.agents):
        return "limits as agents.max_memory_mb are of each run"
    if not settings.warm.max_processes:
        return "warm.max_processes: 0"
    return "" if settings.warm.kept_backends else "warm.kept_backends: []"


def check_home(home: Path) -> Check:
    """Check the folder of clinvk's own files."""
    try:
        mode = home.stat().st_mode
    except FileNotFoundError:
        return Check(_FILES, "home", "ok", f"{home} is created when needed")
    except OSError as exc:
        return Check(_FILES, "home", "problem", f"{home}: {exc.strerror}")
    if not stat.S_ISDIR(mode):
        return Check(_FILES, "home", "problem", f"{home} is no folder")
    return _private("home", home, mode, stat.S_IRWXO)


def check_settings_file(file: Path) -> list[Check]:
    """Check who may read the settings file, if it exists: it may have keys of the agents."""
    try:
        return [_private("settings", file, file.stat().st_mode, stat.S_IRWXG | stat.S_IRWXO)]
    except OSError:
        return []


def _private(name: str, path: Path, mode: int, others: int) -> Check:
    if mode & others:
        message = f"{path} is open to others ({stat.filemode(mode)}); chmod go-rwx {path}"
        return Check(_FILES, name, "warning", message)
    return Check(_FILES, name, "ok", f"{path} ({stat.filemode(mode)})")


def check_store(home: Path) -> Check:
    """Check the sessions, without migrating the database. Blocks."""
    from clinvk.store.sqlite.sqlite import examine

    try:
        count, damage = examine(home, _ANSWERS_TIMEOUT_S)
    except StoreUnavailable as exc:
        repair = f". {_REPAIR.format(home=home)}" if "damaged" in exc.message else ""
        return Check(_FILES, SESSIONS, "problem", exc.message + repair)
    if damage:
        message = f"{damage}. New prompts are stored, but lists are incomplete. {_REPAIR.format(home=home)}"
        return Check(_FILES, SESSIONS, "warning", message)
    return Check(_FILES, SESSIONS, "ok", f"{count} kept" if count else "none yet")


def check_runs(server: ServerSettings, places: Mapping[tuple[str, ...], str], machine: int) -> Check:
    """Report how many runs go at once, and limits that were copied from the example of earlier versions.

    `machine` is the number of runs that the machine carries where no setting limits them.
    """
    runs, reason = capacity(server)
    of_each = limit if 0 < (limit := server.max_concurrent_per_backend) < runs else 0
    for limit, without, name in (
        (of_each, runs, "max_concurrent_per_backend"),
        (runs, machine, "max_concurrent_runs"),
    ):
        place = places.get(("server", name), "")
        if limit == _FORMER_LIMIT < without and ":" in place:
            about = f"server.{name}: {limit} is the default of earlier versions; without it the limit is {without}"
            return Check(_MACHINE, "runs", "warning", f"{place}: {about}; clinvk config unset server.{name}")
    each = f", {of_each} of each agent" if of_each else ""
    return Check(_MACHINE, "runs", "ok", f"clinvk serve runs {runs} agents at once{each}: {reason}")


async def check_port(server: ServerSettings) -> Check:
    """Check whether `clinvk serve` could listen; if not, report which program does."""
    where = f"[{server.host}]:{server.port}" if ":" in server.host else f"{server.host}:{server.port}"
    if not server.port:
        return Check(_MACHINE, "port", "ok", f"{where}: a free one is taken")
    try:
        await asyncio.to_thread(_bind, server.host, server.port)
    except OSError as exc:
        if health := await health_of(server.host, server.port, _ANSWERS_TIMEOUT_S):
            about = f"{where}: clinvk {health.version} is running there, {_describe(health)}"
            return Check(_MACHINE, "port", "ok", about)
        if exc.errno == errno.EADDRINUSE:
            return Check(_MACHINE, "port", "warning", f"{where} is in use by another program")
        return Check(_MACHINE, "port", "warning", f"{where} cannot be had by clinvk serve: {exc.strerror}")
    return Check(_MACHINE, "port", "ok", f"{where} is free")


def _describe(health: Health) -> str:
    if health.warm is None:
        return health.status
    warm = health.warm
    kept = f"{warm.processes} kept agent process{'' if warm.processes == 1 else 'es'}"
    if warm.processes:
        kept += f" of {warm.memory_mb} MB together, {warm.ready} ready"
    if prompts := warm.hits + warm.misses:
        kept += f"; {warm.hits} of {prompts} prompts found one"
    started = f"; it starts {', '.join(warm.one_shot)} for each prompt" if warm.one_shot else ""
    return f"{health.status}, with {kept}{started}"


def _bind(host: str, port: int) -> None:
    for family, kind, protocol, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        with socket.socket(family, kind, protocol) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind(address)


async def check_server(settings: Settings, environ: Mapping[str, str]) -> Check:
    """Check whether prompts of the command line go through a running server, or report why not."""
    not_through = "prompts do not go through the server of this home"
    if not settings.warm.command_line:
        return Check(_MACHINE, "server", "skipped", f"{not_through}: warm.command_line: false")
    try:
        async with server_of(settings, environ, BACKENDS, settings.default_backend):
            return Check(_MACHINE, "server", "ok", "prompts of the command line go through the server of this home")
    except ServerDeclined as exc:
        if why := str(exc):
            return Check(_MACHINE, "server", "warning", f"{not_through}: {why}")
        return Check(_MACHINE, "server", "skipped", "no server of this home is running")


async def check_git(environ: Mapping[str, str], spawner: Spawner) -> Check:
    """Check for git, which agents use in a project."""
    with suppress(ClinvkError, TimeoutError):
        done = await run_tool(spawner, ("git", "--version"), without_secrets(environ), _TIMEOUT_S)
        if done.exit_code == 0:
            return Check(_MACHINE, "git", "ok", done.stdout.decode(errors="replace").strip())
    return Check(_MACHINE, "git", "warning", "git is not on PATH; agents use it in a project")


def check_marks(marks: ProcessTags) -> Check:
    """Report how the processes of an agent are found when the agent is killed."""
    if isinstance(marks, RlimitTags):
        return Check(_MACHINE, "processes", "ok", "an agent is ended with all that it started")
    message = "a process that an agent hides on purpose outlives it: no mark by RLIMIT_RTTIME here"
    return Check(_MACHINE, "processes", "warning", message)
