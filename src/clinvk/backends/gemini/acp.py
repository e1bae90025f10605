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

The CLI's record has more on the last two points: see `ConversationRecord`. The CLI removes an interrupted first turn
from the record, which leaves no conversation. Thinking is reported, and passed on if requested.
"""

from collections import deque
from collections.abc import Iterator

from clinvk.backends import acp_wire
from clinvk.backends.base import Delivery, Host
from clinvk.backends.gemini import approvals, prompt_delivery, wire
from clinvk.backends.gemini.decoder import GeminiDecoder, readable
from clinvk.backends.gemini.turn import ConversationRecord, TurnDecoder, refused
from clinvk.backends.jsonrpc import Failure, Message, RpcChannel
from clinvk.backends.shared import crash_ending
from clinvk.types.errors import Cancelled, NotResumable
from clinvk.types.events import Ending, InteractionRequested, RunFailed, RunStarted
from clinvk.types.interaction import InteractionAnswer
from clinvk.types.record import Resume
from clinvk.types.request import RunRequest

PING = b'{"jsonrpc":"2.0","id":"clinvk-ping","method":"ping"}\n'
"""A request for an unknown method, which the CLI refuses at once, even during a turn."""


class AcpChannel(RpcChannel[acp_wire.Params, wire.Result, TurnDecoder, TurnDecoder]):
    """The channel of one process. `session_params` holds the session parameters."""

    capacity = 4
    """The limit of concurrent runs. The process uses a single processor, which all runs share."""

    def __init__(self, session_params: dict[str, object], host: Host, *, asks: bool = False) -> None:
        super().__init__(wire.MESSAGES, {"protocolVersion": 1, "clientCapabilities": {}})  # no files, no terminals
        self._session_params = session_params
        self._host = host
        self._asks = asks
        self._allowed_edits: set[str] = set()
        self._creating: TurnDecoder | None = None
        self._queue: deque[TurnDecoder] = deque()
        self._models: dict[str, str | None] = {}
        self._records: dict[str, ConversationRecord] = {}

    def interrupt(self, run: str) -> bytes | None:
        """Return the messages that end the turn of a run, stop the running tool, and withdraw what the turn asked."""
        turn = self._open.get(run)
        if turn is None:
            return None
        turn.is_dropped = True
        cancel: dict[str, object] = {"method": "session/cancel", "params": {"sessionId": turn.session}}
        asked, turn.asked = turn.asked, {}
        withdrawn = b"".join(self._answer(message, acp_wire.CANCELLED) for message in asked.values())
        turn.denied += [each.params.tool_call for each in asked.values() if each.params and each.params.tool_call]
        return self._encode(cancel) + withdrawn if turn.session else b""

    def resolve(self, run: str, request_id: str, answer: InteractionAnswer) -> bytes:
        """Return the response to a request for permission; empty if the turn was interrupted."""
        turn = self._open.get(run)
        message = turn.asked.pop(request_id, None) if turn else None
        if turn is None or message is None or message.params is None or message.params.tool_call is None:
            return b""
        tool = message.params.tool_call
        if answer.choice == "allow_session" and tool.kind == approvals.EDIT:
            self._allowed_edits.add(turn.session)
        elif answer.choice.startswith("deny"):
            turn.denied.append(tool)
        return self._answer(message, approvals.outcome(answer.choice, tool, message.params.options))

    def stderr_message(self, stderr: bytes) -> str:
        """Return the complaint on stderr as a process of one prompt would report it."""
        return GeminiDecoder().stderr_message(stderr)

    def _begin(self, run: str, request: RunRequest, resume: Resume | None) -> bytes:
        """Request a session, or send a prompt to a held session.

        Raises:
            NotResumable: this process does not hold the session.
        """
        if resume and resume.handle not in self._models:
            raise NotResumable(
                "gemini cannot continue this conversation with approval mode ask, because its process has ended; use "
                "another approval mode, or --new"
            )
        turn = self._open[run] = TurnDecoder(run, request)
        if resume is None:
            return self._ask_session(turn)
        turn.session = resume.handle
        return self._ask_prompt(turn)

    def _lost(self, run: TurnDecoder, exit_code: int, stderr: bytes) -> Ending:
        return crash_ending("gemini", exit_code, readable(stderr.decode(errors="replace")).encode())

    def _notified(self, message: Message[acp_wire.Params, wire.Result]) -> Iterator[Delivery]:
        params = message.params or acp_wire.Params()
        named = params.session_id
        turn = next((turn for turn in self._open.values() if named and turn.session == named), None)
        if turn:
            yield from self._report_start(turn)
            yield from self._report_denied(turn)
        if message.id is not None and turn and params.tool_call:
            decide = self._ask_user if self._asks and not turn.is_dropped else self._deny
            yield from decide(turn, message, params.tool_call)
        elif message.id is not None:
            yield self._answer(message, None)
        elif turn and params.update:
            for event in turn.feed(params.update):
                yield turn.run, event

    def _ask_user(
        self, turn: TurnDecoder, message: Message[acp_wire.Params, wire.Result], tool: acp_wire.Tool
    ) -> Iterator[Delivery]:
        """Ask the user of the run for permission, unless the user has allowed all edits."""
        for event in turn.call(tool):
            yield turn.run, event
        options = message.params.options if message.params else ()
        if tool.kind == approvals.EDIT and turn.session in self._allowed_edits:
            yield self._answer(message, approvals.outcome("allow", tool, options))
            return
        asked = approvals.interaction(str(message.id), tool, options)
        turn.asked[asked.id] = message
        yield turn.run, InteractionRequested(asked)

    def _deny(
        self, turn: TurnDecoder, message: Message[acp_wire.Params, wire.Result], tool: acp_wire.Tool
    ) -> Iterator[Delivery]:
        """Deny a permission request, because no user is present and no rule allowed the tool."""
        for event in turn.call(tool):
            yield turn.run, event
        yield self._answer(message, acp_wire.CANCELLED)
        turn.denied.append(tool)
        yield from self._report_denied(turn)

    def _answered(self, call: TurnDecoder, message: Message[acp_wire.Params, wire.Result]) -> Iterator[Delivery]:
        turn, result = call, message.result
        if turn is self._creating:
            self._creating = None
            if self._queue:
                yield self._ask_session(self._queue.popleft())
        if not message.error and result and result.session_id:
            turn.session = result.session_id
            self._records[turn.session] = ConversationRecord(turn.session, self._host)
            self._models[turn.session] = result.models.current_model_id if result.models else None
            yield from self._session_created(turn)
            return
        if turn.session:
            yield from self._report_start(turn)
            yield from self._report_denied(turn)
        self._open.pop(turn.run, None)
        record = self._records.get(turn.session)
        recorded = record.turn() if record else None
        if message.error or result is None or not turn.session:
            failure = message.error or Failure(message="gemini gave an answer that makes no sense")
            yield turn.run, refused(failure, recorded)
        else:
            yield turn.run, turn.ended(result, recorded)

    def _session_created(self, turn: TurnDecoder) -> Iterator[Delivery]:
        if turn.is_dropped:
            del self._open[turn.run]
            yield turn.run, RunFailed(Cancelled.code, "gemini was interrupted before the turn", exit_code=1)
            return
        yield from self._report_start(turn)
        yield self._ask_prompt(turn)

    def _report_start(self, turn: TurnDecoder) -> Iterator[Delivery]:
        if not turn.is_started:
            turn.is_started = True
            yield turn.run, RunStarted(self._models[turn.session], turn.session)

    def _report_denied(self, turn: TurnDecoder) -> Iterator[Delivery]:
        """Report the results of denied tools, which the CLI does not report."""
        for tool in turn.denied:
            for event in turn.result(tool, is_error=True, output="not permitted"):
                yield turn.run, event
        turn.denied.clear()

    def _ask_session(self, turn: TurnDecoder) -> bytes:
        """Request a session, or queue the turn until earlier session requests finish."""
        if self._creating:
            self._queue.append(turn)
            return b""
        self._creating = turn
        return self._ask("session/new", self._session_params, turn)

    def _ask_prompt(self, turn: TurnDecoder) -> bytes:
        prompt: dict[str, object] = {"sessionId": turn.session, "prompt": prompt_delivery.parts(turn.request)}
        return self._ask("session/prompt", prompt, turn)
