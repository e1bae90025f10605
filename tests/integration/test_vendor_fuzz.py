"""Random, wrong-typed and truncated bodies over HTTP: each is answered, or refused in the form of its API.

None is a failure of the server, none hangs, and where the body is wrong no agent is started.
"""

import json
import random
from pathlib import Path

import httpx
import pytest

from answers import Answering
from bodies import CHAT, COMPLETION, COUNTED, MESSAGE, PROMPT, RESPONSE, mutated
from serving import serving
from standin.document import JSON

pytestmark = pytest.mark.slow

BODIES: dict[str, JSON] = {
    "/openai/v1/chat/completions": CHAT,
    "/openai/v1/completions": COMPLETION,
    "/openai/v1/responses": RESPONSE,
    "/anthropic/v1/messages": MESSAGE,
    "/anthropic/v1/messages/count_tokens": COUNTED,
    "/api/v1/prompt": PROMPT,
}
TIMEOUT_S = 30


def truncated(body: JSON, chance: random.Random) -> bytes:
    data = json.dumps(body).encode()
    return data[: chance.randrange(len(data))]


def assert_refused(path: str, response: httpx.Response) -> None:
    """It is refused in the form of the API, and told where in the body the mistake is."""
    answer = response.json()
    assert response.status_code in (400, 404), answer
    if path.startswith("/openai"):
        assert set(answer) == {"error"}
        assert set(answer["error"]) == {"message", "type", "param", "code"}
        kind, message, place = answer["error"]["type"], answer["error"]["message"], answer["error"]["param"]
    elif path.startswith("/anthropic"):
        assert set(answer) == {"type", "error", "request_id"}
        assert (answer["type"], answer["request_id"]) == ("error", response.headers["request-id"])
        kind, message = answer["error"]["type"], answer["error"]["message"]
        place = message.split()[0]
    else:
        assert response.headers["content-type"] == "application/problem+json"
        assert answer["status"] == response.status_code
        kind, message, place = "invalid_request_error", answer["detail"], answer.get("field")
    assert kind in ("invalid_request_error", "not_found_error"), answer
    assert place or "the body" in message, answer


@pytest.mark.timeout(300)
@pytest.mark.parametrize("path", BODIES)
async def test_500_mutated_bodies_are_answered_or_refused_in_the_error_format_of_the_api(
    tmp_path: Path, path: str
) -> None:
    agents = Answering(tmp_path)
    chance = random.Random(path)
    broken = [mutated(BODIES[path], chance) for _ in range(400)]
    broken += [truncated(BODIES[path], chance) for _ in range(100)]
    answered = 0
    async with (
        serving(agents.env, agents.registry) as server,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.port}", timeout=TIMEOUT_S) as client,
    ):

        async def send(body: bytes) -> httpx.Response:
            return await client.post(path, content=body, headers={"content-type": "application/json"})

        whole = await send(json.dumps(BODIES[path]).encode())
        assert whole.status_code == 200, whole.text
        for body in broken:
            before = agents.starts
            response = await send(body)
            if response.is_success:
                answered += 1
                continue
            assert_refused(path, response)
            assert agents.starts == before, f"an agent was started for {body!r}"
    assert 10 < answered < 200
