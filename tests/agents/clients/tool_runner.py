"""The tool runner of Anthropic's SDK: `python tool_runner.py BASE MODEL` prints the answer of each loop as JSON."""

import json
import sys
from collections.abc import Callable, Iterable
from functools import wraps

from anthropic import Anthropic, beta_tool
from functions import PARALLEL, PROMPT, SEVERAL, get_weather, is_wanted


def as_text(function: Callable[..., object]) -> Callable[..., str]:
    """Return the function with its result as JSON: the runner takes texts and content blocks."""

    @wraps(function)
    def called(**given: object) -> str:
        return json.dumps(function(**given))

    return called


def answer(prompt: str, functions: Iterable[Callable[..., object]], stream: bool = False) -> str:
    messages = [{"role": "user", "content": prompt}]
    runner = client.beta.messages.tool_runner(
        model=name,
        max_tokens=1024,
        tools=[beta_tool(as_text(each)) for each in functions],
        messages=messages,
        stream=stream,
    )
    message = runner.until_done()
    return "".join(block.text for block in message.content if block.type == "text")


base, name = sys.argv[1:3]
client = Anthropic(base_url=f"{base}/anthropic", api_key="not-needed")
loops = {
    "messages looped": (PROMPT, [get_weather]),
    "messages streamed": (PROMPT, [get_weather], True),
    "messages parallel": (PARALLEL, SEVERAL),
}
print(json.dumps({name: answer(*given) for name, given in loops.items() if is_wanted(name)}))
