"""Convert the input of `POST /responses` to a conversation.

https://platform.openai.com/docs/api-reference/responses/create

Items other than messages, calls and outcomes mean nothing to an agent and are skipped: the thinking of earlier turns,
which is encrypted, and any kind of item that clients add later.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, Literal, get_args

import msgspec
from msgspec import Meta

from clinvk.dialects import conversation as conversations
from clinvk.dialects import json_bodies
from clinvk.dialects.client_tools import qualified
from clinvk.dialects.conversation import Content, Conversation, ToolCallMade, Turn
from clinvk.dialects.openai.chat_bodies import ImagePart, ImageUrl, RefusalPart, TextPart
from clinvk.types.request import Image, ToolOutput

_CallType = Literal["function_call", "custom_tool_call", "local_shell_call", "shell_call", "apply_patch_call"]
_OutcomeType = Literal[
    "function_call_output",
    "custom_tool_call_output",
    "local_shell_call_output",
    "shell_call_output",
    "apply_patch_call_output",
]
CALLS: tuple[_CallType, ...] = get_args(_CallType)
OUTCOMES: tuple[_OutcomeType, ...] = get_args(_OutcomeType)
TOOLS = "additional_tools"


class InputItem(msgspec.Struct, frozen=True):
    """What an item is; one without a type is a message."""

    type: str | None = None
    tools: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class InputTextPart(msgspec.Struct, frozen=True, tag="input_text"):
    """A text."""

    text: str


class OutputTextPart(InputTextPart, frozen=True, tag="output_text"):
    """A text of an earlier answer."""


class SummaryTextPart(InputTextPart, frozen=True, tag="summary_text"):
    """A text of earlier thinking, shortened."""


class ReasoningTextPart(InputTextPart, frozen=True, tag="reasoning_text"):
    """A text of earlier thinking."""


class InputImagePart(msgspec.Struct, frozen=True, tag="input_image"):
    """An image, as a data URL."""

    image_url: str | ImageUrl


class InputFilePart(msgspec.Struct, frozen=True, tag="input_file"):
    """A file, as a data URL or base64."""

    file_data: str
    filename: str | None = None


class PlainFilePart(InputFilePart, frozen=True, tag="file"):
    """A file."""


_Text = InputTextPart | OutputTextPart | SummaryTextPart | ReasoningTextPart | TextPart
Part = _Text | RefusalPart | InputImagePart | ImagePart | InputFilePart | PlainFilePart


class InputMessage(msgspec.Struct, frozen=True, kw_only=True):
    """A message."""

    type: Literal["message"] | None = None
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Part] | None = None


class InputCall(msgspec.Struct, frozen=True, kw_only=True):
    """A call; the field with the tool's input depends on the kind of tool."""

    type: _CallType
    id: str | None = None
    call_id: str | None = None
    name: str | None = None
    namespace: str | None = None
    arguments: str | None = None
    input: str | None = None
    action: dict[str, object] | None = None
    operation: dict[str, object] | None = None


class InputOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """The output of a tool."""

    type: _OutcomeType
    id: str | None = None
    call_id: str | None = None
    output: object = ""
    status: str | None = None


class OtherItem(msgspec.Struct, frozen=True):
    """An item of another type, which is skipped."""

    type: Annotated[str, Meta(extra_json_schema={"not": {"enum": ["message", *CALLS, *OUTCOMES]}})]


ITEMS = {"InputItem": (InputMessage, InputCall, InputOutcome, OtherItem)}
"""The structs of the items of an input, for the OpenAPI document."""

_heads = msgspec.json.Decoder(InputItem)
_messages = msgspec.json.Decoder(InputMessage)
_calls = json_bodies.decoder(InputCall)
_outcomes = json_bodies.decoder(InputOutcome)
_encoder = msgspec.json.Encoder()


def conversation(instructions: str | None, items: str | Sequence[msgspec.Raw]) -> Conversation:
    """Return the conversation of an input whose items are JSON objects.

    Raises:
        InvalidRequest: names the field.
    """
    system = [instructions] if instructions else []
    if isinstance(items, str):
        return Conversation(tuple(system), (Turn("user", (items,)),))
    late: list[tuple[int, str]] = []
    turns: list[Turn] = []
    for index, raw in enumerate(items):
        item = _heads.decode(raw)
        place = f"input[{index}]"
        if item.type in (None, "message"):
            _message(json_bodies.decode(raw, _messages, at=place), place, late, turns)
        elif item.type in CALLS:
            turns.append(Turn("assistant", calls=(_call(json_bodies.decode(raw, _calls, at=place)),)))
        elif item.type in OUTCOMES:
            turns.append(Turn("tool", outcomes=(_outcome(json_bodies.decode(raw, _outcomes, at=place), place),)))
    return conversations.conversation_of(system, late, turns)


def _message(message: InputMessage, place: str, system: list[tuple[int, str]], turns: list[Turn]) -> None:
    if isinstance(message.content, str):
        content: Content = (message.content,)
    else:
        content = tuple(_content(message.content or (), f"{place}.content"))
    if message.role == "user" or message.role == "assistant":
        turns.append(Turn(message.role, content))
    else:
        texts = [conversations.system_text(part, f"{place}.content[{index}]") for index, part in enumerate(content)]
        system += [(len(turns), text) for text in texts]


def _content(parts: Iterable[Part], place: str) -> Iterator[str | Image]:
    for index, part in enumerate(parts):
        match part:
            case InputTextPart() | TextPart():
                yield part.text
            case RefusalPart():
                yield part.refusal
            case InputImagePart() | ImagePart():
                address = part.image_url.url if isinstance(part.image_url, ImageUrl) else part.image_url
                yield conversations.image_of(address, None, f"{place}[{index}].image_url")
            case InputFilePart():
                yield conversations.document(part.file_data, part.filename, f"{place}[{index}].file_data")


def _call(call: InputCall) -> ToolCallMade:
    arguments = call.arguments if call.arguments is not None else call.input
    if arguments is None:
        action = {name: value for name, value in (call.action or {}).items() if value and name != "type"}
        arguments = _encoder.encode(call.operation or action).decode()
    name = qualified(call.namespace or "", call.name or call.type.removesuffix("_call"))
    return ToolCallMade(call.call_id or call.id or "", name, arguments)


def _outcome(outcome: InputOutcome, place: str) -> ToolOutput:
    return ToolOutput(
        outcome.call_id or outcome.id or "",
        _output_content(outcome.output, f"{place}.output"),
        outcome.status in ("failed", "incomplete"),
    )


def _output_content(output: object, place: str) -> Content:
    """Return the output of a tool as content; output in the shell tool's own format stays JSON."""
    if isinstance(output, str):
        return (output,)
    try:
        parts = msgspec.convert(output, list[Part])
    except msgspec.ValidationError:
        return (_encoder.encode(output).decode(),)
    return tuple(_content(parts, place))
