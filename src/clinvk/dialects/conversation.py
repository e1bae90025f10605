"""Convert the messages of a model API to the one prompt of an agent.

A single user message becomes the prompt unchanged. A longer conversation becomes one element per turn, with an element
name that occurs in no text: no message can close its turn or open a turn of another role. Equal texts get an equal
name, and the next request of a conversation nearly always gets the same name, which keeps the model's prompt cache
valid.
"""

import base64
import binascii
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import groupby
from typing import Literal, NamedTuple

import msgspec

from clinvk.dialects.client_tools import ToolChoice
from clinvk.types.errors import InvalidRequest
from clinvk.types.prompt_xml import element, elements, unused_tag
from clinvk.types.request import Image, RunRequest, ToolOutput

Content = tuple[str | Image, ...]
"""Texts and images, in order."""

MAX_IMAGES = 100
"""Maximum number of images in a prompt; some agents get each image as a file."""

MAX_IMAGE_CHARS = 5 * 1024 * 1024
"""Maximum size of an image in base64: the limit of Anthropic's API. A larger image would fail every later turn too."""

SEPARATOR = "\n\n"
"""Separator between two system texts."""

_PREAMBLE = (
    "Below is a conversation between a user and you, the assistant: each <{name}> element is one turn, the oldest "
    "first. Nothing inside an element ends it or begins another. Answer as the assistant, to what came last, with "
    "nothing but the answer."
)
_NAMED = re.compile(re.escape(_PREAMBLE).replace(re.escape("{name}"), r"(?P<name>turn(?:-\d+)?)"))
_CONTINUE = "The last turn is yours and not finished: go on exactly where it stops, without repeating any of it."

_DATA_URL = re.compile(r"data:(?P<type>[^;,]*)(?P<parameters>(?:;[^;,]*)*),", re.IGNORECASE)
_MAX_HEAD = 1000
_SPACE = b" \t\n\r\f\v"
_MARK = re.compile(r"\[Image #\d+\]")
_MAGIC = (
    (re.compile(rb"\x89PNG\r\n\x1a\n"), "image/png"),
    (re.compile(rb"\xff\xd8\xff"), "image/jpeg"),
    (re.compile(rb"GIF8[79]a"), "image/gif"),
    (re.compile(rb"RIFF....WEBP", re.DOTALL), "image/webp"),
)

_encode = msgspec.json.Encoder().encode


class ToolCallMade(msgspec.Struct, frozen=True):
    """A call of a client tool in an earlier turn; `arguments` is JSON, or the text that the client sent."""

    id: str
    name: str
    arguments: str


class Turn(msgspec.Struct, frozen=True):
    """One message: content, then calls; for users and tools, outcomes, then content."""

    role: Literal["user", "assistant", "tool", "system"]
    content: Content = ()
    calls: tuple[ToolCallMade, ...] = ()
    outcomes: tuple[ToolOutput, ...] = ()
    name: str | None = None


class Conversation(msgspec.Struct, frozen=True):
    """All messages of a request: the system texts and the turns.

    Attributes:
        late: the last system texts, which stand after turns: the number of turns before each, and the text.
    """

    system: tuple[str, ...]
    turns: tuple[Turn, ...]
    late: tuple[tuple[int, str], ...] = ()

    @property
    def messages(self) -> tuple[Turn, ...]:
        """The turns, with the late system texts as turns in their places."""
        places = [(at, 0, Turn("system", (text,))) for at, text in self.late]
        places += [(at, 1, turn) for at, turn in enumerate(self.turns)]
        return tuple(turn for _, _, turn in sorted(places, key=lambda place: place[:2]))


def conversation_of(system: Iterable[str], texts: Iterable[tuple[int, str]], turns: Iterable[Turn]) -> Conversation:
    """Return a conversation: `texts` are more system texts, each after the number of turns before it."""
    texts = [*texts]
    late = tuple((at, text) for at, text in texts if at)
    return Conversation((*system, *(text for _, text in texts)), tuple(turns), late)


class ToolTurn(msgspec.Struct, frozen=True, kw_only=True):
    """The conversation of a request with client tools, to compare with the conversation of a parked run.

    Attributes:
        turns: all turns, or the turns after the answer `previous`. An answer of the assistant is one turn without the
            text, which clients and proxies change.
        digests: for each turn, a digest of the turns up to it and of everything else on which the answer depends.
        previous: the id of the answer that the client continues by name.
        choice: the choice among the tools for the next answer.
        tools: a digest of the model and the tools.
    """

    turns: tuple[Turn, ...]
    digests: tuple[str, ...]
    tools: str
    previous: str = ""
    choice: ToolChoice = ToolChoice()

    def digest(self, count: int | None = None) -> str:
        """Return a digest of the first `count` turns, by default of the whole request."""
        return self.digests[:count][-1] + self.previous

    @property
    def last_call(self) -> str:
        """The id of the call of the last output; empty without an output."""
        return next((turn.outcomes[-1].call_id for turn in reversed(self.turns) if turn.outcomes), "")

    def calls(self, start: int) -> list[ToolCallMade]:
        """Return the calls from turn `start` on."""
        return [call for turn in self.turns[start:] for call in turn.calls]

    def outputs(self, start: int) -> list[ToolOutput]:
        """Return the outputs from turn `start` on.

        A text of the user or the system after an output is a part of the output; so is the instruction, at the end. The
        list is empty if such a text comes before the first output, or if an answer has no calls.
        """
        outputs: list[ToolOutput] = []
        instruction = Turn("user", (self.choice.instruction,) if self.choice.instruction else ())
        for turn in (*self.turns[start:], instruction):
            outputs += turn.outcomes
            if turn.role == "assistant" and not turn.calls:
                return []
            if turn.content and turn.role in ("user", "system"):
                if not outputs:
                    return []
                last = outputs.pop()
                outputs.append(msgspec.structs.replace(last, content=(*last.content, *turn.content)))
        return outputs


def tool_turn(conversation: Conversation, request: RunRequest, choice: ToolChoice) -> ToolTurn:
    """Return the conversation of a request with client tools."""
    tools = _encode((request.model, request.client_tools))
    system = conversation.system[: len(conversation.system) - len(conversation.late)]
    turns = tuple(_without_answers(conversation.messages))
    _, *digests = _digests(turns, tools + _encode((system, _encode(request.output_schema))))
    return ToolTurn(turns=turns, digests=tuple(digests), choice=choice, tools=_digests((), tools)[0])


def _without_answers(turns: Iterable[Turn]) -> Iterator[Turn]:
    """Yield the turns, each answer of the assistant as one turn with only the calls. Leave out blank answers."""
    for role, group in groupby(turns, key=lambda turn: turn.role):
        if role != "assistant":
            yield from group
        elif answer := [turn for turn in group if not _is_blank_answer(turn)]:
            yield Turn("assistant", calls=tuple(call for turn in answer for call in turn.calls))


def check_calls(conversation: Conversation, field: str, calls: Collection[str] = ()) -> None:
    """Refuse a conversation with the output of a call that is neither in the conversation nor in `calls`.

    Raises:
        InvalidRequest: an output has no call; `field` is the place of the conversation.
    """
    known = {*calls, *(call.id for turn in conversation.turns for call in turn.calls)}
    outputs = (output.call_id for turn in conversation.turns for output in turn.outcomes)
    if (lost := next((id_ for id_ in outputs if id_ not in known), None)) is not None:
        raise InvalidRequest(f"{field} has a tool output, but no call {lost!r:.100}: send the call as well", field)


class AgentPrompt(NamedTuple):
    """A conversation in the form that agents accept. The first image appears in the prompt as `[Image #1]`."""

    prompt: str
    system_prompt: str | None
    images: tuple[Image, ...]


def agent_prompt(conversation: Conversation, *, only_last: bool = False, field: str = "messages") -> AgentPrompt:
    """Convert a conversation for an agent; with `only_last` only the turns after the assistant's last turn.

    Raises:
        InvalidRequest: no turn asks the assistant anything; `field` is the place of the messages.
    """
    turns = without_blank_answers(conversation.turns)
    if only_last:
        turns = turns[last_answer(turns) + 1 :]
    if not any(_needs_answer(turn) for turn in turns):
        where = " after the assistant's last turn" if only_last and conversation.turns else ""
        raise InvalidRequest(f"{field}: nothing is asked{where}; a user turn that is not empty is needed", field)
    images: list[Image] = []
    lone = turns[0]
    if len(turns) == 1 and lone.role == "user" and not lone.outcomes:
        prompt = _text(lone.content, images)
    else:
        prompt = _elements(turns, images)
    return AgentPrompt(prompt, system_prompt(conversation.system), tuple(images))


def elements_of(prompt: str) -> list[tuple[dict[str, str], str]]:
    """Return the attributes and the text of each element in a prompt of `agent_prompt`."""
    head = _NAMED.match(prompt)
    return [*elements(head["name"], prompt)] if head else [({"role": "user"}, prompt)]


def system_prompt(texts: Iterable[str]) -> str | None:
    """Join the system texts; return None if all are blank."""
    return SEPARATOR.join(text for text in texts if text.strip()) or None


def without_blank_answers(turns: tuple[Turn, ...]) -> tuple[Turn, ...]:
    """Return the turns without blank assistant turns at the end, which some clients send as placeholders."""
    end = len(turns)
    while end and _is_blank_answer(turns[end - 1]):
        end -= 1
    return turns[:end]


def last_answer(turns: Sequence[Turn]) -> int:
    """Return the index of the assistant's last turn, or -1."""
    return max((index for index, turn in enumerate(turns) if turn.role == "assistant"), default=-1)


def digest(turns: Iterable[Turn]) -> str:
    """Return a hash of the turns; different turns have different hashes."""
    return _digests(turns)[-1]


def _digests(turns: Iterable[Turn], setup: bytes = b"") -> list[str]:
    """Return a hash of the setup, then for each turn a hash of the setup and the turns up to this one."""
    import hashlib  # a slow import, which lists of sessions do not need

    hashed = hashlib.sha256(setup)
    digests = [hashed.hexdigest()]
    for turn in turns:
        hashed.update(_encode(turn))
        digests.append(hashed.hexdigest())
    return digests


def without_images(prompt: str) -> str:
    """Return a prompt with a note in place of each image, for use when the images are gone."""
    return _MARK.sub("[an image that was not kept]", prompt)


def system_text(part: str | Image, place: str) -> str:
    """Return a part of a system text; `place` is the position in the body.

    Raises:
        InvalidRequest: the part is an image.
    """
    if isinstance(part, Image):
        raise InvalidRequest(f"{place} is an image, which the agent's system prompt cannot have", place)
    return part


def image_of(source: str, media_type: str | None, field: str) -> Image:
    """Decode an image from a data URL or base64. The bytes determine the type; the declared type does not matter.

    Raises:
        InvalidRequest: the source is an address, invalid base64, too large, or not PNG, JPEG, GIF or WebP.
    """
    data, said = decoded(source, media_type, field)
    found = next((type_ for magic, type_ in _MAGIC if magic.match(data)), None)
    if found is None:
        what = f"is said to be {said!r}, but its bytes are" if said else "is"
        raise InvalidRequest(f"{field} {what} no PNG, JPEG, GIF or WebP image", field)
    return Image(found, data)


def document(source: str, filename: str | None, field: str) -> str:
    """Decode a text document from a data URL or base64, and return the text for the prompt.

    Raises:
        InvalidRequest: the source is an address, invalid base64, too large, or not UTF-8 text.
    """
    data, said = decoded(source, None, field)
    try:
        text = data.decode()
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise InvalidRequest(f"{field} is {said or 'a file'} that is no text in UTF-8; agents take no other", field)
    return f"{filename}:\n{text}" if filename else text


def decoded(source: str, media_type: str | None, field: str) -> tuple[bytes, str]:
    """Decode a data URL or base64; return the bytes and the declared media type, which may be empty.

    Raises:
        InvalidRequest: the source is an address, invalid base64, or larger than `MAX_IMAGE_CHARS`.
    """
    head = _DATA_URL.match(source, 0, _MAX_HEAD)
    encoded = source[head.end() :] if head else source
    if len(encoded) > MAX_IMAGE_CHARS:
        raise InvalidRequest(f"{field} has {len(encoded)} characters; at most {MAX_IMAGE_CHARS} are allowed", field)
    if head and ";base64" not in head["parameters"].lower():
        raise InvalidRequest(f"{field} must be a data URL in base64, as in data:image/png;base64,…", field)
    if not head and ":" in source[:16]:
        shown = source if len(source) <= 80 else source[:80] + "…"
        raise InvalidRequest(f"{field} must be a data URL or base64, no address is fetched: got {shown!r}", field)
    try:
        data = base64.b64decode(encoded.encode().translate(None, _SPACE), validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidRequest(f"{field} is no valid base64: {error}", field) from None
    if not data:
        raise InvalidRequest(f"{field} is empty", field)
    return data, (head["type"] if head else media_type) or ""


def _needs_answer(turn: Turn) -> bool:
    return turn.role != "assistant" and (bool(turn.outcomes) or any(_has_content(part) for part in turn.content))


def _is_blank_answer(turn: Turn) -> bool:
    return turn.role == "assistant" and not turn.calls and not any(_has_content(part) for part in turn.content)


def _has_content(part: str | Image) -> bool:
    return isinstance(part, Image) or bool(part.strip())


def _text(content: Content, images: list[Image]) -> str:
    """Return content as text, and append its images to `images`."""
    lines: list[str] = []
    for part in content:
        if isinstance(part, Image):
            images.append(part)
            lines.append(f"[Image #{len(images)}]")
        else:
            lines.append(part)
    return "\n".join(lines)


def _elements(turns: tuple[Turn, ...], images: list[Image]) -> str:
    name = unused_tag("turn", (text for turn in turns for text in _texts(turn)))
    elements = [_PREAMBLE.format(name=name)]
    for turn in turns:
        elements += _turn(turn, name, images)
    if turns[-1].role == "assistant" and not turns[-1].calls:
        elements.append(_CONTINUE)
    return "\n\n".join(elements)


def _turn(turn: Turn, name: str, images: list[Image]) -> Iterator[str]:
    for outcome in turn.outcomes:
        failed = {"error": "true"} if outcome.is_error else {}
        yield element(name, _text(outcome.content, images), role="tool", result_of=outcome.call_id, **failed)
    if turn.content:
        named = {"name": turn.name} if turn.name else {}
        yield element(name, _text(turn.content, images), role=turn.role, **named)
    for call in turn.calls:
        yield element(name, call.arguments, role=turn.role, calls=call.name, id=call.id)


def _texts(turn: Turn) -> Iterator[str]:
    contents = [turn.content, *(outcome.content for outcome in turn.outcomes)]
    yield from (part for content in contents for part in content if isinstance(part, str))
    yield from (call.arguments for call in turn.calls)
