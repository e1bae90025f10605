"""`/acp`: editors over WebSockets, with the keys, the policies and the rights of REST."""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest
from acp import PROTOCOL_VERSION, Client, connect_to_agent, text_block
from acp.ws import create_websocket_stream
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.frames import Close

from acceptance.command import Clinvk
from acceptance.editor import Editor as SdkEditor
from acceptance.editor import editing as editing_with_sdk
from asking_backend import ASK, HEAR, Asking
from clients import finished
from clinvk.api.access.key_file import KeyFile, KeyLimits
from clinvk.api.access.keys import ApiKeys
from clinvk.config.load import home
from clinvk.store.memory import MemoryStore
from polling import until
from scripted import Scripted
from serving import LiveServer, serving
from shell_backend import DONE, Shell

REGISTRY = {"asking": Asking(), "shell": Shell()}


class Editor:
    """An editor that reads one message after the other, and allows what an agent asks for."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.seen: list[dict[str, Any]] = []

    async def send(self, method: str, id_: int | None = None, **params: object) -> None:
        message = {"jsonrpc": "2.0", "method": method, "params": params}
        await self.socket.send(json.dumps(message if id_ is None else {**message, "id": id_}))

    async def answer(self, id_: int) -> dict[str, Any]:
        """Return the response to a request."""
        async with asyncio.timeout(30):
            while True:
                message = json.loads(await self.socket.recv())
                self.seen.append(message)
                if message.get("method") == "session/request_permission":
                    outcome = {"outcome": {"outcome": "selected", "optionId": "allow"}}
                    await self.socket.send(json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": outcome}))
                elif message.get("id") == id_:
                    return message

    async def ask(self, method: str, **params: object) -> dict[str, Any]:
        await self.send(method, 1, **params)
        return await self.answer(1)

    async def new(self, folder: Path) -> str:
        return (await self.ask("session/new", cwd=str(folder), mcpServers=[]))["result"]["sessionId"]

    async def closed(self) -> tuple[int, str]:
        """Return the code and the reason with which the server closes the connection."""
        async with asyncio.timeout(30):
            try:
                while True:
                    await self.socket.recv()
            except ConnectionClosed as closed:
                end = closed.rcvd or Close(0, "")
                return end.code, end.reason


def text(prompt: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": prompt}]


@asynccontextmanager
async def editing(server: LiveServer, path: str = "/acp", **headers: str) -> AsyncGenerator[Editor]:
    async with connect(f"ws://127.0.0.1:{server.port}{path}", additional_headers=headers, max_size=None) as socket:
        yield Editor(socket)


async def refused(server: LiveServer, **headers: str) -> int:
    with pytest.raises(InvalidStatus) as failed:
        async with editing(server, **headers):
            pass
    assert json.loads(failed.value.response.body)["code"]
    return failed.value.response.status_code


async def test_prompt_asks_for_a_permission_and_its_session_is_listed_and_loaded(
    scripted: Scripted, tmp_path: Path
) -> None:
    async with serving(scripted.env, REGISTRY, store=MemoryStore()) as server, editing(server) as editor:
        assert (await editor.ask("initialize", protocolVersion=1))["result"].get("authMethods", []) == []
        session = await editor.new(tmp_path)
        prompt = text(ASK + HEAR + DONE)
        result = (await editor.ask("session/prompt", sessionId=session, prompt=prompt))["result"]
        assert result["stopReason"] == "end_turn"
        assert "session/request_permission" in [message.get("method") for message in editor.seen]
        assert "allow" in str(editor.seen[-2])
        listed = (await editor.ask("session/list"))["result"]["sessions"]
        assert [each["sessionId"] for each in listed] in ([], [session])
        async with editing(server) as other:
            assert "result" in await other.ask("session/load", sessionId=session, cwd=str(tmp_path), mcpServers=[])
            assert "user_message_chunk" in str(other.seen)


async def test_refusals_before_the_upgrade_are_responses_of_http(scripted: Scripted) -> None:
    async with serving(scripted.env, REGISTRY, keys=ApiKeys(["right"])) as server:
        assert await refused(server) == 401
        assert await refused(server, authorization="Bearer wrong") == 401
        assert await refused(server, authorization="Bearer right", origin="https://evil.example") == 403
        plain = await server.client.get("/acp", headers={"authorization": "Bearer right"})
        assert (plain.status_code, "WebSocket" in plain.text) == (400, True)
        async with editing(server, authorization="Bearer right", origin=f"http://127.0.0.1:{server.port}") as editor:
            assert "result" in await editor.ask("initialize", protocolVersion=1)


async def test_browser_uses_its_login_below_the_path_of_the_cookie(scripted: Scripted) -> None:
    async with serving(scripted.env, REGISTRY, keys=ApiKeys(["right"])) as server:
        cookie = f"clinvk-login-{server.port}={server.logins.redeem(server.logins.create_token())}"
        own = {"cookie": cookie, "origin": f"http://127.0.0.1:{server.port}"}
        async with editing(server, "/api/v1/acp", **own) as editor:
            assert "result" in await editor.ask("initialize", protocolVersion=1)
        assert await refused(server, cookie=cookie, origin="http://127.0.0.1:1") in (401, 403)


async def test_directories_and_sessions_are_those_of_the_key(scripted: Scripted, tmp_path: Path) -> None:
    own, other = tmp_path / "own", tmp_path / "other"
    own.mkdir()
    other.mkdir()
    file = KeyFile(home(scripted.env))
    limited = await file.create("ana", KeyLimits(workdirs=(str(own),)))
    free = await file.create("ben", KeyLimits())
    keys = ApiKeys((), await file.read())
    async with serving(scripted.env, REGISTRY, store=MemoryStore(), keys=keys) as server:
        async with editing(server, authorization=f"Bearer {free}") as editor:
            session = await editor.new(other)
            await editor.ask("session/prompt", sessionId=session, prompt=text(DONE))
        async with editing(server, authorization=f"Bearer {limited}") as editor:
            await editor.new(own)
            blocked = await editor.ask("session/new", cwd=str(other), mcpServers=[])
            assert "no directory that this API key may work in" in blocked["error"]["message"]
            loaded = await editor.ask("session/load", sessionId=session, cwd=str(own), mcpServers=[])
            assert loaded["error"]["code"] == -32002
            assert (await editor.ask("session/list"))["result"]["sessions"] == []


async def test_programs_of_the_client_are_refused_by_name(scripted: Scripted, tmp_path: Path) -> None:
    program: dict[str, object] = {"name": "files", "command": "sh", "args": [], "env": []}
    async with serving(scripted.env, REGISTRY) as server, editing(server) as editor:
        answer = await editor.ask("session/new", cwd=str(tmp_path), mcpServers=[program])
        assert "'files'" in answer["error"]["message"]


@pytest.mark.parametrize("end", ["revoked", "stopping", "disconnect"])
async def test_end_of_a_connection_ends_its_prompt(scripted: Scripted, tmp_path: Path, end: str) -> None:
    file = KeyFile(home(scripted.env))
    key = await file.create("ana", KeyLimits())
    keys = ApiKeys((), await file.read())
    async with serving(scripted.env, REGISTRY, keys=keys) as server:
        async with editing(server, authorization=f"Bearer {key}") as editor:
            session = await editor.new(tmp_path)
            await editor.send("session/prompt", 2, sessionId=session, prompt=text("sleep 600"))
            await until(lambda: server.runs.busy == 1)
            if end == "revoked":
                keys.replace_file_keys({})
                assert (await editor.closed())[0] == 1008
            elif end == "stopping":
                server.state.stopping.set()
                assert await editor.closed() == (1001, "the server is stopping")
        await until(lambda: server.runs.busy == 0 and server.state.active_requests == 0)


async def test_cancelled_prompt_leaves_the_session_usable(scripted: Scripted, tmp_path: Path) -> None:
    async with serving(scripted.env, REGISTRY) as server, editing(server) as editor:
        session = await editor.new(tmp_path)
        await editor.send("session/prompt", 2, sessionId=session, prompt=text("sleep 600"))
        await until(lambda: server.runs.busy == 1)
        await editor.send("session/cancel", sessionId=session)
        assert (await editor.answer(2))["result"]["stopReason"] == "cancelled"
        assert (await editor.ask("session/prompt", sessionId=session, prompt=text(DONE)))["result"]["stopReason"]


async def test_flood_and_oversized_message_close_the_connection(scripted: Scripted) -> None:
    async with serving(scripted.env, REGISTRY, max_request_body_bytes=10_000) as server:
        async with editing(server) as editor:
            await editor.socket.send("x" * 10_001)
            assert (await editor.closed())[0] == 1009
        async with editing(server) as editor:
            for _ in range(1500):
                await editor.send("session/cancel", sessionId="none")
            code, reason = await editor.closed()
            assert (code, "too many messages" in reason) == (1008, True)


async def test_head_in_pieces_is_upgraded(scripted: Scripted) -> None:
    async with serving(scripted.env, REGISTRY) as server:
        head = (
            b"GET /acp HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        reader, writer = await server.raw(head[:40])
        await asyncio.sleep(0.05)
        writer.write(head[40:])
        async with asyncio.timeout(10):
            assert b" 101 " in await reader.readline()
        writer.close()


async def test_python_sdk_reaches_a_server_through_the_command(scripted: Scripted, tmp_path: Path) -> None:
    sdk = SdkEditor()
    async with serving(scripted.env, REGISTRY, keys=ApiKeys(["right"])) as server:
        env = {**scripted.env, "CLINVK_API_KEY": "right"}
        url = f"http://127.0.0.1:{server.port}"
        async with editing_with_sdk(sdk, tmp_path, env, "--server", url) as agent:
            session = (await agent.new_session(cwd=str(tmp_path))).session_id
            done = await agent.prompt(session, [text_block(DONE)])
            assert done.stop_reason == "end_turn"
        nowhere = "http://127.0.0.1:1"
        for key, address, word in (("wrong", url, "401"), ("right", nowhere, "refused"), ("", "x", "--server")):
            command, env["CLINVK_API_KEY"] = (Clinvk.command, "acp", "--server", address), key
            failed = await finished(*command, cwd=tmp_path, env=env, within_s=20)
            assert failed.returncode != 0
            assert word in failed.stderr
            assert "Errno" not in failed.stderr


async def test_python_sdk_allows_what_an_agent_asks_over_a_websocket(scripted: Scripted, tmp_path: Path) -> None:
    sdk = SdkEditor("allow")
    async with serving(scripted.env, REGISTRY, keys=ApiKeys(["right"]), store=MemoryStore()) as server:
        headers = {"Authorization": "Bearer right"}
        stream = await create_websocket_stream(f"ws://127.0.0.1:{server.port}/acp", headers=headers)
        connection = connect_to_agent(cast("Client", sdk), stream)
        assert (await connection.initialize(protocol_version=PROTOCOL_VERSION)).protocol_version == PROTOCOL_VERSION
        session = (await connection.new_session(cwd=str(tmp_path))).session_id
        done = await connection.prompt(session, [text_block(ASK + HEAR + DONE)])
        assert done.stop_reason == "end_turn"
        assert len(sdk.asked) == 1
        assert "allow" in sdk.text()
        await connection.close()
