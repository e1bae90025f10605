"""The input of a response → a conversation: https://platform.openai.com/docs/api-reference/responses/create.

An item that is neither message nor call nor outcome says nothing to an agent and is passed over: the thinking of
earlier turns, which comes back encrypted, and whatever clients will send next month.
"""

from collections.abc import Iterable, Iterator, Sequence

import msgspec

from clinvk.dialects import strict
from clinvk.dialects.conversation import CallMade, Content, Conversation, Outcome, Turn, document, image_of, system_text
from clinvk.errors import InvalidRequest
from clinvk.request import Image

CALLS = ("function_call", "custom_tool_call", "local_shell_call", "shell_call", "apply_patch_call")
OUTCOMES = tuple(f"{name}_output" for name in CALLS)
TOOLS = "additional_tools"

_ROLES = "system, developer, user, assistant"


class InputItem(msgspec.Struct, frozen=True):
    """What an item is; one without a type is a message."""

    type: str | None = None


class _Address(msgspec.Struct, frozen=True):
    url: str


class _Part(msgspec.Struct, frozen=True, kw_only=True):
    """A part of a content; which fields count, its type says."""

    type: str
    text: str | None = None
    refusal: str | None = None
    image_url: str | _Address | None = None
    file_data: str | None = None
    filename: str | None = None


class _Message(msgspec.Struct, frozen=True, kw_only=True):
    role: str
    content: str | list[_Part] | None = None


class _Call(msgspec.Struct, frozen=True, kw_only=True):
    """A call; what it was given is under another name for each kind of tool."""

    id: str | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None
    input: str | None = None
    action: dict[str, object] | None = None
    operation: dict[str, object] | None = None


class _Outcome(msgspec.Struct, frozen=True, kw_only=True):
    id: str | None = None
    call_id: str | None = None
    output: object = ""
    status: str | None = None


_heads = msgspec.json.Decoder(InputItem)
_messages = msgspec.json.Decoder(_Message)
_calls = strict.decoder(_Call)
_outcomes = strict.decoder(_Outcome)
_encoder = msgspec.json.Encoder()


def conversation(instructions: str | None, given: str | Sequence[msgspec.Raw]) -> Conversation:
    """Make a conversation of an input, whose items are known to be JSON objects.

    Raises:
        InvalidRequest: names the field.
    """
    system = [instructions] if instructions else []
    if isinstance(given, str):
        return Conversation(tuple(system), (Turn("user", (given,)),))
    turns: list[Turn] = []
    for index, raw in enumerate(given):
        item = _heads.decode(raw)
        place = f"input[{index}]"
        if item.type in (None, "message"):
            _message(strict.decode(raw, _messages, at=place), place, system, turns)
        elif item.type in CALLS:
            turns.append(Turn("assistant", calls=(_call(strict.decode(raw, _calls, at=place), item.type),)))
        elif item.type in OUTCOMES:
            turns.append(Turn("tool", outcomes=(_outcome(strict.decode(raw, _outcomes, at=place), place),)))
    return Conversation(tuple(system), tuple(turns))


def _message(message: _Message, place: str, system: list[str], turns: list[Turn]) -> None:
    parts = [_Part(type="input_text", text=message.content)] if isinstance(message.content, str) else message.content
    content = tuple(_content(parts or (), f"{place}.content"))
    match message.role:
        case "user" | "assistant" as role:
            turns.append(Turn(role, content))
        case "system" | "developer":
            system += [system_text(part, f"{place}.content[{index}]") for index, part in enumerate(content)]
        case _:
            raise InvalidRequest(f"{place}.role must be one of {_ROLES}, got {message.role!r}", f"{place}.role")


def _content(parts: Iterable[_Part], place: str) -> Iterator[str | Image]:
    for index, part in enumerate(parts):
        here = f"{place}[{index}]"
        match part.type:
            case "input_text" | "output_text" | "text" | "summary_text" | "reasoning_text":
                yield _needed(part.text, f"{here}.text")
            case "refusal":
                yield _needed(part.refusal, f"{here}.refusal")
            case "input_image" | "image_url":
                address = part.image_url.url if isinstance(part.image_url, _Address) else part.image_url
                yield image_of(_needed(address, f"{here}.image_url"), None, f"{here}.image_url")
            case "input_file" | "file":
                yield document(_needed(part.file_data, f"{here}.file_data"), part.filename, f"{here}.file_data")
            case _:
                raise InvalidRequest(
                    f"{here}.type {part.type!r} is not supported; use input_text, input_image or input_file",
                    f"{here}.type",
                )


def _needed(value: str | None, field: str) -> str:
    if value is None:
        raise InvalidRequest(f"{field} is missing", field)
    return value


def _call(call: _Call, kind: str) -> CallMade:
    given = call.arguments if call.arguments is not None else call.input
    if given is None:
        given = _encoder.encode(call.action or call.operation or {}).decode()
    return CallMade(call.call_id or call.id or "", call.name or kind.removesuffix("_call"), given)


def _outcome(outcome: _Outcome, place: str) -> Outcome:
    return Outcome(
        outcome.call_id or outcome.id or "",
        _given(outcome.output, f"{place}.output"),
        outcome.status in ("failed", "incomplete"),
    )


def _given(output: object, place: str) -> Content:
    """Give what a tool gave. That of a shell has a form of its own: it is told as it stands."""
    if isinstance(output, str):
        return (output,)
    try:
        parts = msgspec.convert(output, list[_Part])
    except msgspec.ValidationError:
        return (_encoder.encode(output).decode(),)
    return tuple(_content(parts, place))
