"""The Agent Client Protocol as seen by an editor: events of a run as updates, approvals as permission requests.

Pure. The protocol is version 1: https://agentclientprotocol.com/protocol/schema.
"""

import posixpath
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress

import msgspec
from msgspec.structs import replace

from clinvk.backends import acp_wire as wire
from clinvk.dialects.conversation import image_of
from clinvk.types import events
from clinvk.types.errors import InvalidRequest
from clinvk.types.interaction import Choice, Interaction, InteractionAnswer
from clinvk.types.interaction_text import content, subject
from clinvk.types.prompt_xml import element, unused_tag
from clinvk.types.request import Image
from clinvk.types.text import without_sequences
from clinvk.types.tool_text import tool_text

_STOPS: dict[events.StopReason, str] = {
    "max_tokens": "max_tokens",
    "max_budget": "max_tokens",
    "max_turns": "max_turn_requests",
    "refusal": "refusal",
}
_KINDS = ("read", "edit", "delete", "move", "search", "execute", "think", "fetch")
_KINDS_OF_FIELDS = {
    **dict.fromkeys(("changes", "old_string", "diff", "content"), "edit"),
    "command": "execute",
    "url": "fetch",
    **dict.fromkeys(("pattern", "query"), "search"),
    **dict.fromkeys(("file_path", "path"), "read"),
}
"""The kind of a tool whose input has a field; the first field decides."""

_CHOICES: dict[Choice, tuple[str, str]] = {
    "allow": ("allow_once", "Allow"),
    "allow_session": ("allow_always", "Allow for this session"),
    "deny": ("reject_once", "Deny"),
}
"""The choices of a permission request with their kinds and names. To deny and stop, the user cancels the turn."""

_FILE_OF_DIFF = re.compile(r"^--- .*\n\+\+\+ (.*)\n", re.MULTILINE)


class TurnUpdates:
    """The events of a run as updates of its session; `directory` completes relative paths."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._open: dict[str, events.ToolCall] = {}

    def feed(self, event: events.Event) -> Iterator[wire.Update]:  # noqa: C901 - one case for each kind
        """Yield the updates for an event."""
        match event:
            case events.RunStarted(commands=names) if names:
                commands = tuple(wire.Command(name, f"Run /{name} of the agent") for name in names)
                yield wire.Update(session_update="available_commands_update", available_commands=commands)
            case events.TextDelta(text) if text:
                yield chunk("agent_message_chunk", text)
            case events.ThinkingDelta(text) if text:
                yield chunk("agent_thought_chunk", text)
            case events.UserMessage(text):
                yield chunk("user_message_chunk", text)
            case events.Progress(stage="plan", steps=steps) if steps:
                entries = tuple(wire.Entry(step.text, step.status, step.priority) for step in steps)
                yield wire.Update(session_update="plan", entries=entries)
            case events.Progress(stage, message) if stage not in ("stderr", "output"):
                yield chunk("agent_thought_chunk", f"\n\n{stage}: {message}\n\n")
            case events.ToolCall():
                self._open[event.id] = event
                yield self._tool(event, "tool_call")
            case events.ToolResult():
                yield from self._ended(event.id, event.output, event.is_error)
            case events.InteractionResolved(interaction):
                is_denied = interaction.outcome not in ("allow", "allow_session", "answer")
                yield from self._ended(interaction.id, "", is_denied)
            case events.RunFinished() | events.RunFailed():
                yield from self.close()
            case _:
                pass

    def close(self) -> Iterator[wire.Update]:
        """Yield the failure of each tool call that has no result."""
        for call in [*self._open]:
            yield from self._ended(call, "", is_error=True)

    def permission(self, interaction: Interaction) -> tuple[wire.Tool, tuple[wire.PermissionOption, ...]] | None:
        """Return the tool call and the options of a permission request; None if the options cannot express the answer.

        An interaction that belongs to no tool call that is in progress becomes a tool call itself.
        """
        options = _options(interaction)
        if not options:
            return None
        call = self._call_of(interaction)
        self._open[call.id] = call
        shown = [*_pieces(interaction.diff or "", self._directory)]
        if text := content(interaction, with_diff=not shown):
            shown.append(_text(text))
        return replace(self._tool(call), title=subject(interaction), content=shown, status="pending"), options

    def _call_of(self, interaction: Interaction) -> events.ToolCall:
        """Return the latest call of the tool with the same input, or else of the tool."""
        calls = [call for call in self._open.values() if call.name == interaction.tool]
        same = [call for call in calls if call.input == interaction.input]
        own = events.ToolCall(interaction.id, interaction.tool or "other", interaction.input)
        return (same or calls or [own])[-1]

    def _tool(self, call: events.ToolCall, kind: str = "") -> wire.Update:
        paths = [posixpath.join(self._directory, path) for path in _paths(call.input)]
        pieces = [*self._edits(call, paths)]
        return wire.Update(
            session_update=kind,
            tool_call_id=call.id,
            title=tool_text(call),
            kind=_kind(call),
            status="in_progress",
            content=pieces or None,
            locations=[wire.Location(path) for path in paths] or None,
            raw_input=call.input,
        )

    def _edits(self, call: events.ToolCall, paths: Sequence[str]) -> Iterator[wire.Piece]:
        match call.input:
            case {"old_string": str(old), "new_string": str(new)} if paths:
                yield wire.Piece("diff", path=paths[0], old_text=old, new_text=new)
            case {"content": str(new)} if paths:
                yield wire.Piece("diff", path=paths[0], new_text=new)
            case {"diff": str(diff)}:
                yield from _pieces(diff, self._directory)
            case _:
                pass

    def _ended(self, call_id: str, output: str, is_error: bool) -> Iterator[wire.Update]:
        """Yield the end of a tool call. The output replaces the content, so a successful edit keeps its diff."""
        if call := self._open.pop(call_id, None):
            pieces = [_text(output)] if output and (is_error or _kind(call) != "edit") else None
            status = "failed" if is_error else "completed"
            yield wire.Update(session_update="tool_call_update", tool_call_id=call_id, status=status, content=pieces)


def chunk(kind: str, text: str) -> wire.Update:
    """Return an update with a piece of a message."""
    return wire.Update(session_update=kind, content=wire.Content("text", text))


def answer_of(interaction: Interaction, result: object) -> InteractionAnswer:
    """Return the answer that the result of a permission request stands for; anything unexpected denies."""
    match result:
        case {"outcome": {"outcome": "selected", "optionId": str(option)}}:
            pass
        case _:
            option = ""
    if option.isdecimal() and int(option) < len(interaction.fields[0].options if interaction.fields else ()):
        (field,) = interaction.fields
        return InteractionAnswer(choice="answer", answers={field.id: field.options[int(option)].value})
    choices: dict[str, Choice] = {choice: choice for choice in interaction.choices if choice in _CHOICES}
    return InteractionAnswer(choice=choices.get(option, "deny"))


def prompt_result(ending: events.RunFinished) -> wire.Result:
    """Return the result of a prompt."""
    used = ending.usage or events.Usage()
    tokens = wire.Tokens(used.input_tokens, used.output_tokens, used.total_tokens, used.cached_tokens)
    return wire.Result(stop_reason=_STOPS.get(ending.stop_reason, "end_turn"), usage=tokens if ending.usage else None)


def prompt_of(blocks: Sequence[wire.Block]) -> tuple[str, tuple[Image, ...]]:
    """Return the text and the images of a prompt: links stay in place, and embedded resources follow the text.

    Raises:
        InvalidRequest: a part is binary or has another type, an image is invalid, or the prompt is empty.
    """
    parts: list[str] = []
    images: list[Image] = []
    resources: list[wire.Resource] = []
    for index, block in enumerate(blocks):
        match block.type:
            case "text":
                parts += ["\n", block.text] if index and blocks[index - 1].type == "text" else [block.text]
            case "image":
                images.append(image_of(block.data, block.mime_type, f"prompt[{index}].data"))
            case "resource_link":
                parts.append(_link(block.uri or "", block.name))
            case "resource" if block.resource.blob:
                raise InvalidRequest(f"prompt[{index}] is a binary file; send a link instead", "prompt")
            case "resource":
                parts.append(_link(block.resource.uri, ""))
                resources += [block.resource] if block.resource.text else []
            case _:
                raise InvalidRequest(f"prompt[{index}] cannot be of type {block.type!r:.100}", "prompt")
    name = unused_tag("context", [*parts, *(resource.text or "" for resource in resources)])
    elements = (element(name, resource.text or "", ref=resource.uri) for resource in resources)
    text = "\n\n".join(["".join(parts), *elements])
    if not text.strip() and not images:
        raise InvalidRequest("the prompt is empty", "prompt")
    return text, tuple(images)


def _options(interaction: Interaction) -> tuple[wire.PermissionOption, ...]:
    """Return the options that express an answer; of a question, the values of its only field."""
    choices = (wire.PermissionOption(choice, *_CHOICES[choice]) for choice in interaction.choices if choice in _CHOICES)
    match interaction.fields:
        case ():
            return tuple(choices)
        case (field,) if field.options and not field.multiple:
            values = enumerate(field.options)
            answers = (wire.PermissionOption(str(at), "allow_once", each.label or each.value) for at, each in values)
            return (*answers, *choices)
        case _:
            return ()


def _kind(call: events.ToolCall) -> str:
    """Return the kind of a tool call. Agents name their tools differently, but the inputs are alike."""
    of_input = next((kind for field, kind in _KINDS_OF_FIELDS.items() if field in call.input), "other")
    return call.name if call.name in _KINDS else of_input


def _paths(given: dict[str, object]) -> list[str]:
    """Return the files of a tool call."""
    match given:
        case {"file_path": str(path)} | {"path": str(path)}:
            return [path]
        case {"changes": changes}:
            with suppress(msgspec.ValidationError):
                return [change.path for change in msgspec.convert(changes, list[wire.Location])]
        case _:
            pass
    return []


def _pieces(diff: str, directory: str) -> Iterator[wire.Piece]:
    """Yield the changed parts of each file of a unified diff."""
    _, *files = _FILE_OF_DIFF.split(diff)
    for path, hunks in zip(files[::2], files[1::2], strict=True):
        lines = [line for line in hunks.splitlines(keepends=True) if line[0] in " +-"]
        old, new = ("".join(line[1:] for line in lines if line[0] in kept) for kept in (" -", " +"))
        yield wire.Piece("diff", path=posixpath.join(directory, path), old_text=old or None, new_text=new)


def _text(text: str) -> wire.Piece:
    """Return a text as it stands: editors read texts as Markdown."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return wire.Piece("content", wire.Content("text", f"{fence}\n{without_sequences(text)}\n{fence}"))


def _link(uri: str, name: str) -> str:
    return f"[@{name or posixpath.basename(uri)}]({uri})"
