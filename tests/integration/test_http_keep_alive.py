"""Quiet answers: keep-alive messages preserve the connection, and readers ignore them."""

import asyncio
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest
from starlette.types import Message

from clinvk.api.endpoints.prompts import PromptEndpoint
from clinvk.api.endpoints.runs import RunEventsEndpoint
from clinvk.config.model import ServerSettings, Settings
from clinvk.dialects.rest.rest import Rest
from clinvk.runtime.local import LocalRuns
from clinvk.store.memory import MemoryStore
from clinvk.store.protocol import SessionStore
from clinvk.types.record import RunRecord
from clinvk.types.request import RunRequest
from polling import until
from serving import services_of
from shell_backend import DONE, TEXT, Shell

ENV = {"PATH": os.environ["PATH"], "HOME": "/"}
REGISTRY = {"shell": Shell()}
TICK_S = 0.03
STATE = {"request_id": "q", "key_name": ""}


class Client:
    """The other end of one ASGI call."""

    def __init__(self, body: dict[str, object]) -> None:
        self.body = msgspec.json.encode({"backend": "shell", **body})
        self.sent: list[Message] = []
        self._asked = False
        self._left = asyncio.Event()

    async def receive(self) -> Message:
        if not self._asked:
            self._asked = True
            return {"type": "http.request", "body": self.body, "more_body": False}
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        self.sent.append(message)

    def leave(self) -> None:
        self._left.set()

    @property
    def status(self) -> int | None:
        return self.sent[0]["status"] if self.sent else None

    @property
    def text(self) -> str:
        return b"".join(message.get("body", b"") for message in self.sent).decode()

    @property
    def ended(self) -> bool:
        return bool(self.sent) and not self.sent[-1].get("more_body", True)

    async def view(self, runs: LocalRuns, run_id: str, store: SessionStore, accept: str = "") -> None:
        services = services_of(runs, store, environ=ENV, registry=REGISTRY)
        viewers = RunEventsEndpoint(services, tick_s=TICK_S, poll_s=TICK_S)
        scope = {
            "type": "http",
            "method": "GET",
            "headers": [(b"accept", accept.encode())],
            "query_string": b"",
            "path_params": {"id": run_id},
            "state": {"request_id": "q"},
        }
        self._asked = True
        await viewers(scope, self.receive, self.send)

    async def ask(self, runs: LocalRuns, settings: Settings, hold_s: float = 60, tick_s: float = TICK_S) -> None:
        services = services_of(runs, settings=settings, environ=ENV, registry=REGISTRY)
        endpoint = PromptEndpoint(Rest(), services, tick_s=tick_s, hold_s=hold_s)
        scope = {"type": "http", "headers": [(b"content-type", b"application/json")], "state": STATE}
        await endpoint(scope, self.receive, self.send)


@contextmanager
def gate(tmp_path: Path) -> Generator[tuple[Path, str]]:
    """Return a file, and a piece of script that waits for the file."""
    file = tmp_path / "go"
    yield file, f"while [ ! -e {file} ]; do sleep 0.02; done\n"


async def test_quiet_stream_is_opened_and_kept_alive_until_its_first_event(tmp_path: Path) -> None:
    with gate(tmp_path) as (file, wait):
        client = Client({"prompt": wait + TEXT + DONE, "output_format": "stream-json"})
        async with LocalRuns(Settings(), MemoryStore(), ENV, REGISTRY) as runs, asyncio.TaskGroup() as group:
            group.create_task(client.ask(runs, Settings()))
            await until(lambda: client.text.startswith("   "))
            assert client.status == 200
            file.touch()
    lines = [msgspec.json.decode(line, type=dict[str, object]) for line in client.text.splitlines()]
    assert [line["type"] for line in lines] == ["init", "message", "done"]
    assert client.ended


async def test_silent_stream_is_kept_alive_between_events(tmp_path: Path) -> None:
    with gate(tmp_path) as (file, wait):
        client = Client({"prompt": TEXT + wait + DONE, "output_format": "stream-json"})
        async with LocalRuns(Settings(), MemoryStore(), ENV, REGISTRY) as runs, asyncio.TaskGroup() as group:
            group.create_task(client.ask(runs, Settings()))
            await until(lambda: client.text.endswith("}\n   "))
            file.touch()
    lines = [msgspec.json.decode(line, type=dict[str, object]) for line in client.text.splitlines()]
    assert [line["type"] for line in lines] == ["init", "message", "done"]


async def test_slow_json_answer_starts_with_spaces(tmp_path: Path) -> None:
    with gate(tmp_path) as (file, wait):
        client = Client({"prompt": wait + TEXT + DONE})
        async with LocalRuns(Settings(), MemoryStore(), ENV, REGISTRY) as runs, asyncio.TaskGroup() as group:
            group.create_task(client.ask(runs, Settings()))
            await until(lambda: client.text.startswith("  "))
            file.touch()
    assert msgspec.json.decode(client.text, type=dict[str, object])["output"] == "hello"
    assert not any(name == b"content-length" for name, _ in client.sent[0]["headers"])
    assert client.ended


@pytest.mark.parametrize(("accept", "pulse"), [("", ":\n\n"), ("application/x-ndjson", "   ")])
async def test_viewer_of_a_quiet_run_is_kept_alive(tmp_path: Path, accept: str, pulse: str) -> None:
    store = MemoryStore()
    with gate(tmp_path) as (file, wait):
        viewer = Client({})
        async with LocalRuns(Settings(), store, ENV, REGISTRY) as runs, asyncio.TaskGroup() as group:
            run = await runs.start(RunRequest(prompt=TEXT + wait + DONE, backend="shell"))
            group.create_task(viewer.view(runs, run.id, store, accept))
            await until(lambda: viewer.text.rpartition('"hello"')[2].count(pulse.strip(" ") or " ") >= 3)
            file.touch()
    assert viewer.ended
    if accept:
        lines = [msgspec.json.decode(line, type=dict[str, object]) for line in viewer.text.splitlines()]
        assert [line["type"] for line in lines] == ["init", "message", "done"]
    else:
        assert [block.partition(":")[0] for block in viewer.text.split("\n\n") if block != ":"][:4] == [
            "retry",
            "id",
            "id",
            "id",
        ]


async def test_viewer_of_a_quiet_run_of_another_clinvk_is_kept_alive() -> None:
    store = MemoryStore()
    await store.begin(RunRecord(id="a" * 32, backend="shell", prompt="p", state="running", created_at=1.0), None)
    viewer = Client({})
    async with LocalRuns(Settings(), store, ENV, REGISTRY) as runs, asyncio.TaskGroup() as group:
        viewing = group.create_task(viewer.view(runs, "a" * 32, store))
        await until(lambda: viewer.text.count(":\n\n") >= 3)
        viewer.leave()
        await viewing
    assert not viewer.ended


async def test_quick_answer_has_its_length_and_no_padding() -> None:
    client = Client({"prompt": TEXT + DONE})
    async with LocalRuns(Settings(), MemoryStore(), ENV, REGISTRY) as runs:
        await client.ask(runs, Settings(), tick_s=60)
    assert (b"content-length", str(len(client.text)).encode()) in client.sent[0]["headers"]
    assert client.text.startswith("{")


async def test_queued_client_is_sent_nothing_at_first(tmp_path: Path) -> None:
    """A later refusal still needs its own status."""
    one = Settings(server=ServerSettings(max_concurrent_runs=1))
    with gate(tmp_path) as (file, wait):
        first = Client({"prompt": wait + DONE})
        second = Client({"prompt": DONE, "output_format": "stream-json"})
        async with LocalRuns(one, MemoryStore(), ENV, REGISTRY) as runs, asyncio.TaskGroup() as group:
            group.create_task(first.ask(runs, one))
            await until(lambda: runs.busy)
            group.create_task(second.ask(runs, one))
            await until(lambda: runs.queued)
            await until(lambda: first.text.startswith("   "))
            assert second.sent == []
            file.touch()
    assert (first.status, second.status) == (200, 200)


@pytest.mark.parametrize("stream", [True, False])
async def test_client_that_is_queued_for_long_is_kept_alive(tmp_path: Path, stream: bool) -> None:
    one = Settings(server=ServerSettings(max_concurrent_runs=1))
    with gate(tmp_path) as (file, wait):
        first = Client({"prompt": wait + DONE})
        second = Client({"prompt": TEXT + DONE, "output_format": "stream-json" if stream else "json"})
        async with LocalRuns(one, MemoryStore(), ENV, REGISTRY) as runs, asyncio.TaskGroup() as group:
            group.create_task(first.ask(runs, one))
            await until(lambda: runs.busy)
            group.create_task(second.ask(runs, one, hold_s=0.01))
            await until(lambda: second.text.startswith("   "))
            assert runs.queued
            file.touch()
    assert second.status == 200
    assert '"hello"' in second.text
    assert second.ended


async def test_available_events_are_sent_in_batches() -> None:
    event, ending = (command.removeprefix("echo '").replace("'\n", "\n") for command in (TEXT, DONE))
    client = Client({"prompt": f"cat <<'X'\n{event * 300}{ending}X\n", "output_format": "stream-json"})
    async with LocalRuns(Settings(), MemoryStore(), ENV, REGISTRY) as runs:
        await client.ask(runs, Settings())
    assert client.text.count('"message"') == 300
    assert len(client.sent) < 30
