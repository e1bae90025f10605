"""The answer of a run: cut at stop sequences, and held back until it is known to fit the schema."""

import asyncio
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import msgspec
from msgspec.structs import replace

from clinvk.runtime.process.spawn import Spawner
from clinvk.runtime.run import schema
from clinvk.types.errors import AgentFailed, ClinvkError
from clinvk.types.events import Ending, Event, Progress, RunFailed, RunFinished, TextDelta, ToolCall
from clinvk.types.record import SCHEMA_FIELD
from clinvk.types.request import RunRequest


class Cutter:
    """Passes events on; of the text only what stands before the first stop text.

    The first is the one that is complete first, as if the answer came letter by letter: what is cut does not depend on
    the pieces. Of texts that are complete at the same letter it is the longest. Held back is only what may become one
    of them; a tool call or thinking between ends that. `matched` is the stop text that was found.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self.matched: str | None = None
        self._stops = tuple(stop for stop in stops if stop)
        self._held = ""

    def feed(self, event: Event) -> Iterator[Event]:
        """Take an event and give what can be told."""
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
        """Give what was held back: nothing follows that could make it a stop text."""
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
    """Give how many letters at the end of a text are the beginning of a stop text."""
    at = text.find(stop[0], max(0, len(text) - len(stop) + 1))
    while at >= 0:
        if stop.startswith(text[at:]):
            return len(text) - at
        at = text.find(stop[0], at + 1)
    return 0


_MARK = re.compile(r"@|\$(?=[A-Za-z0-9_:-])")
_SAID = {"@": "(at)", "$": "(dollar)"}


class Answer:
    """Passes events on, and keeps the text. What stands after the last tool call is the answer."""

    matched = None

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._answer_at = 0

    @property
    def text(self) -> str:
        """The answer."""
        return "".join(self._pieces[self._answer_at :])

    def feed(self, event: Event) -> Iterator[Event]:
        """Take an event and give what can be told."""
        if isinstance(event, TextDelta):
            self._pieces.append(event.text)
            return
        if isinstance(event, ToolCall):
            self._answer_at = len(self._pieces)
        yield event

    def rest(self) -> Iterator[Event]:
        """Give all the text."""
        if text := "".join(self._pieces):
            yield TextDelta(text)


Words = Cutter | Answer


def words_of(request: RunRequest) -> Words | None:
    """Give what the text of a run goes through; None lets it pass."""
    if request.output_schema is not None:
        return Answer()
    return Cutter(request.stop) if request.stop else None


class Judgement(NamedTuple):
    """How a run with a schema ended, the text that is left to tell, and where the answer does not fit, if so."""

    ending: Ending
    rest: tuple[Event, ...]
    fault: str = ""


async def judged(
    answer: Answer, ending: Ending, form: schema.Json, spawner: Spawner, environ: Mapping[str, str]
) -> Judgement:
    """Look whether an answer fits its schema. One that is not whole is none, and told as it is."""
    if not isinstance(ending, RunFinished) or ending.stop_reason != "end_turn":
        return Judgement(ending, tuple(answer.rest()))
    try:
        value = ending.structured_output
        if value is None:
            value = await asyncio.to_thread(schema.read, answer.text)
        fault = await schema.mismatch(spawner, environ, form, value)
    except ValueError as exc:
        value, fault = None, str(exc)
    except ClinvkError as exc:
        unjudged = RunFailed(exc.code, exc.message, usage=ending.usage, cost_usd=ending.cost_usd)
        return Judgement(unjudged, tuple(answer.rest()))
    if not fault:
        text = msgspec.json.encode(value).decode()
        return Judgement(replace(ending, structured_output=value), (TextDelta(text),))
    message = f"the answer does not fit {SCHEMA_FIELD}: {fault}"
    failed = RunFailed(AgentFailed.code, message, usage=ending.usage, cost_usd=ending.cost_usd)
    return Judgement(failed, tuple(answer.rest()), fault)


def asking_again(request: RunRequest, fault: str) -> RunRequest:
    """Give the request that asks for the answer again, in a conversation that knows the schema.

    `fault` may quote the answer, which is data: where the prompt is not, no file and no skill in it is named.
    """
    quoted = fault if request.literal else _MARK.sub(lambda found: _SAID[found[0]], fault)
    prompt = (
        f"Your answer does not fit the JSON Schema: {quoted}. Answer again, with one JSON value "
        "that is valid against the schema, and with nothing else: no text around it, no code fence."
    )
    return replace(request, prompt=prompt, images=(), system_prompt=None, output_schema=None)


def together(first: Ending, last: Ending) -> Ending:
    """Give the ending of a run with what both of its turns used."""
    used = [ending.usage for ending in (first, last) if ending.usage]
    costs = [ending.cost_usd for ending in (first, last) if ending.cost_usd is not None]
    ending = replace(last, usage=sum(used[1:], used[0]) if used else None, cost_usd=sum(costs) if costs else None)
    if isinstance(ending, RunFinished) and isinstance(first, RunFinished) and ending.turns is not None:
        return replace(ending, turns=ending.turns + (first.turns or 0))
    return ending
