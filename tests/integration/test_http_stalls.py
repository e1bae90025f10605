"""No request keeps the server from answering others, whatever its body."""

import asyncio
import json
import os
import threading
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from clinvk.api.http import response
from clinvk.runtime.process import waiting
from clinvk.store.memory import MemoryStore
from clinvk.types.record import Session
from scripted import Scripted
from scripted.steps import claude_says
from serving import serving

MAX_S = 0.5
"""CPU time between two turns of a task that asks for one every 5 ms: on a busy machine the clock would tell little."""

PROMPT = "/api/v1/prompt"
CHAT = "/openai/v1/chat/completions"
MESSAGES = "/anthropic/v1/messages"
RESPONSES = "/openai/v1/responses"


class Turns:
    """How long the loop's other tasks had to wait, at most."""

    longest_s = 0.0


@asynccontextmanager
async def watched() -> AsyncGenerator[Turns]:
    turns = Turns()

    async def take() -> None:
        at = time.process_time()
        while True:
            await asyncio.sleep(0.005)
            now = time.process_time()
            turns.longest_s, at = max(turns.longest_s, now - at), now

    taking = asyncio.create_task(take())
    try:
        yield turns
    finally:
        taking.cancel()


def prompt(**fields: object) -> bytes:
    return json.dumps({"backend": "claude", "prompt": "hi", **fields}).encode()


def chat(**fields: object) -> bytes:
    return json.dumps({"model": "claude", "messages": [{"role": "user", "content": "hi"}], **fields}).encode()


def metadata(values: bytes) -> bytes:
    return b'{"backend": "claude", "prompt": "hi", "metadata": {"a": [%s1]}}' % values


def nested(levels: int, text: str) -> bytes:
    """Documents in documents, which are decoded level by level."""
    before = '[{"type": "document", "source": {"type": "content", "content": ' * levels
    content = f'{before}"{text}"{"}}]" * levels}'
    return f'{{"model": "claude", "messages": [{{"role": "user", "content": {content}}}]}}'.encode()


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        pytest.param(PROMPT, prompt(workdir="/" + "a/" * 100_000), 400, id="a long path"),
        pytest.param(PROMPT, prompt(workdir="a/" * 100_000), 400, id="a long relative path"),
        pytest.param(PROMPT, prompt(add_dirs=["/" + "a/" * 100_000]), 400, id="a long further path"),
        pytest.param(PROMPT, prompt(add_dirs=["/usr/src"] * 100_000), 400, id="many paths"),
        pytest.param(PROMPT, prompt(extra=["--effort=high"] * 150_000), 400, id="many flags"),
        pytest.param(PROMPT, prompt(allowed_tools=["Read"] * 150_000), 400, id="many tools"),
        pytest.param(PROMPT, prompt(stop=["a" * 1000] * 100), 400, id="many long stop texts"),
        pytest.param(PROMPT, prompt(backend="ab" * 4_000_000), 400, id="a long name of a backend"),
        pytest.param(PROMPT, prompt(images=[" a" * 2_500_000]), 400, id="an image full of spaces"),
        pytest.param(PROMPT, prompt(images=["data:" + ";a=b" * 1_200_000]), 400, id="a long head of an image"),
        pytest.param(PROMPT, metadata(b"1.1e300," * 150_000), 400, id="large floats"),
        pytest.param(PROMPT, metadata(b"[]," * 3_000_000), 413, id="empty lists"),
        pytest.param(
            PROMPT,
            prompt(output_schema={"properties": {f"p{index}": {"type": "string"} for index in range(120_000)}}),
            413,
            id="a schema of many properties",
        ),
        pytest.param(CHAT, chat(messages=[{"role": "user", "content": "hi"}] * 100_000), 413, id="many messages"),
        pytest.param(CHAT, chat(messages=[{"role": "user", "content": "hi"}] * 60_000), 200, id="as many as are taken"),
        pytest.param(CHAT, chat(model="ab" * 4_000_000), 400, id="a long name of a model"),
        pytest.param(
            CHAT,
            b'{"model": "claude", "tools": [%s{}]}' % (b'{"a": {"b": {}}},' * 400_000),
            413,
            id="many tools of the client",
        ),
        pytest.param(MESSAGES, nested(200, "x" * 8_000_000), 400, id="nested documents"),
        pytest.param(
            RESPONSES,
            json.dumps({"model": "claude", "input": [{"role": "user", "content": "hi"}] * 60_000}).encode(),
            200,
            id="many items",
        ),
        pytest.param(
            "/api/v1/chain",
            json.dumps(
                {"steps": [{"backend": "claude", "prompt": "{{input}}" * 800_000}], "input": "x" * 1000}
            ).encode(),
            200,
            id="a prompt that grows as it is filled in",
        ),
        pytest.param(
            "/api/v1/parallel",
            json.dumps({"tasks": [*([{"backend": "claude", "prompt": "hi"}] * 9_000), {"prompt": "hi"}]}).encode(),
            400,
            id="many tasks",
        ),
    ],
)
async def test_no_body_blocks_other_requests(scripted: Scripted, path: str, body: bytes, status: int) -> None:
    scripted.play(claude_says("hello"))
    async with serving(scripted.env) as server:
        await server.prompt()  # what is imported for the first one
        async with watched() as turns:
            response = await server.client.post(path, content=body, headers={"content-type": "application/json"})
        assert response.status_code == status, response.text[:500]
        assert len(response.content) < 10_000
    assert turns.longest_s < MAX_S


async def test_long_path_in_a_header_is_refused(scripted: Scripted) -> None:
    async with serving(scripted.env) as server:
        response = await server.client.post(CHAT, json=json.loads(chat()), headers={"x-clinvk-workdir": "/a" * 30_000})
    assert response.status_code == 400
    assert "at most 4095" in response.text


@pytest.mark.parametrize("tail", ["", "STOP", "STOP and more"])
async def test_searching_for_stop_sequences_does_not_block_other_requests(scripted: Scripted, tail: str) -> None:
    """The stop texts differ from the answer in the middle, the worst place."""
    scripted.play(claude_says("a" * 2_000_000 + tail))
    stop = ["a" * (49 - index) + "b" + "a" * 50 for index in range(15)]
    async with serving(scripted.env) as server:
        await server.prompt()
        async with watched() as turns:
            response = await server.prompt(stop=[*stop, "STOP"])
    answer = response.json()
    assert len(answer["output"]) == 2_000_000
    assert answer["stop_reason"] == ("stop_sequence" if tail else "end_turn")
    assert turns.longest_s < MAX_S


async def test_chain_ends_with_the_step_whose_prompt_grows_too_long(scripted: Scripted, tmp_path: Path) -> None:
    scripted.play(claude_says("x" * 9_000_000))
    steps = [{"backend": "claude", "prompt": text} for text in ("hi", "{{previous}}{{previous}}", "never")]
    async with serving(scripted.env) as server:
        response = await server.client.post("/api/v1/chain", json={"steps": steps, "stop_on_failure": True})
    answer = response.json()
    assert (answer["completed_steps"], answer["failed_step"]) == (1, 2)
    assert "prompt has more than 16777216 characters" in answer["results"][1]["error"]
    assert len(scripted.calls()) == 1


class StuckStore(MemoryStore):
    async def session(self, reference: str) -> Session:
        await asyncio.Event().wait()
        raise AssertionError


async def test_request_whose_preparation_hangs_is_refused(scripted: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(response, "_PREPARE_TIMEOUT_S", 0.1)
    async with serving(scripted.env, store=StuckStore()) as server:
        answer = await server.prompt(session_id="0" * 32)
    assert answer.status_code == 503
    assert answer.json()["code"] == "resources_exhausted"
    assert answer.headers["retry-after"] == "5"


async def test_session_in_a_hanging_directory_holds_up_no_other_request(
    scripted: Scripted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Like a directory on an unresponsive network file system. Tasks and steps use the same check."""
    scripted.play(claude_says("x"))
    monkeypatch.setattr(waiting, "_TRUSTED_S", 0.0)
    is_directory, answering = os.path.isdir, threading.Event()

    def hanging(path: str) -> bool:
        return is_directory(path) if path != str(tmp_path) else answering.wait(60)

    async with serving(scripted.env) as server:
        first = (await server.prompt(workdir=str(tmp_path))).json()
        monkeypatch.setattr(os.path, "isdir", hanging)
        stuck = [asyncio.create_task(server.prompt(session_id=first["session_id"])) for _ in range(20)]
        try:
            async with watched() as turns:
                for _ in range(5):
                    assert (await server.prompt()).status_code == 200
            assert turns.longest_s < MAX_S
            assert not any(task.done() for task in stuck)
        finally:
            answering.set()
        await asyncio.gather(*stuck)


async def test_first_prompt_in_a_directory_takes_one_thread(
    scripted: Scripted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs: list[object] = []
    release = asyncio.Semaphore.release

    def counted(self: asyncio.Semaphore) -> None:
        jobs.append(self)
        release(self)

    monkeypatch.setattr(asyncio.Semaphore, "release", counted)  # `Lookups` releases its bound after each thread's job
    async with serving(scripted.env) as server:
        answer = await server.prompt(workdir=str(tmp_path))
    assert answer.status_code == 200
    assert len(jobs) == 1
