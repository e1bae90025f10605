"""`codex app-server`: JSON-RPC lines, with each message in the pieces that the model sent.

Recorded with Codex 0.163.0 and 0.169.0; 0.171.0 prints the same lines. A run sends `initialize`, then `thread/start`
(or `thread/resume`, `thread/fork`), then `turn/start`, and waits for each response before the next request. A process
holds several threads, and interleaves the notifications of the threads and of the threads of sub-agents.

`codex exec` runs the same server internally: it starts no faster and uses as much memory (149 ms to the first text of a
model that answers at once, 141 MB).

A process that is kept holds each thread open, so the next turn of the thread starts at once. Any other process that
resumes the thread is refused ("already has an active writer"). `thread/unsubscribe` does not release the thread, and
the protocol has no request to close a thread. Archiving releases the thread. The channel sends archive and unarchive
together, and the server handles the two in order. The channel closes a thread this way before it reports the end of a
run whose turn failed or could not start, and closes an idle thread on request. If the process exits between the two
requests, the thread stays archived and cannot be resumed; the next run of the thread unarchives the thread.

A resumed thread would use the model and effort of its last turn, unless the request names the model provider, which the
channel therefore reads from the settings.
"""

from collections.abc import Iterator

import msgspec

from clinvk import __version__
from clinvk.backends.base import Delivery, Launch, SteerReply
from clinvk.backends.codex import approvals, client_tools, failures, wire
from clinvk.backends.codex.conversation import Conversation, Thread
from clinvk.backends.codex.flags import ROOTS
from clinvk.backends.codex.prompt_schema import full_prompt, supports_schema
from clinvk.backends.jsonrpc import RpcChannel
from clinvk.backends.shared import base64_data
from clinvk.types import events
from clinvk.types.errors import Cancelled
from clinvk.types.interaction import Interaction, InteractionAnswer
from clinvk.types.record import Resume
from clinvk.types.request import RunRequest, ToolOutput

_PROVIDER = "openai"
"""The model provider if the settings name none."""

_SKIPPED_NOTIFICATIONS = (
    *("item/fileChange/outputDelta", "item/fileChange/patchUpdated"),
    *("configWarning", "remoteControl/status/changed", "thread/started", "thread/status/changed", "turn/diff/updated"),
)
"""Notifications that clinvk does not read. Some are long."""

_WAITING_CAPACITY = 128
"""The number of runs in a process with client tools, most of which wait for their clients."""


class _Closing(msgspec.Struct):
    """A thread that is being unarchived, the run that ends with the thread, and the runs that wait for the thread."""

    thread: str
    ends: Conversation | None = None
    waiting: list[Conversation] = []


class _Steering(msgspec.Struct, frozen=True):
    """A prompt for the running turn of a run."""

    run: str


def _input(prompt: str, request: RunRequest) -> list[dict[str, str]]:
    """Return the images of a request and a prompt as input of a turn."""
    images = (
        {"type": "image", "url": f"data:{image.media_type};base64,{base64_data(image)}"} for image in request.images
    )
    return [*images, {"type": "text", "text": prompt}]


def _awaiting_tools(conversation: Conversation) -> Iterator[Delivery]:
    """Yield the event of a complete answer if the CLI has sent a request for each of its calls."""
    usage = conversation.answer_usage
    if usage is not None and conversation.calls and conversation.calls <= conversation.requests.keys():
        conversation.answer_usage = None
        yield conversation.run, events.AwaitingTools((conversation.decoder.usage or events.Usage()) + usage)


class AppServerChannel(RpcChannel[wire.Params, wire.Result, Conversation | _Closing | _Steering, Conversation]):
    """The channel of one process. All runs share the launch, and get the `instructions` if they resume a thread."""

    capacity = 16
    _has_version = False
    _ready = b'{"method":"initialized"}\n'

    def __init__(self, launch: Launch, instructions: str = "") -> None:
        capabilities: dict[str, object] = {"optOutNotificationMethods": _SKIPPED_NOTIFICATIONS}
        if launch.client_tools:
            self.capacity = _WAITING_CAPACITY
        if ROOTS in launch.session_params or client_tools.TOOLS in launch.session_params:
            capabilities["experimentalApi"] = True
        client = {"name": "clinvk", "version": __version__}
        super().__init__(wire.MESSAGES, {"clientInfo": client, "capabilities": capabilities})
        self._tools = {called: name for name, called in client_tools.names(launch.client_tools).items()}
        self._keeps = bool(launch.ping) and not launch.session_params.get("ephemeral")
        self._provider: dict[str, object] = {}
        self._session_params = launch.session_params
        self._asks = launch.asks
        self._instructions = instructions
        self._idle: dict[str, Thread] = {}
        self._closing: dict[str, _Closing] = {}

    def interrupt(self, run: str) -> bytes | None:
        """Return the request that ends the turn of a run, if the turn has started. Running tools are left running."""
        conversation = self._open.get(run)
        if conversation is None:
            return None
        conversation.is_dropped = True
        return self._interrupt(conversation.thread, conversation.turn) if conversation.turn else b""

    def steer(self, run: str, request: RunRequest) -> bytes | None:
        """Return the request that adds a prompt to the turn of a run, if the turn has started."""
        conversation = self._open.get(run)
        if conversation is None or not conversation.turn or conversation.is_dropped or conversation.ending:
            return None
        turn = {"threadId": conversation.thread, "expectedTurnId": conversation.turn}
        return self._ask("turn/steer", {**turn, "input": _input(request.prompt, request)}, _Steering(run))

    def answer(self, run: str, output: ToolOutput) -> bytes:
        """Return the response to the request for a call of a client tool."""
        conversation = self._open[run]
        conversation.calls.discard(output.call_id)
        return self._encode({"id": conversation.requests.pop(output.call_id), "result": client_tools.result(output)})

    def resolve(self, run: str, request_id: str, answer: InteractionAnswer) -> bytes:
        """Return the response to a request to the user; empty if Codex has withdrawn the request."""
        conversation = self._open.get(run)
        message = conversation.asked.pop(request_id, None) if conversation else None
        if message is None or message.params is None:
            return b""
        return self._answer(message, approvals.result(message.method, message.params, answer))

    def tool_variable(self, run: str) -> tuple[str, str] | None:
        """Return the environment variable that identifies the run's tools, which an interrupt leaves running."""
        conversation = self._open.get(run)
        return ("CODEX_THREAD_ID", conversation.thread) if conversation and conversation.thread else None

    def release_session(self, conversation: str) -> bytes | None:
        """Return the requests that close an idle thread."""
        if conversation in self._closing:
            return b""
        return self._close(_Closing(conversation)) if self._idle.pop(conversation, None) else None

    def stderr_message(self, stderr: bytes) -> str:
        """Return the last line of stderr that is not noise."""
        return failures.stderr_message(stderr)

    def _begin(self, run: str, request: RunRequest, resume: Resume | None) -> bytes:
        thread = self._idle.pop(resume.handle, None) if resume and not resume.fork else None
        conversation = Conversation(run, request, resume, full_prompt(request, resume, self._instructions), thread)
        self._open[run] = conversation
        if resume and (closing := self._closing.get(resume.handle)):
            closing.waiting.append(conversation)
            return b""
        return self._ask_turn(conversation) if thread else self._ask_thread(conversation)

    def _lost(self, run: Conversation, exit_code: int, stderr: bytes) -> events.Ending:
        lost = failures.exited(exit_code, stderr, run.decoder.last_error)
        return run.ending or msgspec.structs.replace(lost, usage=run.decoder.usage)

    def _notified(self, message: wire.Message) -> Iterator[Delivery]:
        method, params = message.method, message.params
        conversation = params and next((run for run in self._open.values() if run.thread == params.thread_id), None)
        if method == "item/tool/call" and conversation and params:
            conversation.requests[params.call_id] = message.id
            yield from _awaiting_tools(conversation)
            return
        if message.id is not None:
            yield self._asked(message)
        elif params and method == "serverRequest/resolved":
            yield from self._withdrawn(params)
        if params and params.rate_limits and self._open:  # the limits belong to the account, so any run will do
            yield from ((next(iter(self._open)), window) for window in params.rate_limits.windows())
        if message.id is not None or params is None or not wire.is_read(method, params):
            return
        if run := self._run_of(params.thread_id):
            run.record_changes(method, params)
        if conversation is None:
            yield from self._subagent_notified(method, params)
        elif not conversation.ending and not conversation.belongs_to_another_turn(method, params):
            yield from self._run_notified(conversation, method, params)

    def _run_of(self, thread: str) -> Conversation | None:
        """Return the run that a thread belongs to; the thread may be that of a sub-agent."""
        runs = self._open.values() if thread else ()
        return next((run for run in runs if thread in (run.thread, *run.active_turns)), None)

    def _asked(self, message: wire.Message) -> Delivery:
        """Ask the user of the run, or refuse the request if nobody is to be asked."""
        params = message.params
        run = self._run_of(params.thread_id) if params and self._asks else None
        if params and run and not run.ending and not run.is_dropped:
            changes = run.changes.get(params.item_id, ())
            if asked := approvals.interaction(str(message.id), message.method, params, changes):
                run.asked[asked.id] = message
                return run.run, events.InteractionRequested(asked, approvals.paths(params, changes))
        return self._answer(message, approvals.REFUSALS.get(message.method))

    def _withdrawn(self, params: wire.Params) -> Iterator[Delivery]:
        """Report a request to the user that Codex no longer awaits."""
        run, request_id = self._run_of(params.thread_id), str(params.request_id)
        if run and run.asked.pop(request_id, None):
            yield run.run, events.InteractionResolved(Interaction(id=request_id))

    def _run_notified(self, conversation: Conversation, method: str, params: wire.Params) -> Iterator[Delivery]:
        conversation.record_turn(method, params)
        if method == "turn/started":
            conversation.turn = params.turn.id
            if conversation.is_dropped:  # the CLI refuses an interrupt before the turn has started
                yield self._interrupt(conversation.thread, conversation.turn)
        if method == "thread/tokenUsage/updated":  # the decoder counts the answer from here on
            conversation.answer_usage = None
        if method.startswith("rawResponse"):
            yield from self._raw_notified(conversation, params)
            return
        for event in conversation.decoder.feed(method, params):
            if isinstance(event, events.ToolCall) and event.for_client:
                conversation.calls.add(event.id)
                event = msgspec.structs.replace(event, name=self._tools.get(event.name, event.name))
            if isinstance(event, events.RunFinished | events.RunFailed):
                yield from (self._interrupt(thread, turn) for thread, turn in conversation.active_turns.items())
                yield self._end(conversation, event)
                return
            yield conversation.run, event
        if method == "thread/tokenUsage/updated" and (used := conversation.decoder.usage):
            yield conversation.run, used
        is_to_end = conversation.decoder.is_out_of_turns and not conversation.is_dropped
        if is_to_end and (request := self.interrupt(conversation.run)):
            yield request

    def _raw_notified(self, conversation: Conversation, params: wire.Params) -> Iterator[Delivery]:
        """Record an item of the model's answer, or the end of the answer, which the request for a call may follow."""
        if not params.item.type:
            conversation.answer_usage = params.usage.usage if params.usage else events.Usage()
            yield from _awaiting_tools(conversation)
        elif params.item.name in self._tools and wire.structured(str(params.item.arguments)) is not None:
            conversation.calls.add(params.item.raw_call_id)

    def _subagent_notified(self, method: str, params: wire.Params) -> Iterator[Delivery]:
        """Record the turns of a run's sub-agents. Interrupt a sub-agent whose run has ended."""
        root = params.turn.root_turn_id
        run = next((found for found in self._open.values() if found.turn and found.turn == root), None)
        if run and not run.ending:
            run.record_turn(method, params)
        elif method == "turn/started" and root not in (None, params.turn.id):
            yield self._interrupt(params.thread_id, params.turn.id)

    def _end(self, conversation: Conversation, ending: events.Ending) -> Delivery:
        """Report the ending. After a failure, close the thread first, so that other processes can resume the thread."""
        thread, decoder = conversation.thread, conversation.decoder
        if self._keeps and thread and isinstance(ending, events.RunFailed):
            conversation.ending = ending
            return self._close(_Closing(thread, conversation))
        if self._keeps and thread:
            self._idle[thread] = Thread(thread, decoder.model, decoder.total, conversation.turn)
        del self._open[conversation.run]
        return conversation.run, ending

    def _close(self, closing: _Closing) -> bytes:
        return self._ask("thread/archive", {"threadId": closing.thread}) + self._unarchive(closing)

    def _unarchive(self, closing: _Closing) -> bytes:
        self._closing[closing.thread] = closing
        return self._ask("thread/unarchive", {"threadId": closing.thread}, closing)

    def _closed(self, closing: _Closing) -> Iterator[Delivery]:
        """Finish closing a thread: report the ending of its run and start the waiting runs."""
        if self._closing.get(closing.thread) is closing:  # the thread may have been archived again
            del self._closing[closing.thread]
        if closing.ends and closing.ends.ending:
            del self._open[closing.ends.run]
            yield closing.ends.run, closing.ends.ending
        for conversation in closing.waiting:
            yield self._ask_thread(conversation)

    def _answered(self, call: Conversation | _Closing | _Steering, message: wire.Message) -> Iterator[Delivery]:
        if isinstance(call, _Closing):
            yield from self._closed(call)
        elif isinstance(call, _Steering):
            yield call.run, SteerReply(message.error is None)
        elif call.run in self._open and not call.ending:  # a turn may end before the response to turn/start arrives
            if message.error:
                yield self._refused(call, message.error.message)
            else:
                yield from self._accepted(call, message.result or wire.Result())

    def _refused(self, conversation: Conversation, why: str) -> Delivery:
        """End a run, unless another process left the thread archived: then unarchive the thread, and ask again."""
        resume = conversation.resume
        if not resume or not failures.is_archived(why) or conversation.is_retried:
            return self._end(conversation, conversation.decoder.ending(why))
        conversation.is_retried = True
        if closing := self._closing.get(resume.handle):
            closing.waiting.append(conversation)
            return b""
        return self._unarchive(_Closing(resume.handle, waiting=[conversation]))

    def _accepted(self, conversation: Conversation, result: wire.Result) -> Iterator[Delivery]:
        if result.config:
            self._provider = {"modelProvider": result.config.model_provider or _PROVIDER}
            yield self._ask_thread(conversation)
        elif result.thread:
            conversation.thread = result.thread.id
            conversation.decoder.model = result.model
            if conversation.is_dropped:
                why = "codex was interrupted before the turn"
                yield self._end(conversation, events.RunFailed(Cancelled.code, why, exit_code=1))
            else:
                yield self._ask_turn(conversation)
        elif result.turn:
            conversation.turn = result.turn.id
            if conversation.is_dropped:
                yield self._interrupt(conversation.thread, conversation.turn)
        elif not conversation.turn:
            yield self._end(conversation, conversation.decoder.ending("codex gave an answer that makes no sense"))

    def _ask_thread(self, conversation: Conversation) -> bytes:
        """Request the thread. To resume a thread, first read the model provider from the settings."""
        resume = conversation.resume
        if resume is None:
            return self._ask("thread/start", self._session_params, conversation)
        if not self._provider:
            return self._ask("config/read", {"cwd": self._session_params["cwd"], "includeLayers": False}, conversation)
        thread = {**self._session_params, **self._provider, "threadId": resume.handle, "excludeTurns": True}
        return self._ask("thread/fork" if resume.fork else "thread/resume", thread, conversation)

    def _ask_turn(self, conversation: Conversation) -> bytes:
        request = conversation.request
        schema: dict[str, object] = {"outputSchema": request.output_schema} if supports_schema(request) else {}
        turn = {"threadId": conversation.thread, "input": _input(conversation.prompt, request), **schema}
        trace = {"trace": request.trace} if request.trace else {}
        return self._ask("turn/start", turn, conversation, **trace)

    def _interrupt(self, thread: str, turn: str) -> bytes:
        return self._ask("turn/interrupt", {"threadId": thread, "turnId": turn})
