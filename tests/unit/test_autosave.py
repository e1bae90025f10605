import asyncio
from collections.abc import Mapping, Sequence

from clinvk.runtime.process.waiting import in_background
from clinvk.runtime.run.event_log import Autosave, EventLog
from clinvk.store.memory import MemoryStore
from clinvk.types.errors import StoreUnavailable
from clinvk.types.events import Logged, RunStarted, TextDelta, ToolCall, ToolCallDelta
from polling import until


class FailingStore(MemoryStore):
    """Fails the first `append`, once `go` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.appended: list[dict[str, int]] = []
        self.go = asyncio.Event()

    async def append(self, events: Mapping[str, Sequence[Logged]]) -> None:
        self.appended.append({run_id: len(entries) for run_id, entries in events.items()})
        if len(self.appended) == 1:
            await self.go.wait()
            raise StoreUnavailable("the disk is full")


async def test_run_that_ends_during_a_failed_append_is_not_appended_again() -> None:
    store = FailingStore()
    autosave = Autosave(store)
    ended, living = EventLog(lambda: None), EventLog(lambda: None)
    ended.extend([RunStarted(), TextDelta("a")])
    living.extend([RunStarted()])
    async with in_background(autosave.run()):
        autosave.add("ended", ended)
        autosave.add("living", living)
        await until(lambda: store.appended)
        autosave.forget("ended")
        store.go.set()
        await until(lambda: living.saved)
    assert store.appended == [{"ended": 2, "living": 1}, {"living": 1}]


def test_pieces_of_a_call_are_not_stored() -> None:
    log = EventLog(lambda: None)
    log.extend([RunStarted(), ToolCallDelta("c", "f", "{}"), ToolCall("c", "f", {}, for_client=True)])
    assert [entry.number for entry in log.unsaved()] == [1, 3]
