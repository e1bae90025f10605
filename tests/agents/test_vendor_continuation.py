"""The model of the real CLIs receives the earlier conversation, although the client does not repeat it."""

import json

import pytest
from openai import AsyncOpenAI

from agents.machine import Machine
from serving import serving

CLIS = ("claude", "codex", "gemini")


@pytest.mark.parametrize("backend", CLIS)
async def test_developer_message_and_referenced_answer_reach_the_model(machine: Machine, backend: str) -> None:
    async with (
        serving(machine.env, default_workdir=str(machine.project)) as server,
        AsyncOpenAI(
            base_url=f"http://127.0.0.1:{server.port}/openai/v1", api_key="not-needed", max_retries=0
        ) as client,
    ):
        first = await client.responses.create(
            model=backend,
            input=[
                {"role": "developer", "content": "Speak like a pirate."},
                {"role": "user", "content": '[[say="ahoy there"]]'},
            ],
        )
        second = await client.responses.create(model=backend, input="second turn", previous_response_id=first.id)
        await client.responses.create(model=backend, input="third turn", previous_response_id=second.id)
        await client.responses.create(
            model=backend,
            input=[
                {"role": "user", "content": "hello"},
                {"type": "item_reference", "id": first.output[0].id or ""},
                {"role": "user", "content": "named turn"},
            ],
        )
    for turn in ("second turn", "third turn"):
        assert json.dumps(machine.requests(turn)[-1]).count("Speak like a pirate.") == 1
    assert "ahoy there" in json.dumps(machine.requests("named turn"))
