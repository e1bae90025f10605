"""Images, schemas, thinking and stop texts over HTTP."""

import json

import pytest

from polling import until
from scripted import Scripted
from scripted.steps import claude_says, gemini_says, hang, line, spawn
from serving import serving
from standin.document import JSON

PNG = "iVBORw0KGgo="
DATA_URL = f"data:image/png;base64,{PNG}"


def images(one: JSON) -> JSON:
    """Return one image more than the limit."""
    return [one for _ in range(101)]


IMAGES: dict[str, JSON] = {
    "/api/v1/prompt": {"backend": "claude", "prompt": "x", "images": images(PNG)},
    "/openai/v1/chat/completions": {
        "model": "claude",
        "messages": [{"role": "user", "content": images({"type": "image_url", "image_url": {"url": DATA_URL}})}],
    },
    "/openai/v1/responses": {
        "model": "claude",
        "input": [{"role": "user", "content": images({"type": "input_image", "image_url": DATA_URL})}],
    },
    "/anthropic/v1/messages": {
        "model": "claude",
        "messages": [{"role": "user", "content": images({"type": "image", "source": {"type": "base64", "data": PNG}})}],
    },
}
SAID: JSON = [{"role": "user", "content": "x"}]
STOPS: dict[str, JSON] = {
    "/api/v1/prompt": {"backend": "claude", "prompt": "x", "stop": ["a", "x" * 101]},
    "/openai/v1/chat/completions": {"model": "claude", "messages": SAID, "stop": ["a", "x" * 101]},
    "/openai/v1/completions": {"model": "claude", "prompt": "x", "stop": "x" * 101},
    "/anthropic/v1/messages": {"model": "claude", "messages": SAID, "stop_sequences": ["a", "x" * 101]},
}


async def test_answer_cut_by_a_stop_sequence_reports_it(scripted: Scripted) -> None:
    scripted.play([spawn("setsid"), *claude_says("one STOP", " two")[:-1], hang()])
    async with serving(scripted.env) as server:
        whole = (await server.prompt(stop=["x", "STOP"])).json()
        stream = await server.prompt(stop=["x", "STOP"], output_format="stream-json")
        await until(lambda: not scripted.alive())
    assert (whole["output"], whole["exit_code"]) == ("one ", 0)
    assert (whole["stop_reason"], whole["stop_sequence"]) == ("stop_sequence", "STOP")
    done = json.loads(stream.text.splitlines()[-1])
    assert done["type"] == "done"
    assert (done["content"]["stop_reason"], done["content"]["stop_sequence"]) == ("stop_sequence", "STOP")


async def test_structured_answer_is_returned_as_json_and_as_text(scripted: Scripted) -> None:
    scripted.play(gemini_says('{"a": ', "[1]}"))
    schema = {"type": "object", "properties": {"a": {"type": "array"}}}
    async with serving(scripted.env) as server:
        whole = (await server.prompt(backend="gemini", output_schema=schema)).json()
        stream = await server.prompt(backend="gemini", output_schema=schema, output_format="stream-json")
    assert (whole["output"], whole["structured_output"]) == ('{"a":[1]}', {"a": [1]})
    events = [json.loads(line) for line in stream.text.splitlines()]
    assert [event["content"]["text"] for event in events if event["type"] == "message"] == ['{"a":[1]}']
    assert events[-1]["content"]["structured_output"] == {"a": [1]}


@pytest.mark.parametrize("dry_run", [False, True])
async def test_invalid_schema_is_a_problem_with_its_field(scripted: Scripted, dry_run: bool) -> None:
    async with serving(scripted.env) as server:
        response = await server.prompt(output_schema={"type": "nonsense"}, dry_run=dry_run)
    assert response.status_code == 400
    problem = response.json()
    assert (problem["code"], problem["field"]) == ("invalid_request", "output_schema")
    assert "'nonsense' is not valid under any of the given schemas (at $.type)" in problem["detail"]
    assert scripted.calls() == []


async def test_image_is_passed_to_the_agent_and_its_type_and_size_are_stored(scripted: Scripted) -> None:
    scripted.play(claude_says("a pixel"))
    async with serving(scripted.env) as server:
        response = await server.prompt(images=["data:image/png;base64,iVBORw0KGgo="])
        run = (await server.client.get(f"/api/v1/runs/{response.json()['run_id']}")).json()
    assert response.json()["output"] == "a pixel"
    assert run["request"]["images"] == [{"media_type": "image/png", "bytes": 8}]
    message = json.loads(scripted.calls()[0].stdin or b"")
    image, text = message["message"]["content"]
    assert image["source"] == {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}
    assert text["text"] == "hi"


async def test_text_cut_inside_an_emoji_loses_only_the_emoji(scripted: Scripted) -> None:
    use = {"type": "tool_use", "id": "t1", "name": "Bash", "input": {"command": "x\ud83d"}}
    result = {"type": "tool_result", "tool_use_id": "t1", "content": "cut \ud83d"}
    begin, *answer = claude_says("so ", "far \ud83d")
    works = [
        line(json.dumps({"type": role, "message": {"id": "m", "role": role, "content": [block]}}))
        for role, block in (("assistant", use), ("user", result))
    ]
    scripted.play([begin, *works, *answer])
    async with serving(scripted.env) as server:
        stream = await server.prompt(output_format="stream-json")
    events = {event["type"]: event["content"] for event in map(json.loads, stream.text.splitlines())}
    assert events["tool_use"]["input"] == {"command": "x\ufffd"}
    assert events["tool_result"]["output"] == "cut \ufffd"
    assert events["message"]["text"] == "far \ufffd"
    assert "done" in events


@pytest.mark.parametrize(("path", "body"), [*IMAGES.items(), *STOPS.items()])
async def test_too_many_images_and_too_long_stop_sequences_are_refused(
    scripted: Scripted, path: str, body: JSON
) -> None:
    async with serving(scripted.env) as server:
        response = await server.client.post(path, json=body)
    assert response.status_code == 400
    assert "100" in response.text
    assert scripted.calls() == []
