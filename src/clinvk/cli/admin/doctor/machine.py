"""Check clinvk's own files, warm agents, the port of the server, and this machine."""

import errno
import shlex
import shutil
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal

import msgspec

from clinvk.api.server.address import Health, health_of, listen
from clinvk.backends.registry import Backends
from clinvk.config.model import NotificationSettings, ServerSettings, Settings, complete
from clinvk.remote.socket_client import ServerDeclined, server_of
from clinvk.runtime.interactions import asking
from clinvk.runtime.notifications import secret_of
from clinvk.runtime.process import resource_limits
from clinvk.runtime.process.executables import run_tool
from clinvk.runtime.process.process_tags import ProcessTags, RlimitTags
from clinvk.runtime.process.resource_limits import capacity
from clinvk.runtime.process.spawn import Spawner
from clinvk.types.errors import ClinvkError, ConfigError, StoreUnavailable, extra_required
from clinvk.types.redaction import without_secrets
from clinvk.types.request import RunRequest

Status = Literal["ok", "warning", "problem", "skipped"]

_FILES, _MACHINE = "files", "machine"
SESSIONS = "sessions"
"""The name of the check whether sessions can be stored."""

_TIMEOUT_S = 10.0
_ANSWERS_TIMEOUT_S = 5.0
_REPAIR = (
    "cd {home} &&"
    " sqlite3 clinvk.db .recover | grep -av '^CREATE TABLE sqlite_sequence' | sqlite3 repaired.db &&"
    " mv clinvk.db damaged.db &&"
    " rm -f clinvk.db-wal clinvk.db-shm && mv repaired.db clinvk.db"
)


class Check(msgspec.Struct, frozen=True, omit_defaults=True):
    """The result of a check. A problem stops clinvk or an agent; a warning does not. `fix` is a command to copy."""

    section: str
    name: str
    status: Status
    message: str
    fix: str = ""


def check_rules(settings: Settings, backends: Sequence[str]) -> Iterator[Check]:
    """Yield the agents whose modes ask nobody, so that no rule for approvals applies."""
    for name in backends if settings.approvals.rules else ():
        request = complete(RunRequest(backend=name), settings)
        if request.approval_mode != "ask" and asking(request, settings).approval_mode != "ask":
            modes = f"approval_mode {request.approval_mode} and sandbox_mode {request.sandbox_mode}"
            yield Check("settings", "rules", "warning", f"approvals.rules do not apply to {name}: {modes} ask nobody")


def is_kept_warm(settings: Settings, backend: str) -> bool:
    """Return whether the server keeps warm processes of a backend."""
    return not _why_not(settings) and backend in settings.warm.kept_backends


def check_warm(settings: Settings, backends: Backends) -> list[Check]:
    """Report the backends with warm processes, or why no backend has any; and agents that are never prestarted."""
    if why := _why_not(settings):
        return [Check("settings", "warm", "skipped", f"each prompt starts a new process: {why}")]
    warm = settings.warm
    others = [name for name in backends if name not in warm.kept_backends]
    memory = f", {warm.max_memory_mb} MB in total" if warm.max_memory_mb else ""
    message = f"clinvk serve keeps up to {warm.max_processes} processes of {', '.join(warm.kept_backends)}{memory}"
    if others:
        message += f"; none of {', '.join(others)} (warm.kept_backends)"
    checks = [Check("settings", "warm", "ok", message)]
    if names := warm.never_started:
        about = f"warm.prestart does not start {', '.join(names)}: not in warm.kept_backends"
        checks.append(Check("settings", "warm", "warning", about))
    return checks


def check_notifications(settings: NotificationSettings, environ: Mapping[str, str]) -> Iterator[Check]:
    """Check the secret and the program of each notification target. Send nothing."""
    for name, target in settings.targets.items():
        about = f"notification target {name}"
        try:
            secret_of(target, environ)
        except ConfigError as exc:
            yield Check("settings", "notify", "warning", f"{about}: {exc.message}")
            continue
        if target.command and not shutil.which(target.command[0], path=environ.get("PATH")):
            yield Check("settings", "notify", "warning", f"{about}: no program {target.command[0]!r}")
        else:
            yield Check("settings", "notify", "ok", f"{about}: {', '.join(target.on)}")


def _why_not(settings: Settings) -> str:
    if not settings.warm.enabled:
        return "warm.enabled: false"
    if resource_limits.are_per_process(settings.agents):
        return "limits such as agents.max_memory_mb apply to each run"
    if not settings.warm.max_processes:
        return "warm.max_processes: 0"
    return "" if settings.warm.kept_backends else "warm.kept_backends: []"


def check_files(home: Path, settings_file: Path) -> list[Check]:
    """Check the folder of clinvk's own files, and who may read the settings file: it may have keys of the agents."""
    checks: list[Check] = []
    for name, path, others in ("home", home, stat.S_IRWXO), ("settings", settings_file, stat.S_IRWXG | stat.S_IRWXO):
        try:
            mode = path.stat().st_mode
        except FileNotFoundError:
            checks += [Check(_FILES, name, "ok", f"{path} will be created when needed")] * (path == home)
        except OSError as exc:
            checks.append(Check(_FILES, name, "problem", f"{path}: {exc.strerror}"))
        else:
            shown = f"({stat.filemode(mode)})"
            if path == home and not stat.S_ISDIR(mode):
                checks.append(Check(_FILES, name, "problem", f"{path} is not a folder"))
            elif mode & others:
                fix = f"chmod go-rwx {shlex.quote(str(path))}"
                checks.append(Check(_FILES, name, "warning", f"{path} is open to others {shown}", fix))
            else:
                checks.append(Check(_FILES, name, "ok", f"{path} {shown}"))
    return checks


def check_store(home: Path) -> Check:
    """Check the sessions, without migrating the database. Blocks."""
    from clinvk.store.rows import Unreadable
    from clinvk.store.sqlite.database import Database

    try:
        count = Database(home, _ANSWERS_TIMEOUT_S).examine()
    except Unreadable as exc:
        repair = _REPAIR.format(home=shlex.quote(str(home)))
        return Check(_FILES, SESSIONS, "problem", f"{exc.message}. The repair needs the package sqlite3", repair)
    except StoreUnavailable as exc:
        return Check(_FILES, SESSIONS, "problem", exc.message)
    return Check(_FILES, SESSIONS, "ok", f"{count} stored" if count else "none yet")


async def check_database(settings: Settings) -> Check:
    """Check the database of `store.url`, without migrating it."""
    try:
        with extra_required("cluster", "store.url"):
            from clinvk.store.postgres.database import examine  # slow import
        return Check(_FILES, SESSIONS, "ok", await examine(settings.store.url, _ANSWERS_TIMEOUT_S))
    except (ConfigError, StoreUnavailable) as exc:
        return Check(_FILES, SESSIONS, "problem", exc.message)


def check_runs(server: ServerSettings, health: Health | None) -> Check:
    """Report the maximum number of runs at once; `health` is that of the running server, whose limit may differ."""
    runs, reason, _ = capacity(server)
    of_each = server.max_concurrent_per_backend
    each = f" ({of_each} per agent)" if 0 < of_each < runs else ""
    message = f"up to {runs} runs at once{each}: {reason}"
    if health and health.capacity and (actual := health.capacity).max_concurrent_runs != runs:
        running = f"the running server allows {actual.max_concurrent_runs} runs at once: {actual.reason}"
        message = f"{running}. A start now would allow {message}"
    return Check(_MACHINE, "runs", "ok", message)


def check_port(server: ServerSettings, health: Health | None) -> Check:
    """Check whether `clinvk serve` could listen; if not, report which program does. Blocks."""
    where = f"[{server.host}]:{server.port}" if ":" in server.host else f"{server.host}:{server.port}"
    if not server.port:
        return Check(_MACHINE, "port", "ok", f"{where}: a free port is chosen at the start")
    try:
        for sock in listen(server.host, server.port):
            sock.close()
    except OSError as exc:
        if health:
            return Check(_MACHINE, "port", "ok", f"{where}: clinvk {health.version} is running there, {health.status}")
        if exc.errno == errno.EADDRINUSE:
            return Check(_MACHINE, "port", "warning", f"{where} is in use by another program")
        return Check(_MACHINE, "port", "warning", f"clinvk serve cannot listen on {where}: {exc.strerror}")
    return Check(_MACHINE, "port", "ok", f"{where} is free")


async def running_server(server: ServerSettings) -> Health | None:
    """Return the health of the clinvk that listens on the port, if any."""
    return await health_of(server.host, server.port, _ANSWERS_TIMEOUT_S) if server.port else None


async def check_server(settings: Settings, environ: Mapping[str, str]) -> Check:
    """Check whether prompts of the command line go through a running server, or report why not."""
    not_through = "prompts do not go through the server of this home"
    if not settings.warm.command_line:
        return Check(_MACHINE, "server", "skipped", f"{not_through}: warm.command_line: false")
    try:
        async with server_of(settings, environ, settings.default_backend):
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
    return Check(_MACHINE, "git", "warning", "git is not on PATH; agents and worktrees need it")


def check_marks(marks: ProcessTags) -> Check:
    """Report how the processes of an agent are found when the agent is killed."""
    if isinstance(marks, RlimitTags):
        return Check(_MACHINE, "processes", "ok", "stopping an agent stops everything that it started")
    message = "a process that an agent hides on purpose can outlive it: RLIMIT_RTTIME does not mark processes here"
    return Check(_MACHINE, "processes", "warning", message)
