"""Chat messages → a conversation."""

from collections.abc import Iterator

from clinvk.dialects.conversation import CallMade, Content, Conversation, Outcome, Turn, document, image_of, system_text
from clinvk.dialects.openai_chat.bodies import (
    AudioPart,
    FileData,
    FilePart,
    ImagePart,
    Message,
    Part,
    RefusalPart,
    TextPart,
)
from clinvk.errors import InvalidRequest
from clinvk.request import Image


def conversation(messages: list[Message]) -> Conversation:
    """Read the messages of a body.

    Raises:
        InvalidRequest: names the place in them.
    """
    system: list[str] = []
    turns: list[Turn] = []
    for index, message in enumerate(messages):
        place = f"messages[{index}]"
        if message.role in ("system", "developer"):
            content = _content(message, place)
            system += (system_text(part, f"{place}.content[{at}]") for at, part in enumerate(content))
        else:
            turns.append(_turn(message, place))
    return Conversation(tuple(system), tuple(turns))


def _turn(message: Message, place: str) -> Turn:
    content = tuple(_content(message, place))
    match message.role:
        case "assistant":
            said = (*content, message.refusal) if message.refusal else content
            return Turn("assistant", said, calls=tuple(_calls(message)), name=message.name)
        case "tool":
            if not message.tool_call_id:
                raise InvalidRequest(f"{place}.tool_call_id is missing", f"{place}.tool_call_id")
            return Turn("tool", outcomes=(Outcome(message.tool_call_id, content),))
        case "function":
            if not message.name:
                raise InvalidRequest(f"{place}.name is missing", f"{place}.name")
            return Turn("tool", outcomes=(Outcome(message.name, content),))
        case _:
            return Turn("user", content, name=message.name)


def _calls(message: Message) -> Iterator[CallMade]:
    if message.function_call:
        yield CallMade(message.function_call.name, message.function_call.name, message.function_call.arguments)
    for call in message.tool_calls or ():
        if call.function:
            yield CallMade(call.id, call.function.name, call.function.arguments)
        if call.custom:
            yield CallMade(call.id, call.custom.name, call.custom.input)


def _content(message: Message, place: str) -> Content:
    match message.content:
        case str(text):
            return (text,) if text else ()
        case None if message.role in ("assistant", "function"):
            return ()
        case None:
            raise InvalidRequest(f"{place}.content is missing", f"{place}.content")
        case parts:
            return tuple(_part(part, f"{place}.content[{index}]") for index, part in enumerate(parts))


def _part(part: Part, place: str) -> str | Image:
    match part:
        case TextPart(text=text) | RefusalPart(refusal=text):
            return text
        case ImagePart(image_url=address):
            if isinstance(address, str):
                return image_of(address, None, f"{place}.image_url")
            return image_of(address.url, None, f"{place}.image_url.url")
        case AudioPart():
            raise InvalidRequest(f"{place} is sound, which agents do not take; send text or images", place)
        case FilePart(file=file):
            return _file(file, f"{place}.file")


def _file(file: FileData, place: str) -> str:
    """Give a file of text as it stands in the conversation."""
    if file.file_data is None:
        what = "file_id: nothing is uploaded here; send the file" if file.file_id else "no file_data: send it"
        raise InvalidRequest(f"{place} has {what} as a data URL in file_data", f"{place}.file_data")
    return document(file.file_data, file.filename, f"{place}.file_data")
