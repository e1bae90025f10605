"""`clinvk resume`: go on with a conversation that is named, the newest, or chosen from a list."""

import asyncio
import os
import time
from collections.abc import Mapping
from typing import NamedTuple

from clinvk.cli import exits
from clinvk.cli.asking import answer_to
from clinvk.cli.flags import ResumeFlags
from clinvk.cli.notes import Notes
from clinvk.cli.picker_terminal import pick
from clinvk.cli.prompt import Asked, Choice, asked_for, check, newest, run, without_server
from clinvk.cli.resume_handover import hand_over, refuse_prompt_flags
from clinvk.cli.sessions_store import found, has_directory, opened, real_directory
from clinvk.cli.sessions_text import home_of
from clinvk.cli.settings import settings_of
from clinvk.cli.stdin import prompt_from
from clinvk.errors import InvalidRequest, NotResumable, SessionError
from clinvk.session import Session
from clinvk.store import SessionQuery, SessionStore


class _Words(NamedTuple):
    """What the words are: with --last and --here the only one is the prompt."""

    reference: str | None
    prompt: str | None


def resume(flags: ResumeFlags, environ: Mapping[str, str], notes: Notes) -> int:
    """Go on with a conversation; give the exit code.

    Raises:
        ClinvkError: nothing was run.
    """
    settings = settings_of(flags, environ, without_server(flags.no_server), notes)
    words = _words(flags)
    if flags.interactive:
        refuse_prompt_flags(flags, words.prompt)
    files = check(flags, settings)
    choice = asyncio.run(_chosen(flags, words, environ, notes))
    if not choice:
        notes.say("nothing was chosen")
        return exits.CANCELLED
    assert choice.session is not None
    if flags.interactive:
        return hand_over(choice.session, flags, settings, environ)
    text = _prompt(flags, words.prompt, choice.session, notes)
    if text is None:
        refuse_prompt_flags(flags, None)
        return hand_over(choice.session, flags, settings, environ)

    async def choose(store: SessionStore) -> Choice:
        return choice

    return run(Asked(flags, settings, text, environ, notes, files), choose)


def _words(flags: ResumeFlags) -> _Words:
    if flags.ephemeral:
        raise InvalidRequest("resume has no --ephemeral: what is said becomes a part of the conversation")
    if not (flags.last or flags.here):
        return _Words(*(*flags.words, None, None)[:2])
    if len(flags.words) > 1:
        flag = "--last" if flags.last else "--here"
        raise InvalidRequest(f"resume takes an ID or {flag}, not both; the prompt must be one argument, in quotes")
    return _Words(None, flags.words[0] if flags.words else None)


async def _chosen(flags: ResumeFlags, words: _Words, environ: Mapping[str, str], notes: Notes) -> Choice | None:
    """Give the session to go on with; None where the user chose none."""
    workdir = real_directory(flags.workdir) if flags.here or flags.workdir is not None else None
    async with opened(environ, notes) as store:
        if words.reference is not None:
            session = await found(store, words.reference)
            _check_same(session, flags.backend, workdir)
            return _named(session)
        has_prompt = words.prompt is not None or not (flags.interactive or flags.no_stdin or os.isatty(0))
        if flags.last or (flags.here and has_prompt):
            return await newest(store, flags.backend, workdir, notes)
        if not (os.isatty(0) and os.isatty(2)) or environ.get("TERM") == "dumb":
            raise SessionError("resume needs an ID, or --last: there is no terminal to choose on")
        session = await _picked(store, flags.backend, workdir, environ, notes)
        return _named(session) if session else None


async def _picked(
    store: SessionStore, backend: str | None, workdir: str | None, environ: Mapping[str, str], notes: Notes
) -> Session | None:
    if not (await store.sessions(SessionQuery(backend=backend, working_dir=workdir, resumable=True, limit=1))).items:
        await newest(store, backend, workdir, notes)

    async def search(text: str) -> tuple[Session, ...]:
        query = SessionQuery(backend=backend, working_dir=workdir, text=text or None, resumable=True, limit=1000)
        return (await store.sessions(query)).items

    return await pick(search, time.time(), home_of(environ.get("HOME")))


def _named(session: Session) -> Choice:
    """Choose the session that the user has named.

    Raises:
        NotResumable: its directory is gone.
    """
    if not has_directory(session):
        raise NotResumable(
            f"session {session.id!r} belongs to the directory {session.working_dir!r}, which does not exist any more; "
            f"make it again to go on there, or see what was said: clinvk sessions export {session.id}"
        )
    return asked_for(session)


def _check_same(session: Session, backend: str | None, workdir: str | None) -> None:
    """Refuse flags that are not the session's: its conversation stays where it is."""
    if backend is not None and backend != session.backend:
        raise InvalidRequest(f"session {session.id!r} is of {session.backend}, not of --backend {backend}", "--backend")
    if workdir is not None and os.path.realpath(session.working_dir) != workdir:
        raise InvalidRequest(
            f"session {session.id!r} belongs to {session.working_dir!r} and cannot go on in {workdir!r}; "
            "leave --workdir away",
            "--workdir",
        )


def _prompt(flags: ResumeFlags, argument: str | None, session: Session, notes: Notes) -> str | None:
    """Give the prompt; None is an empty line on the terminal: then the agent's own program is opened."""
    if argument is not None or flags.no_stdin or not os.isatty(0):
        return prompt_from(argument, None if flags.no_stdin else 0, notes.say)
    line = answer_to(f"prompt for {session.backend} (an empty line opens its own program): ")
    if not line:
        raise InvalidRequest("no prompt")
    return line.rstrip("\n") if line.strip() else None
