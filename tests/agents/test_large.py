"""Large prompts and answers through the real CLIs."""

import pytest

from agents.machine import Machine
from clinvk.types.request import RunRequest

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(("backend", "size"), [("claude", 300_000), ("codex", 20_000_000)])
async def test_large_answer_arrives_complete(machine: Machine, backend: str, size: int) -> None:
    result = await machine.run(RunRequest(prompt=f"[[bytes={size}]]", backend=backend))
    assert result.error is None
    assert len(result.text) == size
