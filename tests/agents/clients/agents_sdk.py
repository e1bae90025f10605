"""OpenAI's Agents SDK as a client with tools: `python agents_sdk.py BASE MODEL` prints each loop's answer as JSON."""

import asyncio
import json
import sys

from functions import PARALLEL, PROMPT, SEVERAL, get_weather, is_wanted
from openai import AsyncOpenAI

from agents import (
    Agent,
    Model,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    function_tool,
    set_tracing_disabled,
)

WEATHER = function_tool(get_weather)


async def looped(model: Model) -> str:
    agent = Agent(name="weather", instructions="be brief", tools=[WEATHER], model=model)
    return (await Runner.run(agent, PROMPT)).final_output


async def streamed(model: Model) -> str:
    result = Runner.run_streamed(Agent(name="weather", tools=[WEATHER], model=model), PROMPT)
    async for _ in result.stream_events():
        pass
    return result.final_output


async def parallel(model: Model) -> str:
    agent = Agent(name="several", tools=[function_tool(each) for each in SEVERAL], model=model)
    return (await Runner.run(agent, PARALLEL)).final_output


async def handed_off(model: Model) -> str:
    """Hand over to another agent, which is a tool to the model."""
    other = Agent(name="other", tools=[WEATHER], model=model)
    first = Agent(name="first", handoffs=[other], model=model)
    return (await Runner.run(first, f"[[call transfer_to_other {{}}]] {PROMPT}")).final_output


async def main() -> None:
    base, name = sys.argv[1:3]
    set_tracing_disabled(True)
    client = AsyncOpenAI(base_url=f"{base}/openai/v1", api_key="not-needed")
    models = {"chat": OpenAIChatCompletionsModel(name, client), "responses": OpenAIResponsesModel(name, client)}
    loops = (looped, streamed, parallel, handed_off)
    named = {f"{api} {loop.__name__}": (loop, model) for api, model in models.items() for loop in loops}
    print(json.dumps({name: await loop(model) for name, (loop, model) in named.items() if is_wanted(name)}))


asyncio.run(main())
