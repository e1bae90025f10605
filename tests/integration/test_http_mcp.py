"""`/mcp`: tools over HTTP, with the keys, the policies and the rights of REST."""

import asyncio
import json
from pathlib import Path

import httpx
import pytest
from mcp import MCPError
from mcp_types import TextResourceContents

from asking_backend import ASK, HEAR, Asking
from clinvk.api.access.keys import ApiKeys
from clinvk.api.endpoints.health import BackendList
from clinvk.api.mcp import endpoint, resources, tools
from clinvk.api.mcp.tools import Run, WorktreeDiff
from clinvk.config.model import PolicySettings
from clinvk.dialects.rest.interactions import InteractionView
from clinvk.runtime.worktrees.kept_worktrees import WorktreeApplied
from clinvk.store.memory import MemoryStore
from clinvk.types.record import RunRecord
from mcp_client import HANDSHAKES, Mcp, over_http
from polling import settled, until, until_told
from repositories import Repository
from scripted import Scripted
from serving import LiveServer, serving
from shell_backend import CALL, DONE, TEXT, Shell

REGISTRY = {"asking": Asking(), "shell": Shell(), "other": Shell("other")}
ACCEPT = "application/json, text/event-stream"
HINTS = {
    "read_only": ["get_run", "wait_run", "diff", "list_agents"],
    "destructive": ["run_agent", "compare", "cancel_run", "answer", "apply"],
    "idempotent": ["get_run", "wait_run", "cancel_run", "answer", "diff", "apply", "list_agents"],
    "open_world": ["run_agent", "compare", "answer"],
}
"""The tools with each hint of the annotations."""

CURL = """
curl -s {url}/mcp -H 'content-type: application/json' -H 'accept: application/json, text/event-stream' \\
    -d @{body} > {out}.new
mv {out}.new {out}
"""


class CountingStore(MemoryStore):
    """Counts how often a run is read."""

    reads = 0

    async def run(self, reference: str) -> RunRecord:
        self.reads += 1
        return await super().run(reference)


def call(tool: str, **arguments: object) -> dict[str, object]:
    """Return the message that calls a tool. The handshake of 2025-11-25 is not needed before it."""
    params = {"name": tool, "arguments": arguments}
    return {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}


async def post(server: LiveServer, **headers: str) -> httpx.Response:
    return await server.client.post("/mcp", json=call("list_agents"), headers={"accept": ACCEPT, **headers})


@pytest.mark.parametrize("handshake", HANDSHAKES)
async def test_client_compares_agents(scripted: Scripted, handshake: str) -> None:
    async with serving(scripted.env, REGISTRY) as server, over_http(handshake, server.port) as mcp:
        tools = (await mcp.client.list_tools()).tools
        assert all(tool.input_schema["type"] == "object" for tool in tools)
        annotations = [tool.annotations for tool in tools if tool.annotations]
        assert {each.title for each in annotations} == {tool.title for tool in tools}
        hints = {
            name: [tool.name for tool, each in zip(tools, annotations, strict=True) if getattr(each, f"{name}_hint")]
            for name in ("read_only", "destructive", "idempotent", "open_world")
        }
        assert hints == HINTS
        run = await mcp.call(Run, "compare", prompt=TEXT + DONE, backends=["shell", "other"])
        assert (run.kind, run.state) == ("compare", "finished")
        assert [(part.backend, part.output) for part in run.runs] == [("shell", "hello"), ("other", "hello")]
        with pytest.raises(MCPError, match="unknown tool 'nothing'"):
            await mcp.client.call_tool("nothing", {})


async def test_key_is_needed_and_limits_the_tools(scripted: Scripted) -> None:
    keys, store, key = ApiKeys(["secret"]), MemoryStore(), {"authorization": "Bearer secret"}
    policy = PolicySettings(allowed_backends=("shell",))
    async with serving(scripted.env, REGISTRY, store=store, keys=keys, policy=policy) as server:
        assert (await post(server)).status_code == 401
        assert (await post(server, **key, origin="http://evil.example")).status_code == 403
        assert (await post(server, **key, host="evil.example")).status_code == 403
        async with over_http("auto", server.port, **key) as mcp:
            assert [agent.name for agent in (await mcp.call(BackendList, "list_agents")).backends] == ["shell"]
            assert "policy.allowed_backends" in await mcp.refused("run_agent", prompt="hi", backend="asking")
            run = await mcp.call(Run, "run_agent", prompt=TEXT + DONE, backend="shell")
        assert (run.output, (await store.run(run.id)).key_name) == ("hello", "key:1")


async def waiting(mcp: Mcp, script: str) -> Run:
    """Run a script that asks, and return the run that waits."""
    run = await mcp.call(Run, "run_agent", prompt=script, backend="asking", approval_mode="ask", wait_secs=30)
    assert run.state == "waiting"
    return run


async def test_person_answers_what_a_run_asks(scripted: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(scripted.env, REGISTRY) as server, over_http("auto", server.port) as mcp:
        if not server.is_cluster:  # a gateway polls; a server learns from its run
            monkeypatch.setattr(tools, "_MAX_WAIT_S", 60)
            monkeypatch.setattr(tools, "_POLL_S", 60)
        run = await waiting(mcp, ASK + HEAR + DONE)
        [asked] = run.interactions
        assert asked.title == "May I?"
        answered = await mcp.call(InteractionView, "answer", interaction_id=asked.id, choice="allow")
        assert answered.choice == "allow"
        ended = await mcp.call(Run, "wait_run", run_id=run.id, wait_secs=30)
        assert (ended.state, ended.output) == ("finished", "allow")


@pytest.mark.parametrize("handshake", HANDSHAKES)
async def test_wait_ends_when_the_client_disconnects(
    scripted: Scripted, handshake: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tools, "_MAX_WAIT_S", 0)
    monkeypatch.setattr(tools, "_POLL_S", 0.01)
    store = CountingStore()
    async with serving(scripted.env, REGISTRY, store=store) as server:
        async with over_http(handshake, server.port) as mcp:
            run = await mcp.call(Run, "run_agent", prompt="sleep 100", backend="shell", wait_secs=0)
            waiting = asyncio.create_task(mcp.call(Run, "wait_run", run_id=run.id, wait_secs=100))
            reads = store.reads
            await until(lambda: store.reads > reads + 10)
            waiting.cancel()
            await asyncio.wait([waiting])
        await settled(lambda: str(store.reads))


@pytest.mark.parametrize(
    ("tool", "is_detached"), [("run_agent", False), ("compare", False), ("wait_run", False), ("wait_run", True)]
)
@pytest.mark.parametrize("handshake", HANDSHAKES)
async def test_cancelled_call_stops_its_run_unless_detached(
    scripted: Scripted, handshake: str, tool: str, is_detached: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tools, "_MAX_WAIT_S", 0.1)
    store, task = MemoryStore(), {"prompt": "sleep 100", "backend": "shell", "wait_secs": 100}
    async with serving(scripted.env, REGISTRY, store=store) as server, over_http(handshake, server.port) as mcp:
        if tool == "compare":
            task = {"prompt": "sleep 100", "backends": ["shell", "other"], "wait_secs": 100}
        elif tool == "wait_run":
            run = await mcp.call(Run, "run_agent", **{**task, "wait_secs": 0 if is_detached else 0.2})
            task = {"run_id": run.id, "wait_secs": 100}
        waiting, messages = await mcp.reporting(tool, **task)
        [_, run_id, _, state] = str(messages[0]).partition(";")[0].split()
        assert state in ("queued", "running")
        waiting.cancel()
        await asyncio.wait([waiting])
        if is_detached:
            await settled(lambda: str(server.runs.busy))
            assert (await mcp.call(Run, "get_run", run_id=run_id)).state == "running"
        else:
            await until(lambda: not server.runs.busy)
            assert (await mcp.call(Run, "wait_run", run_id=run_id, wait_secs=9)).state == "cancelled"


@pytest.mark.parametrize(
    ("tool", "agents", "activity"),
    [
        ("run_agent", {"backend": "shell"}, "; Bash {}"),
        ("compare", {"backends": ["shell", "other"]}, "; shell: Bash {}; other: Bash {}"),
    ],
)
async def test_progress_says_what_the_agents_do(
    scripted: Scripted, tool: str, agents: dict[str, object], activity: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tools, "_MAX_WAIT_S", 0.1)
    monkeypatch.setattr(tools, "_REPORT_S", 0.1)
    task = {"prompt": f"{TEXT}{CALL}sleep 100", "wait_secs": 100}
    async with serving(scripted.env, REGISTRY) as server, over_http("auto", server.port) as mcp:
        waiting, messages = await mcp.reporting(tool, **agents, **task)
        await until(lambda: str(messages[-1]).partition("is running")[2] == activity)
        waiting.cancel()
        await asyncio.wait([waiting])
        await until(lambda: not server.runs.busy)


@pytest.mark.parametrize("cancels", [False, True])
async def test_lost_connection_of_the_earlier_protocol_stops_a_run_only_once_the_call_is_cancelled(
    scripted: Scripted, cancels: bool
) -> None:
    greeting = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
    hello = {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": greeting}
    cancelled = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}}
    message = call("run_agent", prompt="sleep 100", backend="shell", wait_secs=100)
    async with serving(scripted.env, REGISTRY) as server:
        session = (await server.client.post("/mcp", json=hello, headers={"accept": ACCEPT})).headers["mcp-session-id"]
        headers = {"accept": ACCEPT, "mcp-session-id": session}
        calling = asyncio.create_task(server.client.post("/mcp", json=message, headers=headers))
        await until(lambda: server.runs.busy)
        calling.cancel()
        await asyncio.wait([calling])
        other = {**headers, "mcp-session-id": session if cancels else "another"}
        assert (await server.client.post("/mcp", json=cancelled, headers=other)).status_code == 202
        if cancels:
            await until(lambda: not server.runs.busy)
        else:
            await settled(lambda: str(server.runs.busy))
            assert server.runs.busy


async def test_agent_cannot_answer_what_it_asks(scripted: Scripted, tmp_path: Path) -> None:
    body, out = tmp_path / "body", tmp_path / "out"
    async with serving(scripted.env, REGISTRY) as server, over_http("auto", server.port) as mcp:
        attack = CURL.format(url=f"http://127.0.0.1:{server.port}", body=body, out=out)
        script = f"{ASK}(while ! [ -e {body} ]; do sleep 0.1; done; {attack}) &\n{HEAR}{DONE}"
        run = await waiting(mcp, script)
        [asked] = run.interactions
        beside = tmp_path / "beside"
        beside.write_text(json.dumps(call("answer", interaction_id=asked.id, choice="allow")))
        beside.rename(body)
        await until(out.exists, 20)
        assert "an agent has sent this answer" in out.read_text()
        assert (await mcp.call(Run, "cancel_run", run_id=run.id)).state == "cancelled"


async def test_agents_are_not_nested_without_end_over_http(scripted: Scripted, tmp_path: Path) -> None:
    body, out = tmp_path / "body", tmp_path / "out"
    async with serving(scripted.env, REGISTRY) as server:
        curl = CURL.format(url=f"http://127.0.0.1:{server.port}", body=body, out=f"{out}-$CLINVK_DEPTH")
        script = f"{curl}{DONE}"
        body.write_text(json.dumps(call("run_agent", prompt=script, backend="shell", wait_secs=0)))
        # By REST, which looks up no client: this process is the server too, and its new children may be of agents.
        await server.client.post("/api/v1/prompt", json={"prompt": script, "backend": "shell"})
        await until((tmp_path / "out-3").exists, 30)
        assert "3 deep (CLINVK_DEPTH); unified_flags.max_depth allows 2" in (tmp_path / "out-3").read_text()
        await until(lambda: not server.runs.busy)
        assert sorted(path.name for path in tmp_path.glob("out*")) == ["out-1", "out-2", "out-3"]


async def test_changes_of_a_worktree_are_shown_and_applied(scripted: Scripted, repository: Repository) -> None:
    task = {"prompt": "echo two > a.txt\n" + DONE, "isolation": "worktree", "workdir": str(repository.path)}
    async with serving(scripted.env, REGISTRY) as server, over_http("auto", server.port) as mcp:
        [part] = (await mcp.call(Run, "compare", backends=["shell"], **task)).runs
        shown = await mcp.call(WorktreeDiff, "diff", worktree=part.worktree)
        assert "+two" in (shown.diff or "")
        uri = f"clinvk://worktrees/{part.worktree}/diff"
        [content] = (await mcp.client.read_resource(uri)).contents
        assert isinstance(content, TextResourceContents)
        assert (content.uri, content.mime_type, content.text) == (uri, "text/x-diff", shown.diff)
        [listed] = [each for each in (await mcp.client.list_resources()).resources if each.uri == uri]
        assert (listed.mime_type, listed.title) == ("text/x-diff", f"Changes for {repository.path}")
        await mcp.call(WorktreeApplied, "apply", worktree=part.worktree)
        assert (repository.path / "a.txt").read_text() == "two\n"
        assert f"no worktree {part.worktree!r}" in await unknown(mcp, uri)


async def unknown(mcp: Mcp, uri: str) -> str:
    """Read a resource that does not exist; return the message of the error."""
    with pytest.raises(MCPError) as failed:
        await mcp.client.read_resource(uri)
    assert failed.value.error.code == (-32602 if mcp.client.protocol_version == "2026-07-28" else -32002)
    assert failed.value.error.data == {"uri": uri}
    return failed.value.error.message


@pytest.mark.parametrize("handshake", HANDSHAKES)
async def test_sessions_and_runs_are_resources(
    scripted: Scripted, handshake: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resources, "_PAGE", 1)
    async with serving(scripted.env, REGISTRY) as server, over_http(handshake, server.port) as mcp:
        first = await mcp.call(Run, "run_agent", prompt=TEXT + DONE, backend="shell")
        second = await mcp.call(Run, "run_agent", prompt=DONE, backend="shell")
        pages = [await mcp.client.list_resources()]
        while cursor := pages[-1].next_cursor:
            pages.append(await mcp.client.list_resources(cursor=cursor))
        uris = [each.uri for page in pages for each in page.resources]
        assert uris == [
            uri for run in (second, first) for uri in (f"clinvk://sessions/{run.session_id}", f"clinvk://runs/{run.id}")
        ]
        newest = pages[0].resources[0]
        assert (newest.title, newest.description) == (DONE.strip(), "shell, completed")
        paths = [f"runs/{first.id}", f"sessions/{first.session_id}", f"sessions/{first.session_id}/messages"]
        for path in paths:
            [content] = (await mcp.client.read_resource(f"clinvk://{path}")).contents
            assert isinstance(content, TextResourceContents)
            assert (content.uri, content.mime_type) == (f"clinvk://{path}", "application/json")
            assert content.text == (await server.client.get(f"/api/v1/{path}")).text
        templates = (await mcp.client.list_resource_templates()).resource_templates
        assert [template.uri_template for template in templates] == [
            "clinvk://runs/{id}",
            "clinvk://sessions/{id}",
            "clinvk://sessions/{id}/messages",
            "clinvk://worktrees/{id}/diff",
        ]
        assert "no run 'abcdef'" in await unknown(mcp, "clinvk://runs/abcdef")
        for uri in ("clinvk://runs", "clinvk://backends/shell", f"file:///runs/{first.id}", f"{uris[0]}?limit=1"):
            assert "(available: clinvk://runs/{id}, " in await unknown(mcp, uri)
        for cursor in ("x", "\u0663", "9" * 5000):
            with pytest.raises(MCPError, match=f"unknown cursor '{cursor[:50]}") as failed:
                await mcp.client.list_resources(cursor=cursor)
            assert failed.value.error.code == -32602


async def test_worktree_of_a_run_in_progress_has_no_diff(scripted: Scripted, repository: Repository) -> None:
    task = {"prompt": "sleep 100", "isolation": "worktree", "workdir": str(repository.path), "wait_secs": 0}
    async with serving(scripted.env, REGISTRY) as server, over_http("auto", server.port) as mcp:
        run = await mcp.call(Run, "compare", backends=["shell"], **task)

        async def is_listed() -> bool:
            return any("/diff" in each.uri for each in (await mcp.client.list_resources()).resources)

        await until_told(is_listed)
        uri = (await mcp.client.list_resources()).resources[-1].uri
        with pytest.raises(MCPError, match="an agent is at work in the worktree"):
            await mcp.client.read_resource(uri)
        await mcp.call(Run, "cancel_run", run_id=run.id)


STATELESS: dict[str, object] = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientCapabilities": {},
}
NEXT_YEAR: dict[str, object] = {**STATELESS, "io.modelcontextprotocol/protocolVersion": "2027-07-28"}
OF_STATELESS = {"mcp-protocol-version": "2026-07-28", "mcp-method": "tools/list"}


def listing(meta: object = None, **fields: object) -> bytes:
    params = {"params": {"_meta": meta}} if meta else {}
    return json.dumps({"jsonrpc": "2.0", "id": 7, "method": "tools/list", **params, **fields}).encode()


@pytest.mark.parametrize(
    ("body", "headers", "status", "code", "text"),
    [
        (b"nonsense", {}, 400, -32700, "not valid JSON"),
        (listing(params=[]), {}, 400, -32600, "params must be a JSON object"),
        (listing(method="no/such"), {}, 200, -32601, "no/such"),
        (listing(STATELESS, method="no/such"), {**OF_STATELESS, "mcp-method": "no/such"}, 404, -32601, "no/such"),
        (listing(), OF_STATELESS, 400, -32602, "params._meta must have"),
        (listing({"io.modelcontextprotocol/protocolVersion": "2026-07-28"}), OF_STATELESS, 400, -32602, "params._meta"),
        (listing(STATELESS), {}, 400, -32020, "the header mcp-protocol-version is None"),
        (
            listing(STATELESS, method="resources/read", params={"_meta": STATELESS, "uri": "clinvk://runs/1"}),
            {**OF_STATELESS, "mcp-method": "resources/read"},
            *(400, -32020, "the header mcp-name is None, but the body has 'clinvk://runs/1'"),
        ),
        (listing(STATELESS), {**OF_STATELESS, "mcp-method": "ping"}, 400, -32020, "the header mcp-method is 'ping'"),
        (listing(NEXT_YEAR), {**OF_STATELESS, "mcp-protocol-version": "2027-07-28"}, 400, -32022, "'2027-07-28'"),
    ],
)
async def test_invalid_message_is_refused_with_the_code_and_status_of_the_protocol(
    scripted: Scripted, body: bytes, headers: dict[str, str], status: int, code: int, text: str
) -> None:
    json_type = {"content-type": "application/json"}
    async with serving(scripted.env, REGISTRY) as server:
        response = await server.client.post("/mcp", content=body, headers={**json_type, **headers})
    assert response.status_code == status
    assert response.json()["id"] == (None if code == -32700 else 7)
    assert response.json()["error"]["code"] == code
    assert text in response.json()["error"]["message"]
    if code == -32022:
        assert response.json()["error"]["data"] == {"supported": ["2026-07-28"], "requested": "2027-07-28"}


async def test_notification_and_response_of_the_client_are_accepted(scripted: Scripted) -> None:
    async with serving(scripted.env, REGISTRY) as server:
        for body in (b'{"method": "notifications/initialized"}', b'{"id": 1, "result": {}}'):
            response = await server.client.post("/mcp", content=body, headers={"content-type": "application/json"})
            assert (response.status_code, response.content) == (202, b"")


@pytest.mark.parametrize(("accept", "is_stream"), [(ACCEPT, True), ("application/json", False)])
async def test_long_call_is_a_stream_with_comments_if_the_client_accepts_streams(
    scripted: Scripted, accept: str, is_stream: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoint, "TICK_S", 0.1)
    message = call("run_agent", prompt=f"sleep 1\n{TEXT}{DONE}", backend="shell", wait_secs=30)
    async with serving(scripted.env, REGISTRY) as server:
        response = await server.client.post("/mcp", json=message, headers={"accept": accept})
    assert response.headers["content-type"] == ("text/event-stream" if is_stream else "application/json")
    assert response.text.startswith(":\n\n" if is_stream else "{")
    answer = json.loads(response.text.rpartition("data: ")[2])
    assert answer["result"]["structuredContent"]["output"] == "hello"


async def test_tool_that_fails_inside_clinvk_is_an_internal_error(
    scripted: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(_: object, arguments: tools.Arguments) -> BackendList:
        raise RuntimeError("secret")

    monkeypatch.setattr(tools, "TOOLS", {**tools.TOOLS, "list_agents": fail})
    async with serving(scripted.env, REGISTRY) as server:
        answer = (await post(server, accept="application/json")).json()
    assert answer["error"] == {"code": -32603, "message": "clinvk itself failed; see its log"}
