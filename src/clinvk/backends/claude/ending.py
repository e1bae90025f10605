"""The ending of a Claude Code run: the `result` line as a `RunFinished` or `RunFailed`."""

from msgspec.structs import replace

from clinvk.backends.claude.wire import ModelCounts, Result, TokenCounts
from clinvk.types.errors import (
    AgentFailed,
    AgentOverloaded,
    AgentRateLimited,
    AgentRejected,
    AgentUnauthenticated,
    AgentUnpaid,
    Cancelled,
    InvalidRequest,
    SessionNotFound,
    agent_code,
)
from clinvk.types.events import Ending, RunFailed, RunFinished, StopReason, Usage

NO_CONVERSATION = "No conversation found"
"""The first words of Claude Code's error for a session id that is unknown in the working directory."""

_STOP_REASONS: dict[str | None, StopReason] = {
    "max_tokens": "max_tokens",
    "model_context_window_exceeded": "max_tokens",
    "stop_sequence": "stop_sequence",
    "refusal": "refusal",
}

LOG_IN = "run claude and /login, or set ANTHROPIC_API_KEY"
"""The remedy if Claude Code is not logged in."""

_COST_DIGITS = 8

_TOO_LONG = "max_output_tokens"
"""Claude Code's error if the model reached the output limit in its answer and in every attempt to continue."""

_CODES = {
    "authentication_failed": AgentUnauthenticated.code,
    "oauth_org_not_allowed": AgentUnauthenticated.code,
    "billing_error": AgentUnpaid.code,
    "rate_limit": AgentRateLimited.code,
    "invalid_request": AgentRejected.code,
    "model_not_found": AgentRejected.code,
    "overloaded": AgentOverloaded.code,
    "server_error": AgentOverloaded.code,
}


def ending(result: Result, error: str | None, asked: bool, streamed: Usage) -> Ending:
    """Return how the run ended.

    Claude Code reports a refusal or a full output limit as an error; clinvk reports a stop reason.

    Args:
        result: the result with the costs of this turn only.
        error: the kind of failure in Claude Code's synthetic message, if any.
        asked: whether a model received the prompt. False if Claude Code ran the prompt as a slash command, or a hook
            blocked the prompt.
        streamed: the tokens reported in the model API's streams, used if Claude Code reports none, as for an
            interrupted answer.
    """
    used = usage(result)
    if used == Usage():
        used = streamed
    if result.subtype == "error_max_turns":
        return _finished(result, "max_turns", used)
    said_all = result.is_error and not result.subtype.startswith("error") and not _aborted(result)
    if said_all and _TOO_LONG in (error, result.api_error):
        return _finished(result, "max_tokens", used)
    if result.subtype.startswith("error") or (result.is_error and result.stop_reason != "refusal"):
        return _failed(result, _code(result, error), _message(result), used)
    if not asked:
        said = f"{result.result!r}" if result.result else "nothing"
        why = (
            f"claude took the prompt for a command of its own and answered {said} without asking the model; "
            "with a space before its '/' the prompt is text"
        )
        return _failed(result, InvalidRequest.code, why, used)
    return _finished(result, _STOP_REASONS.get(result.stop_reason, "end_turn"), used)


def usage(result: Result) -> Usage:
    """Return the tokens of all models in this process. The counts of the main conversation may lag behind or be 0."""
    counts: list[ModelCounts | TokenCounts] = [*(result.model_usage or {}).values()]
    if not counts and result.usage:
        counts.append(result.usage)
    return sum(map(tokens, counts), Usage())


def own(result: Result, before: Result | None) -> Result:
    """Return a result with only the costs and tokens of its own turn.

    2.1.332 counts from the beginning of the conversation, across processes, and separately reports the counts since the
    last result. 2.1.197 counts from the start of the process; `before` is the previous result in the process.
    """
    used = result.model_usage_since_last_result
    if used is None:
        return _since(result, before) if before else result
    cost = sum((counts.cost_usd for counts in used.values()), 0.0)
    return replace(result, total_cost_usd=cost, model_usage=used)


def _since(result: Result, before: Result) -> Result:
    """Return a result minus the costs and tokens of the previous result in the same process."""
    cost = None if result.total_cost_usd is None else max(0.0, result.total_cost_usd - (before.total_cost_usd or 0.0))
    counted = before.model_usage or {}
    used = {
        name: _less(counts, counted.get(name, ModelCounts())) for name, counts in (result.model_usage or {}).items()
    }
    return replace(result, total_cost_usd=cost, model_usage=used)


def _less(counts: ModelCounts, before: ModelCounts) -> ModelCounts:
    return ModelCounts(
        counts.input_tokens - before.input_tokens,
        counts.output_tokens - before.output_tokens,
        counts.cache_read_input_tokens - before.cache_read_input_tokens,
        counts.cache_creation_input_tokens - before.cache_creation_input_tokens,
        counts.thinking_tokens - before.thinking_tokens,
    )


def denied(result: Result, before: Result | None) -> str:
    """Return a message about the actions denied in the turn of a result; empty if none were denied.

    Denials in `before`, the previous result in the same process, are excluded, because a version of Claude Code might
    list all denials since the start of the process.
    """
    told = {denial.tool_use_id for denial in (before.permission_denials if before else None) or ()}
    denials = [denial for denial in result.permission_denials or () if denial.tool_use_id not in told]
    names = [denial.tool_name for denial in denials if denial.tool_name]
    if not names:
        return ""
    actions = "1 action was" if len(names) == 1 else f"{len(names):,} actions were"
    tools = ", ".join(dict.fromkeys(names))
    return f"{actions} denied: {tools}; approval_mode and sandbox_mode say what is allowed"


def tokens(counts: ModelCounts | TokenCounts) -> Usage:
    """Return the usage in clinvk's form, in which cached tokens are part of the input."""
    cached = counts.cache_read_input_tokens or 0
    return Usage(
        input_tokens=(counts.input_tokens or 0) + cached + (counts.cache_creation_input_tokens or 0),
        output_tokens=counts.output_tokens or 0,
        cached_tokens=cached,
        reasoning_tokens=counts.thinking_tokens if isinstance(counts, ModelCounts) else 0,
    )


def _finished(result: Result, stop_reason: StopReason, used: Usage) -> RunFinished:
    return RunFinished(
        stop_reason=stop_reason,
        usage=used,
        cost_usd=_cost_usd(result),
        structured_output=result.structured_output,
        turns=result.num_turns,
    )


def _failed(result: Result, code: str, message: str, used: Usage) -> RunFailed:
    if code == AgentUnauthenticated.code:
        message = not_logged_in(message)
    return RunFailed(code, message, usage=used, cost_usd=_cost_usd(result))


def _cost_usd(result: Result) -> float | None:
    """Return the cost without the rounding error of binary numbers."""
    return None if result.total_cost_usd is None else round(result.total_cost_usd, _COST_DIGITS)


def _aborted(result: Result) -> bool:
    return (result.terminal_reason or "").startswith("aborted")


def _code(result: Result, error: str | None) -> str:
    if _aborted(result):
        return Cancelled.code
    if _is_unknown(result):
        return SessionNotFound.code
    if result.api_error_status is not None:
        return agent_code(result.api_error_status)
    return _CODES.get(error or "", AgentFailed.code)


def _message(result: Result) -> str:
    if _aborted(result):
        return "claude was interrupted"
    said = result.result or "; ".join(result.errors or ())
    return forgotten(said) if _is_unknown(result) else said or f"claude ended the run with {result.subtype!r}"


def not_logged_in(said: str) -> str:
    """Return the message for a missing login, or a login that the model API refuses, with the remedy."""
    return f"claude is not logged in, or not allowed ({LOG_IN}): {said}"


def forgotten(said: str) -> str:
    """Return the message for a conversation of which Claude Code no longer has the record."""
    return f"claude does not know the conversation any more: {said}"


def _is_unknown(result: Result) -> bool:
    return any(text.startswith(NO_CONVERSATION) for text in result.errors or ())
