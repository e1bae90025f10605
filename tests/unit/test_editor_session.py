"""The turns of an editor's session, on a run whose events are known."""

import asyncio
import socket
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from clinvk.acp.agent import EditorAgent
from clinvk.acp.session import Context, EditorSession
from clinvk.backends import acp_wire as wire
from clinvk.backends.jsonrpc import Message
from clinvk.backends.registry import BACKENDS
from clinvk.cli.acp.command import UserRules
from clinvk.cli.acp.stdio import StdioConnection
from clinvk.config.model import Settings
from clinvk.store.memory import MemoryStore
from clinvk.types.events import Event, InteractionRequested, InteractionResolved, RunFinished, RunStarted
from clinvk.types.interaction import Interaction
from clinvk.types.record import Session
from clinvk.types.request import RunRequest
from known_run import KnownRun

ASKED = Interaction(
    id="q1", backend="claude", tool="Bash", title="Run", choices=("allow", "deny"), created_at=0, expires_at=0
)


REQUEST = RunRequest(prompt="hi")

EVERYTHING = Settings(), BACKENDS, None, UserRules(Settings())
"""What a session may use."""


async def no_problem(_: str) -> str:
    return ""


class SlowStore(MemoryStore):
    """A store that answers once `gate` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()

    async def session(self, reference: str) -> Session:
        await self.gate.wait()
        return await super().session(reference)


async def test_session_that_loads_slowly_holds_up_no_other_request() -> None:
    editor, own = socket.socketpair()
    with editor:
        reader, writer = await asyncio.open_connection(sock=own)
        store = SlowStore()
        async with asyncio.timeout(30), asyncio.TaskGroup() as group:
            connection = StdioConnection(reader, writer)
            context = Context(
                connection, store, KnownRun(REQUEST), group, Settings(), BACKENDS, None, UserRules(Settings())
            )
            agent = EditorAgent(context, no_problem)
            await agent.receive(Message(id=1, method="session/load", params={"sessionId": "none"}))
            store.gate.set()
        writer.close()
        await writer.wait_closed()


async def test_sessions_are_listed_in_pages() -> None:
    editor, own = socket.socketpair()
    store, times = MemoryStore(), range(101)
    for at in times:
        session = Session(
            id=f"{at:032x}", backend="claude", created_at=at, last_used=at, working_dir="/w", initial_prompt="hi"
        )
        await store.create(replace(session, backend_session_id="h", working_dir="/w" if at else "/other"))
    with editor:
        reader, writer = await asyncio.open_connection(sock=own)
        from_agent, to_agent = await asyncio.open_connection(sock=editor)

        async def listed(agent: EditorAgent, **params: object) -> dict[str, Any]:
            await agent.receive(Message(id=1, method="session/list", params=params))
            return msgspec.json.decode(await from_agent.readline())

        async with asyncio.timeout(30), asyncio.TaskGroup() as group:
            connection = StdioConnection(reader, writer)
            context = Context(
                connection, store, KnownRun(REQUEST), group, Settings(), BACKENDS, None, UserRules(Settings())
            )
            agent = EditorAgent(context, no_problem)
            first = (await listed(agent))["result"]
            second = (await listed(agent, cursor=first["nextCursor"]))["result"]
            ids = [each["sessionId"] for page in (first, second) for each in page["sessions"]]
            assert ids == [f"{at:032x}" for at in reversed(times)]
            assert (len(first["sessions"]), second.get("nextCursor")) == (100, None)
            here = (await listed(agent, cwd="/w"))["result"]
            assert (len(here["sessions"]), here.get("nextCursor")) == (100, None)
            assert [each["cwd"] for each in (await listed(agent, cwd="/other"))["result"]["sessions"]] == ["/other"]
            for cursor in ("x", "\u0663", "-1", "9" * 5000):
                assert (await listed(agent, cursor=cursor))["error"]["code"] == -32602
        for each in (writer, to_agent):
            each.close()
            await each.wait_closed()


@pytest.mark.parametrize("events", [[], [InteractionResolved(ASKED)]])
async def test_question_that_is_over_at_once_is_not_asked(events: list[Event]) -> None:
    editor, own = socket.socketpair()
    with editor:
        reader, writer = await asyncio.open_connection(sock=own)
        run = KnownRun(REQUEST, RunStarted(), InteractionRequested(ASKED), *events, RunFinished())
        async with asyncio.timeout(30), asyncio.TaskGroup() as group:
            context = Context(
                StdioConnection(reader, writer),
                MemoryStore(),
                run,
                group,
                Settings(),
                BACKENDS,
                None,
                UserRules(Settings()),
            )
            session = EditorSession(context, "s1", RunRequest(workdir="/"), "claude")
            result = await session.prompt([wire.Block(type="text", text="hi")])
        assert result.stop_reason == "end_turn"
        writer.close()
        await writer.wait_closed()
        editor.setblocking(False)
        assert editor.recv(1 << 16) == b""
