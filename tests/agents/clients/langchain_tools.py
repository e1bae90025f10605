"""LangChain as a client with tools: `python langchain_tools.py BASE MODEL` prints the answer of each loop as JSON."""

import json
import sys

from langchain.agents import create_agent
from langchain_anthropic import ChatAnthropic
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel

PROMPT = '[[call get_weather {"city": "Rome"}]]'


class Person(BaseModel):
    """Somebody."""

    name: str
    age: int


@tool
def get_weather(city: str) -> str:
    """Return the weather of a city."""
    return f"42 degrees in {city}"


def bound(model: BaseChatModel) -> str:
    """Call the function by hand, as `bind_tools` leaves to the caller."""
    bound_model = model.bind_tools([get_weather])
    messages = [HumanMessage(PROMPT), bound_model.invoke(PROMPT)]
    for call in messages[-1].tool_calls:
        messages.append(ToolMessage(get_weather.invoke(call["args"]), tool_call_id=call["id"]))
    return bound_model.invoke(messages).text


def looped(model: BaseChatModel) -> str:
    return create_agent(model, [get_weather]).invoke({"messages": [HumanMessage(PROMPT)]})["messages"][-1].text


def streamed(model: BaseChatModel) -> str:
    chunks = create_agent(model, [get_weather]).stream({"messages": [HumanMessage(PROMPT)]}, stream_mode="messages")
    return "".join(chunk.text for chunk, _ in chunks)


def structured(model: BaseChatModel) -> object:
    person = model.with_structured_output(Person, method="function_calling")
    return person.invoke('[[call Person {"name": "Ann", "age": 5}]]').model_dump()


base, name = sys.argv[1:]
openai = {"model": name, "base_url": f"{base}/openai/v1", "api_key": "not-needed"}
models = {
    "chat": ChatOpenAI(**openai, use_responses_api=False),
    "responses": ChatOpenAI(**openai, use_responses_api=True),
    "messages": ChatAnthropic(model_name=name, base_url=f"{base}/anthropic", api_key="not-needed"),
}
loops = (bound, looped, streamed, structured)
print(json.dumps({f"{api} {loop.__name__}": loop(model) for api, model in models.items() for loop in loops}))
