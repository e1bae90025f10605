"""OpenAI's library for Python with an agent behind it: `python examples/openai_chat.py [MODEL]`.

Start `clinvk serve` first; `pip install openai`. CLINVK_URL and CLINVK_KEY say where the server is and what key it asks
for, where they are not the usual.
"""

import os
import sys

import openai
from openai.types.chat import ChatCompletionMessageParam

URL = os.environ.get("CLINVK_URL", "http://localhost:8080")
MODEL = sys.argv[1] if len(sys.argv) > 1 else "claude"

client = openai.OpenAI(base_url=f"{URL}/openai/v1", api_key=os.environ.get("CLINVK_KEY", "not-needed"))

try:
    # A session spares the agent to read the conversation anew each time: `new` begins one, its id continues it.
    messages: list[ChatCompletionMessageParam] = [{"role": "user", "content": "What does this project do?"}]
    first = client.chat.completions.with_raw_response.create(
        model=MODEL, messages=messages, extra_headers={"x-clinvk-session-id": "new"}
    )
    answer = first.parse().choices[0].message.content or ""
    print(answer)

    # The next turn, piece by piece. What the agent may do is said by headers too.
    messages.append({"role": "assistant", "content": answer})
    messages.append({"role": "user", "content": "What should it do next?"})
    stream = client.chat.completions.create(
        model=MODEL,
        messages=messages,
        stream=True,
        stream_options={"include_usage": True},
        extra_headers={
            "x-clinvk-session-id": first.headers["x-clinvk-session-id"],
            "x-clinvk-sandbox-mode": "read-only",
        },
    )
    for chunk in stream:
        for choice in chunk.choices:
            print(choice.delta.content or "", end="", flush=True)
        if chunk.usage:
            print(f"\n({chunk.usage.prompt_tokens} tokens read, {chunk.usage.completion_tokens} written)")
except openai.APIError as error:
    sys.exit(f"{MODEL} at {URL} failed: {error.message}")
