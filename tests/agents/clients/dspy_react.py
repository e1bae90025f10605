"""DSPy as a client with tools: `python dspy_react.py BASE MODEL` prints the answer of the loop as JSON."""

import json
import sys

import dspy
from dspy.lm15 import AccessPolicy, ModelSupport, OpenAIChatCompat, ProviderDefinition, register_provider
from functions import PARALLEL, SEVERAL

base, name = sys.argv[1:3]
access = AccessPolicy("clinvk", base_url=f"{base}/openai/v1")
provider = ProviderDefinition.chat(access, compat=OpenAIChatCompat(), placeholder_key="not-needed")
register_provider(provider, supports=ModelSupport(function_calling=True))
dspy.configure(lm=dspy.LM(f"clinvk/{name}"), adapter=dspy.ChatAdapter(use_native_function_calling=True))
agent = dspy.ReActV2("question -> answer", tools=[*SEVERAL])
print(json.dumps({"chat parallel": agent(question=f'{PARALLEL} [[call submit {{"answer": "RESULTS"}}]]').answer}))
