"""The limits that the real Claude Code and Codex read from the model API's answers."""

import time

import pytest

from agents.machine import Machine
from clinvk.store.memory import MemoryStore
from clinvk.types.events import RunFinished
from clinvk.types.request import RunRequest

RESETS_AT = int(time.time()) + 7200
CLAUDE = {
    "status": "allowed_warning",
    "reset": RESETS_AT,
    "representative-claim": "five_hour",
    "5h-utilization": 0.82,
    "5h-reset": RESETS_AT,
    "5h-status": "allowed_warning",
    "7d-utilization": 0.31,
    "7d-reset": RESETS_AT + 400_000,
    "7d-status": "allowed",
}
CODEX = {
    "primary-used-percent": 42,
    "primary-window-minutes": 300,
    "primary-reset-at": RESETS_AT,
    "secondary-used-percent": 7,
    "secondary-window-minutes": 10080,
    "secondary-reset-at": RESETS_AT + 400_000,
}


@pytest.mark.first(2)
@pytest.mark.parametrize("way", ["alone", "kept"], indirect=True)
@pytest.mark.parametrize(
    ("backend", "headers", "expected"),
    [
        (
            "claude",
            {f"anthropic-ratelimit-unified-{name}": value for name, value in CLAUDE.items()},
            [("5h", 82.0, "warning"), ("7d", 31.0, "allowed")],
        ),
        (
            "codex",
            {f"x-codex-{name}": value for name, value in CODEX.items()},
            [("5h", 42.0, "allowed"), ("7d", 7.0, "allowed")],
        ),
    ],
)
async def test_limits_are_stored(
    machine: Machine, backend: str, headers: dict[str, object], expected: list[tuple[str, float, str]]
) -> None:
    """Claude Code reports limits only with a subscription's token."""
    del machine.env["ANTHROPIC_API_KEY"]
    machine.env["CLAUDE_CODE_OAUTH_TOKEN"] = f"sk-ant-oat01-{'a' * 80}"
    store, began = MemoryStore(), time.time()
    sent = ", ".join(f"{name}: {value}" for name, value in headers.items())
    request = RunRequest(prompt=f'hi [[words=2 headers="{sent}"]]', backend=backend)
    async with machine.runs(store=store) as runs, runs.run(machine.completed(request)) as run:
        ending = (await run.log.result()).ending
    assert isinstance(ending, RunFinished)
    limits = await store.limits()
    assert [(limit.window, limit.used_percent, limit.status) for limit in limits] == expected
    assert [limit.resets_at for limit in limits] == [RESETS_AT, RESETS_AT + 400_000]
    assert {limit.backend for limit in limits} == {backend}
    assert all(began <= limit.updated_at <= time.time() for limit in limits)


async def test_run_without_limits_stores_none(machine: Machine) -> None:
    """Codex reports empty limits to users of an API key."""
    store = MemoryStore()
    request = machine.completed(RunRequest(prompt="hi", backend="codex"))
    async with machine.runs(store=store) as runs, runs.run(request) as run:
        await run.log.result()
    assert await store.limits() == []
