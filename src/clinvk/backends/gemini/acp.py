"""`gemini --acp`: the Agent Client Protocol as Gemini CLI 0.61.0 speaks it.

A run is a `session/new` and a `session/prompt`, or another prompt in a session that the process holds. A process holds
any number of concurrent sessions. clinvk does not use `session/load`, which fails within the minute in which the
session was created, and damages the record. The channel creates sessions one at a time: when several start at once,
some wait for a lock file of the CLI, with growing delays of up to a minute.

The agent differs from the agent of `-o stream-json`, and the protocol reports less:

- The system prompt says that a user can answer questions, and the agent has no sub-agents.
- The protocol reports only the displayed part of a tool's input, and no call of a tool that does not exist.
- The protocol does not report that the model broke off an answer, nor why.
- Token counts cover only the turn's own requests, without cached tokens and thinking.
- The protocol reports nothing of a tool call that was denied. In an untrusted folder, the CLI does not allow edits for
  the whole session, so the channel does.

The CLI's record of a session has more on the third and fourth points. The record is a file of JSON lines, one line per
message; a longer version of a message has the same `id`. The record of a turn is complete when the protocol reports the
end of the turn. A model message is recorded only if the message is complete. The CLI removes an interrupted first turn
from the record, which leaves no conversation. Thinking is reported, and passed on if requested.
"""

import re
from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

import msgspec
from msgspec.structs import replace

from clinvk.backends import acp_wire as wire
from clinvk.backends.acp.channel import AcpChannel, Call
from clinvk.backends.acp.turn import AcpTurn
from clinvk.backends.base import Delivery, Host, Launch
from clinvk.backends.gemini import decoder, prompt_delivery
from clinvk.backends.gemini.home import conversation_files
from clinvk.backends.gemini.permissions import tool_permissions
from clinvk.backends.jsonrpc import Failure
from clinvk.backends.shared import decode_line
from clinvk.types import events
from clinvk.types.errors import AgentFailed, AgentUnauthenticated, NotResumable, agent_code
from clinvk.types.interaction import Choice
from clinvk.types.record import Resume
from clinvk.types.request import RunRequest

_ALWAYS = ("proceed_always", "proceed_always_tool")
"""The options of kind `allow_always` that hold for the session only, and not for all tools of an MCP server."""

_MODE = re.compile(r"\[MODE_UPDATE\] \w+")
_UNAUTHENTICATED = -32000

_TERMINATED = "terminated"
"""The message for a broken connection. The CLI reports status 500, as for every error without a status."""

_UNFINISHED = "gemini's model broke off: its answer did not come to an end"
"""The protocol reports a normal end, but the record lacks the answer."""


class _Quota(msgspec.Struct):
    token_count: decoder.Tokens


class _Meta(msgspec.Struct):
    quota: _Quota


_META = msgspec.json.Decoder(_Meta)


class _RecordedTokens(decoder.Tokens):
    total_tokens: int = msgspec.field(name="total", default=0)
    input_tokens: int = msgspec.field(name="input", default=0)
    output_tokens: int = msgspec.field(name="output", default=0)


class _RecordLine(msgspec.Struct):
    id: str = ""
    type: str = ""
    tokens: _RecordedTokens | None = None


_RECORDED = ("user", "gemini")
"""The types of conversation messages. The CLI's screens also record notes (`info`, `warning`, `error`), which are not
part of the answer.
"""

_MAX_RECORD_BYTES = 1024 * 1024
"""The maximum bytes to read per turn, because the read blocks everything else. After a longer turn, the record of the
conversation is no longer read, and the protocol's token counts are used instead.
"""

_RECORD_LINES = msgspec.json.Decoder(_RecordLine)


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
            line for text in self._new_lines() if (line := decode_line(_RECORD_LINES, text)) and line.type in _RECORDED
        ]
        return RecordedTurn(self._usage(lines), lines[-1].type == "gemini") if lines else None

    def _new_lines(self) -> list[bytes]:
        self._path = self._path or next(iter(conversation_files(self._conversation, self._host)), "")
        if self._is_too_long or not self._path:
            return []
        data = self._host.read_range(self._path, self._read, _MAX_RECORD_BYTES) or b""
        self._is_too_long = len(data) == _MAX_RECORD_BYTES
        whole = b"" if self._is_too_long else data[: data.rfind(b"\n") + 1]
        self._read += len(whole)
        return whole.splitlines()

    def _usage(self, lines: list[_RecordLine]) -> events.Usage | None:
        """Return the sum of the messages' tokens, with the latest count of each message."""
        reported = {line.id: line.tokens.usage for line in lines if line.tokens and line.id not in self._counted}
        self._counted.update(reported)
        return sum(reported.values(), events.Usage()) if reported else None


class GeminiTurn(AcpTurn):
    """A run, as events."""

    def feed(self, update: wire.Update) -> Iterator[events.Event]:
        """Yield the events of a session update: a thought is whole, and a new mode is not part of the answer."""
        if update.session_update == "agent_thought_chunk":
            self._thoughts.end_message()
        elif update.session_update == "agent_message_chunk" and _MODE.fullmatch("".join(update.texts)):
            return
        yield from super().feed(update)

    def tool_name(self, tool: wire.Tool) -> str:
        """Return the tool's name from the start of the call id, or else the kind of tool."""
        name, parted, _ = tool.tool_call_id.partition("__")
        return name if parted and name else tool.kind or "tool"

    def tool_input(self, tool: wire.Tool) -> dict[str, object]:
        """Return the displayed input of a call: the title is the command, the location is the file."""
        if tool.kind == "execute":
            return {"command": tool.title or ""}
        shown: dict[str, object] = {"file_path": tool.locations[0].path} if tool.locations else {}
        for change in tool.changes:
            shown["content"] = change.new_text
        return shown or ({"title": tool.title} if tool.title else {})

    def ended(self, result: wire.Result | None) -> events.Ending:
        """Return the ending of a turn. The CLI has no limit of requests: an answer that loops has such a reason."""
        if result and (meta := decode_line(_META, bytes(result.meta))):
            self._used = meta.quota.token_count.usage
        match ending := super().ended(result):
            case events.RunFinished("max_turns"):
                return events.RunFailed(AgentFailed.code, decoder.LOOP_DETECTED, 1, ending.usage)
            case events.RunFinished("end_turn") if not (self._prose.has_text or self.called):
                return events.RunFailed(AgentFailed.code, decoder.NO_ANSWER, 1, ending.usage)
            case _:
                return ending


class GeminiChannel(AcpChannel):
    """The channel of one process."""

    capacity = 4
    """The limit of concurrent runs. The process uses a single processor, which all runs share."""

    configures = False
    turn_type = GeminiTurn

    def __init__(self, launch: Launch, host: Host) -> None:
        super().__init__("gemini", launch, decoder.LOG_IN)
        self._host = host
        self._opening: deque[AcpTurn] = deque()
        self._records: dict[str, ConversationRecord] = {}

    def stderr_message(self, stderr: bytes) -> str:
        """Return the complaint on stderr as a process of one prompt would report it."""
        return decoder.GeminiDecoder().stderr_message(stderr)

    def _begin(self, run: str, request: RunRequest, resume: Resume | None) -> bytes:
        """Request a session, or send a prompt to a held session.

        Raises:
            NotResumable: this process does not hold the session.
        """
        if resume and resume.handle not in self._sessions:
            raise NotResumable(
                "gemini cannot continue this conversation with approval mode ask, because its process has ended; use "
                "another approval mode, or --new"
            )
        return super()._begin(run, request, resume)

    def _lost(self, run: AcpTurn, exit_code: int, stderr: bytes) -> events.Ending:
        return super()._lost(run, exit_code, decoder.readable(stderr.decode(errors="replace")).encode())

    def _open_session(self, turn: AcpTurn) -> bytes:
        """Request a session, or queue the turn until earlier session requests finish."""
        if not turn.session:
            self._opening.append(turn)
        return super()._open_session(turn) if turn.session or len(self._opening) == 1 else b""

    def _notified(self, message: wire.Message) -> Iterator[Delivery]:
        for turn in self._open.values():
            for event in turn.unfinished(turn.denied):
                yield turn.run, event
        yield from super()._notified(message)

    def _answered(self, call: Call, message: wire.Message) -> Iterator[Delivery]:
        if call.method == "session/new":
            self._opening.popleft()
            if self._opening:
                yield super()._open_session(self._opening[0])
        yield from super()._answered(call, message)

    def _ending(self, call: Call, message: wire.Message) -> events.Ending | None:
        """Return the ending of a turn from the response and the record."""
        ending, session = super()._ending(call, message), call.turn.session
        if ending is None or call.method != "session/prompt":
            return ending
        recorded = self._records.setdefault(session, ConversationRecord(session, self._host)).turn()
        ending = replace(ending, usage=(recorded and recorded.used) or ending.usage)
        match ending:
            case events.RunFinished("end_turn") if recorded and not recorded.is_whole:
                return events.RunFailed(AgentFailed.code, _UNFINISHED, 1, ending.usage)
            case _:
                return ending

    def _refusal(self, call: Call, failure: Failure) -> events.Ending:
        return refused(failure)

    def _permits(self, request: RunRequest, kind: str) -> bool | None:
        """Return None if the user decides. The rules allow all else, so what the CLI asks for is denied."""
        return None if tool_permissions(request).asks else False

    def _option(self, choice: Choice, request: wire.Message) -> wire.PermissionOption | None:
        params = request.params or wire.Params()
        if choice == "allow_session" and params.tool_call and params.tool_call.kind != "edit":
            return next((option for option in params.options if option.option_id in _ALWAYS), None)
        return super()._option(choice, request)

    def _prompt_text(self, request: RunRequest) -> str:
        return prompt_delivery.prompt_text(request)


def refused(failure: Failure) -> events.RunFailed:
    """Return the ending of a refused request."""
    if failure.code == _UNAUTHENTICATED:
        return decoder.failed(AgentUnauthenticated.code, failure.message, decoder.NO_LOGIN_EXIT)
    status, message = decoder.cause(failure.text)
    if 400 <= failure.code < 600 and message != _TERMINATED:
        status = failure.code
    return decoder.failed(agent_code(status), message, 1)
