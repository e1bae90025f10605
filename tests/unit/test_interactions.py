"""Pending interactions: limits, and stores that fail or lose an interaction."""

import asyncio

import pytest
from msgspec.structs import replace

from clinvk.config.model import InteractionSettings
from clinvk.runtime import interactions as module
from clinvk.runtime.interactions import Interactions, RunInteractions
from clinvk.store.memory import MemoryStore
from clinvk.types.errors import StoreUnavailable
from clinvk.types.events import InteractionRequested, InteractionResolved
from clinvk.types.interaction import Interaction, InteractionAnswer, QuestionField
from clinvk.types.record import RunRecord
from clinvk.types.request import RunRequest
from polling import until
from records import run

REQUESTED = InteractionRequested(Interaction(id="q"))


async def begun(store: MemoryStore) -> RunRecord:
    """Begin an ephemeral run."""
    await store.begin(record := run(), None)
    return record


def of_run(interactions: Interactions, record: RunRecord) -> RunInteractions:
    return RunInteractions(interactions, record.id, None, RunRequest(prompt="", backend=record.backend), lambda: None)


async def test_concurrent_requests_keep_to_the_limit_of_waiting_runs() -> None:
    async with MemoryStore() as store:
        runs = [(await begun(store)).id for _ in range(20)]
        interactions = Interactions(store, InteractionSettings(max_waiting=1))
        added = await asyncio.gather(
            *(interactions.add(Interaction(id="q", run_id=run_id), lambda _: None) for run_id in runs)
        )
        interactions.close()
    assert sum(isinstance(each, Interaction) for each in added) == 1


@pytest.mark.parametrize(
    "interaction",
    [
        Interaction(id="q", input={str(number): "x" * 65_000 for number in range(100)}),
        Interaction(id="q", fields=(QuestionField(id="f", label="l" * 2_000_000),)),
        Interaction(id="q", workdir="w" * 2_000_000),
    ],
)
async def test_request_that_is_too_long_is_denied(interaction: Interaction) -> None:
    async with MemoryStore() as store:
        interactions = Interactions(store, InteractionSettings())
        denial = await interactions.add(interaction, lambda _: None)
    assert denial == InteractionAnswer(choice="deny", reason="the request is too long to be shown")


async def test_other_interactions_expire_after_one_was_deleted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "POLL_S", 0.01)
    resolved: list[Interaction] = []
    async with MemoryStore() as store:
        deleted, other = await begun(store), await begun(store)
        interactions = Interactions(store, InteractionSettings(timeout_secs=1))
        await interactions.add(Interaction(id="q", run_id=deleted.id), resolved.append)
        await interactions.add(Interaction(id="q", run_id=other.id), resolved.append)
        await store.end(replace(deleted, state="finished"), None, [])
        await until(lambda: bool(resolved))
    assert [(each.run_id, each.status) for each in resolved] == [(other.id, "expired")]


async def test_answer_that_the_run_has_not_passed_on_stays_the_answer() -> None:
    changes: list[str] = []
    async with MemoryStore() as store:
        interactions = Interactions(store, InteractionSettings(), lambda each: changes.append(each.status))
        asking = of_run(interactions, await begun(store))
        (requested,) = await asking.record(REQUESTED)
        assert isinstance(requested, InteractionRequested)
        answered = await interactions.answer(requested.interaction.id, InteractionAnswer(choice="allow"))
        assert asking.end() == [InteractionResolved(answered)]
    assert changes == ["pending", "answered"]


class _FailingStore(MemoryStore):
    async def resolve_interaction(self, resolved: Interaction) -> Interaction:
        raise StoreUnavailable("the disk is full")


async def test_request_is_withdrawn_though_the_store_fails() -> None:
    async with _FailingStore() as store:
        interactions = Interactions(store, InteractionSettings())
        asking = of_run(interactions, await begun(store))
        await asking.record(REQUESTED)
        (withdrawn,) = await asking.record(InteractionResolved(Interaction(id="q")))
        assert not asking.is_waiting
        interactions.close()
    assert isinstance(withdrawn, InteractionResolved)
    assert withdrawn.interaction.status == "withdrawn"
