"""Answer schemas: check whether a schema is valid, and whether an answer matches a schema.

Both checks run in a separate process with a short time limit: some schemas take forever to check, and a backtracking
`pattern` would block the whole interpreter.
"""

import asyncio
import hashlib
import logging
import sys
from collections.abc import Iterator, Mapping

import msgspec

from clinvk.runtime.process.executables import run_tool
from clinvk.runtime.process.spawn import Spawner
from clinvk.runtime.run import schema_process
from clinvk.runtime.run.schema_process import SchemaFault, SchemaTask
from clinvk.types.errors import ClinvkError, InvalidRequest
from clinvk.types.record import SCHEMA_FIELD
from clinvk.types.text import MAX_JSON_VALUES, has_too_many_values

logger = logging.getLogger(__name__)

_WITHIN_S = 10.0
_AT_ONCE = 2
_REMEMBERED = 128
_FENCE = "```"
_TAGS = ("", "json")

Json = dict[str, object]

_values = msgspec.json.Decoder(float_hook=float)
_verdicts = msgspec.json.Decoder(SchemaFault)


class SchemaChecker:
    """Checks schemas, a few at a time, and remembers valid ones."""

    def __init__(self, spawner: Spawner, environ: Mapping[str, str]) -> None:
        self._spawner = spawner
        self._environ = environ
        self._good: dict[bytes, None] = {}
        self._turns = asyncio.Semaphore(_AT_ONCE)

    async def check(self, schema: Json) -> None:
        """Check the validity of a schema.

        Raises:
            InvalidRequest: the schema is invalid, or refers to a schema outside the document.
            ClinvkError: the check itself failed.
        """
        task = _encoded(SchemaTask(schema))
        digest = hashlib.sha256(task).digest()
        if digest in self._good:
            return
        try:
            async with self._turns:
                await _verdict(self._spawner, self._environ, task)
        except TimeoutError:
            raise InvalidRequest(f"{SCHEMA_FIELD} takes more than {_WITHIN_S:g} s to look at", SCHEMA_FIELD) from None
        self._good[digest] = None
        if len(self._good) > _REMEMBERED:
            del self._good[next(iter(self._good))]


async def mismatch(spawner: Spawner, environ: Mapping[str, str], schema: Json, answer: object) -> str:
    """Return where an answer does not match a schema; empty if the answer matches.

    Raises:
        InvalidRequest: the schema turns out to be invalid.
        ClinvkError: the check itself failed.
    """
    try:
        return (await _verdict(spawner, environ, _encoded(SchemaTask(schema, msgspec.json.encode(answer))))).answer
    except TimeoutError:
        return f"it takes more than {_WITHIN_S:g} s to compare it with the schema"


def _encoded(task: SchemaTask) -> bytes:
    try:
        return msgspec.json.encode(task)
    except RecursionError:
        raise InvalidRequest(f"{SCHEMA_FIELD} is no JSON Schema: it is nested too deeply", SCHEMA_FIELD) from None


async def _verdict(spawner: Spawner, environ: Mapping[str, str], task: bytes) -> SchemaFault:
    judge = (sys.executable, "-P", "-m", schema_process.__name__)
    found = await run_tool(spawner, judge, environ, _WITHIN_S, stdin=task)
    if found.exit_code:
        logger.error(
            "the judge of schemas exited with code %s: %s", found.exit_code, found.stderr.decode(errors="replace")
        )
        raise ClinvkError(f"{SCHEMA_FIELD} cannot be judged; the log has the details")
    verdict = _verdicts.decode(found.stdout)
    if verdict.schema:
        raise InvalidRequest(f"{SCHEMA_FIELD} is no JSON Schema: {verdict.schema}", SCHEMA_FIELD)
    return verdict


def json_in_answer(text: str) -> object:
    """Parse the JSON in an answer: the whole text, a fenced block, the last paragraph, or an object in prose.

    Raises:
        ValueError: the answer contains no JSON, or more than `MAX_JSON_VALUES` values.
    """
    if has_too_many_values(text.encode(errors="replace")):
        raise ValueError(f"it has more than {MAX_JSON_VALUES} JSON values")
    for candidate in _candidates(text.strip()):
        try:
            return _values.decode(candidate)
        except (msgspec.DecodeError, RecursionError):
            continue
    raise ValueError("it is no JSON")


def _candidates(text: str) -> Iterator[str]:
    yield text
    yield from reversed([*_fenced(text)])
    yield text.rpartition("\n\n")[2]
    yield text[text.find("{") : text.rfind("}") + 1]
    yield text[text.find("[") : text.rfind("]") + 1]


def _fenced(text: str) -> Iterator[str]:
    """Yield the content of code fences tagged as JSON or untagged. A fence begins or ends its line."""
    tag: str | None = None
    inside: list[str] = []
    for line in text.split("\n"):
        before, fence, after = line.rpartition(_FENCE)
        if not fence or (before.strip() and after.strip() not in _TAGS):
            inside.append(line)
        elif tag is None:
            tag, inside = after.strip(), []
        else:
            if tag in _TAGS:
                yield "\n".join([*inside, before])
            tag = None
