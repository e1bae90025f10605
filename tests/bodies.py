"""Bodies with every field that an endpoint reads, and the mistakes of careless or broken clients."""

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
RESPONSE: JSON = {
    "model": "claude",
    "stream": True,
    "instructions": "s",
    "store": True,
    "reasoning": {"effort": "low", "summary": "auto"},
    "text": {"format": {"type": "text"}, "verbosity": "low"},
    "tools": [{"type": "function", "name": "f"}],
    "tool_choice": "auto",
    "include": ["reasoning.encrypted_content"],
    "metadata": {"a": "b"},
    "max_output_tokens": 5,
    "temperature": 1,
    "parallel_tool_calls": True,
    "prompt_cache_key": "k",
    "input": [
        {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "s"}]},
        {
            "role": "user",
            "content": [
                {"type": "input_text", "text": "x"},
                {"type": "input_image", "image_url": "data:image/png;base64,iVBORw0KGgo=", "detail": "auto"},
                {"type": "input_file", "filename": "a", "file_data": "data:text/plain;base64,aGk="},
            ],
        },
        {"type": "reasoning", "id": "r", "summary": [{"type": "summary_text", "text": "t"}]},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "y"}]},
        {"type": "function_call", "call_id": "1", **FUNCTION},
        {"type": "function_call_output", "call_id": "1", "output": "r"},
        {"type": "custom_tool_call", "call_id": "2", "name": "c", "input": "i"},
        {"type": "custom_tool_call_output", "call_id": "2", "output": [{"type": "input_text", "text": "r"}]},
        {"role": "user", "content": "z"},
    ],
}
COUNTED: dict[str, JSON] = {
    "model": "claude",
    "system": [{"type": "text", "text": "s", "cache_control": {"type": "ephemeral"}}],
    "tools": [{"name": "f", "input_schema": {"type": "object"}}],
    "tool_choice": {"type": "auto"},
    "thinking": {"type": "enabled", "budget_tokens": 1024},
    "messages": [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "x"},
                {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}},
                {"type": "document", "title": "a", "source": {"type": "text", "media_type": "text/plain", "data": "d"}},
            ],
        },
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "t", "signature": "s"},
                {"type": "text", "text": "y"},
                {"type": "tool_use", "id": "1", "name": "f", "input": {"a": 1}},
            ],
        },
        {
            "role": "user",
            "content": [{"type": "tool_result", "tool_use_id": "1", "content": [{"type": "text", "text": "r"}]}],
        },
        {"role": "system", "content": "more"},
        {"role": "user", "content": "z"},
    ],
}
MESSAGE: JSON = {
    **COUNTED,
    "max_tokens": 100,
    "stream": True,
    "stop_sequences": ["a"],
    "metadata": {"user_id": "u"},
    "output_config": {"effort": "low"},
    "temperature": 1,
    "top_k": 5,
}
PROMPT: JSON = {
    "backend": "claude",
    "prompt": "x",
    "model": "fast",
    "ephemeral": True,
    "approval_mode": "default",
    "sandbox_mode": "default",
    "output_format": "json",
    "max_tokens": 5,
    "max_turns": 5,
    "system_prompt": "s",
    "verbose": False,
    "extra": [],
    "metadata": {"a": "b"},
    "timeout_secs": 30,
    "images": ["data:image/png;base64,iVBORw0KGgo="],
    "effort": "low",
    "tags": ["t"],
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
