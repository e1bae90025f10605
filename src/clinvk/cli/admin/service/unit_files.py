"""The files of the service on the disk."""

import os
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from pathlib import Path

from clinvk.cli.admin.service.service_plan import Account
from clinvk.types.errors import ClinvkError

_OWN = 0o700


def differs(path: Path, text: str) -> bool:
    """Say whether a file has another text, or is not there."""
    try:
        return path.read_bytes() != text.encode()
    except OSError:
        return True


def mark_beside(path: Path) -> Path:
    """Give the file that stands beside a service's first one until what its files say is what was started."""
    return path.with_name(f".{path.name}.unfinished")


def check_writable(paths: Iterable[Path]) -> None:
    """Refuse what could not be written or removed, before anything is.

    Raises:
        ClinvkError: says which folder.
    """
    for path in paths:
        folder = next(parent for parent in path.parents if parent.exists())
        if not os.access(folder, os.W_OK | os.X_OK):
            raise ClinvkError(f"{path} cannot be written: {folder} is another user's; as root, or with --user")


def write(path: Path, text: str) -> None:
    """Put a file in place as a whole; everybody may read it.

    Raises:
        ClinvkError: it cannot be written.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text(text)
        beside.chmod(0o644)
        beside.replace(path)
    except OSError as exc:
        beside.unlink(missing_ok=True)
        raise ClinvkError(f"{path} cannot be written: {exc.strerror}") from exc


def remove(paths: Iterable[Path]) -> None:
    """Remove files.

    Raises:
        ClinvkError: one cannot be.
    """
    for path in paths:
        try:
            path.unlink(missing_ok=True)
        except OSError as exc:
            raise ClinvkError(f"{path} cannot be removed: {exc.strerror}") from exc


def make_folder(path: Path, account: Account) -> None:
    """Make the directory that the service starts in; what is missing of it becomes the account's own.

    Raises:
        ClinvkError: it cannot be made.
    """
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    try:
        for folder in reversed(missing):
            if os.geteuid() == 0:
                _make_for(account, folder)
            else:
                folder.mkdir(_OWN)
    except OSError as exc:
        raise ClinvkError(f"{path} cannot be made: {exc.strerror}") from exc


def _make_for(account: Account, folder: Path) -> None:
    """Make a folder as root: as the account would, else where nobody but root can lead it elsewhere meanwhile.

    In a home a link may stand, or be put, in the place of any folder, and what it leads to would be given away.
    """
    try:
        with _acting_as(account):
            folder.mkdir(_OWN)
    except PermissionError:
        _require_of_root(folder.parent)
        folder.mkdir(_OWN)
        os.chown(folder, account.uid, account.gid, follow_symlinks=False)


@contextmanager
def _acting_as(account: Account) -> Generator[None]:
    """Let root do only what an account may, inside this context. It is the whole process that changes."""
    groups = os.getgroups()
    try:
        os.setgroups([account.gid])
        os.setegid(account.gid)
        os.seteuid(account.uid)
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(groups)


def _require_of_root(folder: Path) -> None:
    for way in (folder, folder.resolve()):
        for place in (way, *way.parents):
            if place.lstat().st_uid != 0:
                raise ClinvkError(
                    f"{folder} is not the service's, and {place} on the way to it not root's: make the directory first"
                )
