"""The tool runner of Anthropic's SDK: `python tool_runner.py BASE MODEL` prints the answer of each loop as JSON."""

import json
import sys

from anthropic import Anthropic, beta_tool

PROMPT = '[[call get_weather {"city": "Rome"}]]'


@beta_tool
def get_weather(city: str) -> str:
    """Return the weather of a city."""
    return f"42 degrees in {city}"


def looped(stream: bool = False) -> str:
    messages = [{"role": "user", "content": PROMPT}]
    runner = client.beta.messages.tool_runner(
        model=name, max_tokens=1024, tools=[get_weather], messages=messages, stream=stream
    )
    message = runner.until_done()
    return "".join(block.text for block in message.content if block.type == "text")


base, name = sys.argv[1:]
client = Anthropic(base_url=f"{base}/anthropic", api_key="not-needed")
print(json.dumps({"messages looped": looped(), "messages streamed": looped(stream=True)}))
