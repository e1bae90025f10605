"""LangChain and LangGraph as clients: `python langchain_tools.py BASE MODEL` prints the answer of each loop as JSON."""

import json
import sys

from functions import PARALLEL, PROMPT, SEVERAL, get_weather, is_wanted
from langchain.agents import create_agent
from langchain_anthropic import ChatAnthropic
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition
from pydantic import BaseModel

WEATHER = tool(get_weather)


class Person(BaseModel):
    """Somebody."""

    name: str
    age: int


def bound(model: BaseChatModel) -> str:
    """Call the function by hand, as `bind_tools` leaves to the caller."""
    bound_model = model.bind_tools([WEATHER])
    messages = [HumanMessage(PROMPT), bound_model.invoke(PROMPT)]
    for call in messages[-1].tool_calls:
        messages.append(ToolMessage(WEATHER.invoke(call["args"]), tool_call_id=call["id"]))
    return bound_model.invoke(messages).text


def looped(model: BaseChatModel) -> str:
    return create_agent(model, [WEATHER]).invoke({"messages": [HumanMessage(PROMPT)]})["messages"][-1].text


def streamed(model: BaseChatModel) -> str:
    chunks = create_agent(model, [WEATHER]).stream({"messages": [HumanMessage(PROMPT)]}, stream_mode="messages")
    return "".join(chunk.text for chunk, _ in chunks)


def parallel(model: BaseChatModel) -> str:
    agent = create_agent(model, [tool(each) for each in SEVERAL])
    return agent.invoke({"messages": [HumanMessage(PARALLEL)]})["messages"][-1].text


def parallel_graph(model: BaseChatModel) -> str:
    """Run a graph of LangGraph with a node of tools."""
    functions = [tool(each) for each in SEVERAL]
    bound_model = model.bind_tools(functions)
    graph = StateGraph(MessagesState)
    graph.add_node("model", lambda state: {"messages": [bound_model.invoke(state["messages"])]})
    graph.add_node("tools", ToolNode(functions))
    graph.add_edge(START, "model")
    graph.add_conditional_edges("model", tools_condition)
    graph.add_edge("tools", "model")
    return graph.compile().invoke({"messages": [HumanMessage(PARALLEL)]})["messages"][-1].text


def structured(model: BaseChatModel) -> object:
    person = model.with_structured_output(Person, method="function_calling")
    return person.invoke('[[call Person {"name": "Ann", "age": 5}]]').model_dump()


base, name = sys.argv[1:3]
openai = {"model": name, "base_url": f"{base}/openai/v1", "api_key": "not-needed"}
models = {
    "chat": ChatOpenAI(**openai, use_responses_api=False),
    "responses": ChatOpenAI(**openai, use_responses_api=True),
    "messages": ChatAnthropic(model_name=name, base_url=f"{base}/anthropic", api_key="not-needed"),
}
loops = (bound, looped, streamed, parallel, parallel_graph, structured)
named = {f"{api} {loop.__name__}": (loop, model) for api, model in models.items() for loop in loops}
print(json.dumps({name: loop(model) for name, (loop, model) in named.items() if is_wanted(name)}))
