"""LiteLLM as a client with tools: `python litellm_tools.py BASE MODEL` prints the answer of each loop as JSON."""

import json
import sys

import litellm
from functions import PARALLEL, PROMPT, SEVERAL, get_weather, is_wanted

FUNCTIONS = {each.__name__: each for each in (get_weather, *SEVERAL)}
SCHEMAS = {
    "get_weather": {"city": {"type": "string"}},
    "add": {"a": {"type": "integer"}, "b": {"type": "integer"}},
    "cities": {"country": {"type": "string"}},
    "note": {"text": {"type": "string"}},
}


def tool(name: str) -> dict[str, object]:
    schema = {"type": "object", "properties": SCHEMAS[name], "required": [*SCHEMAS[name]]}
    function = {"name": name, "description": FUNCTIONS[name].__doc__, "parameters": schema}
    return {"type": "function", "function": function}


def looped(model: str, url: str, prompt: str = PROMPT, stream: bool = False) -> str:
    """Call functions until the model answers."""
    messages = [{"role": "user", "content": prompt}]
    tools = [tool(name) for name in FUNCTIONS]
    while True:
        answer = litellm.completion(
            model=model, api_base=url, api_key="not-needed", messages=messages, tools=tools, stream=stream
        )
        if stream:
            answer = litellm.stream_chunk_builder(list(answer))
        message = answer.choices[0].message
        if not message.tool_calls:
            return message.content
        messages.append(message.model_dump())
        for call in message.tool_calls:
            result = FUNCTIONS[call.function.name](**json.loads(call.function.arguments))
            content = "" if result is None else result if isinstance(result, str) else json.dumps(result)
            messages.append({"role": "tool", "tool_call_id": call.id, "content": content})


def streamed(model: str, url: str) -> str:
    return looped(model, url, stream=True)


def parallel(model: str, url: str) -> str:
    return looped(model, url, PARALLEL)


base, name = sys.argv[1:3]
models = {"chat": (f"openai/{name}", f"{base}/openai/v1"), "messages": (f"anthropic/{name}", f"{base}/anthropic")}
loops = (looped, streamed, parallel)
named = {f"{api} {loop.__name__}": (loop, model) for api, model in models.items() for loop in loops}
print(json.dumps({name: loop(*model) for name, (loop, model) in named.items() if is_wanted(name)}))
