"""The deepest JSON that can be decoded is accepted, or refused as invalid."""

import json

import pytest

from clinvk.store.memory import MemoryStore
from nesting import deepest
from scripted import Scripted
from scripted.steps import claude_says
from serving import serving
from standin.document import JSON

MESSAGES: JSON = [{"role": "user", "content": "hi"}]
DEEP = "@"
IS_JSON = {"content-type": "application/json"}
SCHEMA: JSON = {"properties": {"a": {"enum": DEEP}}}
PART: JSON = {"backend": "claude", "prompt": "hi", "metadata": {"a": DEEP}}

BODIES: dict[str, tuple[str, dict[str, JSON]]] = {
    "metadata": ("/api/v1/prompt", {"backend": "claude", "prompt": "hi", "metadata": {"a": DEEP}}),
    "schema": ("/api/v1/prompt", {"backend": "claude", "prompt": "hi", "output_schema": SCHEMA}),
    "parallel": ("/api/v1/parallel", {"tasks": [PART]}),
    "chain": ("/api/v1/chain", {"steps": [PART]}),
    "meta": ("/api/v1/parallel", {"tasks": [{"backend": "claude", "prompt": "hi", "meta": {"a": DEEP}}]}),
    "chat metadata": ("/openai/v1/chat/completions", {"messages": MESSAGES, "metadata": {"a": DEEP}}),
    "chat format": (
        "/openai/v1/chat/completions",
        {
            "messages": MESSAGES,
            "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}},
        },
    ),
    "message metadata": ("/anthropic/v1/messages", {"messages": MESSAGES, "metadata": {"a": DEEP}}),
}


@pytest.mark.timeout(180)
@pytest.mark.parametrize(("path", "body"), BODIES.values(), ids=BODIES)
@pytest.mark.parametrize(("begin", "end"), [("[", "]"), ('{"a":', "}")], ids=["lists", "objects"])
async def test_deeply_nested_json_causes_no_internal_error(
    scripted: Scripted, path: str, body: dict[str, JSON], begin: str, end: str
) -> None:
    scripted.play(claude_says("{}"))
    common: dict[str, JSON] = {} if path.startswith("/api/") else {"model": "claude", "max_tokens": 5}
    template = json.dumps({**common, **body})
    async with serving(scripted.env, store=MemoryStore()) as server:
        most = deepest()
        for depth in range(most - 50 + (begin == "["), most + 10, 2):
            nested = template.replace(f'"{DEEP}"', f"{begin * depth}1{end * depth}")
            answer = await server.client.post(path, content=nested, headers=IS_JSON)
            assert answer.is_success or (answer.status_code, "nested too deeply" in answer.text) == (400, True), depth


async def test_accepted_nested_metadata_can_be_listed_again(scripted: Scripted) -> None:
    scripted.play(claude_says("told"))
    async with serving(scripted.env, store=MemoryStore()) as server:
        most = deepest()
        for depth in range(most - 170, most + 10, 8):
            body = f'{{"backend": "claude", "prompt": "hi", "metadata": {{"a": {"[" * depth}{"]" * depth}}}}}'
            answer = await server.client.post("/api/v1/prompt", content=body, headers=IS_JSON)
            if answer.is_success:
                assert (await server.client.get("/api/v1/sessions?limit=1")).status_code == 200
                assert (await server.client.get("/api/v1/runs?limit=1")).status_code == 200
