"""`gemini --acp`: the Agent Client Protocol (https://agentclientprotocol.com), JSON-RPC lines, as 0.61.0 speaks it.

A run is a `session/new` and a `session/prompt`, or another prompt in a session that the process holds. A process holds
any number of concurrent sessions. clinvk does not use `session/load`, which fails within the minute in which the
session was created, and damages the record. The channel creates sessions one at a time: when several start at once,
some wait for a lock file of the CLI, with growing delays of up to a minute.

The agent differs from the agent of `-o stream-json`, and the protocol reports less:

- The system prompt says that a user can answer questions, and the agent has no sub-agents.
- The protocol reports only the displayed part of a tool's input, and no call of a tool that does not exist.
- The protocol does not report that the model broke off an answer, nor why.
- Token counts cover only the turn's own requests, without cached tokens and thinking.

The CLI's record has more on the last two points: see `Record`. The CLI removes an interrupted first turn from the
record, which leaves no conversation. Thinking is reported, and passed on if requested.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import count

import msgspec

from clinvk.backends.base import Delivery, Host, NotSpoken, crashed, last_line
from clinvk.backends.gemini import prompt_delivery, wire
from clinvk.backends.gemini.decoder import GeminiDecoder, readable
from clinvk.backends.gemini.turn import Record, Turn, Written, refused
from clinvk.types.errors import Cancelled, NotResumable
from clinvk.types.events import RunFailed, RunStarted
from clinvk.types.request import RunRequest
from clinvk.types.session import Resume

PING = b'{"jsonrpc":"2.0","id":"clinvk-ping","method":"ping"}\n'
"""A request for an unknown method, which the CLI refuses at once, even during a turn."""


class ProtocolChannel:
    """The channel of one process. `opening` holds the session parameters."""

    capacity = 4
    """The limit of concurrent runs. The process uses a single processor, which all runs share."""

    def __init__(self, opening: dict[str, object], host: Host) -> None:
        self._opening = opening
        self._host = host
        self._numbers = count()
        self._greeting: int | None = None
        self._speaks = False
        self._waiting: list[bytes] = []
        self._asked: dict[int, Turn] = {}
        self._begins: Turn | None = None
        self._queue: deque[Turn] = deque()
        self._open: dict[str, Turn] = {}
        self._models: dict[str, str | None] = {}
        self._records: dict[str, Record] = {}

    def greet(self) -> bytes:
        """Return the greeting: the protocol version, and a client without files or terminals."""
        self._greeting = next(self._numbers)
        return _request(self._greeting, "initialize", {"protocolVersion": 1, "clientCapabilities": {}})

    def start(self, run: str, request: RunRequest, resume: Resume | None) -> bytes:
        """Request a session, or send a prompt to a held session.

        Raises:
            NotResumable: This process does not hold the session.
        """
        if resume and resume.handle not in self._models:
            raise NotResumable(f"this process of gemini does not hold the conversation {resume.handle!r}")
        greeting = self.greet() if self._greeting is None else b""
        turn = self._open[run] = Turn(run, request)
        if resume is None:
            asked = self._ask_session(turn)
        else:
            turn.session = resume.handle
            asked = self._ask_prompt(turn)
        if self._speaks:
            return asked
        self._waiting.append(asked)
        return greeting

    def receive(self, line: bytes) -> Iterable[Delivery]:
        """Parse one line of stdout."""
        message = wire.read(line)
        if message is None:
            return
        if message.method:
            yield from self._told(message)
        elif message.id is not None and message.id == self._greeting and not self._speaks:
            yield from self._greeted(message)
        elif isinstance(message.id, int) and (turn := self._asked.pop(message.id, None)):
            yield from self._answered(turn, message)

    def interrupt(self, run: str) -> bytes | None:
        """Return the request that ends the turn of a run and stops the running tool."""
        turn = self._open.get(run)
        if turn is None:
            return None
        turn.is_dropped = True
        return _cancel(turn) if turn.session else b""

    def tools_of(self, run: str) -> tuple[str, str] | None:
        """Return None, because an interrupt stops the tools."""
        return None

    def let_go(self, conversation: str) -> bytes | None:
        """Return None, because the process locks no conversation."""
        return None

    def closed(self, exit_code: int, stderr: bytes) -> Iterable[Delivery]:
        """Yield an ending for each run that is still open.

        Raises:
            NotSpoken: The process exited by itself and never answered the greeting.
        """
        said = readable(stderr.decode(errors="replace"))
        if not self._speaks and exit_code < 128:  # a signal (128 and above) does not show which protocol the CLI speaks
            raise NotSpoken(f"it exited with code {exit_code}: {last_line(said) or 'nothing on stderr'}")
        for turn in [*self._open.values()]:
            del self._open[turn.run]
            yield turn.run, crashed("gemini", exit_code, said.encode())

    def complaint(self, stderr: bytes) -> str:
        """Return the complaint on stderr as a process of one prompt would report it."""
        return GeminiDecoder().complaint(stderr)

    def _greeted(self, message: wire.Message) -> Iterator[Delivery]:
        if message.result is None:
            why = message.error.said if message.error else "its answer makes no sense"
            raise NotSpoken(f"it refused the greeting: {why}")
        self._speaks = True
        yield b"".join(self._waiting)
        self._waiting.clear()

    def _told(self, message: wire.Message) -> Iterator[Delivery]:
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

    def _asked_for_leave(self, turn: Turn | None, message: wire.Message) -> Iterator[Delivery]:
        """Deny a permission request, because no user is present and no rule allowed the tool."""
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

    def _answered(self, turn: Turn, message: wire.Message) -> Iterator[Delivery]:
        result = message.result
        if turn is self._begins:
            self._begins = None
            if self._queue:
                yield self._ask_session(self._queue.popleft())
        if message.error or result is None or not (turn.session or result.session_id):
            if turn.session:
                yield from self._begun(turn)
            self._open.pop(turn.run, None)
            failure = message.error or wire.Failure(message="gemini gave an answer that makes no sense")
            yield turn.run, refused(failure, self._written(turn))
        elif result.session_id:
            turn.session = result.session_id
            self._records[turn.session] = Record(turn.session, self._host)
            self._models[turn.session] = result.models.current_model_id if result.models else None
            yield from self._opened(turn)
        else:
            yield from self._begun(turn)
            self._open.pop(turn.run, None)
            yield turn.run, turn.ended(result, self._written(turn))

    def _written(self, turn: Turn) -> Written | None:
        record = self._records.get(turn.session)
        return record.turn() if record else None

    def _opened(self, turn: Turn) -> Iterator[Delivery]:
        if turn.is_dropped:
            del self._open[turn.run]
            yield turn.run, RunFailed(Cancelled.code, "gemini was interrupted before the turn", exit_code=1)
            return
        yield from self._begun(turn)
        yield self._ask_prompt(turn)

    def _begun(self, turn: Turn) -> Iterator[Delivery]:
        if not turn.is_started:
            turn.is_started = True
            yield turn.run, RunStarted(self._models[turn.session], turn.session)

    def _ask_session(self, turn: Turn) -> bytes:
        """Request a session, or queue the turn until earlier session requests finish."""
        if self._begins:
            self._queue.append(turn)
            return b""
        self._begins = turn
        return self._ask("session/new", self._opening, turn)

    def _ask_prompt(self, turn: Turn) -> bytes:
        return self._ask(
            "session/prompt", {"sessionId": turn.session, "prompt": prompt_delivery.parts(turn.request)}, turn
        )

    def _ask(self, method: str, params: dict[str, object], turn: Turn) -> bytes:
        number = next(self._numbers)
        self._asked[number] = turn
        return _request(number, method, params)


def _cancel(turn: Turn) -> bytes:
    return _encoded({"method": "session/cancel", "params": {"sessionId": turn.session}})


def _request(number: int, method: str, params: dict[str, object]) -> bytes:
    return _encoded({"id": number, "method": method, "params": params})


def _encoded(message: dict[str, object]) -> bytes:
    return msgspec.json.encode({"jsonrpc": "2.0", **message}) + b"\n"
