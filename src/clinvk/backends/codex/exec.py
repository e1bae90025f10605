"""`codex exec --json`: one process for one prompt, a JSON object a line.

There are no deltas: a message comes whole when it is complete. Recorded with Codex 0.163.0 and 0.169.0; 0.171.0 prints
the same.
"""

from collections.abc import Iterable

import msgspec

from clinvk.backends.base import last_line, parsed, with_schema, with_system_prompt
from clinvk.backends.codex import failures
from clinvk.backends.codex.items import (
    AgentMessage,
    Item,
    ItemCompleted,
    ItemStarted,
    ItemUpdated,
    Line,
    Reasoning,
    StreamError,
    ThreadStarted,
    TodoList,
    Tool,
    TurnCompleted,
    TurnFailed,
    TurnStarted,
    Warn,
    structured,
)
from clinvk.backends.codex.strict import is_strict
from clinvk.backends.codex.telling import Messages, Thoughts
from clinvk.backends.oneshot import OneShotChannel
from clinvk.events import Event, Progress, RunFinished, RunStarted, Usage
from clinvk.request import RunRequest
from clinvk.session import Resume

_LINES: msgspec.json.Decoder[Line] = msgspec.json.Decoder(Line)


class ExecDecoder:
    """Turns the lines of one run into events."""

    __slots__ = ("_called", "_last_error", "_message", "_messages", "_thoughts", "_thread", "_used", "_wants_json")

    def __init__(self) -> None:
        self._used = Usage()
        self._wants_json = False
        self._thread: str | None = None
        self._messages = Messages()
        self._thoughts = Thoughts()
        self._called: set[str] = set()
        self._message = ""
        self._last_error = ""

    def expect(self, request: RunRequest, resume: Resume | None) -> None:
        """Learn what is asked: a resumed thread's totals begin with the tokens of its former turns."""
        self._used = resume.used if resume else Usage()
        self._wants_json = request.output_schema is not None

    def feed(self, line: bytes) -> Iterable[Event]:
        """Take one line. What is no event of a known type gives nothing."""
        event = parsed(_LINES, line)
        if self._thread and event:
            # Some milliseconds after it was named is a thread on disk; until then it cannot be resumed.
            yield RunStarted(backend_session_id=self._thread)
            self._thread = None
        match event:
            case None | TurnStarted():
                return
            case ThreadStarted():
                self._thread = event.thread_id
            case ItemStarted() | ItemUpdated():
                yield from self._going_on(event.item)
            case ItemCompleted():
                yield from self._completed(event.item)
            case TurnCompleted():
                usage = event.usage.usage - self._used if event.usage else None
                yield RunFinished(usage=usage, structured_output=self._structured())
            case TurnFailed():
                reason = failures.stop_reason(event.error.message)
                yield RunFinished(reason) if reason else failures.failed(event.error.message)
            case StreamError():
                yield from self._error(event.message)

    def closed(self, exit_code: int, stderr: bytes) -> Event:
        """Give the ending of a process that told none."""
        return failures.exited(exit_code, stderr, self._last_error)

    def complaint(self, stderr: bytes) -> str:
        """Give the last line of stderr that is no noise."""
        return last_line("\n".join(failures.said(stderr)))

    def _going_on(self, item: Item) -> Iterable[Event]:
        match item:
            case TodoList():
                yield item.progress()
            case AgentMessage() | Reasoning() | Warn():
                pass
            case _:
                yield from self._call(item)

    def _completed(self, item: Item) -> Iterable[Event]:
        match item:
            case AgentMessage():
                self._message = item.text
                yield from self._messages.say(item.id, item.text, whole=True)
            case Reasoning():
                yield from self._thoughts.think_through(item.id, item.text)
            case Warn():
                yield Progress("warning", item.message)
            case TodoList():
                yield item.progress()
            case _:
                yield from self._call(item)
                if item.id in self._called:
                    yield item.result()

    def _call(self, item: Tool) -> Iterable[Event]:
        call = item.call()
        if call and item.id not in self._called:
            self._called.add(item.id)
            self._messages.go_on()
            self._thoughts.go_on()
            yield call

    def _error(self, message: str) -> Iterable[Event]:
        """The message that ends a turn is repeated by `turn.failed`."""
        if not message.startswith(failures.RETRYING):
            self._last_error = message
        elif ending := failures.hopeless(message):
            yield ending
        else:
            self._messages.cut()
            self._thoughts.cut()
            yield Progress("retry", message)

    def _structured(self) -> object:
        return structured(self._message) if self._wants_json else None


class ExecChannel(OneShotChannel):
    """A process that serves one run: the prompt on stdin, then its lines."""

    __slots__ = ("_exec", "_instructions")

    def __init__(self, instructions: str = "") -> None:
        self._exec = ExecDecoder()
        self._instructions = instructions
        super().__init__(self._exec, _prompt)

    def start(self, run: str, request: RunRequest, resume: Resume | None) -> bytes:
        """Give the prompt, which begins as it likes: Codex has no commands or files by prefix here."""
        self._exec.expect(request, resume)
        prompt = told(request, resume, self._instructions)
        return super().start(run, msgspec.structs.replace(request, prompt=prompt), resume)


def _prompt(request: RunRequest) -> bytes:
    return request.prompt.encode()


def told(request: RunRequest, resume: Resume | None, instructions: str) -> str:
    """Give all that the model is to be told in the prompt: in a thread that goes on, its instructions too."""
    prompt = with_system_prompt(request) if resume else request.prompt
    if instructions:
        prompt = f"{instructions}\n\n{prompt}"
    return prompt if is_native(request) else with_schema(prompt, request)


def is_native(request: RunRequest) -> bool:
    """Say whether the request's schema is one that Codex can be given."""
    return request.output_schema is not None and is_strict(request.output_schema)
