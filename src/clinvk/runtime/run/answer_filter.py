"""The answer of a run: cut the text at stop sequences, or check the whole answer against a schema.

Schemas are checked in a separate process with a short time limit: some schemas take forever to check, and a
backtracking `pattern` would block the whole interpreter.
"""

import asyncio
import hashlib
import logging
import re
import sys
from collections import Counter, deque
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import NamedTuple

import msgspec
from msgspec.structs import replace

from clinvk.runtime.process.executables import run_tool
from clinvk.runtime.process.spawn import Spawner
from clinvk.runtime.run import schema_process
from clinvk.runtime.run.schema_process import SchemaFault, SchemaTask
from clinvk.types.errors import AgentFailed, ClinvkError, InvalidRequest, QueueFull, ResourcesExhausted
from clinvk.types.events import Ending, Event, Progress, RunFailed, RunFinished, TextDelta, ToolCall
from clinvk.types.record import SCHEMA_FIELD
from clinvk.types.request import ClientTool, RunRequest
from clinvk.types.text import MAX_JSON_VALUES, has_too_many_values

logger = logging.getLogger(__name__)

_TIMEOUT_S = 10.0
_MAX_CHECKS = 2
_MAX_WAITING = 64
_WAIT_TIMEOUT_S = 30.0
"""How many checks of one client wait for a turn, and for how long."""

_REMEMBERED = 128
_FENCE = "```"
_TAGS = ("", "json")

Json = dict[str, object]

_values = msgspec.json.Decoder(float_hook=float)
_verdicts = msgspec.json.Decoder(SchemaFault)


class StopSequenceFilter:
    """Passes events on, and cuts the text before the first stop sequence.

    The first stop sequence is the one that is complete earliest, as if the answer arrived character by character: the
    cut does not depend on the chunks. If several are complete at the same character, the longest wins. Only a possible
    beginning of a stop sequence is held back; a tool call or thinking releases held text. `matched` is the stop
    sequence that was found.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self.matched: str | None = None
        self._stops = tuple(stop for stop in stops if stop)
        self._held = ""

    def feed(self, event: Event) -> Iterator[Event]:
        """Filter an event; yield the events to pass on."""
        if self.matched is not None:
            return
        if isinstance(event, TextDelta):
            text = self._cut(self._held + event.text)
            if text:
                yield TextDelta(text)
            return
        if not isinstance(event, Progress):
            yield from self.rest()
        yield event

    def rest(self) -> Iterator[Event]:
        """Yield the held text; call when no further text can complete a stop sequence."""
        held, self._held = self._held, ""
        if held:
            yield TextDelta(held)

    def _cut(self, text: str) -> str:
        found = [(at + len(stop), at, stop) for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            _, at, self.matched = min(found)
            self._held = ""
            return text[:at]
        keep = max((_overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]


def _overlap(text: str, stop: str) -> int:
    """Return how many characters at the end of `text` are the beginning of `stop`."""
    at = text.find(stop[0], max(0, len(text) - len(stop) + 1))
    while at >= 0:
        if stop.startswith(text[at:]):
            return len(text) - at
        at = text.find(stop[0], at + 1)
    return 0


_MARK = re.compile(r"@|\$(?=[A-Za-z0-9_:-])")
_SPELLED_OUT = {"@": "(at)", "$": "(dollar)"}


class SchemaFilter:
    """Passes events on, except for text, which is held back. The answer is the text after the last tool call."""

    matched = None

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._answer_at = 0

    @property
    def text(self) -> str:
        """The answer."""
        return "".join(self._pieces[self._answer_at :])

    def feed(self, event: Event) -> Iterator[Event]:
        """Filter an event; yield the event unless the event is text."""
        if isinstance(event, TextDelta):
            self._pieces.append(event.text)
            return
        if isinstance(event, ToolCall):
            self._answer_at = len(self._pieces)
        yield event

    def rest(self) -> Iterator[Event]:
        """Yield the whole held text."""
        if text := "".join(self._pieces):
            yield TextDelta(text)


AnswerFilter = StopSequenceFilter | SchemaFilter


def answer_filter(request: RunRequest) -> AnswerFilter | None:
    """Return the text filter that a request needs; None passes text unchanged."""
    if request.output_schema is not None:
        return SchemaFilter()
    return StopSequenceFilter(request.stop) if request.stop else None


class CheckedAnswer(NamedTuple):
    """The ending of a run with a schema, the text still to be sent, and the mismatch, if any."""

    ending: Ending
    rest: tuple[Event, ...]
    fault: str = ""


async def check_answer(
    answer: SchemaFilter, ending: Ending, schema: Json, spawner: Spawner, environ: Mapping[str, str]
) -> CheckedAnswer:
    """Check an answer against its schema. An incomplete answer is not checked and stays as written."""
    if not isinstance(ending, RunFinished) or ending.stop_reason != "end_turn":
        return CheckedAnswer(ending, tuple(answer.rest()))
    try:
        value = ending.structured_output
        if value is None:
            value = await asyncio.to_thread(json_in_answer, answer.text)
        fault = await mismatch(spawner, environ, schema, value)
    except ValueError as exc:
        value, fault = None, str(exc)
    except ClinvkError as exc:
        failed = RunFailed(exc.code, exc.message, usage=ending.usage, cost_usd=ending.cost_usd)
        return CheckedAnswer(failed, tuple(answer.rest()))
    if not fault:
        text = msgspec.json.encode(value).decode()
        return CheckedAnswer(replace(ending, structured_output=value), (TextDelta(text),))
    message = f"the answer does not fit {SCHEMA_FIELD}: {fault}"
    failed = RunFailed(AgentFailed.code, message, usage=ending.usage, cost_usd=ending.cost_usd)
    return CheckedAnswer(failed, tuple(answer.rest()), fault)


def retry_prompt(request: RunRequest, fault: str) -> RunRequest:
    """Return the request that asks for the answer again, in a conversation that already contains the schema.

    `fault` may quote the answer. Unless the prompt is literal, `@` and `$` in the quote are spelled out, so that the
    quote cannot reference a file or a skill.
    """
    quoted = fault if request.literal else _MARK.sub(lambda found: _SPELLED_OUT[found[0]], fault)
    prompt = (
        f"Your answer does not fit the JSON Schema: {quoted}. Answer again, with one JSON value "
        "that is valid against the schema, and with nothing else: no text around it, no code fence."
    )
    return replace(request, prompt=prompt, images=(), system_prompt=None, output_schema=None)


class SchemaChecker:
    """Checks schemas, a few at a time and one for each client, and remembers valid ones."""

    def __init__(self, spawner: Spawner, environ: Mapping[str, str]) -> None:
        self._spawner = spawner
        self._environ = environ
        self._valid = deque[bytes](maxlen=_REMEMBERED)
        self._turns = asyncio.Semaphore(_MAX_CHECKS)
        self._turns_of: dict[str, asyncio.Lock] = {}
        self._waiting = Counter[str]()

    async def check(self, schema: Json | None, tools: Sequence[ClientTool] = (), client: str = "") -> None:
        """Check the validity of the schemas of the answer and of the client's tools.

        Raises:
            InvalidRequest: a schema is invalid, or refers to a schema outside the document.
            QueueFull, ResourcesExhausted: too many schemas of the client wait for a check, or one waited for too long.
            ClinvkError: the check itself failed.
        """
        if schema is None and not tools:
            return
        task = _encoded(SchemaTask(schema or {}, tools={tool.name: tool.schema for tool in tools}))
        digest = hashlib.sha256(task).digest()
        if digest in self._valid:
            return
        async with self._turn(client):
            if digest in self._valid:
                return
            try:
                await _verdict(self._spawner, self._environ, task)
            except TimeoutError:
                field = SCHEMA_FIELD if schema else "tools"
                raise InvalidRequest(f"{field} takes more than {_TIMEOUT_S:g} s to check", field) from None
        self._valid.append(digest)

    @asynccontextmanager
    async def _turn(self, client: str) -> AsyncGenerator[None]:
        """Wait for a turn of a client. Clients take turns, since at most one check of each waits for `_turns`."""
        if self._waiting[client] >= _MAX_WAITING:
            raise QueueFull(f"{_MAX_WAITING} schemas of this client wait for a check already", retry_after_s=_TIMEOUT_S)
        self._waiting[client] += 1
        try:
            async with AsyncExitStack() as held:
                try:
                    async with asyncio.timeout(_WAIT_TIMEOUT_S):
                        await held.enter_async_context(self._turns_of.setdefault(client, asyncio.Lock()))
                        await held.enter_async_context(self._turns)
                except TimeoutError:
                    message = f"the schemas of the request could not be checked within {_WAIT_TIMEOUT_S:g} s"
                    raise ResourcesExhausted(message) from None
                yield
        finally:
            self._waiting[client] -= 1
            if not self._waiting[client]:
                del self._waiting[client], self._turns_of[client]


async def mismatch(spawner: Spawner, environ: Mapping[str, str], schema: Json, answer: object) -> str:
    """Return the place where an answer does not match a schema; empty if the answer matches.

    Raises:
        InvalidRequest: the schema turns out to be invalid.
        ClinvkError: the check itself failed.
    """
    try:
        return (await _verdict(spawner, environ, _encoded(SchemaTask(schema, msgspec.json.encode(answer))))).answer
    except TimeoutError:
        return f"it takes more than {_TIMEOUT_S:g} s to compare it with the schema"


def _encoded(task: SchemaTask) -> bytes:
    try:
        return msgspec.json.encode(task)
    except RecursionError:
        raise InvalidRequest(f"{SCHEMA_FIELD} is not JSON Schema: it is nested too deeply", SCHEMA_FIELD) from None


async def _verdict(spawner: Spawner, environ: Mapping[str, str], task: bytes) -> SchemaFault:
    argv = (sys.executable, "-P", "-m", schema_process.__name__)
    completed = await run_tool(spawner, argv, environ, _TIMEOUT_S, stdin=task)
    if completed.exit_code:
        logger.error(
            "the schema checker exited with code %s: %s", completed.exit_code, completed.stderr.decode(errors="replace")
        )
        raise ClinvkError(f"{SCHEMA_FIELD} cannot be judged; the log has the details")
    verdict = _verdicts.decode(completed.stdout)
    if verdict.tool:
        message = f"tools: the schema of {verdict.tool!r} is not JSON Schema: {verdict.schema}"
        raise InvalidRequest(message, "tools")
    if verdict.schema:
        raise InvalidRequest(f"{SCHEMA_FIELD} is not JSON Schema: {verdict.schema}", SCHEMA_FIELD)
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
    raise ValueError("it is not JSON")


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
