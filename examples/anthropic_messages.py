"""Anthropic's library for Python with an agent behind it: `python examples/anthropic_messages.py [MODEL]`.

Start `clinvk serve` first; `pip install anthropic`. CLINVK_URL and CLINVK_KEY say where the server is and what key it
asks for, where they are not the usual.
"""

import os
import sys

import anthropic

URL = os.environ.get("CLINVK_URL", "http://localhost:8080")
MODEL = sys.argv[1] if len(sys.argv) > 1 else "claude"

client = anthropic.Anthropic(base_url=f"{URL}/anthropic", api_key=os.environ.get("CLINVK_KEY", "not-needed"))

try:
    with client.messages.stream(
        model=MODEL,
        max_tokens=4096,
        system="Answer in one sentence.",
        thinking={"type": "enabled", "budget_tokens": 2048},
        messages=[{"role": "user", "content": "What does this project do?"}],
    ) as stream:
        for event in stream:
            if event.type == "thinking":
                print(f"[{event.thinking}]", end="", file=sys.stderr)
            elif event.type == "text":
                print(event.text, end="", flush=True)
        message = stream.get_final_message()
except anthropic.APIError as error:
    sys.exit(f"{MODEL} at {URL} failed: {error.message}")
print(f"\n({message.usage.input_tokens} tokens read, {message.usage.output_tokens} written)")
