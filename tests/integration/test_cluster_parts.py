"""Parts of orchestrations that a node receives from another node."""

import json
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace
from starlette.types import Message

from clinvk.cluster.messages import RequestHead
from clinvk.cluster.parts import PATH, PartBody
from clinvk.cluster.worker import worker_app
from clinvk.config.model import PolicySettings, Settings
from clinvk.runtime.local import LocalRuns
from clinvk.store.memory import MemoryStore
from clinvk.store.protocol import RunQuery
from clinvk.types.request import ClientTool, FailedAgent, PartPosition, RunRequest
from serving import services_of
from shell_backend import DONE, TEXT, Shell

SETTINGS = Settings(policy=PolicySettings(max_approval_mode="auto"))


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """The environment of the node."""
    return {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}


async def send(runs: LocalRuns, store: MemoryStore, body: PartBody, environ: dict[str, str]) -> tuple[int, list[Any]]:
    """Send a part as another node would; return the status, and the lines of the answer."""
    registry = {"shell": Shell()}
    app = worker_app(services_of(runs, store, SETTINGS, environ, registry))
    data = msgspec.json.encode(body)
    headers = ((b"content-type", b"application/json"),)
    head = RequestHead(
        method="POST", path=PATH, headers=headers, key_name="", client="ana", depth=2, body_bytes=len(data)
    )
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": data}

    async def note(message: Message) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": PATH, "headers": headers, "state": {"head": head}}
    await app({**scope, "client": None, "query_string": b""}, receive, note)
    answer = b"".join(message.get("body", b"") for message in sent)
    return sent[0]["status"], [json.loads(line) for line in answer.splitlines()]


async def test_part_has_only_what_a_client_may_set(environ: dict[str, str]) -> None:
    store = MemoryStore()
    request = RunRequest(
        prompt=TEXT + DONE,
        backend="shell",
        part=PartPosition("parent", 3),
        tags=("kept",),
        fell_back=(FailedAgent("other", "no", "agent_failed"),),
        new_session_id="of-another",
        on_limit="wait",
        client_tools=(ClientTool("tool"),),
        own_tools=False,
        answer_as={"clinvk_chat": "of another"},
        key_name="other",
        client="other",
    )
    async with LocalRuns(SETTINGS, store, environ, {"shell": Shell()}) as runs:
        status, updates = await send(runs, store, PartBody(request), environ)
        assert (status, updates[-1]["facts"]["has_exited"]) == (200, True)
        assert [event[2]["type"] for update in updates for event in update.get("events", ())] == [
            "run_started",
            "text_delta",
            "run_finished",
        ]
        (run,) = (await store.runs(RunQuery())).items
        assert (run.parent_id, run.part, run.key_name) == ("parent", PartPosition("parent", 3), "")
        assert not set(run.request) & {"fell_back", "client_tools", "own_tools", "answer_as", "on_limit"}
        session = await store.session(run.session_id or "")
        assert (session.id != "of-another", session.tags) == (True, ("kept",))
        refused = PartBody(replace(request, approval_mode="none"))
        for body in (refused, replace(refused, is_check=True)):
            status, (problem,) = await send(runs, store, body, environ)
            assert (status, problem["field"]) == (403, "approval_mode"), problem
        status, (admitted,) = await send(runs, store, PartBody(request, is_check=True), environ)
        assert (status, admitted["client"], admitted["depth"]) == (200, "ana", 2)
        assert (await store.runs(RunQuery())).total == 1
