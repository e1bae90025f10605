"""Microsoft's agent-framework as a client: `python agent_framework_agents.py BASE MODEL` prints the answers as JSON."""

import asyncio
import json
import sys

from agent_framework import Agent
from agent_framework.openai import OpenAIChatClient, OpenAIChatCompletionClient
from functions import PARALLEL, PROMPT, SEVERAL, get_weather, is_wanted


async def looped(client: OpenAIChatClient) -> str:
    return (await Agent(client, tools=[get_weather]).run(PROMPT)).text


async def streamed(client: OpenAIChatClient) -> str:
    stream = Agent(client, tools=[get_weather]).run(PROMPT, stream=True)
    async for _ in stream:
        pass
    return (await stream.get_final_response()).text


async def parallel(client: OpenAIChatClient) -> str:
    return (await Agent(client, tools=[*SEVERAL]).run(PARALLEL)).text


async def main() -> None:
    base, name = sys.argv[1:3]
    server = {"base_url": f"{base}/openai/v1", "api_key": "not-needed"}
    clients = {"chat": OpenAIChatCompletionClient(name, **server), "responses": OpenAIChatClient(name, **server)}
    loops = (looped, streamed, parallel)
    named = {f"{api} {loop.__name__}": (loop, client) for api, client in clients.items() for loop in loops}
    print(json.dumps({name: await loop(client) for name, (loop, client) in named.items() if is_wanted(name)}))


asyncio.run(main())
