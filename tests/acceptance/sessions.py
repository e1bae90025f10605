"""Runs and sessions as prompts of the command line leave them, made by the library in a third of a command's time."""

import asyncio
import sqlite3
import time
from typing import Any

from acceptance.command import Clinvk
from clinvk.backends.registry import BACKENDS
from clinvk.config.model import Settings, complete
from clinvk.runtime.local import LocalRuns
from clinvk.store.sqlite.sqlite import SqliteStore
from clinvk.types.request import RunRequest
from clinvk.types.run import RunFacts
from scripted.steps import claude_says, codex_streams, gemini_says

FIRST = "aaaaaaaa-1111-4111-8111-111111111111"
SECOND = "bbbbbbbb-2222-4222-8222-222222222222"


def begun(
    clinvk: Clinvk,
    handle: str = FIRST,
    backend: str = "claude",
    prompt: str = "first",
    answer: str = "x",
    folder: str = "",
    title: str = "",
    **options: Any,
) -> str:
    """Begin a session in a folder of the command's folder; return the id. Later prompts get the same answer.

    Codex chooses its handle itself; `options` are fields of the request.
    """
    says = {"claude": claude_says, "gemini": gemini_says}
    clinvk.agent.play(codex_streams(answer) if backend == "codex" else says[backend](answer, session=handle))
    session_id = run_here(clinvk, prompt, backend, folder, title, **options).session_id
    assert session_id
    return session_id


def run_here(
    clinvk: Clinvk, prompt: str, backend: str = "claude", folder: str = "", title: str = "", **options: Any
) -> RunFacts:
    """Run a prompt in a new session in this process; `title` is the title of the session."""
    request = RunRequest(prompt=prompt, backend=backend, workdir=str(clinvk.folder / folder), **options)
    return asyncio.run(_run(clinvk, request, title))


async def _run(clinvk: Clinvk, request: RunRequest, title: str) -> RunFacts:
    settings = Settings()
    async with (
        SqliteStore(clinvk.config.parent) as store,
        LocalRuns(settings, store, clinvk.agent.env, BACKENDS) as runs,
        runs.run(complete(request, settings)) as run,
    ):
        await run.log.result()
        if title and run.facts.session_id:
            await store.describe(run.facts.session_id, title, None)
        return run.facts


def age(clinvk: Clinvk, session: str, seconds: float) -> None:
    """Set how long ago a session was last used."""
    change(clinvk, "UPDATE sessions SET last_used = ? WHERE id = ?", time.time() - seconds, session)


def change(clinvk: Clinvk, statement: str, *values: object) -> None:
    """Change stored columns."""
    with sqlite3.connect(clinvk.config.parent / "clinvk.db") as db:
        db.execute(statement, values)
    db.close()
