"""Request bodies and a schema with references of each kind, and the mistakes of careless or broken clients."""

import json
import random
from collections.abc import Iterator
from copy import deepcopy

from standin.document import JSON

FUNCTION: dict[str, JSON] = {"name": "f", "arguments": "{}"}
SCHEMA: dict[str, JSON] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "$id": "http://a/b",
    "type": "object",
    "properties": {"a": {"$ref": "#/$defs/a"}, "b": {"items": {"$ref": "c#d"}, "pattern": "^a$"}},
    "$defs": {"a": {"enum": ["x", 1]}, "c": {"$id": "c", "$defs": {"d": {"$anchor": "d", "minimum": 1}}}},
}
"""An empty object fits it."""

CHAT: dict[str, JSON] = {
    "model": "claude",
    "stream": True,
    "stream_options": {"include_usage": True},
    "n": 1,
    "stop": ["a"],
    "tools": [{"type": "function", "function": {"name": "f"}}],
    "tool_choice": "auto",
    "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}},
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
        {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "type": "function", "function": FUNCTION}]},
        {"role": "tool", "tool_call_id": "1", "content": "r"},
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
    """Yield each place in a value: the container and the key."""
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
    body = deepcopy(body)
    for _ in range(chance.randint(1, 3)):
        if found := [*places(body)]:
            holder, key = chance.choice(found)
            if isinstance(holder, dict) and isinstance(key, str):
                if chance.random() < 0.25:
                    del holder[key]
                else:
                    holder[key] = deepcopy(chance.choice(VALUES))
            elif isinstance(holder, list) and isinstance(key, int):
                holder[key] = deepcopy(chance.choice(VALUES))
    data = bytearray(json.dumps(body).encode())
    if chance.random() < 0.15:
        del data[chance.randrange(len(data)) :]
    if data and chance.random() < 0.1:
        data[chance.randrange(len(data))] = chance.randrange(256)
    return bytes(data)
