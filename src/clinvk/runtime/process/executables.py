"""Executables: paths, versions and environments of the agent CLIs, and helper programs that run to completion."""

import asyncio
import os
import shutil
import stat
import sys
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

from clinvk.backends.base import Backend, Host
from clinvk.config.model import Settings
from clinvk.policy import rules
from clinvk.runtime.process import private_folder, tool_bridge
from clinvk.runtime.process.spawn import Spawner
from clinvk.runtime.process.waiting import WakeUp
from clinvk.types.errors import BackendUnavailable, ClinvkError
from clinvk.types.redaction import is_reserved, without_secrets


class ProgramResult(NamedTuple):
    """The exit code and output of a helper program."""

    exit_code: int
    stdout: bytes
    stderr: bytes


async def run_tool(
    spawner: Spawner,
    argv: Sequence[str],
    env: Mapping[str, str],
    timeout_s: float,
    cwd: str | None = None,
    stdin: bytes = b"",
    keeps_stdout: bool = True,
) -> ProgramResult:
    """Run a helper program (git, `--version`) to completion; kill the program after `timeout_s`.

    Stdout is kept completely or not at all, stderr only up to its last bytes.

    Raises:
        BackendUnavailable: the program cannot be started.
        TimeoutError: the program took longer than `timeout_s`.
    """
    changed = WakeUp()
    process = spawner.spawn(argv, env, cwd, changed.set, raw=True)
    pieces: list[bytes] = []
    try:
        process.write(stdin, close=True)
        async with asyncio.timeout(timeout_s):
            while process.exit_code is None or not process.at_eof:
                await changed.wait()
                pieces += [piece for piece in process.take() if keeps_stdout]
        return ProgramResult(process.exit_code, b"".join(pieces), process.stderr)
    finally:
        await spawner.sweep(process)


_HELPERS = ("bwrap", "socat")
_VERSION_TIMEOUT_S = 20.0

_NEEDED = (
    *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "TMPDIR", "TZ", "LANG", "LANGUAGE", "LC_*", "TERM"),
    *("CLINVK_HOME", rules.DEPTH_VARIABLE),
)
"""Variables that most programs, and a clinvk started by an agent, need; no variable holds a secret."""


def find(backend: Backend, settings: Settings, environ: Mapping[str, str]) -> str | None:
    """Return the absolute path of a backend's CLI, or None if the CLI is not installed.

    The setting `backends.<name>.executable` is a path, or another name to look up on PATH.
    """
    own = settings.backend(backend.name)
    name = own.executable or backend.executable
    path = {**environ, **own.env}.get("PATH", os.defpath)
    found = shutil.which(name, path=path)
    return os.path.abspath(found) if found else None  # the agent's working directory differs


def check_enabled(backend: Backend, settings: Settings) -> None:
    """Refuse a backend that the settings disable, or that cannot be used.

    Raises:
        BackendUnavailable: the backend is disabled, or has an `error`.
    """
    if not settings.backend(backend.name).enabled:
        raise BackendUnavailable(f"backend {backend.name!r} is disabled (backends.{backend.name}.enabled: false)")
    if backend.error:
        raise BackendUnavailable(backend.error)


def require(backend: Backend, settings: Settings, environ: Mapping[str, str]) -> str:
    """Return the path of a backend's CLI.

    Raises:
        BackendUnavailable: the CLI is not installed; the message says how to install the CLI.
    """
    own = settings.backend(backend.name)
    if path := find(backend, settings, environ):
        return path
    where = f"{own.executable!r} (backends.{backend.name}.executable)" if own.executable else repr(backend.executable)
    raise BackendUnavailable(f"backend {backend.name!r} is not installed: no {where} found; install: {backend.install}")


def environment(backend: str, settings: Settings, environ: Mapping[str, str]) -> Mapping[str, str]:
    """Return the environment for a backend's CLI: inherited variables, variables from the settings, and the depth."""
    depth = str(rules.nesting_depth(environ) + 1)
    own = {name: value for name, value in settings.backend(backend).env.items() if not is_reserved(name)}
    return {**without_secrets(inherited(settings, environ)), **own, rules.DEPTH_VARIABLE: depth}


def inherited(settings: Settings, environ: Mapping[str, str]) -> Mapping[str, str]:
    """Return the variables that agents inherit: all, or with `agents.env_allow` the listed and the needed ones.

    Secrets of notification targets are not inherited.
    """
    allowed, hidden = settings.agents.env_allow, settings.notifications.secret_variables
    variables = needed_variables(environ, allowed) if allowed else environ
    return {name: value for name, value in variables.items() if name not in hidden} if hidden else variables


def needed_variables(environ: Mapping[str, str], more: Sequence[str] = ()) -> Mapping[str, str]:
    """Return the variables that most programs need, without credentials, and those that match a pattern of `more`."""
    patterns = (*_NEEDED, *more)
    return {name: value for name, value in environ.items() if any(fnmatchcase(name, pattern) for pattern in patterns)}


def host(environ: Mapping[str, str]) -> Host:
    """Return the facts about the machine for a backend."""

    def read(path: str) -> bytes | None:
        try:
            return Path(private_folder.at_home(path, environ)).read_bytes()
        except OSError:
            return None

    def find(folder: str, pattern: str) -> Sequence[str]:
        found = Path(private_folder.at_home(folder, environ)).glob(pattern)
        return [str(path) for path in sorted(found, key=_size, reverse=True)]

    path = environ.get("PATH", os.defpath)
    commands = frozenset(name for name in _HELPERS if shutil.which(name, path=path))
    return Host(
        is_root=os.geteuid() == 0,
        commands=commands,
        env=environ,
        read=read,
        read_range=file_part,
        find=find,
        resolve=resolve,
        tool_bridge=(sys.executable, "-I", "-S", tool_bridge.__file__),
    )


def resolve(path: str) -> str:
    """Return an absolute path without symbolic links; an empty path is clinvk's working directory."""
    try:
        return os.path.realpath(path)
    except OSError:  # a symbolic link was replaced while it was read
        return os.path.realpath(path)


def file_part(path: str, start: int, size: int) -> bytes | None:
    """Return part of a regular file, or None: a pipe would never end, and a file may exceed the memory."""
    try:
        # O_NONBLOCK: open does not wait for the writer of a pipe.
        with open(path, "rb", opener=lambda path, flags: os.open(path, flags | os.O_NONBLOCK)) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                return None
            file.seek(start)
            return file.read(size)
    except OSError:
        return None


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # removed after the search, or a dangling link
        return -1


async def output(spawner: Spawner, argv: Sequence[str], environ: Mapping[str, str]) -> bytes | None:
    """Return what a command of a CLI prints, or None if the command fails or times out."""
    try:
        answer = await run_tool(spawner, argv, environ, _VERSION_TIMEOUT_S)
    except (ClinvkError, TimeoutError):
        return None
    return answer.stdout if answer.exit_code == 0 else None


async def version(spawner: Spawner, path: str, environ: Mapping[str, str]) -> str | None:
    """Return the version that a CLI prints, or None if the CLI fails or times out."""
    words = (await output(spawner, (path, "--version"), environ) or b"").decode(errors="replace").split()
    return next((word.lstrip("v") for word in words if word[:1].isdigit() or word[:2].lstrip("v").isdigit()), None)
