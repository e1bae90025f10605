"""Responses and streams of a server, checked against the types of Open Responses."""

import pytest

from open_responses import Json, check_response, events_of
from scripted import Scripted
from scripted.steps import claude_says, claude_thinks, client_calls, codex_streams, exits, stderr
from serving import LiveServer, serving

RESPONSES = "/openai/v1/responses"
SCHEMA: Json = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOL: Json = {"type": "function", "name": "weather", "parameters": SCHEMA}
BODIES: dict[str, Json] = {
    "text": {},
    "thinking": {"reasoning": {"effort": "high", "summary": "auto"}},
    "structured": {"text": {"format": {"type": "json_schema", "name": "place", "schema": SCHEMA}}},
    "system": {
        "instructions": "be brief",
        "temperature": 0.5,
        "top_p": 1,
        "metadata": {"a": "b"},
        "truncation": "auto",
    },
    "tools": {"model": "codex", "tools": [TOOL], "tool_choice": "auto", "parallel_tool_calls": False},
    "broken": {},
}


def play(scripted: Scripted) -> None:
    says = claude_says("hello ", "world")
    scripted.play(says)
    scripted.play([*says[:2], *claude_thinks("let me ", "think"), *says[2:]], when="thinking")
    scripted.play(claude_says('{"city": "Rome"}'), when="structured")
    scripted.play([*says[:4], stderr("boom"), exits(9)], when="broken")
    scripted.play(
        [client_calls({"call_rome": ("weather", {"city": "Rome"})}), *codex_streams("it is sunny", answers=2)],
        when="tools",
    )


async def respond(server: LiveServer, stream: bool, body: Json) -> tuple[Json, list[Json]]:
    """Return the checked response and the checked events of its stream."""
    body = {"model": "claude", "stream": stream, **body}
    answer = await server.client.post(RESPONSES, json=body)
    assert answer.status_code == 200, answer.text
    events = events_of(answer.text.splitlines()) if stream else []
    return events[-1]["response"] if stream else check_response(answer.json()), events


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_responses_fit_the_types_of_open_responses(scripted: Scripted, stream: bool) -> None:
    play(scripted)
    async with serving(scripted.env) as server:
        for name, body in BODIES.items():
            if name == "broken" and not stream:
                body = {**body, "background": True}
            response, events = await respond(server, stream, {"input": name, **body})
            run_id = response["id"].removeprefix("resp_")
            if name == "tools":
                assert [item["type"] for item in response["output"]] == ["function_call"]
                output: Json = {"type": "function_call_output", "call_id": "call_rome", "output": "sun"}
                more = {**body, "previous_response_id": response["id"], "input": [output]}
                response, _ = await respond(server, stream, more)
                assert response["output"][0]["content"][0]["text"] == "it is sunny"
            else:
                await server.ended(run_id)
            found = check_response((await server.client.get(f"{RESPONSES}/{response['id']}")).json())
            assert found["status"] == ("failed" if name == "broken" else "completed"), name
            assert bool(found["completed_at"]) == (name != "broken")
            if name != "broken" or stream:
                named = response["previous_response_id"]
                assert found | {"previous_response_id": named} == response, name
            assert [event["sequence_number"] for event in events] == list(range(len(events)))
