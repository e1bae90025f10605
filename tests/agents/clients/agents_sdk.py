"""OpenAI's Agents SDK as a client with tools: `python agents_sdk.py BASE MODEL` prints each loop's answer as JSON."""

import asyncio
import json
import sys

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

PROMPT = '[[call get_weather {"city": "Rome"}]]'


@function_tool
def get_weather(city: str) -> str:
    """Return the weather of a city."""
    return f"42 degrees in {city}"


async def looped(model: Model) -> str:
    agent = Agent(name="weather", instructions="be brief", tools=[get_weather], model=model)
    return (await Runner.run(agent, PROMPT)).final_output


async def streamed(model: Model) -> str:
    result = Runner.run_streamed(Agent(name="weather", tools=[get_weather], model=model), PROMPT)
    async for _ in result.stream_events():
        pass
    return result.final_output


async def handed_off(model: Model) -> str:
    """Hand over to another agent, which is a tool to the model."""
    other = Agent(name="other", tools=[get_weather], model=model)
    first = Agent(name="first", handoffs=[other], model=model)
    return (await Runner.run(first, f"[[call transfer_to_other {{}}]] {PROMPT}")).final_output


async def main() -> None:
    base, name = sys.argv[1:]
    set_tracing_disabled(True)
    client = AsyncOpenAI(base_url=f"{base}/openai/v1", api_key="not-needed")
    models = {"chat": OpenAIChatCompletionsModel(name, client), "responses": OpenAIResponsesModel(name, client)}
    loops = (looped, streamed, handed_off)
    answers = {f"{api} {loop.__name__}": await loop(model) for api, model in models.items() for loop in loops}
    print(json.dumps(answers))


asyncio.run(main())
