"""`gemini --acp`: the Agent Client Protocol (https://agentclientprotocol.com), JSON-RPC lines, as 0.61.0 speaks it.

A run is `session/new` and a `session/prompt`, or another prompt in a session that the process holds. A process holds
any number of sessions, which go on side by side. `session/load` is not used: within the minute in which a session was
begun it fails, and damages the record. Sessions are begun one after the other: of several at once some wait for a lock
file of the CLI's own, longer each time it looks, up to a minute.

It tells less than `-o stream-json`: of a tool's input what it shows of it, of tokens neither cached ones nor those of
thinking; and it tells the thinking itself, which is passed on where it was asked for.
"""

import re
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import count

import msgspec

from clinvk.backends.base import Delivery, NotSpoken, Prose, crashed, last_line, parsed
from clinvk.backends.gemini import asking
from clinvk.backends.gemini.decoder import NOTHING, GeminiDecoder, cause, readable
from clinvk.errors import AgentFailed, AgentUnauthenticated, Cancelled, NotResumable, agent_code
from clinvk.events import (
    Ending,
    Event,
    RunFailed,
    RunFinished,
    RunStarted,
    StopReason,
    ThinkingDelta,
    ToolCall,
    ToolResult,
    Usage,
)
from clinvk.request import RunRequest
from clinvk.session import Resume

PING = b'{"jsonrpc":"2.0","id":"clinvk-ping","method":"ping"}\n'
"""What it refuses at once, during turns as well: there is no such method."""

_UNAUTHENTICATED = -32000
_MODE = re.compile(r"\[MODE_UPDATE\] \w+")
_STOPS: dict[str, StopReason] = {
    "end_turn": "end_turn",
    "max_tokens": "max_tokens",
    "max_turn_requests": "max_turns",
    "refusal": "refusal",
}


class _Content(msgspec.Struct, frozen=True):
    type: str = ""
    text: str = ""


class _Piece(msgspec.Struct, frozen=True, rename="camel"):
    """What a tool shows: a text in `content`, or the change of a file."""

    type: str = ""
    content: _Content | None = None
    path: str | None = None
    old_text: str | None = None
    new_text: str | None = None


class _Location(msgspec.Struct, frozen=True):
    path: str = ""


class _Tool(msgspec.Struct, frozen=True, rename="camel"):
    tool_call_id: str = ""
    title: str | None = None
    kind: str = ""
    status: str = ""
    content: list[_Piece] | _Content | None = None
    locations: list[_Location] | None = None


class _Update(_Tool, frozen=True, rename="camel"):
    session_update: str = ""


class _Option(msgspec.Struct, frozen=True, rename="camel"):
    option_id: str = ""
    kind: str = ""


class _Params(msgspec.Struct, frozen=True, rename="camel"):
    session_id: str = ""
    update: _Update | None = None
    tool_call: _Tool | None = None
    options: list[_Option] = []


class _Models(msgspec.Struct, frozen=True, rename="camel"):
    current_model_id: str | None = None


class _Counts(msgspec.Struct, frozen=True):
    input_tokens: int = 0
    output_tokens: int = 0


class _Quota(msgspec.Struct, frozen=True):
    token_count: _Counts = _Counts()


class _Meta(msgspec.Struct, frozen=True):
    quota: _Quota = _Quota()


class _Result(
    msgspec.Struct, frozen=True, rename={"session_id": "sessionId", "stop_reason": "stopReason", "meta": "_meta"}
):
    session_id: str = ""
    models: _Models | None = None
    stop_reason: str = ""
    meta: _Meta = _Meta()


class _Failure(msgspec.Struct, frozen=True):
    code: int = 0
    message: str = ""


class _Message(msgspec.Struct, frozen=True):
    id: int | str | None = None
    method: str = ""
    params: _Params = _Params()
    result: _Result | None = None
    error: _Failure | None = None


_MESSAGES: msgspec.json.Decoder[_Message] = msgspec.json.Decoder(_Message)


class _Turn:
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

    def feed(self, update: _Update) -> Iterator[Event]:
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

    def call(self, tool: _Tool) -> Iterator[Event]:
        """It uses a tool, or asks whether it may."""
        if tool.tool_call_id in self._calls:
            return
        self._answered = True
        self._calls.add(tool.tool_call_id)
        self._open_calls.add(tool.tool_call_id)
        self._prose.end_message()
        yield ToolCall(tool.tool_call_id, _name(tool), _input(tool))

    def came_of(self, tool: _Tool, is_error: bool, output: str | None = None) -> Iterator[Event]:
        """A tool has ended."""
        if tool.tool_call_id in self._open_calls:
            self._open_calls.discard(tool.tool_call_id)
            self._prose.end_message()
            yield ToolResult(tool.tool_call_id, "\n".join(_texts(tool)) if output is None else output, is_error)

    def ended(self, result: _Result) -> Ending:
        """Give how the turn ended."""
        counts = result.meta.quota.token_count
        usage = Usage(counts.input_tokens, counts.output_tokens)
        used = usage if usage != Usage() else None
        if result.stop_reason == "cancelled":
            return RunFailed(Cancelled.code, "gemini was interrupted", exit_code=1, usage=used)
        stop = _STOPS.get(result.stop_reason, "end_turn")
        if stop == "end_turn" and not self._answered:
            return RunFailed(AgentFailed.code, NOTHING, exit_code=1, usage=used)
        return RunFinished(stop, used)

    def _think(self, update: _Update) -> Iterator[Event]:
        for text in _texts(update):
            yield ThinkingDelta(f"\n\n{text}" if self._thought else text)
            self._thought = True

    def _say(self, update: _Update) -> Iterator[Event]:
        for text in _texts(update):
            if not _MODE.fullmatch(text):
                self._answered = True
                yield from self._prose.say(text)


class ProtocolChannel:
    """One process. `opening` are the parameters of its sessions."""

    capacity = 16

    def __init__(self, opening: dict[str, object]) -> None:
        self._opening = opening
        self._numbers = count()
        self._greeting: int | None = None
        self._speaks = False
        self._waiting: list[bytes] = []
        self._asked: dict[int, _Turn] = {}
        self._begins: _Turn | None = None
        self._queue: deque[_Turn] = deque()
        self._open: dict[str, _Turn] = {}
        self._models: dict[str, str | None] = {}

    def greet(self) -> bytes:
        """Say which version is spoken, and that we serve neither files nor terminals."""
        self._greeting = next(self._numbers)
        return _request(self._greeting, "initialize", {"protocolVersion": 1, "clientCapabilities": {}})

    def start(self, run: str, request: RunRequest, resume: Resume | None) -> bytes:
        """Ask for a session, or prompt one that is held.

        Raises:
            NotResumable: this process does not hold it.
        """
        greeting = self.greet() if self._greeting is None else b""
        turn = self._open[run] = _Turn(run, request)
        if resume is None:
            asked = self._ask_session(turn)
        elif resume.handle in self._models:
            turn.session = resume.handle
            asked = self._ask_prompt(turn)
        else:
            raise NotResumable(f"this process of gemini does not hold the conversation {resume.handle!r}")
        if self._speaks:
            return asked
        self._waiting.append(asked)
        return greeting

    def receive(self, line: bytes) -> Iterable[Delivery]:
        """Take one line."""
        message = parsed(_MESSAGES, line)
        if message is None:
            return
        if message.method:
            yield from self._told(message)
        elif message.id is not None and message.id == self._greeting and not self._speaks:
            yield from self._greeted(message)
        elif isinstance(message.id, int) and (turn := self._asked.pop(message.id, None)):
            yield from self._answered(turn, message)

    def interrupt(self, run: str) -> bytes | None:
        """Give what ends the turn of a run, and the tool that it is using."""
        turn = self._open.get(run)
        if turn is None:
            return None
        turn.is_dropped = True
        return _cancel(turn) if turn.session else b""

    def tools_of(self, run: str) -> tuple[str, str] | None:
        """Nothing: an interrupt ends them."""
        return None

    def let_go(self, conversation: str) -> bytes | None:
        """Nothing: what it knows of one keeps nobody from it."""
        return None

    def closed(self, exit_code: int, stderr: bytes) -> Iterable[Delivery]:
        """Give the endings that the process did not tell.

        Raises:
            NotSpoken: it ended by itself and never answered the greeting.
        """
        said = readable(stderr.decode(errors="replace"))
        if not self._speaks and exit_code < 128:  # above is a signal, which says nothing of what it speaks
            raise NotSpoken(f"it exited with code {exit_code}: {last_line(said)}")
        for turn in [*self._open.values()]:
            del self._open[turn.run]
            yield turn.run, crashed("gemini", exit_code, said.encode())

    def complaint(self, stderr: bytes) -> str:
        """Give what a process of one prompt would be taken to complain of."""
        return GeminiDecoder().complaint(stderr)

    def _greeted(self, message: _Message) -> Iterator[Delivery]:
        if message.error:
            raise NotSpoken(f"it refused the greeting: {message.error.message}")
        self._speaks = True
        yield b"".join(self._waiting)
        self._waiting.clear()

    def _told(self, message: _Message) -> Iterator[Delivery]:
        params = message.params
        named = params.session_id
        turn = next((turn for turn in self._open.values() if named and turn.session == named), None)
        if turn:
            yield from self._begun(turn)
        if message.id is not None:
            yield from self._asked_for_leave(turn, message)
        elif turn and params.update:
            for event in turn.feed(params.update):
                yield turn.run, event

    def _asked_for_leave(self, turn: _Turn | None, message: _Message) -> Iterator[Delivery]:
        """Answer for the user, who is not there: what no rule has allowed is denied."""
        tool = message.params.tool_call
        if tool is None or turn is None:
            error = {"code": -32601, "message": f"clinvk does not answer {message.method}"}
            yield _encoded({"id": message.id, "error": error})
            return
        for event in turn.call(tool):
            yield turn.run, event
        yield _encoded({"id": message.id, "result": {"outcome": {"outcome": "cancelled"}}})
        for event in turn.came_of(tool, is_error=True, output="not permitted"):
            yield turn.run, event

    def _answered(self, turn: _Turn, message: _Message) -> Iterator[Delivery]:
        result = message.result
        if turn is self._begins:
            self._begins = None
            if self._queue:
                yield self._ask_session(self._queue.popleft())
        if message.error or result is None:
            if turn.session:
                yield from self._begun(turn)
            self._open.pop(turn.run, None)
            yield turn.run, _failed(message.error or _Failure(message="gemini gave an answer that makes no sense"))
        elif result.session_id:
            turn.session = result.session_id
            self._models[turn.session] = result.models.current_model_id if result.models else None
            yield from self._opened(turn)
        else:
            yield from self._begun(turn)
            self._open.pop(turn.run, None)
            yield turn.run, turn.ended(result)

    def _opened(self, turn: _Turn) -> Iterator[Delivery]:
        if turn.is_dropped:
            del self._open[turn.run]
            yield turn.run, RunFailed(Cancelled.code, "gemini was interrupted before the turn", exit_code=1)
            return
        yield from self._begun(turn)
        yield self._ask_prompt(turn)

    def _begun(self, turn: _Turn) -> Iterator[Delivery]:
        if not turn.is_started:
            turn.is_started = True
            yield turn.run, RunStarted(self._models[turn.session], turn.session)

    def _ask_session(self, turn: _Turn) -> bytes:
        """Ask for a session, or have the turn wait until those before it have theirs."""
        if self._begins:
            self._queue.append(turn)
            return b""
        self._begins = turn
        return self._ask("session/new", self._opening, turn)

    def _ask_prompt(self, turn: _Turn) -> bytes:
        return self._ask("session/prompt", {"sessionId": turn.session, "prompt": asking.parts(turn.request)}, turn)

    def _ask(self, method: str, params: dict[str, object], turn: _Turn) -> bytes:
        number = next(self._numbers)
        self._asked[number] = turn
        return _request(number, method, params)


def _texts(tool: _Tool) -> Iterator[str]:
    """Give the texts in what is told; of a change of a file that it was made."""
    pieces = tool.content if isinstance(tool.content, list) else [_Piece(content=tool.content)] if tool.content else []
    for piece in pieces:
        if piece.content:
            yield piece.content.text
        elif piece.path:
            yield f"{piece.path}: {'changed' if piece.old_text else 'written'}"


def _name(tool: _Tool) -> str:
    """Give the tool's name, with which the CLI begins the id of a call; else what kind of tool it is."""
    name, parted, _ = tool.tool_call_id.partition("__")
    return name if parted and name else tool.kind or "tool"


def _input(tool: _Tool) -> dict[str, object]:
    """Give what is shown of a call: a command is its title, a file its place."""
    if tool.kind == "execute":
        return {"command": tool.title or ""}
    told: dict[str, object] = {"file_path": tool.locations[0].path} if tool.locations else {}
    for change in tool.content if isinstance(tool.content, list) else []:
        if change.new_text is not None:
            told["content"] = change.new_text
    return told or ({"title": tool.title} if tool.title else {})


def _failed(failure: _Failure) -> RunFailed:
    status, message = cause(failure.message)
    status = failure.code if 400 <= failure.code < 600 else status
    code = AgentUnauthenticated.code if failure.code == _UNAUTHENTICATED else agent_code(status)
    return RunFailed(code, message, exit_code=(status or 1) & 255)


def _cancel(turn: _Turn) -> bytes:
    return _encoded({"method": "session/cancel", "params": {"sessionId": turn.session}})


def _request(number: int, method: str, params: dict[str, object]) -> bytes:
    return _encoded({"id": number, "method": method, "params": params})


def _encoded(message: dict[str, object]) -> bytes:
    return msgspec.json.encode({"jsonrpc": "2.0", **message}) + b"\n"
