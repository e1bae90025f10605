"""LangChain and LiteLLM, unmodified, with the real CLIs behind the server."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from langchain_anthropic import ChatAnthropic
from langchain_core.language_models import BaseChatModel
from langchain_openai import ChatOpenAI
from pydantic import BaseModel, SecretStr

from agents.machine import Machine
from clients import finished
from serving import serving

pytestmark = pytest.mark.slow

KEY = SecretStr("not-needed")
PROMPT = "[[words=3 usage=100,20,30,10]]"
ANSWER = '{"name": "Ann", "age": 5}'


class Person(BaseModel):
    """Somebody."""

    name: str
    age: int


def by_chat(base: str, model: str) -> BaseChatModel:
    return ChatOpenAI(model=model, base_url=f"{base}/openai/v1", api_key=KEY, use_responses_api=False)


def by_responses(base: str, model: str) -> BaseChatModel:
    return ChatOpenAI(model=model, base_url=f"{base}/openai/v1", api_key=KEY, use_responses_api=True)


def by_messages(base: str, model: str) -> BaseChatModel:
    return ChatAnthropic(model_name=model, base_url=f"{base}/anthropic", api_key=KEY, timeout=None, stop=None)


@pytest.mark.parametrize(
    ("client", "backend", "read", "written"),
    [(by_chat, "gemini", 110, 35), (by_responses, "codex", 100, 30), (by_messages, "claude", 100, 30)],
)
async def test_langchain_invokes_streams_and_parses_a_schema(
    machine: Machine, client: Callable[[str, str], BaseChatModel], backend: str, read: int, written: int
) -> None:
    async with serving(machine.env, default_workdir=str(machine.project)) as server:
        model = client(f"http://127.0.0.1:{server.port}", backend)
        whole = await model.ainvoke([("system", "be brief"), ("human", "one"), ("ai", "two"), ("human", PROMPT)])
        pieces = [chunk.text async for chunk in model.astream(PROMPT) if chunk.text]
        requested = f"[[call StructuredOutput {ANSWER}]]" if backend == "claude" else f"[[say='{ANSWER}']]"
        person = await model.with_structured_output(Person, method="json_schema").ainvoke(requested)
    assert whole.text == "word1 word2 word3"
    assert whole.usage_metadata
    used = whole.usage_metadata
    assert (used["input_tokens"], used["output_tokens"]) == (read, written)
    assert used.get("input_token_details", {}).get("cache_read") == 20
    assert pieces == ["word1 ", "word2 ", "word3"]
    assert person == Person(name="Ann", age=5)
    assert "be brief" in json.dumps(machine.requests("usage=")[0])


@pytest.mark.timeout(240)
async def test_litellm_works_with_both_apis(machine: Machine) -> None:
    script = Path(__file__).with_name("litellm_client.py")
    async with serving(machine.env, default_workdir=str(machine.project)) as server:
        done = await finished(
            *(sys.executable, str(script), f"http://127.0.0.1:{server.port}", "claude"),
            cwd=machine.project,
            env={"HOME": str(machine.home), "LITELLM_LOCAL_MODEL_COST_MAP": "True"},
            within_s=200,
        )
    assert done.returncode == 0, done.stderr
    for reported in json.loads(done.stdout.splitlines()[-1]):
        (choice,) = reported["whole"]["choices"]
        assert (choice["message"]["content"], choice["finish_reason"]) == ("word1 word2 word3", "stop")
        assert reported["pieces"] == ["word1 ", "word2 ", "word3"]
        for used in (reported["whole"]["usage"], reported["streamed"]):
            assert (used["prompt_tokens"], used["completion_tokens"], used["total_tokens"]) == (100, 30, 130)
            assert used["prompt_tokens_details"]["cached_tokens"] == 20
        assert "claude is not logged in" in reported["error"]
