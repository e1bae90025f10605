"""pydantic-ai as a client with tools: `python pydantic_ai_agents.py BASE MODEL` prints each loop's answer as JSON."""

import json
import sys

from anthropic import AsyncAnthropic
from functions import PARALLEL, PROMPT, SEVERAL, get_weather, is_wanted
from pydantic import BaseModel
from pydantic_ai import Agent
from pydantic_ai.models import Model
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.providers.openai import OpenAIProvider


class Person(BaseModel):
    """Somebody."""

    name: str
    age: int


def looped(model: Model) -> str:
    return Agent(model, tools=[get_weather]).run_sync(PROMPT).output


def parallel(model: Model) -> str:
    return Agent(model, tools=SEVERAL).run_sync(PARALLEL).output


def structured(model: Model) -> object:
    agent = Agent(model, output_type=Person)
    return agent.run_sync('[[call final_result {"name": "Ann", "age": 5}]]').output.model_dump()


base, name = sys.argv[1:3]
openai = OpenAIProvider(base_url=f"{base}/openai/v1", api_key="not-needed")
anthropic = AnthropicProvider(anthropic_client=AsyncAnthropic(base_url=f"{base}/anthropic", api_key="not-needed"))
models = {
    "chat": OpenAIChatModel(name, provider=openai),
    "responses": OpenAIResponsesModel(name, provider=openai),
    "messages": AnthropicModel(name, provider=anthropic),
}
loops = (looped, parallel, structured)
named = {f"{api} {loop.__name__}": (loop, model) for api, model in models.items() for loop in loops}
print(json.dumps({name: loop(model) for name, (loop, model) in named.items() if is_wanted(name)}))
