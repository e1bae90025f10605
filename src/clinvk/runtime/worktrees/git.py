"""Run git without running programs of an untrusted repository.

The user's and the system's git settings apply. Programs in the repository's own settings (`.git/config` and its
includes) are not run: no hook, file system monitor, filter or transport. Diffs are made by plumbing
commands, which use no pager, external diff or textconv. Tried with git 2.47.
"""

import asyncio
import os
import re
import stat
from collections.abc import Mapping
from typing import NamedTuple, TypedDict, Unpack

from clinvk.runtime.process.executables import Exited, run_tool
from clinvk.runtime.process.spawn import Spawner
from clinvk.runtime.worktrees.checks import environment
from clinvk.types.errors import BackendUnavailable, ClinvkError, InvalidRequest

ISOLATION = "isolation"
"""The field of a request that asks for a worktree."""

_WITHIN_S = 300.0
_TRUSTED = frozenset({b"system", b"global"})
_PROGRAM = re.compile(rb"(filter\..*)\.(clean|smudge|process)|hook\..*\.(command|event)", re.DOTALL)

_READ = (b"core.excludesfile", b"core.attributesfile")
"""Settings that name a file which git reads."""

_FIXED: dict[bytes, bytes] = {
    b"core.hooksPath": b"/dev/null",
    b"core.fsmonitor": b"false",
    b"core.splitIndex": b"false",
    b"core.safecrlf": b"false",
    b"core.filesRefLockTimeout": b"10000",
    b"core.packedRefsTimeout": b"10000",
    b"submodule.recurse": b"false",
    b"protocol.allow": b"never",
    b"gc.auto": b"0",
    b"maintenance.auto": b"false",
    b"advice.addEmbeddedRepo": b"false",
}
_VARIABLES = {
    "LC_ALL": "C",
    "GIT_ALLOW_PROTOCOL": "none",
    "GIT_NO_LAZY_FETCH": "1",
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_TERMINAL_PROMPT": "0",
}


class GitFailed(ClinvkError):
    """git exited with an error; `stderr` is the error output on one line."""

    def __init__(self, message: str, stderr: str, exit_code: int | None) -> None:
        super().__init__(message)
        self.stderr = stderr
        self.exit_code = exit_code


class GitTimedOut(ClinvkError):
    """git did not exit in time."""


class GitOptions(TypedDict, total=False):
    """How to run one git command; `env` is added to the environment of all commands."""

    env: Mapping[str, str]
    stdin: bytes
    cwd: str
    within_s: float


class Git:
    """git, guarded, in one directory.

    Args:
        cwd: the directory that git works in.
        started_in: the directory to start git in, if not `cwd`. git 2.35 and later do not remove that directory.

    Attributes:
        disabled: filters from the repository's own settings, which are not run.
        is_sparse: some files may be missing from the tree because of a sparse checkout.
    """

    def __init__(self, spawner: Spawner, environ: Mapping[str, str], cwd: str, started_in: str | None = None) -> None:
        self.disabled: tuple[str, ...] = ()
        self.is_sparse = False
        self._spawner = spawner
        self._environ = environ
        self._cwd = cwd
        self._started_in = started_in
        self._env: Mapping[str, str] = {}
        self._where: Mapping[str, str] = {}

    async def guard(self, **env: str) -> None:
        """Turn off all programs in the repository's own settings. Call `guard` before any other command.

        Args:
            env: `GIT_DIR` and the like for all commands that follow; by default those of the last guard, or none.

        Raises:
            InvalidRequest: git is missing, or too old to take settings from variables.
            ClinvkError: git cannot be run in the directory.
        """
        self._where = env or self._where
        self._env = {**environment(self._environ), **_VARIABLES, **self._where, **_configured(_FIXED)}
        settings = _settings(await self.out("config", "--list", "--show-scope", "-z"))
        if not any(setting.scope == b"command" for setting in settings):
            raise InvalidRequest("worktrees need git 2.34 or later", ISOLATION)
        for key in {setting.key for setting in settings}.intersection(_READ):
            named = await self.out("config", "--type=path", "-z", "--get", os.fsdecode(key))
            path = os.path.join(self._cwd, os.fsdecode(named.removesuffix(b"\0")))
            if path != os.devnull and await asyncio.to_thread(would_wait, path):
                raise ClinvkError(f"git would wait for {path!r}, which {os.fsdecode(key)} names: it is no file")
        self.is_sparse = any(setting.key == b"core.sparsecheckout" for setting in settings)
        off = _turned_off(settings)
        self.disabled = tuple(sorted(os.fsdecode(key)[7:-9] for key in off if key.endswith(b".required")))
        self._env = {**self._env, **_configured({**_FIXED, **off})}

    async def out(self, *arguments: str, **options: Unpack[GitOptions]) -> bytes:
        """Run a git command and return stdout.

        Raises:
            GitFailed: the exit code is not 0.
            ClinvkError: as `run`.
        """
        done = await self.run(*arguments, **options)
        if done.exit_code:
            said = on_one_line(done.stderr)
            raise GitFailed(f"git {arguments[0]} failed: {said or f'exit code {done.exit_code}'}", said, done.exit_code)
        return done.stdout

    async def run(self, *arguments: str, **options: Unpack[GitOptions]) -> Exited:
        """Run a git command and return the result, also after a failure.

        Raises:
            GitTimedOut: the command did not exit in time.
            ClinvkError: git cannot be run.
        """
        cwd, within_s = options.get("cwd", self._cwd), options.get("within_s", _WITHIN_S)
        argv = ("git", *(("-C", cwd) if self._started_in else ()), "--no-pager", *arguments)
        env = {**self._env, **options.get("env", {})}
        stdin = options.get("stdin", b"")
        try:
            return await run_tool(self._spawner, argv, env, within_s, self._started_in or cwd, stdin)
        except BackendUnavailable as exc:
            raise InvalidRequest(f"worktrees need git: {exc.message}", ISOLATION) from exc
        except TimeoutError:
            raise GitTimedOut(f"git {arguments[0]} took over {within_s:g} s") from None


def would_wait(path: str | os.PathLike[str]) -> bool:
    """Return whether a reader of a path might wait for ever: the path is a pipe or a device."""
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def on_one_line(stderr: bytes) -> str:
    """Return the error output of git on one line, without prefixes and hints."""
    lines = stderr.decode(errors="replace").splitlines()
    parts = (re.sub(r"^(fatal|error|warning): ", "", line.strip()) for line in lines if not line.startswith("hint:"))
    return "; ".join(dict.fromkeys(part for part in parts if part))[:1000]


class _Setting(NamedTuple):
    scope: bytes
    key: bytes
    value: bytes


def _settings(listed: bytes) -> list[_Setting]:
    """Parse `git config --list --show-scope -z`: scope, NUL, key, line feed, value, NUL; a bare key has no value."""
    parts = listed.split(b"\0")
    pairs = zip(parts[::2], (part.partition(b"\n") for part in parts[1::2]), strict=False)
    return [_Setting(scope, key, value) for scope, (key, _, value) in pairs]


def _turned_off(settings: list[_Setting]) -> dict[bytes, bytes]:
    """Return the settings that replace programs of the repository's own settings by the user's, or by none."""
    trusted = {setting.key: setting.value for setting in settings if setting.scope in _TRUSTED}
    off: dict[bytes, bytes] = {}
    for setting in settings:
        found = _PROGRAM.fullmatch(setting.key)
        if found and setting.scope not in _TRUSTED and setting.value != trusted.get(setting.key):
            off[setting.key] = trusted.get(setting.key, b"")
            if found[1]:
                off[found[1] + b".required"] = b"false"
    return off


def _configured(settings: Mapping[bytes, bytes]) -> dict[str, str]:
    """Return environment variables with settings for one command; `git -c` takes no name with `=`."""
    env = {"GIT_CONFIG_COUNT": str(len(settings))}
    for number, (key, value) in enumerate(settings.items()):
        env[f"GIT_CONFIG_KEY_{number}"] = os.fsdecode(key)
        env[f"GIT_CONFIG_VALUE_{number}"] = os.fsdecode(value)
    return env
