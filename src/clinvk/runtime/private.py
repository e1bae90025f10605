"""The private folder of a launch: files that a CLI reads and nobody else may."""

import os
from collections.abc import Mapping

from clinvk.backends.base import PRIVATE, Launch
from clinvk.errors import ClinvkError


def write(launch: Launch, environ: Mapping[str, str]) -> str | None:
    """Make a new private folder with the launch's files and links; give its path, None where it has none. Blocks.

    Raises:
        ClinvkError: it cannot be written.
    """
    if not launch.files and not launch.links:
        return None
    import tempfile

    try:
        folder = tempfile.mkdtemp(prefix="clinvk-")
    except OSError as exc:
        raise ClinvkError(f"cannot make a private folder for the agent: {exc.strerror}") from exc
    try:
        _fill(folder, launch, environ)
    except OSError as exc:
        remove(folder)
        raise ClinvkError(f"cannot write the agent's private files in {folder!r}: {exc.strerror}") from exc
    return folder


def _fill(folder: str, launch: Launch, environ: Mapping[str, str]) -> None:
    for name, data in launch.files.items():
        with open(os.open(_place(folder, name), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(data)
    for name, target in launch.links.items():
        leads_to = at_home(target, environ)
        if name.endswith("/"):
            os.makedirs(leads_to, mode=0o700, exist_ok=True)
        os.symlink(leads_to, _place(folder, name.rstrip("/")))


def at_home(path: str, environ: Mapping[str, str]) -> str:
    """Put the agent's home in the place of a leading `~`."""
    return environ.get("HOME", "") + path[1:] if path.startswith("~") else path


def _place(folder: str, name: str) -> str:
    path = os.path.join(folder, name)
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    return path


def filled(text: str, folder: str | None) -> str:
    """Put the folder's path in the place that a launch left for it."""
    return text.replace(PRIVATE, folder) if folder else text


def remove(folder: str) -> None:
    """Remove a private folder and all in it. Blocks."""
    import shutil

    shutil.rmtree(folder, ignore_errors=True)
