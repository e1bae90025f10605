"""Semantic Kernel as a client: `python semantic_kernel_loop.py BASE MODEL` prints the answer of each loop as JSON."""

import asyncio
import json
import sys

from functions import PARALLEL, PROMPT, SEVERAL, get_weather, is_wanted
from openai import AsyncOpenAI
from semantic_kernel import Kernel
from semantic_kernel.connectors.ai import FunctionChoiceBehavior
from semantic_kernel.connectors.ai.open_ai import OpenAIChatCompletion, OpenAIChatPromptExecutionSettings
from semantic_kernel.contents import ChatHistory
from semantic_kernel.functions import kernel_function

PLUGIN = "tools"
"""The plugin of the functions; the model sees `tools-add`."""


async def main() -> None:
    base, name = sys.argv[1:3]
    kernel = Kernel()
    kernel.add_functions(PLUGIN, [kernel_function(each) for each in (get_weather, *SEVERAL)])
    client = AsyncOpenAI(base_url=f"{base}/openai/v1", api_key="not-needed")
    service = OpenAIChatCompletion(name, async_client=client)
    settings = OpenAIChatPromptExecutionSettings(function_choice_behavior=FunctionChoiceBehavior.Auto())
    loops = {"chat looped": PROMPT, "chat streamed": PROMPT, "chat parallel": PARALLEL}
    answers: dict[str, str] = {}
    for loop, prompt in loops.items():
        history = ChatHistory()
        history.add_user_message(prompt.replace("[[call ", f"[[call {PLUGIN}-"))
        if not is_wanted(loop):
            continue
        if loop == "chat streamed":
            chunks = service.get_streaming_chat_message_content(history, settings, kernel=kernel)
            answers[loop] = "".join([str(chunk) async for chunk in chunks if chunk])
        else:
            answers[loop] = str(await service.get_chat_message_content(history, settings, kernel=kernel))
    print(json.dumps(answers))


asyncio.run(main())
