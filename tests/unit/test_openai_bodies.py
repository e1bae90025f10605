"""Random bodies, wrong-typed and truncated ones: each is read, or refused as an invalid request."""

import json
import random
from collections.abc import Iterator

import pytest

from clinvk.dialects.base import Dialect
from clinvk.dialects.openai_chat import OpenAIChat
from clinvk.dialects.openai_completions import OpenAICompletions
from clinvk.errors import InvalidRequest
from standin.document import JSON

FUNCTION: JSON = {"name": "f", "arguments": "{}"}
CHAT: JSON = {
    "model": "claude",
    "stream": True,
    "stream_options": {"include_usage": True},
    "n": 1,
    "stop": ["a"],
    "tools": [{"type": "function", "function": {"name": "f"}}],
    "tool_choice": "auto",
    "functions": [{"name": "f"}],
    "function_call": "auto",
    "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}},
    "reasoning_effort": "low",
    "thinking": {"type": "enabled"},
    "metadata": {"a": "b"},
    "modalities": ["text"],
    "temperature": 1,
    "max_tokens": 5,
    "messages": [
        {"role": "system", "content": "s"},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "x"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}},
                {"type": "file", "file": {"file_data": "aGk=", "filename": "a"}},
            ],
        },
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "1", "type": "function", "function": FUNCTION}],
            "function_call": FUNCTION,
        },
        {"role": "tool", "tool_call_id": "1", "content": "r"},
        {"role": "function", "name": "f", "content": "r"},
        {"role": "user", "content": "z", "name": "n"},
    ],
}
COMPLETION: JSON = {
    "model": "claude",
    "prompt": ["x"],
    "stream": True,
    "n": 1,
    "best_of": 1,
    "echo": True,
    "suffix": "",
    "stop": "x",
    "logprobs": 1,
    "max_tokens": 4,
}
VALUES: list[JSON] = [
    *(None, True, 0, -1, 2**70, 1.5, "", "x", "\0", [], {}, [[]], [None], [1, "a"]),
    *({"type": "text"}, {"type": 5}, "data:,", "data:image/png;base64,", "http://a"),
]


def places(value: JSON) -> Iterator[tuple[JSON, str | int]]:
    """Give each place in a value, as what it is in and the key there."""
    inner: list[tuple[str | int, JSON]] = []
    if isinstance(value, dict):
        inner = [*value.items()]
    elif isinstance(value, list):
        inner = [*enumerate(value)]
    for key, at in inner:
        yield value, key
        yield from places(at)


def mutated(body: JSON, chance: random.Random) -> bytes:
    """Change up to three places of a body; now and then cut it or break a byte."""
    body = json.loads(json.dumps(body))
    for _ in range(chance.randint(1, 3)):
        if found := [*places(body)]:
            holder, key = chance.choice(found)
            if isinstance(holder, dict) and isinstance(key, str):
                if chance.random() < 0.25:
                    del holder[key]
                else:
                    holder[key] = chance.choice(VALUES)
            elif isinstance(holder, list) and isinstance(key, int):
                holder[key] = chance.choice(VALUES)
    data = bytearray(json.dumps(body).encode())
    if chance.random() < 0.15:
        del data[chance.randrange(len(data)) :]
    if data and chance.random() < 0.1:
        data[chance.randrange(len(data))] = chance.randrange(256)
    return bytes(data)


def refusal(dialect: Dialect, data: bytes) -> InvalidRequest | None:
    try:
        dialect.parse(data, {})
    except InvalidRequest as error:
        return error
    return None


@pytest.mark.parametrize(
    ("dialect", "body"), [(OpenAIChat(), CHAT), (OpenAICompletions(), COMPLETION)], ids=["chat", "completions"]
)
def test_a_random_body_is_read_or_refused_with_its_place(dialect: Dialect, body: JSON) -> None:
    assert refusal(dialect, json.dumps(body).encode()) is None
    chance = random.Random(4)
    refusals = [(data, refusal(dialect, data)) for data in (mutated(body, chance) for _ in range(500))]
    assert not [data for data, told in refusals if told and not told.field and "the body" not in told.message]
    assert {dialect.error(told, "r")[0] for _, told in refusals if told} == {400}
    assert 100 < sum(told is not None for _, told in refusals) < 500
