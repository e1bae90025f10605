"""The lines of `gemini -o stream-json`, as Gemini CLI 0.61.0 prints them; see tests/unit/recordings/gemini."""

import re
from collections.abc import Iterable

import msgspec
from msgspec.json import Decoder as JSONDecoder

from clinvk.backends.shared import MessageJoiner, conversation_lost, crash_ending, decode_line, not_logged_in
from clinvk.types import errors, events
from clinvk.types.text import last_line


class _Error(msgspec.Struct):
    type: str = ""
    message: str = ""


class Tokens(msgspec.Struct):
    """Token counts. The total minus input and output is the thinking."""

    total_tokens: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cached: int = 0

    @property
    def usage(self) -> events.Usage:
        """The tokens as `Usage`."""
        output = max(self.total_tokens - self.input_tokens, self.output_tokens)
        return events.Usage(self.input_tokens, output, self.cached, output - self.output_tokens)


class _Line(msgspec.Struct):
    type: str = ""
    session_id: str | None = None
    model: str | None = None
    role: str = ""
    content: str = ""
    tool_name: str = ""
    tool_id: str = ""
    parameters: dict[str, object] = {}
    status: str = ""
    output: str | None = None
    error: _Error | None = None
    severity: str = ""
    message: str = ""
    stats: Tokens | None = None


class _Status(msgspec.Struct):
    code: int | None = None
    message: str = ""


class _APIError(msgspec.Struct):
    error: _Status


_LINE = JSONDecoder(_Line)
_API_ERROR = JSONDecoder(_APIError)

_STOPS: dict[str, events.StopReason] = {
    "Maximum session turns exceeded": "max_turns",
    "Model response was truncated because it exceeded the token limit.": "max_tokens",
    "The model response was blocked due to": "refusal",
}
"""Message prefixes with which the CLI reports an end that is not a failure of the agent."""

NO_LOGIN_EXIT = 41
LOG_IN = "run gemini once in a terminal, or set GEMINI_API_KEY"
"""The remedy for a missing login."""

LOOP_DETECTED = "Loop detected, stopping execution"
"""A warning, after which the CLI stops asking the model and reports success."""

NO_ANSWER = "gemini reported success without an answer: a hook stopped it, or the prompt is too long for the model"
"""The CLI reports neither cause. An empty answer from the model is an error of the CLI."""

_WRAPPED = re.compile(r"\[API Error: (.*)\](.*)", re.DOTALL)
_STATUSES = {status & 255: status for status in (*range(400, 432), 451, *range(500, 512), 529)}
"""HTTP statuses by exit code. The CLI exits with the HTTP status of the model API, and the operating system keeps the
low eight bits: 401 becomes 145.

Other readers would take such an exit code for a signal, so clinvk reports exit code 1.
"""

_EXITS = {
    NO_LOGIN_EXIT: errors.AgentUnauthenticated.code,
    42: errors.InvalidRequest.code,
    44: errors.AgentFailed.code,
    52: errors.AgentFailed.code,
    54: errors.AgentFailed.code,
    55: errors.AgentRejected.code,
    130: errors.Cancelled.code,
}

_NOISE = re.compile(
    r"""\s*(
        $ | Warning: | \[STARTUP\] | Ripgrep\ is\ not\ available | YOLO\ mode\ is\ enabled
        | Approval\ mode\ overridden | The\ 'metricReader' | Error\ executing\ tool | Attempt\ \d+\ failed
        | Ignore\ file\ not\ found | at\ .*[:(] | Search(ed)?\ for\ sessions\ in | Use\ --list-sessions | [{}\]]
    )""",
    re.VERBOSE,
)
_RETRY = re.compile(r"Attempt \d+ failed")
"""A retry line: noise after the end, because the ending states the cause, but the only sign of trouble during a run."""

_UNKNOWN_CONVERSATION = ("Error resuming session", "Error importing session")
_REPORT = re.compile(r" Full report available at: \S+")


class GeminiDecoder:
    """Turn the lines of one run into events."""

    def __init__(self) -> None:
        self._prose = MessageJoiner(events.TextDelta)
        self._stop: events.StopReason = "end_turn"
        self._last_warning = ""
        self._answered = False
        self._loop = ""
        self._failure: events.RunFailed | None = None

    def feed(self, line: bytes) -> Iterable[events.Event]:
        """Yield the events of one line. Skip a line that is not a JSON object or has an unknown type."""
        event = decode_line(_LINE, line)
        if event is None:
            return
        match event.type:
            case "init":
                yield events.RunStarted(event.model, event.session_id)
            case "message" if event.role == "assistant":
                self._answered = True
                yield from self._prose.write(event.content)
            case "tool_use":
                self._answered = True
                self._prose.end_message()
                yield events.ToolCall(event.tool_id, event.tool_name, event.parameters)
            case "tool_result":
                self._prose.end_message()
                yield _tool_result(event)
            case "error":
                self._note(event)
                yield events.Progress("warning", event.message)
            case "result":
                if ending := self._ending(event):
                    yield ending
            case _:
                pass

    def closed(self, exit_code: int, stderr: bytes) -> events.Ending:
        """Return the ending of a run whose lines reported no ending or a failure.

        The exit code may show the cause of the failure.
        """
        if failure := self._failure:
            status = _STATUSES.get(exit_code)
            code = errors.agent_code(status) if failure.code == errors.AgentFailed.code else failure.code
            return failed(code, failure.message, 1 if status else exit_code, failure.usage)
        text = readable(stderr.decode(errors="replace"))
        if exit_code in _EXITS and text:
            if exit_code == 42 and text.startswith(_UNKNOWN_CONVERSATION):
                return conversation_lost("gemini", text, exit_code)
            return failed(_EXITS[exit_code], text, exit_code)
        return crash_ending("gemini", exit_code, text.encode())

    def stderr_message(self, stderr: bytes) -> str:
        """Return the last line of stderr that is neither noise nor an indented part of a dumped error."""
        lines = _REPORT.sub(":", stderr.decode(errors="replace")).splitlines()
        text = (line for line in lines if _RETRY.match(line) or not (line[:1].isspace() or _NOISE.match(line)))
        return last_line("\n".join(text))

    def _note(self, event: _Line) -> None:
        if event.message == LOOP_DETECTED:
            self._loop = event.message
        self._last_warning = event.message
        if event.severity == "error":
            for begin, stop in _STOPS.items():
                if event.message.startswith(begin):
                    self._stop = stop

    def _ending(self, event: _Line) -> events.Ending | None:
        usage = event.stats.usage if event.stats and event.stats.total_tokens else None
        error = event.error or _Error()
        if error.type == "FatalTurnLimitedError":
            return events.RunFinished("max_turns", usage)
        if self._loop:
            return events.RunFailed(errors.AgentFailed.code, self._loop, usage=usage)
        if not event.error and (self._stop != "end_turn" or (event.status == "success" and self._answered)):
            return events.RunFinished(self._stop, usage)
        if event.status == "success":
            return events.RunFailed(errors.AgentFailed.code, self._last_warning or NO_ANSWER, usage=usage)
        status, message = cause(error.message or self._last_warning or "gemini reported a failure and no reason")
        self._failure = events.RunFailed(errors.agent_code(status), message, usage=usage)
        return None


def _tool_result(event: _Line) -> events.ToolResult:
    error = event.error.message if event.error else ""
    return events.ToolResult(event.tool_id, event.output or error, event.status == "error")


def cause(message: str) -> tuple[int | None, str]:
    """Return the HTTP status and the readable text of an error message, which may nest JSON in JSON."""
    wrapped = _WRAPPED.fullmatch(message)
    inner, advice = wrapped.groups() if wrapped else (message, "")
    status = None
    while error := _api_error(inner):
        status, inner = error.code or status, error.message
    return status, inner + advice


def failed(code: str, message: str, exit_code: int, usage: events.Usage | None = None) -> events.RunFailed:
    """Return the ending of a failure. The message of a login failure includes the remedy.

    Without a login, the CLI's own message names clinvk's temporary settings file, so it is left out.
    """
    if exit_code == NO_LOGIN_EXIT:
        message = f"gemini is not logged in: {LOG_IN}"
    elif code == errors.AgentUnauthenticated.code:
        message = not_logged_in("gemini", LOG_IN, message)
    return events.RunFailed(code, message, exit_code, usage)


def _api_error(text: str) -> _Status | None:
    decoded = decode_line(_API_ERROR, text.encode(errors="replace"))
    return decoded.error if decoded and decoded.error.message else None


def readable(stderr: str) -> str:
    """Return the last three lines of stderr, without the CLI's usual noise, stack traces and help text."""
    text, _, _ = stderr.partition("\nUsage: gemini")
    lines = (_REPORT.sub(":", line).strip() for line in text.splitlines() if not _NOISE.match(line))
    return "\n".join(list(lines)[-3:])
