"""One prompt to a session of `gemini --acp`, as events, and the file in which Gemini CLI 0.61.0 records the session.

The record holds more than the protocol reports. The record is a file of JSON lines, one line per message; a longer
version of a message has the same `id`. The record of a turn is complete when the protocol reports the end of the turn.
A model message is recorded only if the message is complete.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from clinvk.backends import acp_wire
from clinvk.backends.base import Host
from clinvk.backends.gemini import wire
from clinvk.backends.gemini.decoder import LOOP_DETECTED, NO_ANSWER, NO_LOGIN_EXIT, cause, failed, usage_of
from clinvk.backends.gemini.home import conversation_files
from clinvk.backends.jsonrpc import Failure, Message
from clinvk.backends.shared import MessageJoiner, decode_line
from clinvk.types import events
from clinvk.types.errors import AgentFailed, AgentUnauthenticated, Cancelled, agent_code
from clinvk.types.request import RunRequest


class _Tokens(msgspec.Struct):
    input: int = 0
    output: int = 0
    cached: int = 0
    total: int = 0

    @property
    def usage(self) -> events.Usage:
        """The tokens as `Usage`."""
        return usage_of(self.total, self.input, self.output, self.cached)


class _Line(msgspec.Struct):
    id: str = ""
    type: str = ""
    tokens: _Tokens | None = None


_MESSAGE_TYPES = ("user", "gemini")
"""The types of conversation messages. The CLI's screens also record notes (`info`, `warning`, `error`), which are not
part of the answer.
"""

_MAX_BYTES = 1024 * 1024
"""The maximum bytes to read per turn, because the read blocks everything else. After a longer turn, the record of the
conversation is no longer read, and the protocol's token counts are used instead.
"""

_LINES = msgspec.json.Decoder(_Line)


class RecordedTurn(NamedTuple):
    """The record of a turn: the token usage, if recorded, and whether the last message is from the model."""

    used: events.Usage | None
    is_whole: bool


class ConversationRecord:
    """The record of one conversation."""

    def __init__(self, conversation: str, host: Host) -> None:
        self._conversation = conversation
        self._host = host
        self._path = ""
        self._read = 0
        self._is_too_long = False
        self._counted: set[str] = set()

    def turn(self) -> RecordedTurn | None:
        """Return the messages recorded since the last call, summed up; None if there are none."""
        lines = [
            line for text in self._new_lines() if (line := decode_line(_LINES, text)) and line.type in _MESSAGE_TYPES
        ]
        return RecordedTurn(self._usage(lines), lines[-1].type == "gemini") if lines else None

    def _new_lines(self) -> list[bytes]:
        if self._is_too_long:
            return []
        if not self._path:
            self._path = next(iter(conversation_files(self._conversation, self._host)), "")
        data = (self._host.read_range(self._path, self._read, _MAX_BYTES) or b"") if self._path else b""
        self._is_too_long = len(data) == _MAX_BYTES
        if self._is_too_long:
            return []
        data = data[: data.rfind(b"\n") + 1]
        self._read += len(data)
        return data.splitlines()

    def _usage(self, lines: list[_Line]) -> events.Usage | None:
        """Return the sum of the messages' tokens, with the latest count of each message."""
        reported = {line.id: line.tokens.usage for line in lines if line.tokens and line.id not in self._counted}
        self._counted.update(reported)
        return sum(reported.values(), events.Usage()) if reported else None


_UNAUTHENTICATED = -32000
"""The exit code of a process of one prompt without a login."""

_TERMINATED = "terminated"
"""The message for a broken connection. The CLI reports status 500, as for every error without a status."""

_MODE = re.compile(r"\[MODE_UPDATE\] \w+")
_STOPS: dict[str, events.StopReason] = {
    "end_turn": "end_turn",
    "max_tokens": "max_tokens",
    "refusal": "refusal",
}
_LOOP = "max_turn_requests"
"""The stop reason of a looping answer. A user's own turn limit has the same stop reason, but then clinvk does not keep
a process.
"""


_UNFINISHED = "gemini's model broke off: its answer did not come to an end"
"""The protocol reports a normal end, but the record lacks the answer."""


class TurnDecoder:
    """A run, as events.

    Attributes:
        asked: the open requests for permission, by the id of the interaction.
        denied: the denied tools whose results are not reported yet.
    """

    def __init__(self, run: str, request: RunRequest) -> None:
        self.run = run
        self.request = request
        self.session = ""
        self.is_dropped = self.is_started = False
        self._prose = MessageJoiner(events.TextDelta)
        self._thoughts = MessageJoiner(events.ThinkingDelta)
        self._answered = False
        self._calls: set[str] = set()
        self._open_calls: set[str] = set()
        self.asked: dict[str, Message[acp_wire.Params, wire.Result]] = {}
        self.denied: list[acp_wire.Tool] = []

    def feed(self, update: acp_wire.Update) -> Iterator[events.Event]:
        """Yield the events of a session update."""
        match update.session_update:
            case "agent_message_chunk":
                yield from self._text(update)
            case "agent_thought_chunk" if self.request.thinking:
                for text in update.texts:
                    self._thoughts.end_message()
                    yield from self._thoughts.write(text)
            case "tool_call":
                yield from self.call(update)
            case "tool_call_update":
                yield from self.call(update)
                yield from self.result(update, update.status == "failed")
            case _:
                pass

    def call(self, tool: acp_wire.Tool) -> Iterator[events.Event]:
        """Yield a tool call, or a request for permission to call the tool."""
        if tool.tool_call_id in self._calls:
            return
        self._answered = True
        self._calls.add(tool.tool_call_id)
        self._open_calls.add(tool.tool_call_id)
        self._prose.end_message()
        yield events.ToolCall(tool.tool_call_id, tool_name(tool), tool_input(tool))

    def result(self, tool: acp_wire.Tool, is_error: bool, output: str | None = None) -> Iterator[events.Event]:
        """Yield a tool result."""
        if tool.tool_call_id in self._open_calls:
            self._open_calls.discard(tool.tool_call_id)
            self._prose.end_message()
            yield events.ToolResult(tool.tool_call_id, "\n".join(tool.texts) if output is None else output, is_error)

    def ended(self, result: wire.Result, recorded: RecordedTurn | None) -> events.Ending:
        """Return the ending of a turn from the protocol's result and the record."""
        counts = result.meta.quota.token_count
        reported = events.Usage(counts.input_tokens, counts.output_tokens)
        used = (recorded.used if recorded else None) or (reported if reported != events.Usage() else None)
        if result.stop_reason == "cancelled":
            return events.RunFailed(Cancelled.code, "gemini was interrupted", exit_code=1, usage=used)
        if result.stop_reason == _LOOP:
            return events.RunFailed(AgentFailed.code, LOOP_DETECTED, exit_code=1, usage=used)
        stop = _STOPS.get(result.stop_reason, "end_turn")
        if stop == "end_turn" and not self._answered:
            return events.RunFailed(AgentFailed.code, NO_ANSWER, exit_code=1, usage=used)
        if stop == "end_turn" and recorded and not recorded.is_whole:
            return events.RunFailed(AgentFailed.code, _UNFINISHED, exit_code=1, usage=used)
        return events.RunFinished(stop, used)

    def _text(self, update: acp_wire.Update) -> Iterator[events.Event]:
        for text in update.texts:
            if not _MODE.fullmatch(text):
                self._answered = True
                yield from self._prose.write(text)


def tool_name(tool: acp_wire.Tool) -> str:
    """Return the tool's name from the start of the call id, or else the kind of tool."""
    name, parted, _ = tool.tool_call_id.partition("__")
    return name if parted and name else tool.kind or "tool"


def tool_input(tool: acp_wire.Tool) -> dict[str, object]:
    """Return the displayed input of a call: the title is the command, the location is the file."""
    if tool.kind == "execute":
        return {"command": tool.title or ""}
    shown: dict[str, object] = {"file_path": tool.locations[0].path} if tool.locations else {}
    for change in tool.pieces:
        if change.new_text is not None:
            shown["content"] = change.new_text
    return shown or ({"title": tool.title} if tool.title else {})


def refused(failure: Failure, recorded: RecordedTurn | None = None) -> events.RunFailed:
    """Return the ending of a refused request, with the recorded token usage of the turn."""
    used = recorded.used if recorded else None
    if failure.code == _UNAUTHENTICATED:
        return failed(AgentUnauthenticated.code, failure.message, NO_LOGIN_EXIT)
    status, message = cause(failure.text)
    if 400 <= failure.code < 600 and message != _TERMINATED:
        status = failure.code
    return failed(agent_code(status), message, 1, used)
