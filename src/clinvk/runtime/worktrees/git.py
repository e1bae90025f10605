"""Run git without running programs of an untrusted repository.

The user's and the system's git settings apply. Programs in the repository's own settings (`.git/config` and its
includes) are not run: no hook, file system monitor, filter or transport. Diffs are made by plumbing
commands, which use no pager, external diff or textconv. Tried with git 2.47.
"""

import os
import re
from collections.abc import Mapping
from typing import TypedDict, Unpack

from clinvk.runtime.process.executables import ProgramResult, run_tool
from clinvk.runtime.process.spawn import Spawner
from clinvk.types.errors import BackendUnavailable, ClinvkError, InvalidRequest
from clinvk.types.redaction import without_secrets

ISOLATION = "isolation"
"""The field of a request that asks for a worktree."""

_TIMEOUT_S = 300.0
_TRUSTED = frozenset({b"system", b"global"})
_PROGRAM = re.compile(rb"(filter\..*)\.(clean|smudge|process)|hook\..*\.(command|event)", re.DOTALL)
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
    """How to run one git command.

    `env` is added to the environment of all commands; `directory` replaces the directory of `Git`; `timeout_s` is the
    time limit, 300 seconds by default.
    """

    env: Mapping[str, str]
    stdin: bytes
    directory: str
    timeout_s: float


class Git:
    """git, guarded, for one directory.

    git starts in the current directory of clinvk: git 2.35 and later never remove the directory that they start in.

    Attributes:
        disabled: filters from the repository's own settings, which are not run.
        is_sparse: some files may be missing from the tree because of a sparse checkout.
    """

    def __init__(self, spawner: Spawner, environ: Mapping[str, str], directory: str) -> None:
        self.disabled: tuple[str, ...] = ()
        self.is_sparse = False
        self._spawner = spawner
        self._environ = environ
        self._directory = directory
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
        base = {**environment(self._environ), **_VARIABLES, **self._where}
        self._env = {**base, **_configured(_FIXED)}
        # `--show-scope -z` prints scope, NUL, key, line feed, value, NUL; a bare key has no line feed and no value.
        listed = (await self.out("config", "--list", "--show-scope", "-z")).split(b"\0")
        pairs = zip(listed[::2], (pair.partition(b"\n") for pair in listed[1::2]), strict=False)
        settings = [(scope, key, value) for scope, (key, _, value) in pairs]
        if not any(scope == b"command" for scope, _, _ in settings):
            raise InvalidRequest("worktrees need git 2.34 or later", ISOLATION)
        self.is_sparse = any(key == b"core.sparsecheckout" for _, key, _ in settings)
        off = _turned_off(settings)
        self.disabled = tuple(sorted(os.fsdecode(key)[7:-9] for key in off if key.endswith(b".required")))
        self._env = {**base, **_configured({**_FIXED, **off})}

    async def out(self, *arguments: str, **options: Unpack[GitOptions]) -> bytes:
        """Run a git command and return stdout.

        Raises:
            GitFailed: the exit code is not 0.
            ClinvkError: as `run`.
        """
        done = await self.run(*arguments, **options)
        if done.exit_code:
            message = on_one_line(done.stderr)
            raise GitFailed(
                f"git {arguments[0]} failed: {message or f'exit code {done.exit_code}'}", message, done.exit_code
            )
        return done.stdout

    async def run(self, *arguments: str, **options: Unpack[GitOptions]) -> ProgramResult:
        """Run a git command and return the result, also after a failure.

        Raises:
            GitTimedOut: the command did not exit in time.
            ClinvkError: git cannot be run.
        """
        timeout_s = options.get("timeout_s", _TIMEOUT_S)
        argv = ("git", "-C", options.get("directory", self._directory), "--no-pager", *arguments)
        env = {**self._env, **options.get("env", {})}
        try:
            return await run_tool(self._spawner, argv, env, timeout_s, stdin=options.get("stdin", b""))
        except BackendUnavailable as exc:
            raise InvalidRequest(f"worktrees need git: {exc.message}", ISOLATION) from exc
        except TimeoutError:
            raise GitTimedOut(f"git {arguments[0]} took over {timeout_s:g} s") from None


def environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return an environment without clinvk's secrets, and without the variables of git, which select a repository."""
    return {name: value for name, value in without_secrets(environ).items() if not name.startswith("GIT_")}


def on_one_line(stderr: bytes) -> str:
    """Return the error output of git on one line, without prefixes and hints."""
    lines = stderr.decode(errors="replace").splitlines()
    parts = (re.sub(r"^(fatal|error|warning): ", "", line.strip()) for line in lines if not line.startswith("hint:"))
    return "; ".join(dict.fromkeys(part for part in parts if part))[:1000]


def _turned_off(settings: list[tuple[bytes, bytes, bytes]]) -> dict[bytes, bytes]:
    """Return the settings that replace programs of the repository's own settings by the user's, or by none.

    Each of `settings` is a scope, a key and a value.
    """
    trusted = {key: value for scope, key, value in settings if scope in _TRUSTED}
    off: dict[bytes, bytes] = {}
    for scope, key, value in settings:
        found = _PROGRAM.fullmatch(key)
        if found and scope not in _TRUSTED and value != trusted.get(key):
            off[key] = trusted.get(key, b"")
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
