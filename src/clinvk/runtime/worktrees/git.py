"""Run git without running programs of an untrusted repository.

The user's and the system's git settings apply. The settings of the repository (`.git/config`, its includes, and
`config.worktree`) may name programs in many places, and a new version of git may add a place. So git reads them only
to list them and to find the repository. All other commands go through a git directory of clinvk's own
(`private_git.py`), which takes over the settings in `_DATA`. Diffs are made by plumbing commands, which use no pager,
external diff or textconv. Tried with git 2.47.
"""

import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple, TypedDict, Unpack

from clinvk.runtime.process.executables import ProgramResult, run_tool
from clinvk.runtime.process.spawn import Spawner
from clinvk.types.errors import BackendUnavailable, ClinvkError, InvalidRequest
from clinvk.types.redaction import without_secrets

_BRANCH = "ref: refs/heads/"
_NO_BRANCH = ".invalid"  # in repositories whose references are not files

ISOLATION = "isolation"
"""The field of a request that asks for a worktree."""

_TIMEOUT_S = 300.0
_MAX_LINE = 4096
_TRUSTED = frozenset({b"system", b"global"})
_PROGRAM = re.compile(rb"filter\.(.*)\.(?:clean|smudge|process)", re.DOTALL)
_OF_USER = re.compile(rb"(?:filter|lfs)\..*", re.DOTALL)
"""Settings of the user and of the system that are passed on: an `includeIf` may name the user's repository."""

_DATA = re.compile(
    rb"core\.(?:autocrlf|eol|checkroundtripencoding|filemode|symlinks|ignorecase|precomposeunicode|protecthfs|protectntfs"
    rb"|longpaths|trustctime|checkstat|preloadindex|untrackedcache|bigfilethreshold|sparsecheckout|sparsecheckoutcone"
    rb"|excludesfile|attributesfile|logallrefupdates|sharedrepository)"
    rb"|index\.(?:sparse|version|threads|skiphash)|feature\.manyfiles|checkout\.(?:workers|thresholdforparallelism)"
    rb"|(?:user|author|committer)\.(?:name|email)"
    rb"|lfs\.(?:url|fetchinclude|fetchexclude|skipdownloaderrors)|remote\..*\.url",
    re.DOTALL,
)
"""Settings of the repository that are passed on: none names a program. git never uses a remote; Git LFS does."""

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


def branch_of(directory: str) -> str | None:
    """Return the branch of the repository around a directory, or None. Read files only, without a process. Blocks."""
    for folder in (Path(directory), *Path(directory).parents):
        pointer = _first_line(folder / ".git")  # in a worktree or a submodule
        if head := _first_line(folder / (pointer.removeprefix("gitdir: ") or ".git") / "HEAD"):
            branch = head.removeprefix(_BRANCH)
            return branch if branch not in (head, _NO_BRANCH) else None
    return None


def _first_line(path: Path) -> str:
    with suppress(OSError, ValueError):
        if path.is_file():  # no pipe, which would block
            with path.open(encoding="utf-8") as file:
                return file.readline(_MAX_LINE).rstrip("\n")
    return ""


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

    `env` is added to the environment of all commands; `timeout_s` is the time limit, 300 seconds by default.
    """

    env: Mapping[str, str]
    stdin: bytes
    timeout_s: float


class Settings(NamedTuple):
    """What the settings around a repository mean for clinvk.

    Attributes:
        kept: the settings for clinvk's own git directory, as for `Git.at`.
        disabled: filters from the repository's own settings, which are not run.
        is_sparse: some files may be missing from the tree because of a sparse checkout.
        object_format: the hash of the repository's objects, if named.
        ref_storage: the format of the repository's refs, if named.
        worktree: the setting `core.worktree` of the repository, or empty.
    """

    kept: Mapping[bytes, bytes]
    disabled: tuple[str, ...]
    is_sparse: bool
    object_format: str
    ref_storage: str
    worktree: str


class Git:
    """git in one directory, with `settings` that override those in files, and variables as `GIT_DIR`.

    `folder` is the git directory if it was given.

    git starts in the current directory of clinvk: git 2.35 and later never remove the directory that they start in.
    """

    def __init__(
        self,
        spawner: Spawner,
        environ: Mapping[str, str],
        directory: str,
        settings: Mapping[bytes, bytes] = MappingProxyType({}),
        variables: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self._spawner = spawner
        self._environ = environ
        self._directory = directory
        self.folder = Path(variables.get("GIT_DIR", ""))
        self._env = {**environment(environ), **_VARIABLES, **variables, **_configured({**settings, **_FIXED})}

    def at(self, directory: str, settings: Mapping[bytes, bytes], **variables: str) -> "Git":
        """Return git in another directory, with other settings and variables."""
        return Git(self._spawner, self._environ, directory, settings, variables)

    async def settings(self) -> Settings:
        """Read the settings of the repository, the user and the system; this runs no program that they name.

        Raises:
            InvalidRequest: git is missing, or too old to take settings from variables.
            ClinvkError: git cannot be run in the directory.
        """
        # `--show-scope -z` prints scope, NUL, key, line feed, value, NUL; a bare key has no line feed and is true.
        listed = (await self.out("config", "--list", "--show-scope", "-z")).split(b"\0")
        pairs = zip(listed[::2], (pair.partition(b"\n") for pair in listed[1::2]), strict=False)
        settings = [(scope, key, value if separator else b"true") for scope, (key, separator, value) in pairs]
        if not any(scope == b"command" for scope, _, _ in settings):
            raise InvalidRequest("worktrees need git 2.34 or later", ISOLATION)
        return _meaning([setting for setting in settings if setting[0] != b"command"])

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
        argv = ("git", "-C", self._directory, "--no-pager", *arguments)
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


def _meaning(settings: Sequence[tuple[bytes, bytes, bytes]]) -> Settings:
    """Return what settings mean; each of `settings` is a scope, a key and a value, the strongest last."""
    trusted = {key: value for scope, key, value in settings if scope in _TRUSTED}
    own = {key: value for scope, key, value in settings if scope not in _TRUSTED}
    programs = (_PROGRAM.fullmatch(key) for key, value in own.items() if value != trusted.get(key))
    of_user = {key: value for key, value in trusted.items() if _OF_USER.fullmatch(key)}
    return Settings(
        kept={**of_user, **{key: value for _, key, value in settings if _DATA.fullmatch(key)}},
        disabled=tuple(sorted({os.fsdecode(found[1]) for found in programs if found})),
        is_sparse=b"core.sparsecheckout" in own | trusted,
        object_format=own.get(b"extensions.objectformat", b"").decode(),
        ref_storage=own.get(b"extensions.refstorage", b"").decode(),
        worktree=os.fsdecode(own.get(b"core.worktree", b"")),
    )


def _configured(settings: Mapping[bytes, bytes]) -> dict[str, str]:
    """Return environment variables with settings for one command; `git -c` takes no name with `=`."""
    env = {"GIT_CONFIG_COUNT": str(len(settings))}
    for number, (key, value) in enumerate(settings.items()):
        env[f"GIT_CONFIG_KEY_{number}"] = os.fsdecode(key)
        env[f"GIT_CONFIG_VALUE_{number}"] = os.fsdecode(value)
    return env
