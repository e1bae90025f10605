"""Schemas of answers: whether one is a schema, and whether an answer fits it.

An answer is judged in a process of its own that has little time: some schemas take for ever, and so does a `pattern`
that backtracks, during which Python would do nothing else.
"""

import asyncio
import re
import sys
from collections.abc import Iterator, Mapping

import msgspec

from clinvk.errors import ClinvkError, InvalidRequest
from clinvk.runtime.process import Spawner, run_tool

FIELD = "output_schema"

_WITHIN_S = 10.0
_MAX_FAULT = 500
_FENCED = re.compile(r"```(?:json)?[ \t]*\n(.*?)\n?[ \t]*```", re.DOTALL)

Json = dict[str, object]


async def check(schema: Json) -> None:
    """Look whether a schema is one.

    Raises:
        InvalidRequest: it is none, or refers to what is not in it.
    """
    fault = await asyncio.to_thread(_fault, schema)
    if fault:
        raise InvalidRequest(f"{FIELD} is no JSON Schema: {fault}", FIELD)


async def mismatch(spawner: Spawner, environ: Mapping[str, str], schema: Json, answer: object) -> str:
    """Say where an answer does not fit a schema; empty where it does.

    Raises:
        ClinvkError: that cannot be found out.
    """
    task = msgspec.json.encode((schema, answer))
    judge = (sys.executable, "-P", "-m", __name__)
    try:
        found = await run_tool(spawner, judge, environ, _WITHIN_S, stdin=task)
    except TimeoutError:
        return f"it takes more than {_WITHIN_S:g} s to compare it with the schema"
    if found.exit_code:
        raise ClinvkError(
            f"an answer cannot be compared with its schema: {found.stderr.decode(errors='replace')[-300:]}"
        )
    return found.stdout.decode(errors="replace")


def read(text: str) -> object:
    """Read the JSON in an answer: all of it, what is fenced as code, the last paragraph, or an object in prose.

    Raises:
        ValueError: there is none.
    """
    for candidate in _candidates(text.strip()):
        try:
            return msgspec.json.decode(candidate)
        except (msgspec.DecodeError, RecursionError):
            continue
    raise ValueError("it is no JSON")


def _candidates(text: str) -> Iterator[str]:
    yield text
    yield from reversed(_FENCED.findall(text))
    yield text.rpartition("\n\n")[2]
    yield text[text.find("{") : text.rfind("}") + 1]
    yield text[text.find("[") : text.rfind("]") + 1]


def _fault(schema: Json) -> str:
    """Say why a schema is none; empty where it is one."""
    from jsonschema import Draft202012Validator, SchemaError, validators  # only who has a schema waits for it

    try:
        validators.validator_for(schema, default=Draft202012Validator).check_schema(schema)
    except SchemaError as error:
        return f"{error.message[:_MAX_FAULT]} (at {error.json_path})"
    except RecursionError:
        return "it is nested too deeply"
    return _lost_reference(schema)


def _lost_reference(schema: Json) -> str:
    """Say which reference leads nowhere: none is fetched from elsewhere."""
    from referencing.exceptions import Unresolvable
    from referencing.jsonschema import DRAFT202012, EMPTY_REGISTRY

    resolver = EMPTY_REGISTRY.with_resource("", DRAFT202012.create_resource(schema)).crawl().resolver()
    for reference in _references(schema):
        try:
            resolver.lookup(reference)
        except Unresolvable:
            return f"{reference!r} refers to nothing in it"
    return ""


def _references(part: object) -> Iterator[str]:
    if isinstance(part, dict):
        for key, value in msgspec.convert(part, Json).items():
            if key == "$ref" and isinstance(value, str):
                yield value
            else:
                yield from _references(value)
    elif isinstance(part, list):
        for value in msgspec.convert(part, list[object]):
            yield from _references(value)


def _judge() -> None:
    """Read schema and answer from stdin, and print where they do not agree."""
    from jsonschema import Draft202012Validator, validators
    from referencing.jsonschema import EMPTY_REGISTRY

    schema, answer = msgspec.json.decode(sys.stdin.buffer.read())
    validator = validators.validator_for(schema, default=Draft202012Validator)(schema, registry=EMPTY_REGISTRY)
    error = next(validator.iter_errors(answer), None)
    if error:
        sys.stdout.write(f"{error.message[:_MAX_FAULT]} (at {error.json_path})")


if __name__ == "__main__":
    _judge()
