"""The terminal to an agent's own program: which, with what conversation opened, where, in what environment."""

from collections.abc import Mapping

import msgspec

from clinvk import backends
from clinvk.backends.base import Backend
from clinvk.config import Settings
from clinvk.errors import NotResumable
from clinvk.request import RunRequest
from clinvk.runtime import executables, sessions
from clinvk.session import Resume, Session


class Handover(msgspec.Struct, frozen=True, kw_only=True):
    """What to execute: `argv` in the directory `cwd` (None is the present one), as the program `path`."""

    path: str
    argv: tuple[str, ...]
    cwd: str | None
    env: Mapping[str, str]


async def handover(
    request: RunRequest,
    session: Session,
    settings: Settings,
    environ: Mapping[str, str],
    registry: Mapping[str, Backend] = backends.BACKENDS,
) -> Handover:
    """Say how the agent's own program opens a session; of the request it is told the model alone.

    Raises:
        SessionBusy: its agent has yet to tell its handle.
        NotResumable: it never told it, it is a fork that has not branched off, or its directory is gone.
        InvalidRequest: it is of another backend than the request.
        BackendUnavailable: its backend is unknown, disabled or not installed.
    """
    backend = backends.named(session.backend, registry)
    executables.check_enabled(backend, settings)
    handle = sessions.handle_of(session)
    if session.forks_parent:
        raise NotResumable(f"session {session.id!r} branches off with its first prompt; give it one")
    request = await sessions.placed(request, session)
    return Handover(
        path=executables.require(backend, settings, environ),
        argv=backend.interactive(Resume(handle), request.model),
        cwd=request.workdir,
        env=executables.environment(backend.name, settings, environ),
    )
