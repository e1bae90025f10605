"""Open Responses: the cases of its compliance test with each agent, checked against its types.

The cases are those of `src/lib/compliance-tests.ts` in https://github.com/openresponses/openresponses, except the
optional cases for hosted tools. The stand-in calls the tool that the prompt names.
"""

import base64
import traceback
from collections.abc import Sequence
from dataclasses import dataclass

import httpx
from pydantic import ValidationError

from agents.machine import PNG
from conformance.site import Site, at_server
from conformance.suite import Outcome, locked
from open_responses import Json, check_response, events_of

VERSION = f"openresponses-types {locked('requirements.txt', 'openresponses-types')}"
EXPECTED: dict[str, str] = {}

AGENTS = ("claude", "codex", "gemini")
LOCATION: Json = {"type": "string", "description": "The city and state, e.g. San Francisco, CA"}
TOOL: Json = {
    "type": "function",
    "name": "get_weather",
    "description": "Get the current weather for a location",
    "parameters": {"type": "object", "properties": {"location": LOCATION}, "required": ["location"]},
}
WEATHER = 'What\'s the weather like in San Francisco? [[call get_weather {"location": "San Francisco, CA"}]]'
PDF = "data:application/pdf;base64," + base64.b64encode(b"%PDF-1.1\n(Title: File Input) Tj\n%%EOF").decode()


@dataclass(frozen=True)
class Model:
    """An agent in place of a model."""

    name: str
    client: httpx.AsyncClient

    async def create(self, **body: object) -> Json:
        """Return a response to these fields of a body, after its check and the check of its events."""
        answer = await self.client.post("/responses", json={"model": self.name, **body})
        assert answer.status_code == 200, answer.text
        if not body.get("stream"):
            return check_response(answer.json())
        return events_of(answer.text.splitlines())[-1]["response"]


def message(role: str, content: str | Sequence[Json]) -> Json:
    """Return a message of the input."""
    return {"type": "message", "role": role, "content": content}


def completed(response: Json) -> None:
    """Check that a response has output and is complete."""
    assert response["output"], "no output items"
    assert response["status"] == "completed", response["status"]


def called(response: Json) -> str:
    """Return the id of the call in a response."""
    calls = [item for item in response["output"] if item["type"] == "function_call"]
    assert calls, "no function_call"
    return calls[0]["call_id"]


async def basic_response(model: Model) -> None:
    """Answer a message."""
    completed(await model.create(input=[message("user", "Say hello in exactly 3 words.")]))


async def streaming_response(model: Model) -> None:
    """Stream an answer."""
    completed(await model.create(input=[message("user", "Count from 1 to 5.")], stream=True))


async def system_prompt(model: Model) -> None:
    """Obey a system message."""
    system = message("system", "You are a pirate. Always respond in pirate speak.")
    completed(await model.create(input=[system, message("user", "Say hello.")]))


async def tool_calling(model: Model) -> None:
    """Call a function."""
    called(await model.create(input=[message("user", WEATHER)], tools=[TOOL]))


async def tool_calling_streaming(model: Model) -> None:
    """Stream a call."""
    called(await model.create(input=[message("user", WEATHER)], tools=[TOOL], stream=True))


async def function_call_roundtrip(model: Model) -> None:
    """Continue with the output of a call that the request demands."""
    choice = {"type": "function", "name": "get_weather"}
    first = await model.create(input=WEATHER, tools=[TOOL], tool_choice=choice)
    output = {"type": "function_call_output", "call_id": called(first), "output": "64 degrees and clear"}
    completed(await model.create(input=[output], previous_response_id=first["id"]))


async def image_input(model: Model) -> None:
    """Read an image."""
    image = {"type": "input_image", "image_url": f"data:image/png;base64,{PNG}"}
    text = {"type": "input_text", "text": "What do you see in this image? Answer in one sentence."}
    completed(await model.create(input=[message("user", [text, image])]))


async def file_input(model: Model) -> None:
    """Read a file."""
    file = {"type": "input_file", "filename": "fixture.pdf", "file_data": PDF}
    text = {"type": "input_text", "text": "Read the attached file and answer with its title only."}
    completed(await model.create(input=[message("user", [text, file])]))


async def multi_turn(model: Model) -> None:
    """Continue a conversation that the request repeats."""
    turns = [message("user", "My name is Alice."), message("assistant", "Hello Alice! How can I help you today?")]
    completed(await model.create(input=[*turns, message("user", "What is my name?")]))


async def previous_response_id(model: Model) -> None:
    """Continue a stored response."""
    first = await model.create(input="Remember this code word: papaya. Reply with only OK.")
    completed(await model.create(input="What code word did I ask you to remember?", previous_response_id=first["id"]))


CASES = (
    *(basic_response, streaming_response, system_prompt, tool_calling, tool_calling_streaming),
    *(function_call_roundtrip, image_input, file_input, multi_turn, previous_response_id),
)


@at_server
async def run(site: Site) -> Outcome:
    """Run each case with each agent."""
    passed: list[str] = []
    failed: dict[str, str] = {}
    async with httpx.AsyncClient(base_url=f"{site.url}/openai/v1", timeout=120) as client:
        for name, case in ((f"{agent}/{case.__name__}", case) for agent in AGENTS for case in CASES):
            try:
                await case(Model(name.partition("/")[0], client))
            except (AssertionError, ValidationError, httpx.HTTPError):
                failed[name] = traceback.format_exc()
            else:
                passed.append(name)
    return Outcome.of(passed, [*failed], EXPECTED, "\n".join(failed.values()))
