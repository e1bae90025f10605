"""Many concurrent clinvks on one home: each stores its own runs, and all see the same lists."""

import asyncio
import json
from collections import Counter

import httpx
import pytest

from acceptance.command import command_line
from acceptance.server import Server
from clinvk.store.protocol import RunQuery, SessionQuery
from clinvk.store.sqlite.sqlite import SqliteStore
from clinvk.types.events import Usage
from echo import A_TURN, Echo, answer
from polling import until_told

COMMAND_LINES = 20
TURNS_OF_A_COMMAND_LINE = 2
CLIENTS = 12
PROMPTS_OF_A_CLIENT = 16
ALL = 1_000_000


class Conversation:
    """A client's conversation: its session, and the number of its turns."""

    def __init__(self, agent: Echo, number: int) -> None:
        self.session: str | None = None
        self.backend = ("claude", "codex")[number % 2]
        self.turns = 0
        self._agent = agent

    async def command_line(self) -> None:
        """Run a turn by a new command line."""
        name = self._agent.name()
        way = ("resume", self.session) if self.session else ("--new", "-b", self.backend)
        done = await command_line(self._agent, *way, f"{name} 0.02")
        assert done.returncode == 0, done.stderr
        told = json.loads(done.stdout)
        self._take(told["session_id"], told["content"], name)

    async def http(self, client: httpx.AsyncClient) -> None:
        """Run a turn over HTTP."""
        name = self._agent.name()
        where = {"session_id": self.session} if self.session else {"backend": self.backend}
        response = await client.post("/api/v1/prompt", json={"prompt": f"{name} 0.02", **where})
        assert response.status_code == 200, response.text
        told = response.json()
        self._take(told["session_id"], told["output"], name)

    def _take(self, session: str, text: str, name: str) -> None:
        self.turns += 1
        assert session == (self.session or session)
        self.session = session
        assert text == answer(name, self.turns)


@pytest.mark.slow
async def test_command_lines_and_servers_on_one_home_keep_each_session_and_run_once(echo: Echo) -> None:
    with Server(echo) as one, Server(echo) as other:
        async with (
            httpx.AsyncClient(base_url=one.ready().url, timeout=60) as first,
            httpx.AsyncClient(base_url=other.ready().url, timeout=60) as second,
        ):
            single = [Conversation(echo, number) for number in range(CLIENTS * PROMPTS_OF_A_CLIENT)]
            long = [Conversation(echo, number) for number in range(COMMAND_LINES)]
            shared = [Conversation(echo, number) for number in range(6)]

            async def client(number: int) -> None:
                for conversation in single[number::CLIENTS]:
                    await conversation.http((first, second)[number % 2])

            async def command_lines(conversation: Conversation) -> None:
                for _ in range(TURNS_OF_A_COMMAND_LINE):
                    await conversation.command_line()

            async def wanders(conversation: Conversation) -> None:
                """Run a turn in each server, and one by a command line."""
                await conversation.http(first)
                await conversation.http(second)
                await conversation.command_line()
                await conversation.http(first)

            async with asyncio.TaskGroup() as group:
                for work in (*map(client, range(CLIENTS)), *map(command_lines, long), *map(wanders, shared)):
                    group.create_task(work)
            listed = [await _listed(client) for client in (first, second)]
    conversations = [*single, *long, *shared]
    assert listed[0] == listed[1]
    assert Counter(listed[0]) == Counter(conversation.session for conversation in conversations)
    async with SqliteStore(echo.folder / ".clinvk") as store:
        sessions = {session.id: session for session in (await store.sessions(SessionQuery(limit=ALL))).items}
        runs = (await store.runs(RunQuery(limit=ALL))).items
    assert Counter(run.prompt.split()[0] for run in runs) == Counter(echo.prompts())
    assert max(Counter(echo.prompts()).values()) == 1
    assert {run.state for run in runs} == {"finished"}
    assert Counter(run.session_id for run in runs) == {each.session: each.turns for each in conversations}
    for each in conversations:
        session = sessions[each.session or ""]
        assert (session.status, session.turn_count) == ("completed", each.turns)
        assert session.token_usage == sum([A_TURN] * each.turns, Usage())


async def test_only_one_of_concurrent_commands_gets_the_session(echo: Echo) -> None:
    """Two servers and two command lines; the others fail at once, and the session can be continued later."""
    session = Conversation(echo, 0)
    with Server(echo) as one, Server(echo) as other:
        async with (
            httpx.AsyncClient(base_url=one.ready().url, timeout=60) as first,
            httpx.AsyncClient(base_url=other.ready().url, timeout=60) as second,
        ):
            await session.http(first)
            assert session.session

            async def over_http(client: httpx.AsyncClient) -> str:
                body = {"session_id": session.session, "prompt": f"{echo.name()} 600"}
                response = await client.post("/api/v1/prompt", json=body)
                return (
                    "refused"
                    if (response.status_code, response.json().get("code")) == (409, "session_busy")
                    else response.text
                )

            async def by_command_line() -> str:
                done = await command_line(echo, "resume", session.session or "", f"{echo.name()} 600")
                return "refused" if done.returncode == 4 and "busy" in done.stderr else done.stderr

            for _ in range(3):
                ways = (over_http(first), over_http(second), by_command_line(), by_command_line())
                pending = {asyncio.create_task(way) for way in ways}
                while len(pending) > 1:
                    done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                    assert {task.result() for task in done} == {"refused"}
                await until_told(lambda: _is_active(first, session))
                echo.end()
                assert "killed" in (await pending.pop()).lower()
                session.turns += 1
                await session.http(second)


async def _is_active(client: httpx.AsyncClient, session: Conversation) -> bool:
    return (await client.get(f"/api/v1/sessions/{session.session}")).json()["status"] == "active"


async def _listed(client: httpx.AsyncClient) -> list[str]:
    answers = [await client.get("/api/v1/sessions", params={"limit": 100, "offset": at}) for at in (0, 100, 200)]
    return [session["id"] for page in answers for session in page.json()["sessions"]]
