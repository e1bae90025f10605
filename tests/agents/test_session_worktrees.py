"""The real CLIs in the worktree of a session, which ends between turns and is made again."""

import asyncio
import dataclasses
import json
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import pytest
from msgspec.structs import replace

from agents.machine import CLIS, Machine
from clinvk.config.model import WarmSettings
from clinvk.runtime.process.process_tags import choose_tags
from clinvk.runtime.process.spawn import Spawner
from clinvk.runtime.worktrees.kept_worktrees import KeptWorktrees
from clinvk.store.memory import MemoryStore
from clinvk.types.errors import InvalidRequest
from clinvk.types.request import RunRequest
from repositories import Repository

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


async def once_unused(end: Callable[[], Awaitable[object]], directory: Path) -> None:
    """End a worktree as soon as the agent, which has reported the end of its run, has let go of it."""
    async with asyncio.timeout(60):
        while directory.exists():
            with suppress(InvalidRequest):
                await end()
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("is_kept", [False, True], ids=["alone", "kept"])
@pytest.mark.parametrize("backend", CLIS)
async def test_conversation_continues_in_a_worktree_that_was_made_again(
    machine: Machine, backend: str, is_kept: bool
) -> None:
    repository = Repository(machine.project, machine.home)
    repository.commit(**{"kept.txt": "kept\n"})
    (machine.home / ".gitconfig").write_text("[user]\nname = Ana\nemail = ana@example.com\n")
    settings = replace(machine.settings, warm=WarmSettings(kept_backends=CLIS))
    machine = dataclasses.replace(machine, settings=settings, keeps_warm=is_kept)
    worktrees = KeptWorktrees(Spawner(choose_tags()), machine.home / ".clinvk", machine.env)
    store = MemoryStore()
    asked = RunRequest(
        backend=backend, model="fast" if backend == "gemini" else None, sandbox_mode="full", approval_mode="none"
    )

    def prompt(name: str) -> str:
        return f'{name} [[tool=shell cmd="ls > {name}.txt" say="said-{name}"]]'

    async with machine.runs(store=store) as runs:
        first = replace(asked, prompt=prompt("alpha"), isolation="worktree")
        _, session_id = await machine.run_in(runs, first)
        session = await store.session(session_id)
        assert session.worktree
        directory = Path(session.working_dir)
        id_ = session.worktree
        for name, end in (("beta", lambda: worktrees.discard(id_)), ("gamma", lambda: worktrees.commit(id_, "x"))):
            await machine.run_in(runs, replace(asked, prompt=prompt(name), session_id=session_id))
            assert "kept.txt" in (directory / f"{name}.txt").read_text()
            await once_unused(end, directory)
        await machine.run_in(runs, replace(asked, prompt=prompt("delta"), session_id=session_id))
    assert (directory / "delta.txt").read_text().split() == ["delta.txt", "gamma.txt", "kept.txt"]
    sent = json.dumps(machine.requests("delta")[-1])
    said = [sent.index(f"said-{name}") for name in ("alpha", "beta", "gamma")]
    assert said == sorted(said)
    assert repository.git("status", "--porcelain") == ""
