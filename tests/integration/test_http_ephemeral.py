"""An ephemeral run stores no prompt and no answer."""

import json
from pathlib import Path

import pytest

from scripted import Scripted
from scripted.steps import claude_says
from serving import LiveServer, serving
from standin.document import JSON

SCHEMA: JSON = {"type": "object", "properties": {"secret-of-schema": {"type": "integer"}}}
SAID: JSON = [
    {"role": "system", "content": "secret-of-system"},
    {"role": "developer", "content": "secret-of-developer"},
    {"role": "user", "content": "secret-of-user"},
]
REQUESTS: dict[str, dict[str, JSON]] = {
    "/openai/v1/chat/completions": {"model": "claude", "messages": SAID, "stop": ["secret-of-stop"]},
    "/openai/v1/responses": {
        "model": "claude",
        "input": SAID,
        "instructions": "secret-of-instructions",
        "text": {"format": {"type": "json_schema", "name": "x", "schema": SCHEMA}},
        "store": False,
    },
    "/anthropic/v1/messages": {
        "model": "claude",
        "system": "secret-of-system",
        "messages": [{"role": "user", "content": "secret-of-user"}],
        "stop_sequences": ["secret-of-stop"],
    },
    "/api/v1/prompt": {
        "backend": "claude",
        "prompt": "secret-of-user",
        "system_prompt": "secret-of-system",
        "extra": ["--system-prompt=secret-of-extra"],
        "output_schema": SCHEMA,
        "ephemeral": True,
    },
}


async def kept(server: LiveServer, run_id: str, folder: Path) -> str:
    """Return everything stored of a run: the record, and the content of the store's files."""
    await server.ended(run_id)
    response = await server.client.get(f"/api/v1/runs/{run_id}")
    assert response.status_code == 200
    files = [path.read_bytes().decode("latin-1") for path in folder.rglob("*") if path.is_file()]
    assert files
    return "\n".join([response.text, *files])


@pytest.mark.parametrize("path", REQUESTS)
async def test_ephemeral_run_keeps_metadata_but_no_content(scripted: Scripted, path: str) -> None:
    scripted.play(claude_says('{"secret-of-schema": "secret-of-answer"}'))
    label: dict[str, JSON] = {"metadata": {"user_id": "found-again"}}
    async with serving(scripted.env) as server:
        answer = await server.client.post(path, json=REQUESTS[path] | label)
        if (run_id := answer.headers.get("x-clinvk-run-id")) is None:
            run_id = json.loads(answer.text)["run_id"]
        left = await kept(server, run_id, Path(scripted.env["HOME"]) / ".clinvk")
        record = (await server.client.get(f"/api/v1/runs/{run_id}")).json()
    assert "secret" not in left
    assert "secret" in (scripted.calls()[0].stdin or b"").decode()
    assert record["request"]["metadata"] == {"user_id": "found-again"}
    assert record["request"]["ephemeral"] is True


async def test_ephemeral_run_quotes_an_invalid_answer_to_the_client_only(scripted: Scripted) -> None:
    scripted.play(claude_says('{"secret-of-schema": "secret-of-answer"}'))
    body = {"prompt": "x", "output_schema": SCHEMA}
    async with serving(scripted.env) as server:
        answer = (await server.prompt(**body, ephemeral=True)).json()
        left = await kept(server, answer["run_id"], Path(scripted.env["HOME"]) / ".clinvk")
        record = (await server.client.get(f"/api/v1/runs/{answer['run_id']}")).json()
        remembered = (await server.prompt(**body)).json()
        whole = (await server.client.get(f"/api/v1/runs/{remembered['run_id']}")).json()
    assert "secret-of-answer" in answer["error"]
    assert "secret" not in left
    assert (record["error"], record["error_code"]) == ("the answer does not fit output_schema", "agent_failed")
    assert whole["error"] == remembered["error"] == answer["error"]
