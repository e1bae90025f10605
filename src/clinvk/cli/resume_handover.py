"""`clinvk resume --interactive`: the terminal goes to the agent's own program, with the conversation opened."""

import asyncio
import os
import shlex
import signal
import sys
from collections.abc import Mapping
from typing import NoReturn

from clinvk.cli.flags import ResumeFlags
from clinvk.cli.nearest import freeing
from clinvk.cli.output import WOULD_EXECUTE, tell
from clinvk.cli.sessions_store import opened
from clinvk.config import Settings, complete
from clinvk.config.loading import home, may_lie_in_worktree
from clinvk.errors import ClinvkError, InvalidRequest, SessionBusy, Unsupported
from clinvk.request import RunRequest
from clinvk.runtime import marks
from clinvk.runtime.handover import Handover, handover
from clinvk.runtime.process import Spawner
from clinvk.session import Session

_OF_A_PROMPT = (
    *("system_prompt", "max_turns", "allowed_tools", "add_dir", "image"),
    *("output_schema", "effort", "timeout", "no_stdin"),
)
_WORDS = ("approval_mode", "sandbox_mode", "allowed_tools")


def refuse_prompt_flags(flags: ResumeFlags, prompt: str | None) -> None:
    """Refuse what the agent's own program would not be told.

    Raises:
        InvalidRequest: names it.
    """
    if prompt is not None:
        raise InvalidRequest("--interactive opens the agent's own program, where the prompt is typed: leave it away")
    for name in _OF_A_PROMPT:
        if getattr(flags, name) not in (None, (), False):
            flag = f"--{name.replace('_', '-')}"
            raise InvalidRequest(f"{flag} is for a prompt: the agent's own program, which is opened, is not told", flag)


def hand_over(session: Session, flags: ResumeFlags, settings: Settings, environ: Mapping[str, str]) -> int:
    """Become the agent's own program, in the session's directory; or show its command. Returns only in a dry run.

    Raises:
        SessionBusy, NotResumable: the session cannot be opened.
        Unsupported: the settings ask for rules that the program would not be told.
        BackendUnavailable: it is not installed.
        InvalidRequest: its directory is in a worktree that another clinvk changes.
    """
    _refuse_busy(session)
    request = complete(
        RunRequest(
            prompt="",
            backend=session.backend,
            session_id=session.id,
            model=flags.model,
            approval_mode=flags.approval_mode,
            sandbox_mode=flags.sandbox_mode,
        ),
        settings,
    )
    _refuse_rules(request)
    opens = asyncio.run(handover(request, session, settings, environ))
    if settings.unified_flags.dry_run:
        command = shlex.join(opens.argv)
        where = f"cd {shlex.quote(opens.cwd)} && " if opens.cwd else ""
        tell(f"{WOULD_EXECUTE}\n{where}{command}")
        return 0
    if not (os.isatty(0) and os.isatty(1)):
        raise InvalidRequest(f"--interactive needs a terminal for {session.backend}'s own program")
    asyncio.run(_free(session, environ))
    if opens.cwd and may_lie_in_worktree(opens.cwd):
        asyncio.run(_hold(opens.cwd, environ))
    return _become(opens)


async def _free(session: Session, environ: Mapping[str, str]) -> None:
    """Have a server let go of the conversation; a run of it may have begun while the user was asked for a prompt."""
    async with opened(environ) as store:
        _refuse_busy(await store.session(session.id))
    await freeing(environ)(session.id)


def _refuse_busy(session: Session) -> None:
    if session.status == "active":
        raise SessionBusy(f"session {session.id!r} is busy: a run of it is under way")


async def _hold(directory: str, environ: Mapping[str, str]) -> None:
    """Let nobody apply or discard the worktree that the program is opened in, if it is one."""
    from clinvk.runtime.worktrees import Worktrees  # few need it

    await Worktrees(Spawner(marks.choose()), home(environ), environ).use_from_here(directory)


def _refuse_rules(request: RunRequest) -> None:
    """Refuse to drop a rule silently: the agent's own program asks and limits by its own settings."""
    for name in _WORDS:
        value = getattr(request, name)
        if value not in (None, "default"):
            hint = "" if name == "allowed_tools" else f"; --{name.replace('_', '-')} default opens it all the same"
            raise Unsupported(
                f"{name} {value!r} does not reach {request.backend}'s own program, which keeps its own rules{hint}",
                name,
            )


def _become(handover: Handover) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores these, and what is executed would inherit it
        signal.signal(number, signal.SIG_DFL)
    try:
        if handover.cwd:
            os.chdir(handover.cwd)
        os.execve(handover.path, handover.argv, dict(handover.env))  # noqa: S606 - no shell is wanted
    except OSError as exc:
        raise ClinvkError(f"cannot start {handover.path!r}: {exc.strerror}") from exc
