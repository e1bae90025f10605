"""instructor as a client: `python instructor_schemas.py BASE MODEL` prints the object of each mode as JSON."""

import json
import sys

import instructor
from anthropic import Anthropic
from instructor import Mode
from openai import OpenAI
from pydantic import BaseModel


class Person(BaseModel):
    """Somebody."""

    name: str
    age: int


base, name = sys.argv[1:]
openai = OpenAI(base_url=f"{base}/openai/v1", api_key="not-needed")
anthropic = Anthropic(base_url=f"{base}/anthropic", api_key="not-needed")
clients = {
    "chat": instructor.from_openai(openai, mode=Mode.TOOLS),
    "responses": instructor.from_openai(openai, mode=Mode.RESPONSES_TOOLS),
    "messages": instructor.from_anthropic(anthropic, mode=Mode.ANTHROPIC_TOOLS),
}
messages = [{"role": "user", "content": '[[call Person {"name": "Ann", "age": 5}]]'}]
print(
    json.dumps(
        {
            f"{api} structured": client.create(
                model=name, max_tokens=1024, messages=messages, response_model=Person
            ).model_dump()
            for api, client in clients.items()
        }
    )
)
