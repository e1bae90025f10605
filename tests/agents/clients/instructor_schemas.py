"""instructor as a client: `python instructor_schemas.py BASE MODEL` prints the objects of each mode as JSON."""

import json
import sys
from collections.abc import Iterable
from functools import partial

import instructor
from anthropic import Anthropic
from functions import is_wanted
from instructor import Mode
from openai import OpenAI
from pydantic import BaseModel


class Person(BaseModel):
    """Somebody."""

    name: str
    age: int


class Place(BaseModel):
    """Somewhere."""

    city: str


base, name = sys.argv[1:3]
openai = OpenAI(base_url=f"{base}/openai/v1", api_key="not-needed")
anthropic = Anthropic(base_url=f"{base}/anthropic", api_key="not-needed")
chat, messages = partial(instructor.from_openai, openai), partial(instructor.from_anthropic, anthropic)
clients = {
    "chat structured": chat(mode=Mode.TOOLS),
    "responses structured": chat(mode=Mode.RESPONSES_TOOLS),
    "messages structured": messages(mode=Mode.TOOLS),
    "chat parallel structured": chat(mode=Mode.PARALLEL_TOOLS),
    "messages parallel structured": messages(mode=Mode.PARALLEL_TOOLS),
}
PERSON = '[[call Person {"name": "Ann", "age": 5}]]'


def answer(loop: str) -> object:
    create = partial(clients[loop].create, model=name, max_tokens=1024)
    if "parallel" not in loop:
        return create(messages=[{"role": "user", "content": PERSON}], response_model=Person).model_dump()
    both = f'[[together]] {PERSON} [[call Place {{"city": "Rome"}}]]'
    found = create(messages=[{"role": "user", "content": both}], response_model=Iterable[Person | Place])
    return [each.model_dump() for each in found]


print(json.dumps({loop: answer(loop) for loop in clients if is_wanted(loop)}))
