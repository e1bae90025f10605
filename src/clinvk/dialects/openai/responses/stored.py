"""Stored responses: the data kept with a run, the response rebuilt from the data, and references to items.

Unless configured otherwise, Vercel's AI SDK sends references instead of stored items.
"""

import re
from collections.abc import Iterable, Mapping, Set

import msgspec
from msgspec.structs import replace

from clinvk.dialects import json_bodies
from clinvk.dialects.client_tools import text_tool
from clinvk.dialects.conversation import SEPARATOR, elements_of, without_images
from clinvk.dialects.dialect import Call
from clinvk.dialects.openai.responses.output_items import Output
from clinvk.dialects.openai.responses.response_object import Json, OutputText, Response
from clinvk.types.choices import UNDER_WAY
from clinvk.types.errors import InvalidRequest, RunNotFound
from clinvk.types.events import (
    AwaitingTools,
    Event,
    Logged,
    RunFailed,
    RunFinished,
    ToolCall,
    ToolCallDelta,
    ToolResult,
    Usage,
)
from clinvk.types.record import RunRecord
from clinvk.types.request import RunRequest

_EARLIER_KEY = "openai_response"
"""The key for the same data in the run metadata of older records."""

_DELETED = {"response": None}
"""The data of a response that was deleted before its session."""

PREFIX = "resp_"
_RESPONSE = re.compile(r"resp_(?P<run>[0-9a-f]{32})(?:-(?P<number>\d{1,6}))?")
"""A run with client tools has several responses, with a number behind the id of the run."""


class StoredRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The response as its request determines it, and whether the agent's work is visible in the output.

    The instructions may be long, and the run usually has a copy at the start of the system prompt: `instructions_chars`
    is the length of the copy. None means that the run has no copy.
    """

    response: Response
    shows_work: bool = False
    instructions_chars: int | None = None


def answer_as(blank: Response, request: RunRequest, shows_work: bool) -> Json:
    """Return the data to keep for a response that the client can retrieve later."""
    chars = None
    if blank.instructions and (request.system_prompt or "").startswith(blank.instructions):
        chars = len(blank.instructions)
        blank = replace(blank, instructions=None)
    fields: Json = msgspec.to_builtins(blank)
    response = {name: value for name, value in fields.items() if value not in (None, (), {})}
    return {"response": response, "shows_work": shows_work, "instructions_chars": chars}


def response_id(run_id: str) -> str:
    """Return the response id for a run id."""
    return PREFIX + run_id


def run_id(response_id: str) -> str | None:
    """Return the run id for a response id, or None if the id is not valid."""
    match = _RESPONSE.fullmatch(response_id)
    return match["run"] if match else None


def _number(response_id: str) -> int:
    match = _RESPONSE.fullmatch(response_id)
    return int((match and match["number"]) or 0)


def started(blank: Response, run_id: str, at: float) -> Response:
    """Return the response of a run that was requested `at` seconds since the epoch."""
    return replace(blank, id=response_id(run_id), created_at=int(at))


def stored_request(run: RunRecord) -> StoredRequest | None:
    """Return the data kept with a run, or None if the run is not a response, or was not stored."""
    if run.session_id is None:
        return None
    try:
        stored = run.request.get("answer_as") or msgspec.convert(run.request.get("metadata", {}), Json)[_EARLIER_KEY]
        data = msgspec.convert(stored, StoredRequest)
    except KeyError:
        return None
    except msgspec.ValidationError:  # other APIs leave the metadata to the caller
        return None
    if data.instructions_chars is None:
        return data
    instructions = str(run.request.get("system_prompt", ""))[: data.instructions_chars]
    return replace(data, response=replace(data.response, instructions=instructions))


def deleted(run: RunRecord) -> RunRecord:
    """Return a run that is no longer a response, and cannot be continued as one."""
    return replace(run, request={**run.request, "answer_as": _DELETED})


def is_deleted(run: RunRecord) -> bool:
    """Return whether the response of a run was deleted."""
    return run.request.get("answer_as") == _DELETED


def system(run: RunRecord) -> str:
    """Return the system prompt of a run without the response's instructions, which were for one run only."""
    data = stored_request(run)
    if data is None:
        return ""
    system_prompt = str(run.request.get("system_prompt") or "")
    return system_prompt.removeprefix(data.response.instructions or "").removeprefix(SEPARATOR)


def rebuilt(run: RunRecord, data: StoredRequest, entries: Iterable[Logged], id_: str = "") -> Response:
    """Rebuild the response `id_` of a run, by default the first, from the run's events so far.

    Raises:
        RunNotFound: the run has no such response.
    """
    id_ = id_ or response_id(run.id)
    output, answer = output_of(run, data, id_), AnswerEvents(data, id_)
    for entry in entries:
        if event := answer.feed(entry.event):
            output.feed(event, entry.at)
    if answer.is_complete:
        return output.response
    if answer.is_next and run.state in UNDER_WAY:
        status = "queued" if run.state == "queued" else "in_progress"
        return replace(started(data.response, run.id, run.created_at), id=id_, status=status)
    raise RunNotFound(f"Response with id {id_!r} not found.")


def last_number(run: RunRecord, data: StoredRequest, entries: Iterable[Logged], id_: str) -> int:
    """Return the number of the last event in the stream of the response `id_`."""
    output, answer = output_of(run, data, id_), AnswerEvents(data, id_)
    picked = ((answer.feed(entry.event), entry.at) for entry in entries)
    return sum(len(output.feed(event, at)) for event, at in picked if event) - 1


def output_of(run: RunRecord, data: StoredRequest, id_: str) -> Output:
    """Return what builds the response `id_` of a run again, from its first event on."""
    response = replace(started(data.response, run.id, run.created_at), id=id_)
    custom = (text_tool(str(tool["name"]), None) for tool in response.tools if tool.get("type") == "custom")
    request = RunRequest(prompt="", thinking=bool(run.request.get("thinking")), client_tools=tuple(custom))
    return Output(response, Call(request=request, shows_work=data.shows_work), id_.removeprefix(PREFIX))


def input_items(run: RunRecord, data: StoredRequest, entries: Iterable[Logged], id_: str) -> list[Json]:
    """Return the items of the input of the response `id_`, as far as stored: texts, calls and outputs."""
    answer = AnswerEvents(data, id_)
    for entry in entries:
        answer.feed(entry.event)
    turns = [({"result-of": output.id}, output.output) for output in answer.outputs]
    if not _number(id_):
        turns = [*([({"role": "system"}, text)] if (text := system(run)) else []), *elements_of(run.prompt)]
    items = [_item(attributes, without_images(text)) for attributes, text in turns]
    place = id_.removeprefix(PREFIX)
    return [{"id": f"in_{place}_{index}", "status": "completed", **item} for index, item in enumerate(items)]


def _item(attributes: Mapping[str, str], text: str) -> Json:
    match attributes:
        case {"result-of": call_id}:
            return {"type": "function_call_output", "call_id": call_id, "output": text}
        case {"calls": name, "id": call_id}:
            return {"type": "function_call", "call_id": call_id, "name": name, "arguments": text}
        case {"role": "assistant"}:
            return {"type": "message", "role": "assistant", "content": (OutputText(text),)}
        case _:
            return {"type": "message", **attributes, "content": ({"type": "input_text", "text": text},)}


class AnswerEvents:
    """Filter for the events of one answer of a run. An answer ends with calls of client tools, or with the run.

    Attributes:
        outputs: the outputs of the client's tools since the answer before.
    """

    def __init__(self, data: StoredRequest, response_id: str) -> None:
        self.outputs: list[ToolResult] = []
        self._is_parallel = data.response.parallel_tool_calls
        self._first_call = ""
        self._refused: set[str] = set()
        self._number = _number(response_id)
        self._ended = 0
        self._used = Usage()
        self._call_ids: set[str] = set()

    @property
    def is_complete(self) -> bool:
        """Whether the answer has ended."""
        return self._ended > self._number

    @property
    def is_next(self) -> bool:
        """Whether the next event belongs to the answer."""
        return self._ended == self._number

    def feed(self, event: Event) -> Event | None:
        """Return an event as the client of the answer sees it; None for an event that the client does not see."""
        is_picked = self.is_next
        match event:
            case AwaitingTools(usage=usage):
                event = RunFinished("tool_use", usage - self._used if usage else Usage())
                self._used = usage or self._used
                self._ended += 1
                self._first_call = ""
            case RunFinished() | RunFailed():
                event = replace(event, usage=event.usage and event.usage - self._used)
                self._ended += 1
            case ToolCall(for_client=True) | ToolCallDelta():
                self._call_ids.add(event.id)
                self._first_call = self._first_call or event.id
                if not self._is_parallel and event.id != self._first_call:
                    self._refused.add(event.id)
                    return None
            case ToolResult() if event.id in self._call_ids:
                self.outputs += [event] if is_picked and event.id not in self._refused else []
                return None
            case _:
                pass
        return event if is_picked else None


_KIND = "item_reference"
_ANSWER = re.compile(r"(?:msg|fc|ctc)_(?P<answer>[0-9a-f]{32}(?:-\d{1,6})?)_\d+")


class _Item(msgspec.Struct, frozen=True):
    type: str | None = None
    id: object = None

    @property
    def answer(self) -> re.Match[str] | None:
        """Match the id of a clinvk answer if the item is a reference to an answer. References to thinking stay."""
        return _ANSWER.fullmatch(self.id) if self.type == _KIND and isinstance(self.id, str) else None


class _Body(msgspec.Struct, frozen=True):
    input: list[_Item]


_bodies = json_bodies.decoder(_Body)
_fields = msgspec.json.Decoder(dict[str, msgspec.Raw])
_inputs = msgspec.json.Decoder(list[msgspec.Raw])
_encode = msgspec.json.Encoder().encode


def references(body: bytes) -> Mapping[str, Set[str]]:
    """Return the ids of the items that the input references, by answer, in the order of the answers in the input.

    The id of an answer is the id of the run, with the number of the answer unless the answer is the first.

    Other mistakes in the body are not reported here: an unreadable body has no references.

    Raises:
        InvalidRequest: the input references an answer twice; names the place.
    """
    if _KIND.encode() not in body:
        return {}
    try:
        items = _bodies.decode(body).input
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}
    names: dict[str, set[str]] = {}
    for index, item in enumerate(items):
        if answer := item.answer:
            ids = names.setdefault(answer["answer"], set())
            if answer[0] in ids:
                raise InvalidRequest(f"{_place(index)}: item {answer[0]!r} is named twice", _place(index))
            ids.add(answer[0])
    return names


def with_items(body: bytes, found: Mapping[str, bytes]) -> bytes:
    """Return the body with each reference replaced by the item from `found`, which maps ids to items.

    Raises:
        InvalidRequest: an item is missing; names the place.
    """
    fields = json_bodies.decode(body, _fields)
    items: list[msgspec.Raw] = []
    for index, (raw, item) in enumerate(zip(_inputs.decode(fields["input"]), _bodies.decode(body).input, strict=True)):
        if not (answer := item.answer):
            items.append(raw)
        elif (stored_item := found.get(answer[0])) is not None:
            items.append(msgspec.Raw(stored_item))
        else:
            why = "its response is not complete, not stored, or deleted; send it whole"
            raise InvalidRequest(f"{_place(index)}: item {answer[0]!r} not found: {why}", _place(index))
    return _encode({**fields, "input": items})


def _place(index: int) -> str:
    return f"input[{index}].id"
