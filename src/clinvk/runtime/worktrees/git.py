"""git, run so that a repository nobody vouched for runs nothing of its own.

What the user's and the machine's settings of git say holds. Of the repository's own (`.git/config` and what it
includes) nothing that names a program does: no hook, no file system monitor, no filter, and no transport. Diffs are
made by plumbing, which knows no pager, no external diff and no textconv. Tried with git 2.47.
"""

import asyncio
import os
import re
import stat
from collections.abc import Mapping, Sequence
from typing import NamedTuple

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
    """git ended with an error; `said` is what it wrote on stderr."""

    def __init__(self, message: str, said: str, exit_code: int | None) -> None:
        super().__init__(message)
        self.said = said
        self.exit_code = exit_code


class GitTooSlow(ClinvkError):
    """git did not end in time."""


class Git:
    """Runs git in one place, guarded.

    `started_in` is where to start it, if not in that place: since 2.35 git does not remove the directory that it was
    started in. `disabled` are the filters of the repository's own settings, which are not run; `is_sparse` is whether
    a part of the files may be left out of the tree.
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
        """Find what the repository's own settings would run, and turn it off. Nothing else is run before.

        Args:
            env: `GIT_DIR` and the like, for all that follows; without them those of the guard before hold, or else
                the directory decides.

        Raises:
            InvalidRequest: git is missing, or so old that it takes no settings from variables.
            ClinvkError: git cannot be run here.
        """
        self._where = env or self._where
        self._env = {**environment(self._environ), **_VARIABLES, **self._where, **_configured(_FIXED)}
        settings = _settings(await self.out("config", "--list", "--show-scope", "-z"))
        if not any(setting.scope == b"command" for setting in settings):
            raise InvalidRequest("worktrees need git 2.34 or later", ISOLATION)
        for key in {setting.key for setting in settings}.intersection(_READ):
            named = await self.out("config", "--type=path", "-z", "--get", _text(key))
            path = os.path.join(self._cwd, os.fsdecode(named.removesuffix(b"\0")))
            if path != os.devnull and await asyncio.to_thread(would_wait, path):
                raise ClinvkError(f"git would wait for {path!r}, which {_text(key)} names: it is no file")
        self.is_sparse = any(setting.key == b"core.sparsecheckout" for setting in settings)
        off = _turned_off(settings)
        self.disabled = tuple(sorted(_text(key)[7:-9] for key in off if key.endswith(b".required")))
        self._env = {**self._env, **_configured({**_FIXED, **off})}

    async def out(
        self,
        *arguments: str,
        env: Mapping[str, str] | None = None,
        stdin: bytes = b"",
        cwd: str | None = None,
        within_s: float | None = None,
    ) -> bytes:
        """Give what a command of git prints.

        Raises:
            GitFailed: it ends with an error.
            ClinvkError: it cannot be run, or takes too long.
        """
        done = await self.run(*arguments, env=env, stdin=stdin, cwd=cwd, within_s=within_s)
        if done.exit_code:
            said = words(done.stderr)
            raise GitFailed(f"git {arguments[0]} failed: {said or f'exit code {done.exit_code}'}", said, done.exit_code)
        return done.stdout

    async def run(
        self,
        *arguments: str,
        env: Mapping[str, str] | None = None,
        stdin: bytes = b"",
        cwd: str | None = None,
        within_s: float | None = None,
    ) -> Exited:
        """Run a command of git, whatever it ends with; `cwd` and `within_s` are for this one.

        Raises:
            GitTooSlow: it takes too long.
            ClinvkError: it cannot be run.
        """
        cwd = cwd or self._cwd
        within_s = within_s or _WITHIN_S
        argv = ("git", *(("-C", cwd) if self._started_in else ()), "--no-pager", *arguments)
        env = {**self._env, **(env or {})}
        try:
            return await run_tool(self._spawner, argv, env, within_s, self._started_in or cwd, stdin)
        except BackendUnavailable as exc:
            raise InvalidRequest(f"worktrees need git: {exc.message}", ISOLATION) from exc
        except TimeoutError:
            raise GitTooSlow(f"git {arguments[0]} took over {within_s:g} s") from None


def would_wait(path: str | os.PathLike[str]) -> bool:
    """Say whether who reads there might wait for ever: there is a pipe, or a device."""
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def words(said: bytes) -> str:
    """Give what git said, on one line and without its prefixes."""
    lines = said.decode(errors="replace").splitlines()
    parts = (re.sub(r"^(fatal|error|warning): ", "", line.strip()) for line in lines if not line.startswith("hint:"))
    return "; ".join(dict.fromkeys(part for part in parts if part))[:1000]


class _Setting(NamedTuple):
    scope: bytes
    key: bytes
    value: bytes


def _settings(listed: bytes) -> Sequence[_Setting]:
    """Read `git config --list --show-scope -z`: scope, NUL, key, line feed, value, NUL; a bare key has no value."""
    parts = listed.split(b"\0")
    pairs = zip(parts[::2], parts[1::2], strict=False)
    return [_Setting(scope, *(entry.split(b"\n", 1) if b"\n" in entry else (entry, b""))) for scope, entry in pairs]


def _turned_off(settings: Sequence[_Setting]) -> dict[bytes, bytes]:
    """Give what to set so that the programs of the repository's own settings are not run, but the user's are."""
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
    """Give the variables that set something for one command. Names with `=` in them can only be set so."""
    numbered = list(enumerate(settings.items()))
    return {
        "GIT_CONFIG_COUNT": str(len(numbered)),
        **{f"GIT_CONFIG_KEY_{number}": _text(key) for number, (key, _) in numbered},
        **{f"GIT_CONFIG_VALUE_{number}": _text(value) for number, (_, value) in numbered},
    }


def _text(name: bytes) -> str:
    return name.decode(errors="surrogateescape")
