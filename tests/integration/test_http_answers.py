"""Images, schemas, thinking and stop texts over HTTP."""

import json

import pytest

from polling import until
from scripted import Scripted
from scripted.steps import claude_says, gemini_says, hang, spawn
from serving import serving


async def test_an_answer_cut_by_a_stop_text_says_by_which(scripted: Scripted) -> None:
    scripted.play([spawn("setsid"), *claude_says("one STOP", " two")[:-1], hang()])
    async with serving(scripted.env) as served:
        whole = (await served.prompt(stop=["x", "STOP"])).json()
        stream = await served.prompt(stop=["x", "STOP"], output_format="stream-json")
        await until(lambda: not scripted.alive())
    assert (whole["output"], whole["exit_code"]) == ("one ", 0)
    assert (whole["stop_reason"], whole["stop_sequence"]) == ("stop_sequence", "STOP")
    done = json.loads(stream.text.splitlines()[-1])
    assert done["type"] == "done"
    assert (done["content"]["stop_reason"], done["content"]["stop_sequence"]) == ("stop_sequence", "STOP")


async def test_an_answer_of_a_schema_is_there_as_json_and_as_text(scripted: Scripted) -> None:
    scripted.play(gemini_says('{"a": ', "[1]}"))
    schema = {"type": "object", "properties": {"a": {"type": "array"}}}
    async with serving(scripted.env) as served:
        whole = (await served.prompt(backend="gemini", output_schema=schema)).json()
        stream = await served.prompt(backend="gemini", output_schema=schema, output_format="stream-json")
    assert (whole["output"], whole["structured_output"]) == ('{"a":[1]}', {"a": [1]})
    told = [json.loads(line) for line in stream.text.splitlines()]
    assert [event["content"]["text"] for event in told if event["type"] == "message"] == ['{"a":[1]}']
    assert told[-1]["content"]["structured_output"] == {"a": [1]}


@pytest.mark.parametrize("dry_run", [False, True])
async def test_a_schema_that_is_none_is_a_problem_of_its_field(scripted: Scripted, dry_run: bool) -> None:
    async with serving(scripted.env) as served:
        response = await served.prompt(output_schema={"type": "nonsense"}, dry_run=dry_run)
    assert response.status_code == 400
    problem = response.json()
    assert (problem["code"], problem["field"]) == ("invalid_request", "output_schema")
    assert "'nonsense' is not valid under any of the given schemas (at $.type)" in problem["detail"]
    assert scripted.calls() == []


async def test_an_image_goes_to_the_agent(scripted: Scripted) -> None:
    scripted.play(claude_says("a pixel"))
    async with serving(scripted.env) as served:
        response = await served.prompt(images=["data:image/png;base64,iVBORw0KGgo="])
    assert response.json()["output"] == "a pixel"
    message = json.loads(scripted.calls()[0].stdin or b"")
    image, text = message["message"]["content"]
    assert image["source"] == {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}
    assert text["text"] == "hi"
