"""One prompt to a session of `gemini --acp`, as events, and the file in which Gemini CLI 0.61.0 records it.

The record has more than the protocol reports. It is a file of JSON lines, one a message; a message that is written
again, with more, has the same `id`. All of a turn is there when its end is reported. A message of the model is there
only if it is complete.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from clinvk.backends.base import Host, Prose, parsed
from clinvk.backends.gemini import wire
from clinvk.backends.gemini.decoder import BROKEN_OFF, NOTHING, cause, failed
from clinvk.backends.gemini.home import conversation_files
from clinvk.types.errors import AgentFailed, AgentUnauthenticated, Cancelled, agent_code
from clinvk.types.events import (
    Ending,
    Event,
    RunFailed,
    RunFinished,
    StopReason,
    ThinkingDelta,
    ToolCall,
    ToolResult,
    Usage,
)
from clinvk.types.request import RunRequest


class _Tokens(msgspec.Struct):
    input: int = 0
    output: int = 0
    cached: int = 0
    total: int = 0

    @property
    def usage(self) -> Usage:
        """The same in our words; what the total has more than input and output was thinking."""
        output = max(self.total - self.input, self.output)
        return Usage(self.input, output, self.cached, output - self.output)


class _Line(msgspec.Struct):
    id: str = ""
    type: str = ""
    tokens: _Tokens | None = None


_SPEAKERS = ("user", "gemini")
"""The CLI's own screens write notes there too (`info`, `warning`, `error`), which say nothing of the answer."""

_MOST_BYTES = 1024 * 1024
"""What is read of one turn at most, since nothing else goes on meanwhile. Where more was written, that is the last that
is read of the conversation, and the protocol's own counts have to do.
"""

_LINES = msgspec.json.Decoder(_Line)


class Written(NamedTuple):
    """What was written of a turn: its tokens, if any, and whether the last who spoke in it is the model."""

    used: Usage | None
    is_whole: bool


class Record:
    """The record of one conversation."""

    def __init__(self, conversation: str, host: Host) -> None:
        self._conversation = conversation
        self._host = host
        self._path = ""
        self._read = 0
        self._is_too_long = False
        self._counted: set[str] = set()

    def turn(self) -> Written | None:
        """Give what was written since the last call; None where nothing was."""
        lines = [line for text in self._news() if (line := parsed(_LINES, text)) and line.type in _SPEAKERS]
        return Written(self._usage(lines), lines[-1].type == "gemini") if lines else None

    def _news(self) -> list[bytes]:
        if self._is_too_long:
            return []
        if not self._path:
            self._path = next(iter(conversation_files(self._conversation, self._host)), "")
        data = (self._host.part(self._path, self._read, _MOST_BYTES) or b"") if self._path else b""
        self._is_too_long = len(data) == _MOST_BYTES
        if self._is_too_long:
            return []
        data = data[: data.rfind(b"\n") + 1]
        self._read += len(data)
        return data.splitlines()

    def _usage(self, lines: list[_Line]) -> Usage | None:
        """Add up the tokens of the messages, each but once, as they were told last."""
        told = {line.id: line.tokens.usage for line in lines if line.tokens and line.id not in self._counted}
        self._counted.update(told)
        return sum(told.values(), Usage()) if told else None


_UNAUTHENTICATED = -32000
_NO_LOGIN_EXIT = 41
"""The exit code of a process of one prompt that has no login."""

_TERMINATED = "terminated"
"""What it says of a connection that was cut, with status 500, as of all that has none."""

_MODE = re.compile(r"\[MODE_UPDATE\] \w+")
_STOPS: dict[str, StopReason] = {
    "end_turn": "end_turn",
    "max_tokens": "max_tokens",
    "refusal": "refusal",
}
_BROKEN_OFF = "max_turn_requests"
"""Of an answer that goes round in circles. A limit of the user's own tells the same, and is not kept."""


_CUT = "gemini's model broke off: its answer did not come to an end"
"""It is told as if it had, but is not written down."""


class Turn:
    """A run, as events."""

    def __init__(self, run: str, request: RunRequest) -> None:
        self.run = run
        self.request = request
        self.session = ""
        self.is_dropped = self.is_started = False
        self._prose = Prose()
        self._answered = self._thought = False
        self._calls: set[str] = set()
        self._open_calls: set[str] = set()

    def feed(self, update: wire.Update) -> Iterator[Event]:
        """Take what is told of the session."""
        match update.session_update:
            case "agent_message_chunk":
                yield from self._say(update)
            case "agent_thought_chunk" if self.request.thinking:
                yield from self._think(update)
            case "tool_call":
                yield from self.call(update)
            case "tool_call_update":
                yield from self.call(update)
                yield from self.came_of(update, update.status == "failed")
            case _:
                pass

    def call(self, tool: wire.Tool) -> Iterator[Event]:
        """It uses a tool, or asks whether it may."""
        if tool.tool_call_id in self._calls:
            return
        self._answered = True
        self._calls.add(tool.tool_call_id)
        self._open_calls.add(tool.tool_call_id)
        self._prose.end_message()
        yield ToolCall(tool.tool_call_id, _name(tool), _input(tool))

    def came_of(self, tool: wire.Tool, is_error: bool, output: str | None = None) -> Iterator[Event]:
        """A tool has ended."""
        if tool.tool_call_id in self._open_calls:
            self._open_calls.discard(tool.tool_call_id)
            self._prose.end_message()
            yield ToolResult(tool.tool_call_id, "\n".join(_texts(tool)) if output is None else output, is_error)

    def ended(self, result: wire.Result, written: Written | None) -> Ending:
        """Give how the turn ended, with what was written of it."""
        counts = result.meta.quota.token_count
        told = Usage(counts.input_tokens, counts.output_tokens)
        used = (written.used if written else None) or (told if told != Usage() else None)
        if result.stop_reason == "cancelled":
            return RunFailed(Cancelled.code, "gemini was interrupted", exit_code=1, usage=used)
        if result.stop_reason == _BROKEN_OFF:
            return RunFailed(AgentFailed.code, BROKEN_OFF, exit_code=1, usage=used)
        stop = _STOPS.get(result.stop_reason, "end_turn")
        if stop == "end_turn" and not self._answered:
            return RunFailed(AgentFailed.code, NOTHING, exit_code=1, usage=used)
        if stop == "end_turn" and written and not written.is_whole:
            return RunFailed(AgentFailed.code, _CUT, exit_code=1, usage=used)
        return RunFinished(stop, used)

    def _think(self, update: wire.Update) -> Iterator[Event]:
        for text in _texts(update):
            yield ThinkingDelta(f"\n\n{text}" if self._thought else text)
            self._thought = True

    def _say(self, update: wire.Update) -> Iterator[Event]:
        for text in _texts(update):
            if not _MODE.fullmatch(text):
                self._answered = True
                yield from self._prose.say(text)


def _texts(tool: wire.Tool) -> Iterator[str]:
    """Give the texts in what is told; a change of a file is none, as in a process of one prompt."""
    if isinstance(tool.content, wire.Content):
        yield tool.content.text
    for piece in tool.content if isinstance(tool.content, list) else []:
        if piece.content:
            yield piece.content.text


def _name(tool: wire.Tool) -> str:
    """Give the tool's name, with which the CLI begins the id of a call; else what kind of tool it is."""
    name, parted, _ = tool.tool_call_id.partition("__")
    return name if parted and name else tool.kind or "tool"


def _input(tool: wire.Tool) -> dict[str, object]:
    """Give what is shown of a call: a command is its title, a file its place."""
    if tool.kind == "execute":
        return {"command": tool.title or ""}
    told: dict[str, object] = {"file_path": tool.locations[0].path} if tool.locations else {}
    for change in tool.content if isinstance(tool.content, list) else []:
        if change.new_text is not None:
            told["content"] = change.new_text
    return told or ({"title": tool.title} if tool.title else {})


def refused(failure: wire.Failure, written: Written | None = None) -> RunFailed:
    """Give the ending of a request that was not done, with what was written of its turn."""
    used = written.used if written else None
    if failure.code == _UNAUTHENTICATED:
        return failed(AgentUnauthenticated.code, failure.message, _NO_LOGIN_EXIT)
    status, message = cause(failure.said)
    if 400 <= failure.code < 600 and message != _TERMINATED:
        status = failure.code
    return failed(agent_code(status), message, 1, used)
