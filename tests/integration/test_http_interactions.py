"""Approvals over REST: who may answer, answers that come too late, and hostile content."""

import asyncio
import json
import os
import subprocess
import threading
import time
from collections.abc import Mapping
from contextlib import nullcontext
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import httpx
import psutil
import pytest
from starlette.types import Scope

from asking_backend import ASK, HEAR, Asking
from clinvk.api.access.client_process import refuse_agent_client
from clinvk.api.access.key_file import ApiKey, digest_of
from clinvk.api.access.keys import ApiKeys
from clinvk.api.endpoints import interactions
from clinvk.config.model import InteractionSettings, UnifiedFlags
from clinvk.runtime.interactions import Interactions
from clinvk.runtime.process.process_tags import TAG_VARIABLE, refuse_agent
from clinvk.store.memory import MemoryStore
from clinvk.store.sqlite.sqlite import SqliteStore
from clinvk.types.errors import AgentCannotAnswer, StoreUnavailable
from clinvk.types.interaction import Interaction, InteractionAnswer
from polling import until, until_told
from scripted import Scripted
from serving import LiveServer, serving
from shell_backend import DONE

REGISTRY = {"asking": Asking()}
LIMIT_S = 20


async def pending(server: LiveServer, **headers: str) -> dict[str, str]:
    """Return the first pending interaction."""
    found: list[dict[str, str]] = []

    async def is_asked() -> bool:
        response = await server.client.get("/api/v1/interactions?status=pending", headers=headers)
        found.extend(response.json()["interactions"])
        return bool(found)

    await until_told(is_asked, LIMIT_S)
    return found[0]


async def asking(server: LiveServer, script: str = ASK + HEAR + DONE, **headers: str) -> dict[str, str]:
    """Start a run of a script that asks, and return what it asks."""
    body = {"backend": "asking", "prompt": script, "detach": True}
    headers_of_run = {"prefer": "respond-async", **headers}
    response = await server.client.post("/api/v1/prompt", json=body, headers=headers_of_run)
    assert response.status_code == 202, response.text
    return await pending(server, **headers)


async def answer(server: LiveServer, id_: str, choice: str = "allow", **headers: str) -> httpx.Response:
    return await server.client.post(f"/api/v1/interactions/{id_}/answer", json={"choice": choice}, headers=headers)


async def events_of(server: LiveServer, interaction: Mapping[str, str], kind: str) -> list[dict[str, str]]:
    """Wait for the end of the run of an interaction, and return the contents of its events of a kind."""
    await server.ended(interaction["run_id"])
    response = await server.client.get(f"/api/v1/runs/{interaction['run_id']}/events")
    frames = [line.removeprefix("data: ") for line in response.text.split("\n") if line.startswith("data: ")]
    return [event["content"] for event in map(json.loads, frames) if event["type"] == kind]


async def heard(server: LiveServer, interaction: Mapping[str, str]) -> str:
    """Return the answer that the agent has read."""
    return "".join(content["text"] for content in await events_of(server, interaction, "message"))


ATTACK = """
until [ "$id" ]; do
    id=$(curl -s '{url}?status=pending' | sed -n 's/.*"id":"\\([0-9a-f]*\\)".*/\\1/p')
done
curl -s -w '%{{http_code}}' {more} '{url}/'$id/answer \\
    -H 'content-type: application/json' -d '{{"choice":"allow"}}' >{out}.new
mv {out}.new {out}
"""
HIDDEN = {
    "plain": "sh {attack} &\n",
    "setsid": "setsid sh {attack} &\n",
    "double fork": "(setsid sh -c '(sh {attack} &) &' &)\n",
    "empty environment": "(env -i setsid /bin/sh -c '(/bin/sh {attack} &) &' &)\n",
    "no limit": "(env -i setsid prlimit --rttime=unlimited /bin/sh -c '(/bin/sh {attack} &) &' &)\n",
}


@pytest.mark.parametrize(("host", "how"), [*(("127.0.0.1", how) for how in HIDDEN), ("[::ffff:127.0.0.1]", "plain")])
async def test_agent_cannot_answer_what_it_asks(how: str, host: str, scripted: Scripted, tmp_path: Path) -> None:
    attack, out = tmp_path / "attack.sh", tmp_path / "out"
    async with serving(scripted.env, REGISTRY, allowed_hosts=("*",)) as server:
        url = f"http://{host}:{server.port}/api/v1/interactions"
        attack.write_text(ATTACK.format(url=url, out=out, more=""))
        asked = await asking(server, ASK + HIDDEN[how].format(attack=attack) + HEAR + DONE)
        await until(out.exists, LIMIT_S)
        assert out.read_text().endswith("403")
        assert "agent_cannot_answer" in out.read_text()
        assert (await answer(server, asked["id"])).status_code == 200
        assert await heard(server, asked) == "allow"


async def test_agent_cannot_answer_with_a_key_or_as_another_address(scripted: Scripted, tmp_path: Path) -> None:
    attack, out = tmp_path / "attack.sh", tmp_path / "out"
    more = "-H 'x-api-key: secret' -H 'x-forwarded-for: 192.0.2.7'"
    own = {"x-api-key": "secret"}
    async with serving(scripted.env, REGISTRY, keys=ApiKeys(["secret"]), trusted_proxies=("127.0.0.1",)) as server:
        url = f"http://127.0.0.1:{server.port}/api/v1/interactions"
        attack.write_text(ATTACK.format(url=url, out=out, more=more).replace("curl -s '", f"curl -s {more} '"))
        asked = await asking(server, f"{ASK} sh {attack} &\n{HEAR}{DONE}", **own)
        await until(out.exists, LIMIT_S)
        assert out.read_text().endswith("403")
        assert (await answer(server, asked["id"], **own)).status_code == 200


@pytest.mark.parametrize("command", ["sleep 60", "(sleep 60; true)"])
def test_process_below_an_agent_is_refused_by_its_variable(command: str) -> None:
    with subprocess.Popen(["sh", "-c", command], env={"PATH": "/usr/bin:/bin", TAG_VARIABLE: "1-1"}) as agent:
        try:
            for pid in (agent.pid, *(child.pid for child in psutil.Process(agent.pid).children())):
                with pytest.raises(AgentCannotAnswer):
                    refuse_agent(pid)
        finally:
            for process in (*psutil.Process(agent.pid).children(), agent):
                process.kill()
    with pytest.raises(AgentCannotAnswer):
        refuse_agent(agent.pid)  # it has exited
    refuse_agent(os.getpid())


HANG_UP = """
import socket, sys
port, id_, out = sys.argv[1:]
body = b'{"choice":"allow"}'
for _ in range(20):
    with socket.create_connection(("127.0.0.1", int(port))) as sock:
        sock.sendall(
            f"POST /api/v1/interactions/{id_}/answer HTTP/1.1\\r\\nhost: localhost\\r\\n"
            f"content-type: application/json\\r\\ncontent-length: {len(body)}\\r\\n\\r\\n".encode() + body
        )
open(out, "w").close()
"""


async def test_answer_of_a_client_that_hangs_up_is_refused(scripted: Scripted, tmp_path: Path) -> None:
    attack, out = tmp_path / "attack.py", tmp_path / "out"
    attack.write_text(HANG_UP)
    async with serving(scripted.env, REGISTRY) as server:
        asked = await asking(server)
        process = await asyncio.create_subprocess_exec(
            "python3", str(attack), str(server.port), asked["id"], str(out), env={"PATH": "/usr/bin:/bin"}
        )
        assert await process.wait() == 0
        await until(lambda: not server.state.active_requests, LIMIT_S)
        assert (await answer(server, asked["id"])).status_code == 200


def test_closed_connection_from_another_address_of_this_machine_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    own = [SimpleNamespace(address=address) for address in ("192.0.2.2", "fe80::1%eth0")]
    monkeypatch.setattr(psutil, "net_if_addrs", lambda: {"eth0": own})
    for host, is_refused in (("192.0.2.2", True), ("fe80::1", True), ("127.0.0.2", True), ("192.0.2.7", False)):
        scope: Scope = {"state": {}, "client": (host, 9), "server": ("127.0.0.1", 9)}
        with pytest.raises(AgentCannotAnswer) if is_refused else nullcontext():
            refuse_agent_client(scope, is_open=False)


async def test_key_without_the_right_cannot_answer_for_another_key(scripted: Scripted) -> None:
    boss_key = ApiKey(name="boss", digest=digest_of("boss"), rights=("answer",))
    keys = ApiKeys([*(ApiKey(name=name, digest=digest_of(name)) for name in ("ana", "bob")), boss_key])
    own, other, boss = ({"x-api-key": name} for name in ("ana", "bob", "boss"))
    async with serving(scripted.env, REGISTRY, keys=keys) as server:
        asked = await asking(server, **own)
        refused = await answer(server, asked["id"], **other)
        assert (refused.status_code, refused.json()["code"]) == (403, "beyond_policy")
        answered = await answer(server, asked["id"], **boss)
    assert (answered.status_code, answered.json()["answered_by"]) == (200, "boss")


async def test_answers_to_unknown_interactions_look_for_no_process(
    scripted: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[Scope] = []

    def look(scope: Scope, *_: bool) -> None:
        looks.append(scope)

    monkeypatch.setattr(interactions, "refuse_agent_client", look)
    keys = ApiKeys([ApiKey(name=name, digest=digest_of(name)) for name in ("ana", "bob")])
    own, other = ({"x-api-key": name} for name in ("ana", "bob"))
    async with serving(scripted.env, REGISTRY, keys=keys) as server:
        asked = await asking(server, **own)
        assert (await answer(server, "0" * 32, **own)).status_code == 404
        assert (await answer(server, asked["id"], **other)).status_code == 403
        assert not looks
        assert (await answer(server, asked["id"], **own)).status_code == 200
        assert (await answer(server, asked["id"], **own)).status_code == 409
        assert len(looks) == 1


async def test_looks_for_the_processes_of_clients_leave_the_loops_threads_free(
    scripted: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[Scope] = []
    is_found = threading.Event()

    def look(scope: Scope, *_: bool) -> None:
        looks.append(scope)
        is_found.wait(LIMIT_S)

    monkeypatch.setattr(interactions, "refuse_agent_client", look)
    async with serving(scripted.env, REGISTRY) as server:
        asked = await asking(server)
        answers = [asyncio.create_task(answer(server, asked["id"])) for _ in range(50)]
        await until(lambda: looks)
        await asyncio.wait(answers, timeout=0.5)
        for hanging_up in answers[25:]:
            hanging_up.cancel()
        try:
            async with asyncio.timeout(LIMIT_S / 2):
                await asyncio.to_thread(lambda: None)
        finally:
            is_found.set()
        assert {(await one).status_code for one in answers[:25]} == {200, 409}


async def test_first_of_two_answers_counts(scripted: Scripted) -> None:
    async with serving(scripted.env, REGISTRY) as server:
        asked = await asking(server)
        answers = await asyncio.gather(answer(server, asked["id"], "deny"), answer(server, asked["id"], "deny"))
        run = await heard(server, asked)
    second, first = sorted(answers, key=lambda response: response.status_code, reverse=True)
    assert (first.status_code, second.status_code) == (200, 409)
    assert second.json()["code"] == "interaction_answered"
    assert second.json()["detail"].endswith("was answered before: deny, by this machine's user")
    assert run == "deny"


async def test_unanswered_interaction_is_denied_when_it_expires(scripted: Scripted) -> None:
    async with serving(scripted.env, REGISTRY, interactions=InteractionSettings(timeout_secs=1)) as server:
        started_at = time.monotonic()
        asked = await asking(server)
        run = await heard(server, asked)
        late = await answer(server, asked["id"])
        shown = (await server.client.get(f"/api/v1/interactions/{asked['id']}")).json()
    assert 1 <= time.monotonic() - started_at < LIMIT_S
    assert run == "deny nobody answered in time"
    assert (late.status_code, late.json()["code"]) == (410, "interaction_ended")
    assert "has expired" in late.json()["detail"]
    assert (shown["status"], shown["choice"], shown["answered_by"]) == ("expired", None, None)


async def test_interaction_of_a_cancelled_run_is_withdrawn(scripted: Scripted) -> None:
    async with serving(scripted.env, REGISTRY) as server:
        asked = await asking(server)
        cancelled = await server.client.post(f"/api/v1/runs/{asked['run_id']}/cancel")
        assert cancelled.status_code == 200, cancelled.text
        late = await answer(server, asked["id"])
    assert (late.status_code, late.json()["code"]) == (410, "interaction_ended")
    assert "was withdrawn" in late.json()["detail"]


async def test_stop_waits_for_no_slot(scripted: Scripted, tmp_path: Path) -> None:
    release = tmp_path / "release"
    async with serving(scripted.env, REGISTRY, max_concurrent_runs=1) as server:
        asked = await asking(server)
        holds = f"while ! [ -e {release} ]; do sleep 0.01; done\n{DONE}"
        await server.detached(backend="asking", prompt=holds)
        await until(lambda: server.runs.busy == 1, LIMIT_S)
        assert (await answer(server, asked["id"], "deny_and_stop")).status_code == 200
        await server.ended(asked["run_id"])
        release.touch()


async def test_interaction_is_withdrawn_when_the_server_restarts(scripted: Scripted) -> None:
    async with serving(scripted.env, REGISTRY, shutdown_grace_secs=0) as server:
        asked = await asking(server)
    async with serving(scripted.env, REGISTRY) as server:
        late = await answer(server, asked["id"])
        run = (await server.client.get(f"/api/v1/runs/{asked['run_id']}")).json()
    assert late.status_code == 410
    assert run["state"] in ("interrupted", "cancelled")


INVALID_ANSWERS = [
    (b'{"choice": "answer"}', 400, "choice"),
    (b'{"choice": "maybe"}', 400, "choice"),
    (b"{}", 400, "choice"),
    (b'{"choice": "allow", "extra": 1}', 400, "extra"),
    (b'{"choice": "allow", "input": {"command": "true"}}', 400, "input"),
    (b'{"choice": "deny", "answers": {"q": "x"}}', 400, "answers"),
    (b'{"choice": "deny", "reason": "' + b"x" * 10_001 + b'"}', 400, "reason"),
    (b'{"choice": "deny", "reason": "' + b"x" * 2_000_000 + b'"}', 413, None),
    (b"allow", 400, None),
]


async def test_invalid_answer_leaves_the_interaction_pending(scripted: Scripted) -> None:
    async with serving(scripted.env, REGISTRY, max_request_body_bytes=1_000_000) as server:
        asked = await asking(server)
        path, headers = f"/api/v1/interactions/{asked['id']}/answer", {"content-type": "application/json"}
        for body, status, field in INVALID_ANSWERS:
            response = await server.client.post(path, content=body, headers=headers)
            assert (response.status_code, response.json().get("field")) == (status, field), response.text
        assert (await answer(server, asked["id"])).status_code == 200


def saying(interaction: Mapping[str, object]) -> str:
    """Return the line of an agent that asks."""
    return json.dumps({"type": "interaction_requested", "interaction": interaction}) + "\n"


async def test_hostile_question_is_stored_unchanged(scripted: Scripted, tmp_path: Path) -> None:
    title = "<script>alert(1)</script>\x1b]0;owned\x07\x1b[2J\u202eevil\u2066\u0000"
    hostile = {
        "id": "q",
        "title": title,
        "command": "x" * 65_536,
        "input": {"k\u202e<b>": [title]},
        "diff": "\r\x9b31m",
    }
    file = tmp_path / "question"
    file.write_text(saying(hostile))
    async with serving(scripted.env, REGISTRY) as server:
        asked = await asking(server, f"cat {file}\n{HEAR}{DONE}")
        shown = (await server.client.get(f"/api/v1/interactions/{asked['id']}")).json()
        assert (await answer(server, asked["id"])).status_code == 200
        events = await events_of(server, asked, "interaction_requested")
    for found in (asked, shown, *events):
        assert {**hostile, "id": found["id"]}.items() <= found.items()


async def test_command_that_cannot_be_shown_whole_is_denied(scripted: Scripted, tmp_path: Path) -> None:
    file = tmp_path / "question"
    file.write_text(saying({"id": "q", "command": f"echo {'x' * 65_536}; rm -rf /"}))
    async with serving(scripted.env, REGISTRY) as server:
        done = (await server.prompt(backend="asking", prompt=f"cat {file}\n{HEAR}{DONE}")).json()
        listed = (await server.client.get("/api/v1/interactions")).json()
    assert done["output"] == "deny the command has 65,551 bytes, and at most 65,536 can be shown"
    assert listed == {"interactions": []}


async def test_list_is_bounded_in_bytes_and_continues_at_an_offset(scripted: Scripted, tmp_path: Path) -> None:
    question = tmp_path / "question"
    for number in range(14):
        with question.open("a") as file:
            file.write(saying({"id": str(number), "title": str(number), "diff": "x" * 1_000_000}))
    async with serving(scripted.env, REGISTRY) as server:
        run = await server.detached(backend="asking", prompt=f"cat {question}\n{HEAR}{DONE}")

        async def titles(query: str) -> tuple[int, list[str], bool]:
            response = await server.client.get(f"/api/v1/interactions?{query}")
            listed = response.json()
            titles = [each["title"] for each in listed["interactions"]]
            return len(response.content), titles, listed.get("truncated", False)

        async def is_complete() -> bool:
            return (await titles("limit=1"))[1] == ["13"]

        await until_told(is_complete, LIMIT_S)
        size, newest, is_truncated = await titles("")
        assert size < 8 * 2**20 + 10_000
        assert (newest, is_truncated) == ([str(number) for number in range(13, 5, -1)], True)
        assert (await titles("offset=8"))[1:] == ([str(number) for number in range(5, -1, -1)], False)
        assert (await titles("offset=8&limit=3"))[1:] == (["5", "4", "3"], False)
        await server.runs.cancel(run["run_id"])


@pytest.mark.one_machine
async def test_request_beyond_max_waiting_is_denied(scripted: Scripted) -> None:
    async with serving(scripted.env, REGISTRY, interactions=InteractionSettings(max_waiting=1)) as server:
        asked = await asking(server)
        denied = (await server.prompt(backend="asking", prompt=ASK + HEAR + DONE)).json()
        assert denied["output"].startswith("deny too many runs wait")
        assert (await answer(server, asked["id"])).status_code == 200
        assert await heard(server, asked) == "allow"


class _Unwritable(MemoryStore):
    async def add_interaction(self, interaction: Interaction) -> None:
        raise StoreUnavailable("the disk is full")


async def test_request_that_cannot_be_stored_is_denied(scripted: Scripted) -> None:
    async with _Unwritable() as store, serving(scripted.env, REGISTRY, store=store) as server:
        done = (await server.prompt(backend="asking", prompt=ASK + HEAR + DONE)).json()
    assert done["output"] == "deny what the agent asks cannot be stored"


async def test_answer_of_another_process_is_passed_on(scripted: Scripted, tmp_path: Path) -> None:
    async with serving(scripted.env, REGISTRY) as server:
        asked = await asking(server)
        async with SqliteStore(scripted.folder / ".clinvk") as other:
            elsewhere = Interactions(other, InteractionSettings())
            await elsewhere.answer(asked["id"], InteractionAnswer(choice="deny", reason="not today"))
        assert await heard(server, asked) == "deny not today"
        late = await answer(server, asked["id"])
    assert late.status_code == 409


@pytest.mark.one_machine
async def test_waiting_counts_no_time_and_holds_no_slot(scripted: Scripted, tmp_path: Path) -> None:
    limits, order = UnifiedFlags(command_timeout_secs=2), tmp_path / "order"
    async with serving(scripted.env, REGISTRY, unified_flags=limits, max_concurrent_runs=1) as server:
        asked = await asking(server, f"{ASK} read -r choice; echo first >>{order}\n{DONE}")
        await asyncio.sleep(2.2)  # longer than the run may take
        release = tmp_path / "release"
        holds = f"while ! [ -e {release} ]; do sleep 0.01; done; echo holder >>{order}\n{DONE}"
        runs = [
            await server.detached(backend="asking", prompt=script)
            for script in (holds, f"echo second >>{order}\n{DONE}")
        ]
        await until(lambda: server.runs.busy == 1, LIMIT_S)
        assert (await answer(server, asked["id"])).status_code == 200
        release.touch()
        for run in [asked, *runs]:
            await server.ended(run["run_id"])
        states = [(await server.client.get(f"/api/v1/runs/{run['run_id']}")).json()["state"] for run in (asked, *runs)]
    assert order.read_text().split() == ["holder", "first", "second"]
    assert states == ["finished"] * 3


VENDORS = {
    "/openai/v1/chat/completions": {"messages": [{"role": "user", "content": "{}"}]},
    "/openai/v1/responses": {"input": "{}"},
    "/anthropic/v1/messages": {"messages": [{"role": "user", "content": "{}"}], "max_tokens": 100},
}


@pytest.mark.parametrize("path", VENDORS)
async def test_client_of_a_model_api_waits_without_reading_the_question(path: str, scripted: Scripted) -> None:
    script = ASK + HEAR + DONE
    body = json.loads(json.dumps(VENDORS[path]).replace('"{}"', json.dumps(script)))
    async with serving(scripted.env, REGISTRY) as server:
        for shows_work, stream in product([False, True], repeat=2):
            headers = {"x-clinvk-events": "1"} if shows_work else {}
            request = server.client.post(path, json={"model": "asking", "stream": stream, **body}, headers=headers)
            answering = asyncio.create_task(request)
            asked = await pending(server)
            await answer(server, asked["id"])
            response = await answering
            text = response.text
            assert response.status_code == 200, text
            comment = f": waiting for the answer to interaction {asked['id']}\n\n"
            assert (comment in text) == (stream and not shows_work)
            assert ("May I?" in text) == (stream and shows_work), text
            assert "allow" in text
            for line in text.splitlines() if stream else ():
                is_work = "thinking" in line or "reasoning" in line
                assert not line.startswith("data: ") or "May I?" not in line or is_work, line


@pytest.mark.one_machine
async def test_answers_are_logged_and_counted(scripted: Scripted, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "clinvk.api.observe.observers")
    async with serving(scripted.env, REGISTRY, metrics_enabled=True) as server:
        asked = await asking(server)
        assert "\nclinvk_runs_waiting 1.0\n" in (await server.client.get("/metrics")).text
        await asyncio.gather(answer(server, asked["id"]), answer(server, asked["id"]))
        metrics = (await server.client.get("/metrics")).text
    assert "\nclinvk_runs_waiting 0.0\n" in metrics
    assert 'clinvk_interactions_total{backend="asking",outcome="allow"} 1.0' in metrics
    lines = [record.getMessage() for record in caplog.records if record.getMessage().startswith("interaction ")]
    assert lines == [f"interaction {asked['id']} of run {asked['run_id']}: allow by user"]
