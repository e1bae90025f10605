"""Large prompts and answers through the real CLIs."""

import pytest

from agents.machine import Machine
from clinvk.types.request import RunRequest

pytestmark = pytest.mark.slow

MEGABYTE = "x" * 1_000_000


@pytest.mark.parametrize("backend", ["claude", "codex", "gemini"])
async def test_one_megabyte_prompt_is_answered(machine: Machine, backend: str) -> None:
    result = await machine.run(RunRequest(prompt=f"{MEGABYTE} [[words=3]]", backend=backend))
    assert result.error is None
    assert result.text == "word1 word2 word3"


@pytest.mark.parametrize(("backend", "size"), [("claude", 300_000), ("codex", 20_000_000)])
async def test_large_answer_arrives_complete(machine: Machine, backend: str, size: int) -> None:
    result = await machine.run(RunRequest(prompt=f"[[bytes={size}]]", backend=backend))
    assert result.error is None
    assert len(result.text) == size
