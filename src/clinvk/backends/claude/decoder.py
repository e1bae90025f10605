"""Decodes the lines of `claude -p` (wire.py) into events.

Text and thinking come from the pieces that the model API streamed. Claude Code then repeats each block in full, and
only the text missing from the pieces is added (shared.py). Messages of sub-agents are not part of the answer. Claude
Code's synthetic messages are held back until the result shows whether the text is the answer, or the reason for a
failure or refusal.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from types import MappingProxyType

import msgspec
from msgspec.structs import replace

from clinvk.backends import shared
from clinvk.backends.base import Report
from clinvk.backends.claude import wire
from clinvk.types import errors, events

_SYNTHETIC = "<synthetic>"
_ANSWER_TOOL = "StructuredOutput"
"""The tool with which the model answers a JSON schema; the input of the call is `Result.structured_output`."""

_PLAN_TOOL = "TodoWrite"
"""The tool whose input has the whole plan."""

_UNPROMPTED = ("task-notification", "peer")
"""Origins of turns that no prompt began: a background task, or another session of the user."""

NO_CONVERSATION = "No conversation found"
"""The first words of Claude Code's error for a session id that is unknown in the working directory."""

_STOP_REASONS: dict[str | None, events.StopReason] = {
    "max_tokens": "max_tokens",
    "model_context_window_exceeded": "max_tokens",
    "stop_sequence": "stop_sequence",
    "refusal": "refusal",
}

_LIMITS: dict[str, events.StopReason] = {"error_max_turns": "max_turns", "error_max_budget_usd": "max_budget"}

LOG_IN = "run claude and /login, or set ANTHROPIC_API_KEY"
"""The remedy if Claude Code is not logged in."""

login_message = partial(shared.not_logged_in, "claude", LOG_IN)
"""Return the message for a missing or refused login."""

_COST_DIGITS = 8

_TOO_LONG = "max_output_tokens"
"""Claude Code's error if the model reached the output limit in its answer and in every attempt to continue."""

_CODES = {
    "authentication_failed": errors.AgentUnauthenticated.code,
    "oauth_org_not_allowed": errors.AgentUnauthenticated.code,
    "billing_error": errors.AgentUnpaid.code,
    "rate_limit": errors.AgentRateLimited.code,
    "invalid_request": errors.AgentRejected.code,
    "model_not_found": errors.AgentRejected.code,
    "overloaded": errors.AgentOverloaded.code,
    "server_error": errors.AgentOverloaded.code,
}


class ClaudeDecoder(shared.Decoder):
    """The decoder of one prompt.

    `before` is the previous result in the same process, whose costs are included in the next result. `client_tools` are
    the client's names of the tools that the client executes, by Claude Code's. `asked` are the ids of the tool calls
    that the user was asked about.

    Attributes:
        asks_client: the ids of the calls of client tools in the latest complete message.
        usage: the tokens of all messages so far.
    """

    def __init__(
        self,
        before: wire.Result | None = None,
        warning: str = "",
        client_tools: Mapping[str, str] = MappingProxyType({}),
        asked: Collection[str] = (),
    ) -> None:
        self.result: wire.Result | None = None
        self.asks_client: frozenset[str] = frozenset()
        self._client_tools = client_tools
        self._asked = asked
        self._client_calls: set[str] = set()
        self._before = before
        self._warning = warning
        self._started = False
        self._compacted = False
        self._answer = shared.MessageJoiner(events.TextDelta)
        self._thoughts = shared.MessageJoiner(events.ThinkingDelta)
        self._text = shared.TextDeduplicator()
        self._thinking = shared.TextDeduplicator()
        self._message_id = ""
        self._open_block = wire.Delta()
        self._cut = False
        self._calls: set[str] = set()
        self._open_calls: set[str] = set()
        self._synthetic: list[str] = []
        self._error: str | None = None
        self._model = ""
        self._context = events.Usage()
        self.usage = events.Usage()
        self._subagents = events.Usage()
        self._subagent_messages: set[str] = set()

    def feed(self, line: bytes) -> Iterable[Report]:  # noqa: PLR0911 - one line for each type
        """Decode one line; the events may include the ending."""
        parsed = wire.read(line)
        if parsed is None:
            return ()
        if parsed.parent_tool_use_id is not None:
            return self._subagent(parsed)
        match parsed:
            case wire.StreamEvent():
                return self._stream(parsed.event)
            case wire.Assistant():
                return self._assistant(parsed)
            case wire.User():
                return self._user(parsed)
            case wire.System():
                return self._system(parsed)
            case wire.RateLimitEvent():
                return parsed.rate_limit_info.windows()
            case wire.Result():
                return self._result(parsed)

    def closed(self, exit_code: int, stderr: bytes) -> events.Event:
        """Return the ending of a process that exited without a result, with the tokens of the model API's streams.

        An interrupted process sometimes exits before reporting a result.
        """
        said = stderr.decode(errors="replace").strip()
        if said.startswith(NO_CONVERSATION):
            return shared.conversation_lost("claude", said, exit_code)
        failed = shared.crash_ending("claude", exit_code, stderr)
        return failed if self.usage == events.Usage() else replace(failed, usage=self.usage)

    def _system(self, line: wire.System) -> Iterator[events.Event]:
        match line.subtype:
            case "init" if not self._started:
                self._started = True
                self._model = line.model or ""
                yield events.RunStarted(line.model, line.session_id, line.prompts)
                if self._warning:
                    yield events.Progress("hint", self._warning)
            case "api_retry":
                yield _retry(line)
            case "compact_boundary":
                self._compacted = True
                yield events.Progress("warning", "claude summarized the conversation so far")
            case _:
                pass

    def _stream(self, part: wire.StreamPart) -> Iterator[Report]:
        match part.type:
            case "message_start":
                self._begin(part.message.id)
                self._cut = True
                self._context = replace(wire.tokens(part.message.usage), output_tokens=0)
                self.usage += self._context
                yield self.usage + self._subagents
            case "message_delta":
                self._cut = False
                answer = events.Usage(output_tokens=wire.tokens(part.usage).output_tokens)
                self._context += answer
                self.usage += answer
                yield self.usage + self._subagents
            case "message_stop":
                self.asks_client = frozenset(self._client_calls)
            case "content_block_start":
                self._open_block = part.content_block
                if block := {"text": self._text, "thinking": self._thinking}.get(part.content_block.type):
                    block.open_block()
                if part.content_block.type != "text" and not self._text.is_repeating:
                    self._answer.end_message()  # text, thinking, text: two paragraphs
            case "content_block_delta" if part.delta.type == "text_delta":
                yield from self._answer.add(self._text.piece(part.delta.text))
            case "content_block_delta" if part.delta.type == "thinking_delta":
                yield from self._thoughts.add(self._thinking.piece(part.delta.thinking))
            case "content_block_delta" if part.delta.partial_json and self._open_block.name in self._client_tools:
                name = self._client_tools[self._open_block.name]
                yield events.ToolCallDelta(self._open_block.id, name, part.delta.partial_json)
            case _:
                pass

    def _subagent(self, line: wire.Line) -> Iterator[Report]:
        """Count a message of a sub-agent, of which Claude Code reports the input tokens but not all output tokens."""
        if isinstance(line, wire.Assistant) and line.message.id not in self._subagent_messages:
            self._subagent_messages.add(line.message.id)
            self._subagents += wire.tokens(line.message.usage)
            yield self.usage + self._subagents

    def _begin(self, message_id: str) -> None:
        """Begin a message. After an interrupted stream, the message repeats the previous one under another id."""
        if not self._cut:
            self._answer.end_message()
            self._thoughts.end_message()
        self._text.begin(again=self._cut)
        self._thinking.begin(again=self._cut)
        self._message_id = message_id
        self._client_calls = set()
        self._cut = False

    def _assistant(self, line: wire.Assistant) -> Iterator[events.Event]:
        message = line.message
        if message.model == _SYNTHETIC:
            self._synthetic += [block.text for block in message.content if block.type == "text"]
            self._error = line.error or self._error
            return
        if message.id != self._message_id:
            self._begin(message.id)
            self.usage += wire.tokens(message.usage) if message.stop_reason else events.Usage()
        for block in message.content:
            match block.type:
                case "text":
                    yield from self._answer.add(self._text.block(block.text))
                case "thinking":
                    yield from self._thoughts.add(self._thinking.block(block.thinking))
                case "tool_use":
                    yield from self._call(block)
                case _:
                    pass
        if message.stop_reason:
            self.asks_client = frozenset(self._client_calls)

    def _call(self, block: wire.Block) -> Iterator[events.Event]:
        if block.name == _ANSWER_TOOL or block.id in self._calls:
            return
        self._calls.add(block.id)
        self._open_calls.add(block.id)
        for_client = block.name in self._client_tools
        if for_client:
            self._client_calls.add(block.id)
        yield events.ToolCall(block.id, self._client_tools.get(block.name, block.name), block.input, for_client)
        if block.name == _PLAN_TOOL:
            with suppress(msgspec.ValidationError):
                todos = msgspec.convert(block.input.get("todos"), tuple[wire.Todo, ...])
                yield events.plan(events.PlanStep(todo.content, todo.status) for todo in todos)

    def _user(self, line: wire.User) -> Iterator[events.Event]:
        blocks = () if isinstance(line.message.content, str) else line.message.content
        for block in blocks:
            if block.tool_use_id in self._open_calls:
                self._open_calls.discard(block.tool_use_id)
                yield events.ToolResult(block.tool_use_id, _output(block.content), block.is_error or False)

    def _result(self, line: wire.Result) -> Iterator[events.Event]:
        if line.origin and line.origin.kind in _UNPROMPTED:
            self._before = line
            return
        for denial in line.permission_denials or ():
            if denial.tool_use_id in self._open_calls:
                self._open_calls.discard(denial.tool_use_id)
                yield events.ToolResult(denial.tool_use_id, "not permitted", is_error=True)
        self.result = line
        reached_model = line.num_turns != 0 or self._compacted
        end = ending(line, self._before, error=self._error, reached_model=reached_model, streamed=self.usage)
        if isinstance(end, events.RunFinished) and end.stop_reason in ("refusal", "max_tokens"):
            # A synthetic message is not part of the answer.
            yield from (events.Progress("warning", text) for text in self._synthetic)
        elif isinstance(end, events.RunFinished):
            yield from self._final_text(line)
        if denials := denied(line, self._before, self._asked):
            yield denials
        size = (line.model_usage or {}).get(self._model, wire.ModelUsage()).context_window
        if isinstance(end, events.RunFinished) and size and (used := self._context.total_tokens):
            end = replace(end, context=events.Context(used, size))
        yield end

    def _final_text(self, line: wire.Result) -> Iterator[events.Event]:
        """Yield Claude Code's synthetic messages, or the result if the model sent no text (as with a JSON schema)."""
        texts = self._synthetic
        if not texts and not self._answer.has_text and line.result:
            texts = [line.result]
        for text in texts:
            self._answer.end_message()
            yield from self._answer.write(text)


def _retry(line: wire.System) -> events.Event:
    """Return a retry event for the model API, or a failure for a refused login, since a retry would fail too."""
    answered = f"the model API answered {line.error_status}" if line.error_status else "the model API is out of reach"
    why = f"{answered} ({line.error})" if line.error else answered
    if line.error_status in (401, 403):
        return events.RunFailed(errors.AgentUnauthenticated.code, login_message(why), exit_code=1)
    return events.Progress(
        "retry", f"{why}; retry {line.attempt} of {line.max_retries} in {line.retry_delay_ms / 1000:.1f} s"
    )


def _output(content: str | list[wire.Part] | None) -> str:
    if isinstance(content, list):
        return "\n".join(part.text or f"[{part.type}]" for part in content)
    return content or ""


def ending(
    result: wire.Result, before: wire.Result | None, *, error: str | None, reached_model: bool, streamed: events.Usage
) -> events.Ending:
    """Return how the run ended.

    Claude Code reports a refusal or a full output limit as an error; clinvk reports a stop reason.

    Args:
        result: the result of the run.
        before: the previous result in the process, if any.
        error: the kind of failure in Claude Code's synthetic message, if any.
        reached_model: a model received the prompt. False if Claude Code ran the prompt as a slash command, or a hook
            blocked the prompt.
        streamed: the tokens reported in the model API's streams, used if Claude Code reports none, as for an
            interrupted answer.
    """
    used, cost_usd = _spent(result, before)
    used = streamed if used == events.Usage() else used
    if reason := _stop_reason(result, error, reached_model=reached_model):
        structured = result.structured_output
        return events.RunFinished(
            reason, usage=used, cost_usd=cost_usd, structured_output=structured, turns=result.num_turns
        )
    return replace(_failure(result, error), usage=used, cost_usd=cost_usd)


def _spent(result: wire.Result, before: wire.Result | None) -> tuple[events.Usage, float | None]:
    """Return the tokens and the cost of the turn of a result.

    2.1.332 counts from the beginning of the conversation, across processes, and separately reports the counts since the
    last result. 2.1.197 counts from the start of the process; `before` is the previous result in the process. The
    counts of the main conversation (`usage`) may lag behind or be 0.
    """
    models = result.model_usage_since_last_result
    if models is not None:
        cost_usd = sum((counts.cost_usd for counts in models.values()), 0.0)
        used = _total(models)
    else:
        models, cost_usd = result.model_usage, result.total_cost_usd
        used = _total(models) - _total(before.model_usage if before else None)
        if before and cost_usd is not None:
            cost_usd = max(0.0, cost_usd - (before.total_cost_usd or 0.0))
    if not models and result.usage:
        used = wire.tokens(result.usage)
    return used, None if cost_usd is None else round(cost_usd, _COST_DIGITS)


def _total(models: dict[str, wire.ModelUsage] | None) -> events.Usage:
    return sum(map(wire.tokens, (models or {}).values()), events.Usage())


def _stop_reason(result: wire.Result, error: str | None, *, reached_model: bool) -> events.StopReason | None:
    """Return the stop reason, or None if the run failed."""
    if reason := _LIMITS.get(result.subtype):
        return reason
    is_limit = result.is_error and not result.subtype.startswith("error") and not _aborted(result)
    if is_limit and _TOO_LONG in (error, result.api_error):
        return "max_tokens"
    return _STOP_REASONS.get(result.stop_reason, "end_turn") if reached_model and not _is_failure(result) else None


def _is_failure(result: wire.Result) -> bool:
    return result.subtype.startswith("error") or (result.is_error and result.stop_reason != "refusal")


def _aborted(result: wire.Result) -> bool:
    return (result.terminal_reason or "").startswith("aborted")


def _failure(result: wire.Result, error: str | None) -> events.RunFailed:
    """Return the ending of a failed run, or of a prompt that no model received."""
    said = result.result or "; ".join(result.errors or ())
    if not _is_failure(result):
        why = (
            f"claude took the prompt for a command of its own and answered {repr(said) if said else 'nothing'} "
            "without asking the model; with a space before its '/' the prompt is text"
        )
        return events.RunFailed(errors.InvalidRequest.code, why)
    if _aborted(result):
        return events.RunFailed(errors.Cancelled.code, "claude was interrupted")
    if any(text.startswith(NO_CONVERSATION) for text in result.errors or ()):
        return shared.conversation_lost("claude", said, None)
    status = result.api_error_status
    code = _CODES.get(error or "", errors.AgentFailed.code) if status is None else errors.agent_code(status)
    message = said or f"claude ended the run with {result.subtype!r}"
    return events.RunFailed(code, login_message(message) if code == errors.AgentUnauthenticated.code else message)


_MODES = "approval_mode and sandbox_mode say what is allowed"


def denied(result: wire.Result, before: wire.Result | None, asked: Collection[str] = ()) -> events.Progress | None:
    """Return the report about the actions denied in the turn of a result, or None if none were denied.

    Denials in `before`, the previous result in the same process, are excluded, because a version of Claude Code might
    list all denials since the start of the process. The advice names the modes unless all actions were `asked` about.
    """
    earlier = {denial.tool_use_id for denial in (before.permission_denials if before else None) or ()}
    denials = [denial for denial in result.permission_denials or () if denial.tool_use_id not in earlier]
    actions = [denial.action for denial in denials if denial.tool_name]
    if not actions:
        return None
    count = "1 action was" if len(actions) == 1 else f"{len(actions):,} actions were"
    is_answer = all(denial.tool_use_id in asked for denial in denials)
    message = f"{count} denied: {', '.join(dict.fromkeys(actions))}"
    return events.Progress("denied", message, advice="" if is_answer else _MODES)
