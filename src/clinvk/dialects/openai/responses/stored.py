"""Stored responses: what a run keeps of its response, the response made again from it, and references to its items.

Vercel's AI SDK names everything that was stored, unless configured otherwise.
"""

import re
from collections.abc import Iterable, Mapping, Set

import msgspec
from msgspec.structs import replace

from clinvk.dialects import json_bodies
from clinvk.dialects.conversation import SEPARATOR
from clinvk.dialects.dialect import Call
from clinvk.dialects.openai.responses.output_items import Output
from clinvk.dialects.openai.responses.response_object import Json, Response
from clinvk.types.errors import InvalidRequest
from clinvk.types.events import Event
from clinvk.types.record import RunRecord
from clinvk.types.request import RunRequest

_EARLIER_KEY = "openai_response"
"""Where earlier records have it, in the metadata of the run."""

_PREFIX = "resp_"


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """The response as far as its request said it, and whether the agent's work shows in it.

    Its instructions may be long, and the run has them: `instructions_chars` says how many characters of the run's
    system prompt, which begins with them. None where it does not.
    """

    response: Response
    shows_work: bool = False
    instructions_chars: int | None = None


def answer_as(blank: Response, request: RunRequest, shows_work: bool) -> Json:
    """Give what is kept of a response that can be asked for later."""
    chars = None
    if blank.instructions and (request.system_prompt or "").startswith(blank.instructions):
        chars = len(blank.instructions)
        blank = replace(blank, instructions=None)
    told: Json = msgspec.to_builtins(blank)
    response = {name: value for name, value in told.items() if value not in (None, (), {})}
    return {"response": response, "shows_work": shows_work, "instructions_chars": chars}


def response_id(run_id: str) -> str:
    """Make the id of a response from that of its run."""
    return _PREFIX + run_id


def run_id(response_id: str) -> str | None:
    """Give the id of the run of a response; None for what is no id of one."""
    digits = response_id.removeprefix(_PREFIX)
    is_id = response_id != digits and len(digits) == 32 and not digits.strip("0123456789abcdef")
    return digits if is_id else None


def begun(blank: Response, run_id: str, at: float) -> Response:
    """Give the response of a run that was asked for at this time, in seconds since the epoch."""
    return replace(blank, id=response_id(run_id), created_at=int(at))


def of(run: RunRecord) -> Kept | None:
    """Give what a run has kept; None where it is no response, or one that was not to be stored."""
    if run.session_id is None:
        return None
    try:
        given = run.request.get("answer_as") or msgspec.convert(run.request.get("metadata", {}), Json)[_EARLIER_KEY]
        kept = msgspec.convert(given, Kept)
    except KeyError:
        return None
    except msgspec.ValidationError:  # in the other APIs metadata is all the caller's
        return None
    if kept.instructions_chars is None:
        return kept
    instructions = str(run.request.get("system_prompt", ""))[: kept.instructions_chars]
    return replace(kept, response=replace(kept.response, instructions=instructions))


def system(run: RunRecord) -> str:
    """Give what the system said to a run as it was told; the instructions of its response were for it alone."""
    kept = of(run)
    if kept is None:
        return ""
    said = str(run.request.get("system_prompt") or "")
    return said.removeprefix(kept.response.instructions or "").removeprefix(SEPARATOR)


def again(run: RunRecord, kept: Kept, events: Iterable[Event]) -> Response:
    """Make the response of a run again; `events` are all of a run that has ended."""
    response = begun(kept.response, run.id, run.created_at)
    if run.state in ("queued", "running"):
        return replace(response, status="queued" if run.state == "queued" else "in_progress")
    request = RunRequest(prompt="", thinking=bool(run.request.get("thinking")))
    return whole(Output(response, Call(request=request, shows_work=kept.shows_work), run.id), events)


def whole(output: Output, events: Iterable[Event]) -> Response:
    """Give the response that events grow it to."""
    for event in events:
        output.feed(event)
    return output.response


_KIND = "item_reference"
_ANSWER = re.compile(r"msg_(?P<run>[0-9a-f]{32})_\d+")


class _Item(msgspec.Struct, frozen=True):
    type: str | None = None
    id: object = None

    @property
    def answer(self) -> re.Match[str] | None:
        """The id of an answer of clinvk's, where the item names one. Thinking is not told again: it stays."""
        return _ANSWER.fullmatch(self.id) if self.type == _KIND and isinstance(self.id, str) else None


class _Body(msgspec.Struct, frozen=True):
    input: list[_Item]


_bodies = json_bodies.decoder(_Body)
_fields = msgspec.json.Decoder(dict[str, msgspec.Raw])
_inputs = msgspec.json.Decoder(list[msgspec.Raw])
_encode = msgspec.json.Encoder().encode


def named(body: bytes) -> Mapping[str, Set[str]]:
    """Give the ids of the answers that the input of a body names, by the runs that gave these, in their order in it.

    What is wrong with the rest of a body is not told here: none are named in one that cannot be read.

    Raises:
        InvalidRequest: one is named twice; names its place.
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
            ids = names.setdefault(answer["run"], set())
            if answer[0] in ids:
                raise InvalidRequest(f"{_place(index)}: item {answer[0]!r} is named twice", _place(index))
            ids.add(answer[0])
    return names


def spelled_out(body: bytes, found: Mapping[str, bytes]) -> bytes:
    """Give a body that names some with the items themselves, which `found` has by their ids.

    Raises:
        InvalidRequest: one is not there; names its place.
    """
    fields = json_bodies.decode(body, _fields)
    items: list[msgspec.Raw] = []
    for index, (raw, item) in enumerate(zip(_inputs.decode(fields["input"]), _bodies.decode(body).input, strict=True)):
        if not (answer := item.answer):
            items.append(raw)
        elif (there := found.get(answer[0])) is not None:
            items.append(msgspec.Raw(there))
        else:
            why = "its response is not complete, not stored, or deleted; send it whole"
            raise InvalidRequest(f"{_place(index)}: item {answer[0]!r} not found: {why}", _place(index))
    return _encode({**fields, "input": items})


def _place(index: int) -> str:
    return f"input[{index}].id"
