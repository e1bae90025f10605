"""The directories in which agents may work, and the default for requests without one."""

import errno
import os
import stat
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from msgspec.structs import replace

from clinvk.backends.base import Backend
from clinvk.config.load import home, may_lie_in_worktree
from clinvk.config.model import Settings
from clinvk.policy.directories import BuiltInBlocks, DirectoryLists, containing
from clinvk.runtime.process.waiting import Lookups
from clinvk.types.errors import ConfigError, DirectoryNotAllowed, InvalidRequest
from clinvk.types.record import Session
from clinvk.types.request import RunRequest

_WORKSPACE = "workspace"
_PATH_MAX = 4096
"""The maximum length of a path on Linux, in bytes, including the final NUL."""

_OPEN_FLAGS = os.O_CLOEXEC | getattr(os, "O_PATH", os.O_RDONLY | os.O_NONBLOCK)


class WorkdirPolicy:
    """Checks the directories of requests, and sets the default directory.

    The agent works in the resolved path that was checked against the lists. The built-in lists do not apply to
    `server.default_workdir`, which the operator has chosen, unless the directory was replaced.
    """

    def __init__(
        self,
        settings: Settings,
        environ: Mapping[str, str],
        registry: Mapping[str, Backend],
        lookups: Lookups | None = None,
    ) -> None:
        self._default = settings.server.default_workdir
        self._lists = (settings.server.allowed_workdir_prefixes, settings.server.blocked_workdir_prefixes)
        self._environ = environ
        self._built_in = _built_in(settings, environ, registry)
        self._lookups = lookups or Lookups()

    def check_default(self) -> None:
        """Check `server.default_workdir` before the first request.

        Raises:
            ConfigError: agents cannot work in the directory.
        """
        try:
            if self._default:
                self._admitted(self._default, "server.default_workdir", self._directories())
        except InvalidRequest as exc:
            raise ConfigError(exc.message) from exc

    def refusal_of_default(self) -> str:
        """Return why a request without a directory is refused, or an empty text if allowed."""
        current = _current_directory()
        own = str(self._workspace) if current == "/" else current
        try:
            self._checked(self._default or own, "workdir", "the server's own directory", self._directories())
        except InvalidRequest as exc:
            return f"{exc.message}; server.default_workdir names another"
        return ""

    def admit(self, request: RunRequest) -> str:
        """Check the directories of a settled request again, right before its agent starts.

        Return the resolved working directory, free of symbolic links.

        Raises:
            DirectoryNotAllowed, InvalidRequest: as `settle`.
        """
        lists = self._directories()
        self._admitted_add_dirs(request, lists)
        workdir = request.workdir or _current_directory()
        if request.session_id:
            return self._checked_session_directory(workdir, lists)
        return self._admitted(workdir, "workdir", lists)

    async def settled(self, request: RunRequest, session: Session | None = None) -> RunRequest:
        """Settle a request; directories are looked up in a thread.

        Raises:
            DirectoryNotAllowed, InvalidRequest: as `settle`; also if a file system does not answer.
        """
        if not (session or request.workdir or request.add_dirs):
            return self.settle(request)
        of_session = session.project if session else None
        settle = partial(self.settle, request, session)
        return await self._lookups.run(settle, of_session, request.workdir, *request.add_dirs)

    def settle(self, request: RunRequest, session: Session | None = None) -> RunRequest:
        """Return the request with existing directories. The working directory of a session takes precedence.

        Raises:
            DirectoryNotAllowed: the lists of the settings keep the agent out of a directory.
            InvalidRequest: a path is not absolute, not an existing readable directory, or not the session's.
        """
        lists = self._directories()
        add_dirs = self._admitted_add_dirs(request, lists)
        if session:
            _check_same(request, session)
            self._checked_session_directory(session.project or _current_directory(), lists)
            return replace(request, add_dirs=add_dirs)
        workdir = self._admitted(request.workdir or self._default or self._server_directory(), "workdir", lists)
        return replace(request, workdir=workdir, add_dirs=add_dirs)

    def _admitted_add_dirs(self, request: RunRequest, lists: DirectoryLists) -> tuple[str, ...]:
        return tuple(self._admitted(path, f"add_dirs[{index}]", lists) for index, path in enumerate(request.add_dirs))

    def check(self, path: str) -> str:
        """Check a directory, which need not exist, against the lists. Return the original of the resolved path.

        Raises:
            DirectoryNotAllowed, InvalidRequest: as `settle`.
        """
        return self.original(self._checked(path, "directory", "directory", self._directories()))

    def check_repository(self, real: str) -> tuple[str, ...]:
        """Check a source directory of a worktree. Return the blocked directories below, or below the tree of a `.git`.

        Raises:
            DirectoryNotAllowed: the lists block the directory.
        """
        lists, original = self._directories(), self.original(real)
        # In an ordinary repository the operator has chosen the directory around `.git`.
        if refusal := self._built_in.refusal(original.removesuffix("/.git")) or lists.refusal(original):
            raise DirectoryNotAllowed(f"a worktree would have files from {real!r}, which {refusal}", "isolation")
        tree = f"{original}/".partition("/.git/")[0].removesuffix("/")
        real_tree = real.removesuffix(original.removeprefix(tree))
        inside = (path for path in lists.blocked if containing(path, (tree,)))
        return tuple(real_tree + path.removeprefix(tree) for path in inside)

    def original(self, real: str) -> str:
        """Return the original of a directory in a worktree of clinvk, or the directory itself."""
        if not may_lie_in_worktree(real):
            return real
        from clinvk.runtime.worktrees.folders import WorktreeFolders  # few requests name a worktree

        try:
            return WorktreeFolders(home(self._environ)).original(real)
        except ConfigError:  # a machine without homes
            return real

    def _checked_session_directory(self, path: str, lists: DirectoryLists) -> str:
        return self._checked(path, "session_id", "the session's directory", lists)

    def _admitted(self, path: str, field: str, lists: DirectoryLists) -> str:
        """Return the path to use. The lists are checked first, so that a refusal does not reveal what exists."""
        _refuse_long(path, field, field)
        if not os.path.isabs(path):
            raise InvalidRequest(f"{field} must be an absolute path, got {path!r}", field)
        path = self._checked(path, field, field, lists)
        check_workdir(path, field)
        return path

    def _checked(self, path: str, field: str, name: str, lists: DirectoryLists) -> str:
        """Check a path against all lists. Return the resolved path."""
        real = _resolved(path, field, name)
        original = self.original(real)
        if refusal := self._built_in.refusal(original) or lists.refusal(original):
            detail = (
                "" if original == path else f" (which leads to {real!r})" if original == real else f" (of {original!r})"
            )
            raise DirectoryNotAllowed(f"{name} {path!r}{detail} {refusal}", field)
        return real

    def _directories(self) -> DirectoryLists:
        """Resolve the lists, again for each request: a symbolic link in a list may change while the server runs."""
        allowed, blocked = (tuple(map(os.path.realpath, prefixes)) for prefixes in self._lists)
        return DirectoryLists(allowed, blocked)

    def _server_directory(self) -> str:
        """Return the server's working directory, or the workspace in the clinvk home if a service started in `/`."""
        own = _current_directory()
        if own != "/":
            return own
        self._workspace.mkdir(mode=0o700, parents=True, exist_ok=True)
        return str(self._workspace)

    @property
    def _workspace(self) -> Path:
        return home(self._environ) / _WORKSPACE


def _resolved(path: str, field: str, name: str) -> str:
    """Return an absolute path without symbolic links.

    Raises:
        InvalidRequest: the path cannot be resolved, or has characters that no path can have.
    """
    _refuse_long(path, field, name)
    try:
        return _resolve_fast(path) or os.path.realpath(path)
    except (OSError, ValueError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else exc
        raise InvalidRequest(f"{name} {path!r} cannot be used: {reason}", field) from exc


def _refuse_long(path: str, field: str, name: str) -> None:
    """Refuse a path too long for any system call: `realpath` needs quadratic time for a long path."""
    if (size := len(path.encode(errors="surrogatepass"))) >= _PATH_MAX:
        raise InvalidRequest(f"{name} cannot be used: it has {size} bytes; a path has at most {_PATH_MAX - 1}", field)


def _resolve_fast(path: str) -> str:
    """Resolve a path with one system call; return an empty text if the kernel does not resolve the path."""
    try:
        fd = os.open(path, _OPEN_FLAGS)
    except OSError:
        return ""
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except OSError:  # not Linux
        return ""
    finally:
        os.close(fd)


def _built_in(settings: Settings, environ: Mapping[str, str], registry: Mapping[str, Backend]) -> BuiltInBlocks:
    """Return the directories that are closed to all requests on this machine."""
    try:
        own = home(environ)
    except ConfigError:  # a machine without homes
        return BuiltInBlocks()
    start_directories = {
        os.path.realpath(path) for path in (_current_directory(), settings.server.default_workdir) if path
    }
    folders = {_expanded(folder, environ) for backend in registry.values() for folder in backend.folders}
    return BuiltInBlocks(
        private=_with_targets(str(own), *folders),
        exceptions=_with_targets(str(own / _WORKSPACE)),
        temporary=_with_targets(tempfile.gettempdir()),
        defaults=tuple(start_directories if settings.server.default_workdir else start_directories - {"/"}),
    )


def _expanded(folder: str, environ: Mapping[str, str]) -> str:
    """Expand `~/…` or `$VARIABLE/…`; return an empty text if the variable is unset."""
    first, slash, rest = folder.partition("/")
    found = environ.get("HOME" if first == "~" else first.removeprefix("$"))
    return f"{found}{slash}{rest}" if found else ""


def _with_targets(*paths: str) -> tuple[str, ...]:
    """Return the absolute paths and the targets of symbolic links, without duplicates."""
    found = [path for path in paths if os.path.isabs(path)]
    return tuple(dict.fromkeys([*found, *map(os.path.realpath, found)]))


def _current_directory() -> str:
    try:
        return os.getcwd()
    except FileNotFoundError:  # the directory was removed
        return "/"


def _check_same(request: RunRequest, session: Session) -> None:
    """Refuse a directory other than the session's: agents bind a conversation to the directory of its first run."""
    requested, session_directory = request.workdir, session.working_dir
    own = map(os.path.realpath, (session_directory, session.project))
    if requested and session_directory and _resolved(requested, "workdir", "workdir") not in own:
        raise InvalidRequest(
            f"workdir is {requested!r}, but session {session.id!r} works in {session_directory!r}; leave workdir out",
            "workdir",
        )


def check_workdir(path: str, field: str) -> None:
    """Refuse a path that is not an existing, readable directory.

    Raises:
        InvalidRequest: the error names `field`.
    """
    try:
        mode = os.stat(path).st_mode
    except OSError as exc:
        reason = "does not exist" if exc.errno == errno.ENOENT else f"cannot be used: {exc.strerror}"
        raise InvalidRequest(f"{field} {path!r} {reason}", field) from exc
    if not stat.S_ISDIR(mode):
        raise InvalidRequest(f"{field} {path!r} is not a directory", field)
    if not os.access(path, os.R_OK | os.X_OK):
        raise InvalidRequest(f"{field} {path!r} cannot be read by the server's user", field)
