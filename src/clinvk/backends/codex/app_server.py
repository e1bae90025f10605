"""`codex app-server`: JSON-RPC lines, with each message in the pieces that the model sent.

Recorded with Codex 0.163.0 and 0.169.0; 0.171.0 prints the same lines. A run sends `initialize`, then `thread/start`
(or `thread/resume`, `thread/fork`), then `turn/start`, and waits for each response before the next request. A process
holds several threads, and interleaves the notifications of the threads and of the threads of sub-agents.

The server starts as fast as `codex exec` and uses as much memory (both 149 ms to the first text of a model that answers
at once, 141 MB), because `exec` runs the same server internally. Every run that can use the server does, whether the
client streams or not. The server has two limits: no equivalent of `exec --ignore-rules`, so rules stay in force, and
fewer flags than `exec`.

A process that is kept holds each thread open, so the next turn of the thread starts at once. Any other process that
resumes the thread is refused ("already has an active writer"). `thread/unsubscribe` does not release the thread, and
the protocol has no request to close a thread. Archiving releases the thread. The channel sends archive and unarchive
together, and the server handles the two in order. The channel closes a thread this way before it reports the end of a
run whose turn failed or could not start, and closes an idle thread on request. If the process exits between the two
requests, the thread stays archived and cannot be resumed; the next run of the thread unarchives the thread.

A resumed thread would use the model and effort of its last turn, unless the request names the model provider. `exec`
names the provider, so the channel reads the provider from the settings.
"""

from base64 import b64encode
from collections.abc import Iterable, Iterator
from itertools import count
from typing import NamedTuple

import msgspec

from clinvk import __version__
from clinvk.backends.base import Delivery, NotSpoken, last_line, parsed
from clinvk.backends.codex import failures, wire
from clinvk.backends.codex.exec import is_native, told
from clinvk.backends.codex.turn import TurnDecoder
from clinvk.types.errors import Cancelled
from clinvk.types.events import RunFailed, RunFinished, Usage
from clinvk.types.request import RunRequest
from clinvk.types.session import Resume

_PROVIDER = "openai"
"""The model provider if the settings name none."""

_UNWANTED = (
    "account/rateLimits/updated",
    "configWarning",
    "item/commandExecution/outputDelta",
    "item/fileChange/outputDelta",
    "item/fileChange/patchUpdated",
    "remoteControl/status/changed",
    "thread/started",
    "thread/status/changed",
    "turn/diff/updated",
)
"""Notifications that clinvk does not read. Some are long."""

ROOTS = "runtimeWorkspaceRoots"
"""The writable directories. The server accepts this parameter only with `experimentalApi`."""

PING = b'{"id":"clinvk-ping","method":"ping"}\n'
"""A request for an unknown method, which the server refuses at once, even during a turn."""

_ANSWERS: dict[str, dict[str, object]] = {
    "item/commandExecution/requestApproval": {"decision": "decline"},
    "item/fileChange/requestApproval": {"decision": "decline"},
    "mcpServer/elicitation/request": {"action": "cancel"},
}
"""Responses to questions for the user, because no user is present. `exec` also cancels elicitation."""


class _Thread(NamedTuple):
    """An open thread without a running turn."""

    id: str
    model: str | None
    used: Usage | None
    turn: str


class _Conversation:
    """A run and its progress."""

    def __init__(
        self, run: str, request: RunRequest, resume: Resume | None, prompt: str, thread: _Thread | None
    ) -> None:
        self.run = run
        self.request = request
        self.resume = resume
        self.prompt = prompt
        self.thread = thread.id if thread else ""
        self.turn = ""
        self.former_turn = thread.turn if thread else ""
        self.at_work: dict[str, str] = {}
        self.is_dropped = self.is_asked_again = False
        self.ending: RunFinished | RunFailed | None = None
        before = (thread.used if thread else None) if resume else Usage()
        self.decoder = TurnDecoder(request.output_schema is not None, before, request.max_turns or None)
        self.decoder.model = thread.model if thread else None

    def heed(self, notification: wire.Notification) -> None:
        """Record the running turns of the run by thread: the run's own turn and the turns of its sub-agents."""
        match notification:
            case wire.TurnStarted(params=of):
                self.at_work[of.thread_id] = of.turn.id
            case wire.TurnCompleted(params=of):
                self.at_work.pop(of.thread_id, None)
            case _:
                pass

    def is_of_another_turn(self, notification: wire.Notification) -> bool:
        """Return whether a notification belongs to a turn that the CLI started by itself, or to a former turn.

        Token counts always pass, because the counts of a former turn are the totals before this turn.
        """
        told = notification.params
        turn = told.turn.id if isinstance(told, wire.OfTurn) else told.turn_id
        if not turn or isinstance(notification, wire.TokensCounted):
            return False
        return turn != self.turn if self.turn else turn == self.former_turn


class _Closing:
    """A thread that is being unarchived, the run that ends with the thread, and the runs that wait for the thread."""

    def __init__(self, thread: str, ends: _Conversation | None, *wait: _Conversation) -> None:
        self.thread = thread
        self.ends = ends
        self.wait = [*wait]


class AppServerChannel:
    """The channel of one process. `opening` holds the thread parameters; runs differ only in thread and prompt."""

    capacity = 16

    def __init__(self, opening: dict[str, object], instructions: str = "", stays: bool = False) -> None:
        self._keeps = stays and not opening.get("ephemeral")
        self._provider: dict[str, object] = {}
        self._opening = opening
        self._instructions = instructions
        self._numbers = count()
        self._greeting: int | None = None
        self._speaks = False
        self._banner = ""
        self._held: list[bytes] = []
        self._waiting: dict[int, _Conversation | _Closing] = {}
        self._open: dict[str, _Conversation] = {}
        self._idle: dict[str, _Thread] = {}
        self._closing: dict[str, _Closing] = {}

    def greet(self) -> bytes:
        """Return the greeting, which names the client and the unwanted notifications."""
        self._greeting = next(self._numbers)
        capabilities: dict[str, object] = {"optOutNotificationMethods": _UNWANTED}
        if ROOTS in self._opening:
            capabilities["experimentalApi"] = True
        client = {"name": "clinvk", "version": __version__}
        return _request(self._greeting, "initialize", {"clientInfo": client, "capabilities": capabilities})

    def start(self, run: str, request: RunRequest, resume: Resume | None) -> bytes:
        """Start a run. Send the greeting first if needed, and the thread request after the greeting's response."""
        greeting = self.greet() if self._greeting is None else b""
        thread = self._idle.pop(resume.handle, None) if resume and not resume.fork else None
        asked = _Conversation(run, request, resume, told(request, resume, self._instructions), thread)
        self._open[run] = asked
        if resume and (closing := self._closing.get(resume.handle)):
            closing.wait.append(asked)
            return b""
        message = self._ask_turn(asked) if thread else self._begin(asked)
        if self._speaks:
            return message
        self._held.append(message)
        return greeting

    def receive(self, line: bytes) -> Iterable[Delivery]:
        """Parse one line of stdout.

        Raises:
            NotSpoken: The line is JSON but no message, and the process has not answered the greeting.
        """
        if notification := parsed(wire.NOTIFICATIONS, line):
            yield from self._notified(notification)
        elif (other := self._read(line)) and (other.method or other.id is not None):
            yield from self._heard(other)
        elif not self._speaks:
            self._banner = self._banner or line[:80].decode(errors="replace")
            if line.startswith(b"{"):
                raise NotSpoken(f"it printed {line[:80].decode(errors='replace')!r}")

    def interrupt(self, run: str) -> bytes | None:
        """Return the request that ends the turn of a run, if the turn has started. Running tools are left running."""
        conversation = self._open.get(run)
        if conversation is None:
            return None
        conversation.is_dropped = True
        return self._ask_end(conversation) if conversation.turn else b""

    def tools_of(self, run: str) -> tuple[str, str] | None:
        """Return the environment variable that identifies the run's tools, which an interrupt leaves running."""
        conversation = self._open.get(run)
        return ("CODEX_THREAD_ID", conversation.thread) if conversation and conversation.thread else None

    def let_go(self, conversation: str) -> bytes | None:
        """Return the requests that close an idle thread."""
        if conversation in self._closing:
            return b""
        return self._close(conversation) if self._idle.pop(conversation, None) else None

    def closed(self, exit_code: int, stderr: bytes) -> Iterable[Delivery]:
        """Yield an ending, with the reported token usage, for each run that is still open.

        Raises:
            NotSpoken: The process exited by itself and never answered the greeting.
        """
        if not self._speaks and exit_code < 128:  # a signal (128 and above) does not show which protocol the CLI speaks
            said = self.complaint(stderr) or self._banner or "nothing on stderr"
            raise NotSpoken(f"it exited with code {exit_code}: {said}")
        for conversation in [*self._open.values()]:
            del self._open[conversation.run]
            decoder = conversation.decoder
            gone = failures.exited(exit_code, stderr, decoder.last_error)
            yield conversation.run, conversation.ending or msgspec.structs.replace(gone, usage=decoder.usage)

    def complaint(self, stderr: bytes) -> str:
        """Return the last line of stderr that is not noise."""
        return last_line("\n".join(failures.said(stderr)))

    def _read(self, line: bytes) -> wire.Other | None:
        return parsed(wire.OTHERS, line) or (wire.bare(line) if self._speaks else None)

    def _notified(self, notification: wire.Notification) -> Iterator[Delivery]:
        thread = notification.params.thread_id
        conversation = next((found for found in self._open.values() if found.thread == thread), None)
        if conversation is None:
            yield from self._of_no_run(notification)
            return
        if conversation.ending or conversation.is_of_another_turn(notification):
            return
        conversation.heed(notification)
        if isinstance(notification, wire.TurnStarted):
            conversation.turn = notification.params.turn.id
            if conversation.is_dropped:  # the CLI refuses an interrupt before the turn has started
                yield self._ask_end(conversation)
        for event in conversation.decoder.feed(notification):
            if isinstance(event, RunFinished | RunFailed):
                yield from (self._interrupt(thread, turn) for thread, turn in conversation.at_work.items())
                yield self._end(conversation, event)
                return
            yield conversation.run, event
        is_to_end = conversation.decoder.is_out_of_turns and not conversation.is_dropped
        if is_to_end and (message := self.interrupt(conversation.run)):
            yield message

    def _of_no_run(self, notification: wire.Notification) -> Iterator[Delivery]:
        """Record the turns of a run's sub-agents. Interrupt a sub-agent whose run has ended."""
        if not isinstance(notification, wire.TurnStarted | wire.TurnCompleted):
            return
        turn = notification.params.turn
        root = next((found for found in self._open.values() if found.turn and found.turn == turn.root_turn_id), None)
        if root and not root.ending:
            root.heed(notification)
        elif isinstance(notification, wire.TurnStarted) and turn.root_turn_id not in (None, turn.id):
            yield self._interrupt(notification.params.thread_id, turn.id)

    def _end(self, conversation: _Conversation, ending: RunFinished | RunFailed) -> Delivery:
        """Report the ending. After a failure, close the thread first, so that other processes can resume the thread."""
        thread, decoder = conversation.thread, conversation.decoder
        if self._keeps and thread and isinstance(ending, RunFailed):
            conversation.ending = ending
            return self._close(thread, conversation)
        if self._keeps and thread:
            self._idle[thread] = _Thread(thread, decoder.model, decoder.total, conversation.turn)
        del self._open[conversation.run]
        return conversation.run, ending

    def _close(self, thread: str, ends: _Conversation | None = None) -> bytes:
        return self._ask("thread/archive", {"threadId": thread}) + self._take_out(_Closing(thread, ends))

    def _take_out(self, closing: _Closing) -> bytes:
        self._closing[closing.thread] = closing
        return self._ask("thread/unarchive", {"threadId": closing.thread}, closing)

    def _await(self, thread: str, conversation: _Conversation) -> bytes:
        """Make a run wait until its thread, left archived by another process, has been unarchived."""
        if closing := self._closing.get(thread):
            closing.wait.append(conversation)
            return b""
        return self._take_out(_Closing(thread, None, conversation))

    def _closed(self, closing: _Closing) -> Iterator[Delivery]:
        """Finish closing a thread: report the ending of its run and start the waiting runs."""
        if self._closing.get(closing.thread) is closing:  # the thread may have been archived again
            del self._closing[closing.thread]
        if closing.ends and closing.ends.ending:
            del self._open[closing.ends.run]
            yield closing.ends.run, closing.ends.ending
        for conversation in closing.wait:
            yield self._begin(conversation)

    def _heard(self, other: wire.Other) -> Iterator[Delivery]:
        if other.method:
            if other.id is not None:
                yield _answer(other.id, other.method)
        elif other.id == self._greeting:
            yield from self._greeted(other)
        elif isinstance(other.id, int) and (asked := self._waiting.pop(other.id, None)):
            yield from self._closed(asked) if isinstance(asked, _Closing) else self._answered(asked, other)

    def _greeted(self, other: wire.Other) -> Iterator[Delivery]:
        if other.error:
            raise NotSpoken(f"it refused the greeting: {other.error.message}")
        self._speaks = True
        yield b'{"method":"initialized"}\n' + b"".join(self._held)
        self._held.clear()

    def _answered(self, conversation: _Conversation, other: wire.Other) -> Iterator[Delivery]:
        if conversation.run not in self._open or conversation.ending:
            return  # a turn may end before the response to turn/start arrives
        resume = conversation.resume
        if other.error and resume and failures.is_archived(other.error.message) and not conversation.is_asked_again:
            conversation.is_asked_again = True
            yield self._await(resume.handle, conversation)
        elif other.error:
            yield self._end(conversation, conversation.decoder.failed(other.error.message))
        elif other.result and other.result.config:
            self._provider = {"modelProvider": other.result.config.model_provider or _PROVIDER}
            yield self._ask_thread(conversation, self._provider)
        elif other.result and other.result.thread:
            yield from self._opened(conversation, other.result.thread.id, other.result.model)
        elif other.result and other.result.turn:
            conversation.turn = other.result.turn.id
            if conversation.is_dropped:
                yield self._ask_end(conversation)
        elif not conversation.turn:
            yield self._end(conversation, conversation.decoder.failed("codex gave an answer that makes no sense"))

    def _opened(self, conversation: _Conversation, thread: str, model: str | None) -> Iterator[Delivery]:
        conversation.thread = thread
        conversation.decoder.model = model
        if conversation.is_dropped:
            why = "codex was interrupted before the turn"
            yield self._end(conversation, RunFailed(Cancelled.code, why, exit_code=1))
        else:
            yield self._ask_turn(conversation)

    def _begin(self, conversation: _Conversation) -> bytes:
        """Request the thread. To resume a thread, first read the model provider from the settings."""
        if self._provider or not conversation.resume:
            return self._ask_thread(conversation, self._provider)
        return self._ask("config/read", {"cwd": self._opening["cwd"], "includeLayers": False}, conversation)

    def _ask_thread(self, conversation: _Conversation, more: dict[str, object]) -> bytes:
        resume = conversation.resume
        if resume is None:
            return self._ask("thread/start", self._opening, conversation)
        handle = {"threadId": resume.handle, "excludeTurns": True}
        method = "thread/fork" if resume.fork else "thread/resume"
        return self._ask(method, {**self._opening, **more, **handle}, conversation)

    def _ask_turn(self, conversation: _Conversation) -> bytes:
        request = conversation.request
        images = (
            {"type": "image", "url": f"data:{image.media_type};base64,{b64encode(image.data).decode()}"}
            for image in request.images
        )
        params: dict[str, object] = {
            "threadId": conversation.thread,
            "input": [*images, {"type": "text", "text": conversation.prompt}],
        }
        if is_native(request):
            params["outputSchema"] = request.output_schema
        return self._ask("turn/start", params, conversation)

    def _ask_end(self, conversation: _Conversation) -> bytes:
        return self._interrupt(conversation.thread, conversation.turn)

    def _interrupt(self, thread: str, turn: str) -> bytes:
        return self._ask("turn/interrupt", {"threadId": thread, "turnId": turn})

    def _ask(self, method: str, params: dict[str, object], asks: _Conversation | _Closing | None = None) -> bytes:
        number = next(self._numbers)
        if asks:
            self._waiting[number] = asks
        return _request(number, method, params)


def _request(number: int, method: str, params: dict[str, object]) -> bytes:
    return msgspec.json.encode({"id": number, "method": method, "params": params}) + b"\n"


def _answer(number: int | str, method: str) -> bytes:
    """Answer a request of the CLI. Refuse an unknown method, so that the CLI does not wait."""
    if method in _ANSWERS:
        return msgspec.json.encode({"id": number, "result": _ANSWERS[method]}) + b"\n"
    error = {"code": -32601, "message": f"clinvk does not answer {method}"}
    return msgspec.json.encode({"id": number, "error": error}) + b"\n"
