"""The real CLIs in git worktrees of one repository, at the same time."""

import asyncio
from pathlib import Path

import pytest

from agents.machine import Machine
from clinvk.backends.registry import BACKENDS
from clinvk.runtime.process.process_tags import choose_tags
from clinvk.runtime.process.spawn import Spawner
from clinvk.runtime.worktrees.kept_worktrees import KeptWorktrees
from clinvk.types.choices import SandboxMode
from clinvk.types.orchestration import Change, ChangedFile
from clinvk.types.request import RunRequest
from repositories import Repository

AGENTS = tuple(BACKENDS)


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.parametrize("sandbox", ["default", "workspace"])
async def test_each_agent_writes_and_reads_instructions_in_its_own_worktree(
    machine: Machine, sandbox: SandboxMode
) -> None:
    repository = Repository(machine.project, machine.home)
    instructions = [f"inner/{name}.md" for name in ("CLAUDE", "AGENTS", "GEMINI")]
    repository.commit(**dict.fromkeys(instructions, "The word of the day is quince.\n"))
    worktrees = KeptWorktrees(Spawner(choose_tags()), machine.home / ".clinvk", machine.env)

    async def work(backend: str) -> tuple[Change, str | None]:
        async with worktrees.isolated(str(machine.project / "inner"), backend) as worktree:
            prompt = f"{backend}'s turn [[tool=write path={worktree.path}/{backend}.txt content=hello]] [[say=done]]"
            request = RunRequest(
                prompt=prompt, backend=backend, workdir=worktree.path, approval_mode="auto", sandbox_mode=sandbox
            )
            result = await machine.run(request)
            return await worktrees.outcome(worktree), result.text

    done = dict(zip(AGENTS, await asyncio.gather(*map(work, AGENTS)), strict=True))
    assert {name: outcome.files for name, (outcome, _) in done.items()} == {
        name: (ChangedFile(f"inner/{name}.txt", "added"),) for name in AGENTS
    }
    for name, (outcome, text) in done.items():
        assert "+hello" in outcome.diff
        assert text == "done"
        assert any("quince" in str(body) for body in machine.requests(f"{name}'s turn"))
    for listed in await worktrees.list():
        await worktrees.apply(listed.id)
    written = {str(path.relative_to(machine.project)) for path in Path(machine.project, "inner").iterdir()}
    assert written == {*instructions, *(f"inner/{name}.txt" for name in AGENTS)}
