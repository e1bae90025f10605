"""`gemini --acp`: the Agent Client Protocol (https://agentclientprotocol.com), JSON-RPC lines, as 0.61.0 speaks it.

A run is `session/new` and a `session/prompt`, or another prompt in a session that the process holds. A process holds
any number of sessions, which go on side by side. `session/load` is not used: within the minute in which a session was
begun it fails, and damages the record. Sessions are begun one after the other: of several at once some wait for a lock
file of the CLI's own, longer each time it looks, up to a minute.

It is not the same agent as with `-o stream-json`, and tells less:

- Its model is told that somebody is there who can be asked, and has no sub-agents.
- Of a tool's input it tells what it shows of it; a tool that there is not it does not tell at all.
- Where the model breaks an answer off, it does not say so, nor why.
- Tokens are those of the turn's own requests, without cached ones and those of thinking.

What it writes down says more of the last two: see `record`. A first turn that was interrupted it takes out of there,
so that the conversation is none. The thinking, which it does tell, is passed on where it was asked for.
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
"""What it refuses at once, during turns as well: there is no such method."""


class ProtocolChannel:
    """One process. `opening` are the parameters of its sessions."""

    capacity = 4
    """It does its work on one processor, which more would have to share."""

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
        """Say which version is spoken, and that we serve neither files nor terminals."""
        self._greeting = next(self._numbers)
        return _request(self._greeting, "initialize", {"protocolVersion": 1, "clientCapabilities": {}})

    def start(self, run: str, request: RunRequest, resume: Resume | None) -> bytes:
        """Ask for a session, or prompt one that is held.

        Raises:
            NotResumable: this process does not hold it.
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
        """Take one line."""
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
            raise NotSpoken(f"it exited with code {exit_code}: {last_line(said) or 'nothing on stderr'}")
        for turn in [*self._open.values()]:
            del self._open[turn.run]
            yield turn.run, crashed("gemini", exit_code, said.encode())

    def complaint(self, stderr: bytes) -> str:
        """Give what a process of one prompt would be taken to complain of."""
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
        """Ask for a session, or have the turn wait until those before it have theirs."""
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
