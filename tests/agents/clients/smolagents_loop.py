"""smolagents as a client with tools: `python smolagents_loop.py BASE MODEL` prints the answer of the loop as JSON."""

import json
import sys

from functions import PARALLEL, SEVERAL
from smolagents import LogLevel, OpenAIModel, ToolCallingAgent, tool

base, name = sys.argv[1:3]
model = OpenAIModel(model_id=name, api_base=f"{base}/openai/v1", api_key="not-needed")
agent = ToolCallingAgent(tools=[tool(each) for each in SEVERAL], model=model, verbosity_level=LogLevel.OFF, max_steps=4)
answer = agent.run(f'{PARALLEL} [[call final_answer {{"answer": "RESULTS"}}]] [[made="Observation:\n"]]')
print(json.dumps({"chat parallel": answer}))
