"""The tasks or steps of a file under the flags of the command line."""

import os

from msgspec.structs import replace

from clinvk.cli.flags import Flags
from clinvk.cli.settings import directory
from clinvk.config import Settings
from clinvk.dialects.batch.bodies import PartBody
from clinvk.errors import ClinvkError, placed
from clinvk.plan import Part


def filled(bodies: list[PartBody], at: str, base: str, flags: Flags, settings: Settings) -> list[PartBody]:
    """Give the parts of a file with what they leave to the flags; `at` is what the list is called in the file.

    Args:
        bodies: as they were read.
        at: `tasks` or `steps`.
        base: what directories are relative to.
        flags: those of the command.
        settings: say what agent it is where none is named.

    Raises:
        InvalidRequest: there is no such directory; names the field.
    """
    return [_filled(body, f"{at}[{index}]", base, flags, settings) for index, body in enumerate(bodies)]


def grounded(parts: tuple[Part, ...], base: str) -> tuple[Part, ...]:
    """Let parts that name neither directory nor session work in `base`."""
    return tuple(
        part
        if part.request.workdir or part.request.session_id
        else replace(part, request=replace(part.request, workdir=base))
        for part in parts
    )


def _filled(body: PartBody, at: str, base: str, flags: Flags, settings: Settings) -> PartBody:
    try:
        workdir = _directory(body.workdir, base, "workdir") if body.workdir else None
        add_dirs = [_directory(path, base, f"add_dirs[{index}]") for index, path in enumerate(body.add_dirs or ())]
    except ClinvkError as exc:
        raise placed(exc, at) from exc
    return replace(
        body,
        backend=body.backend or (None if body.session_id else settings.default_backend),
        model=body.model or flags.model,
        workdir=workdir,
        add_dirs=add_dirs,
        ephemeral=body.ephemeral or flags.ephemeral,
    )


def _directory(path: str, base: str, field: str) -> str:
    return os.path.realpath(directory(os.path.join(base, os.path.expanduser(path)), field))
