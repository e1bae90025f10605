"""`clinvk resume`: continue a conversation, by a prompt or, with `--interactive`, in the agent's own program."""

import asyncio
import os
import shlex
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import NoReturn

from msgspec.structs import replace

from clinvk.cli.parse.flags import ConversationFlags, Flags, ResumeFlags, flags_of
from clinvk.cli.parse.settings import CommandContext
from clinvk.cli.prompt.prompt import PromptJob, refuse_detached, release, request_of, run
from clinvk.cli.prompt.session_choice import SessionChoice, newest, session_choice
from clinvk.cli.sessions.local_store import directory_filter, find, has_directory, open_store, over_store, within
from clinvk.cli.sessions.session_text import TextView, home_of, sessions_table, short_id
from clinvk.cli.terminal import exits
from clinvk.cli.terminal.input import ask, prompt_from
from clinvk.cli.terminal.keys import Interrupted, Keyboard
from clinvk.cli.terminal.output import STDERR, WOULD_EXECUTE, Notes, print_text, terminal_size, write
from clinvk.cli.terminal.streams import on_signals
from clinvk.cli.terminal.table import cut
from clinvk.config.load import may_lie_in_worktree
from clinvk.config.model import complete
from clinvk.runtime.agent_environment import InteractiveCommand, interactive_command
from clinvk.runtime.process import process_tags
from clinvk.runtime.process.spawn import Spawner
from clinvk.store.protocol import SessionQuery, SessionStore
from clinvk.types.errors import ClinvkError, InvalidRequest, NotResumable, SessionBusy, SessionError, Unsupported
from clinvk.types.record import Session
from clinvk.types.request import RunRequest

_ACCEPTED = ("approval_mode", "sandbox_mode", "no_server", "verbose")
"""Flags that `--interactive` accepts, besides the common flags. `_refuse_rules` checks the modes."""

_RULES = ("approval_mode", "sandbox_mode", "allowed_tools")


def refuse_prompt_flags(flags: ResumeFlags, prompt: str | None) -> None:
    """Refuse the flags that the agent's own program would not get.

    Raises:
        InvalidRequest: names the flag.
    """
    if prompt is not None:
        raise InvalidRequest(
            "--interactive opens the agent's own program, where the prompt is typed; leave the prompt out"
        )
    for flag in flags_of(ConversationFlags, {}):
        is_refused = not hasattr(Flags, flag.field) and flag.field not in _ACCEPTED
        if is_refused and getattr(flags, flag.field) not in (None, (), [], False):
            name = flag.names[0]
            raise InvalidRequest(
                f"{name} is for a prompt: --interactive opens the agent's own program, which does not take it", name
            )


def hand_over(session: Session, request: RunRequest, context: CommandContext) -> int:
    """Replace this process by the agent's own program, in the session's directory. Return only in a dry run.

    Raises:
        SessionBusy, NotResumable: the session cannot be opened.
        Unsupported: the settings have rules that the program would not get.
        BackendUnavailable: the agent is not installed.
        InvalidRequest: the directory is in a worktree that another clinvk changes.
    """
    _refuse_busy(session)
    request = complete(replace(request, backend=session.backend, session_id=session.id, workdir=None), context.settings)
    _refuse_rules(request)
    opens = asyncio.run(interactive_command(request, session, context.settings, context.environ, context.backends))
    if context.settings.unified_flags.dry_run:
        command = shlex.join(opens.argv)
        where = f"cd {shlex.quote(opens.cwd)} && " if opens.cwd else ""
        print_text(f"{WOULD_EXECUTE}\n{where}{command}")
        return 0
    if not (os.isatty(0) and os.isatty(1)):
        raise InvalidRequest(f"--interactive needs a terminal for {session.backend}'s own program")
    asyncio.run(_prepare(session, opens.cwd, context))
    return _become(opens)


async def _prepare(session: Session, workdir: str | None, context: CommandContext) -> None:
    """Make a server release the conversation, and keep other commands from applying or discarding its worktree.

    A run may have started while the user typed the prompt.
    """
    async with open_store(context) as store:
        _refuse_busy(await store.session(session.id))
    await release(context.environ, session.id)
    if workdir and may_lie_in_worktree(workdir):
        from clinvk.runtime.worktrees.session_worktrees import SessionWorktrees  # an import that only a worktree needs

        worktrees = SessionWorktrees(Spawner(process_tags.choose_tags()), context.home, context.environ)
        if session.worktree:
            await worktrees.ensure(session.working_dir, session.project)
        await worktrees.lock_until_exit(workdir)


def _refuse_busy(session: Session) -> None:
    if session.status == "active":
        raise SessionBusy(f"session {session.id!r} is busy: a run is in progress")


def _refuse_rules(request: RunRequest) -> None:
    """Refuse rules that would be dropped silently: the agent's own program follows its own settings."""
    for name in _RULES:
        value = getattr(request, name)
        if value not in (None, "default"):
            hint = "" if name == "allowed_tools" else f"; --{name.replace('_', '-')} default opens it all the same"
            raise Unsupported(
                f"{name} {value!r} does not reach {request.backend}'s own program, which keeps its own rules{hint}",
                name,
            )


def _become(handover: InteractiveCommand) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores these, and the program would inherit that
        signal.signal(number, signal.SIG_DFL)
    try:
        if handover.cwd:
            os.chdir(handover.cwd)
        os.execve(handover.path, handover.argv, dict(handover.env))  # noqa: S606 - without a shell
    except OSError as exc:
        raise ClinvkError(f"cannot start {handover.path!r}: {exc.strerror}") from exc


def resume(flags: ResumeFlags, context: CommandContext) -> int:
    """Resume a conversation; return the exit code.

    Raises:
        ClinvkError: no prompt was run.
    """
    if flags.detach:
        refuse_detached(flags)
    reference, prompt = _reference_and_prompt(flags)
    if flags.interactive:
        refuse_prompt_flags(flags, prompt)
    request = request_of(flags, context.settings)
    choice = over_store(context, lambda store: _chosen(store, flags, reference, prompt, context))
    if not choice:
        context.notes.info("no session chosen")
        return exits.CANCELLED
    assert choice.session is not None
    if flags.interactive:
        return hand_over(choice.session, request, context)
    text = _prompt(flags, prompt, choice.session, context.notes)
    if text is None:
        refuse_prompt_flags(flags, None)
        return hand_over(choice.session, request, context)

    async def choose(store: SessionStore) -> SessionChoice:
        return choice

    return run(PromptJob(replace(request, prompt=text), context, flags), choose)


def _reference_and_prompt(flags: ResumeFlags) -> tuple[str | None, str | None]:
    """Return the arguments. With --last and --here, the only argument is the prompt."""
    if flags.ephemeral:
        raise InvalidRequest("resume has no --ephemeral: prompt and answer become part of the conversation")
    if not (flags.last or flags.here):
        reference, prompt, *_ = *flags.words, None, None
        return reference, prompt
    if len(flags.words) > 1:
        flag = "--last" if flags.last else "--here"
        raise InvalidRequest(f"resume takes an ID or {flag}, not both; the prompt must be one argument, in quotes")
    return None, flags.words[0] if flags.words else None


async def _chosen(
    store: SessionStore, flags: ResumeFlags, reference: str | None, prompt: str | None, context: CommandContext
) -> SessionChoice | None:
    """Return the session to resume, or None if the user left the list."""
    notes, workdir = context.notes, directory_filter(flags, flags.here)
    if reference is not None:
        session = await find(store.session(reference))
        _check_same(session, flags.backend, workdir)
        return _named(session, notes)
    has_prompt = prompt is not None or not (flags.interactive or flags.no_stdin or os.isatty(0))
    if flags.last or (flags.here and has_prompt):
        return await newest(store, flags.backend, workdir, notes)
    if not (os.isatty(0) and os.isatty(2)) or context.environ.get("TERM") == "dumb":
        raise SessionError("resume needs an ID, or --last: there is no terminal to choose on")
    session = await _picked(store, flags.backend, workdir, context)
    return _named(session, notes) if session else None


async def _picked(
    store: SessionStore, backend: str | None, workdir: str | None, context: CommandContext
) -> Session | None:
    query = within(SessionQuery(backend=backend, resumable=True, limit=_LISTED), workdir)
    if not (await store.sessions(query)).items:
        await newest(store, backend, workdir, context.notes)

    async def search(text: str) -> tuple[Session, ...]:
        return (await store.sessions(replace(query, text=text or None))).items

    return await _pick(search, TextView(time.time(), home_of(context.environ.get("HOME"))))


_LISTED = 9
"""The sessions in the list: one for each digit."""

_COLUMNS = ("BACKEND", "USED", "NODE", "DIRECTORY", "TITLE")
_HELP = "up, down and Enter, or 1 to 9: choose   /: search   q: leave"
_UP, _CLEAR_LINE = "\x1b[{}A", "\x1b[K"


async def _pick(search: Callable[[str], Awaitable[Sequence[Session]]], view: TextView) -> Session | None:
    """Let the user choose a session; return None if the user leaves, at a signal, and if the terminal is gone.

    `search` returns at most `_LISTED` sessions for a text, the newest first.
    """
    with suppress(Interrupted), Keyboard(0) as keyboard, on_signals(keyboard.interrupt):
        found, selected = await search(""), 0
        _show(found, selected, view)
        while True:
            match await keyboard.key():
                case "q" | "\x1b" | "\x04":  # Escape, Ctrl-D
                    return None
                case "/":
                    found, selected = await search((await keyboard.line("search: ") or "").strip()), 0
                    _show(found, selected, view)
                case "up" | "down" as key if found:
                    selected = (selected + (1 if key == "down" else -1)) % len(found)
                    write(STDERR, _UP.format(len(found) + 2))
                    _show(found, selected, view)
                case "enter" if found:
                    return found[selected]
                case digit if digit in map(str, range(1, len(found) + 1)):
                    return found[int(digit) - 1]
                case _:
                    pass
    return None


def _show(found: Sequence[Session], selected: int, view: TextView) -> None:
    columns = terminal_size(STDERR).columns
    head, *rows = sessions_table(found, {}, view._replace(most=columns - 5), _COLUMNS) or ("nothing found",)
    lines = [f"{'>' if at == selected else ' '} {at + 1}  {row}" for at, row in enumerate(rows)]
    lines = [cut(line, columns - 1) for line in (f"     {head}", *lines, _HELP)]
    write(STDERR, "".join(f"{line}{_CLEAR_LINE}\n" for line in lines))


def _named(session: Session, notes: Notes) -> SessionChoice:
    """Choose the session that the user named.

    Raises:
        NotResumable: the directory of the session is gone.
    """
    if not has_directory(session):
        raise NotResumable(
            f"session {session.id!r} belongs to the directory {session.working_dir!r}, which no longer exists; "
            f"create it again to resume, or read the conversation: clinvk sessions export {short_id(session.id)}"
        )
    return session_choice(session, notes)


def _check_same(session: Session, backend: str | None, workdir: str | None) -> None:
    """Refuse a backend or directory that differs from the session's: a conversation does not move."""
    if backend is not None and backend != session.backend:
        raise InvalidRequest(f"session {session.id!r} is of {session.backend}, not of --backend {backend}", "--backend")
    if workdir is not None and workdir not in map(os.path.realpath, (session.working_dir, session.project)):
        raise InvalidRequest(
            f"session {session.id!r} belongs to {session.working_dir!r} and cannot go on in {workdir!r}; "
            "leave --workdir out",
            "--workdir",
        )


def _prompt(flags: ResumeFlags, argument: str | None, session: Session, notes: Notes) -> str | None:
    """Return the prompt, or None for an empty line on the terminal, which opens the agent's own program."""
    if argument is not None or flags.no_stdin or not os.isatty(0):
        return prompt_from(argument, flags.no_stdin, notes.info)
    line = ask(f"prompt for {flags.continue_with or session.backend} (an empty line opens its own program): ")
    if not line:
        raise InvalidRequest("no prompt")
    return line.rstrip("\n") if line.strip() else None
