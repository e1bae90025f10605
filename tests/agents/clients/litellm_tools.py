"""LiteLLM as a client with tools: `python litellm_tools.py BASE MODEL` prints the answer of each loop as JSON."""

import json
import sys

import litellm

PROMPT = '[[call get_weather {"city": "Rome"}]]'
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS = [{"type": "function", "function": {"name": "get_weather", "description": "Weather", "parameters": SCHEMA}}]


def get_weather(city: str) -> str:
    return f"42 degrees in {city}"


def looped(model: str, url: str, stream: bool = False) -> str:
    """Call the function until the model answers."""
    messages = [{"role": "user", "content": PROMPT}]
    while True:
        answer = litellm.completion(
            model=model, api_base=url, api_key="not-needed", messages=messages, tools=TOOLS, stream=stream
        )
        if stream:
            answer = litellm.stream_chunk_builder(list(answer))
        message = answer.choices[0].message
        if not message.tool_calls:
            return message.content
        messages.append(message.model_dump())
        for call in message.tool_calls:
            content = get_weather(**json.loads(call.function.arguments))
            messages.append({"role": "tool", "tool_call_id": call.id, "content": content})


def streamed(model: str, url: str) -> str:
    return looped(model, url, stream=True)


base, name = sys.argv[1:]
models = {"chat": (f"openai/{name}", f"{base}/openai/v1"), "messages": (f"anthropic/{name}", f"{base}/anthropic")}
loops = (looped, streamed)
print(json.dumps({f"{api} {loop.__name__}": loop(*model) for api, model in models.items() for loop in loops}))
