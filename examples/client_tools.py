"""A function of this program as a tool of the model: `python examples/client_tools.py [MODEL]`.

Start `clinvk serve` first; `pip install openai`. CLINVK_URL and CLINVK_KEY set the server and the API key.
"""

import json
import os
import shutil
import sys

import openai
from openai.types.chat import ChatCompletionMessageParam, ChatCompletionToolParam

URL = os.environ.get("CLINVK_URL", "http://localhost:8080")
MODEL = sys.argv[1] if len(sys.argv) > 1 else "claude"
TOOLS: list[ChatCompletionToolParam] = [
    {
        "type": "function",
        "function": {
            "name": "free_space",
            "description": "Return the free space of the disk with a directory, in GB.",
            "parameters": {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]},
        },
    }
]


def free_space(path: str) -> str:
    """Return the free space in GB."""
    return f"{shutil.disk_usage(path).free / 1e9:.0f} GB"


client = openai.OpenAI(base_url=f"{URL}/openai/v1", api_key=os.environ.get("CLINVK_KEY", "not-needed"))
messages: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Is there room for a film of 8 GB in /tmp?"}]
try:
    while True:
        answer = client.chat.completions.create(model=MODEL, messages=messages, tools=TOOLS).choices[0].message
        calls = [call for call in answer.tool_calls or () if call.type == "function"]
        if not calls:
            break
        messages.append(answer.to_dict())  # pyright: ignore[reportArgumentType]  # an answer is a message of a request
        for call in calls:
            print(f"{call.function.name} {call.function.arguments}")
            output = free_space(**json.loads(call.function.arguments))
            messages.append({"role": "tool", "tool_call_id": call.id, "content": output})
    print(answer.content)
except openai.APIError as error:
    sys.exit(f"{MODEL} at {URL} failed: {error.message}")
