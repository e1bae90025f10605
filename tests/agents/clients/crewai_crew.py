"""CrewAI as a client with tools: `python crewai_crew.py BASE MODEL` prints the answer of each loop as JSON."""

import json
import os
import sys

os.environ["CREWAI_DISABLE_TELEMETRY"] = os.environ["OTEL_SDK_DISABLED"] = "true"

from crewai import LLM, Agent, Crew, Task
from crewai.tools import tool
from functions import PARALLEL, PROMPT, SEVERAL, get_weather, is_wanted


def answer(prompt: str) -> str:
    agent = Agent(role="assistant", goal="Answer.", backstory="None.", llm=llm, tools=tools)
    task = Task(description=prompt, expected_output="The answer.", agent=agent)
    return Crew(agents=[agent], tasks=[task]).kickoff().raw


base, name = sys.argv[1:3]
llm = LLM(model=f"openai/{name}", base_url=f"{base}/openai/v1", api_key="not-needed")
tools = [tool(each) for each in (get_weather, *SEVERAL)]
loops = {"chat looped": PROMPT, "chat parallel": PARALLEL}
print(json.dumps({name: answer(prompt) for name, prompt in loops.items() if is_wanted(name)}))
