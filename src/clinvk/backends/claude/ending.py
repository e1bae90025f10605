"""The ending of a Claude Code run: the `result` line as a `RunFinished` or `RunFailed`."""

from functools import partial

from msgspec.structs import replace

from clinvk.backends.claude.wire import ModelUsage, Result, TokenCounts
from clinvk.backends.shared import conversation_lost, not_logged_in
from clinvk.types import errors
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

login_message = partial(not_logged_in, "claude", LOG_IN)
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


def ending(result: Result, before: Result | None, *, error: str | None, is_asked: bool, streamed: Usage) -> Ending:
    """Return how the run ended.

    Claude Code reports a refusal or a full output limit as an error; clinvk reports a stop reason.

    Args:
        result: the result of the run.
        before: the previous result in the process, if any.
        error: the kind of failure in Claude Code's synthetic message, if any.
        is_asked: a model received the prompt. False if Claude Code ran the prompt as a slash command, or a hook blocked
            the prompt.
        streamed: the tokens reported in the model API's streams, used if Claude Code reports none, as for an
            interrupted answer.
    """
    used, cost_usd = _spent(result, before)
    used = streamed if used == Usage() else used
    if reason := _stop_reason(result, error, is_asked=is_asked):
        structured = result.structured_output
        return RunFinished(reason, usage=used, cost_usd=cost_usd, structured_output=structured, turns=result.num_turns)
    return replace(_failure(result, error), usage=used, cost_usd=cost_usd)


def _spent(result: Result, before: Result | None) -> tuple[Usage, float | None]:
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
        used = tokens(result.usage)
    return used, None if cost_usd is None else round(cost_usd, _COST_DIGITS)


def _total(models: dict[str, ModelUsage] | None) -> Usage:
    return sum(map(tokens, (models or {}).values()), Usage())


def _stop_reason(result: Result, error: str | None, *, is_asked: bool) -> StopReason | None:
    """Return the stop reason, or None if the run failed."""
    if result.subtype == "error_max_turns":
        return "max_turns"
    said_all = result.is_error and not result.subtype.startswith("error") and not _aborted(result)
    if said_all and _TOO_LONG in (error, result.api_error):
        return "max_tokens"
    return _STOP_REASONS.get(result.stop_reason, "end_turn") if is_asked and not _is_failure(result) else None


def _is_failure(result: Result) -> bool:
    return result.subtype.startswith("error") or (result.is_error and result.stop_reason != "refusal")


def _aborted(result: Result) -> bool:
    return (result.terminal_reason or "").startswith("aborted")


def _failure(result: Result, error: str | None) -> RunFailed:
    """Return the ending of a failed run, or of a prompt that no model received."""
    said = result.result or "; ".join(result.errors or ())
    if not _is_failure(result):
        why = (
            f"claude took the prompt for a command of its own and answered {repr(said) if said else 'nothing'} "
            "without asking the model; with a space before its '/' the prompt is text"
        )
        return RunFailed(errors.InvalidRequest.code, why)
    if _aborted(result):
        return RunFailed(errors.Cancelled.code, "claude was interrupted")
    if any(text.startswith(NO_CONVERSATION) for text in result.errors or ()):
        return conversation_lost("claude", said, None)
    status = result.api_error_status
    code = _CODES.get(error or "", errors.AgentFailed.code) if status is None else errors.agent_code(status)
    message = said or f"claude ended the run with {result.subtype!r}"
    return RunFailed(code, login_message(message) if code == errors.AgentUnauthenticated.code else message)


def denied(result: Result, before: Result | None) -> str:
    """Return a message about the actions denied in the turn of a result; empty if none were denied.

    Denials in `before`, the previous result in the same process, are excluded, because a version of Claude Code might
    list all denials since the start of the process.
    """
    earlier = {denial.tool_use_id for denial in (before.permission_denials if before else None) or ()}
    denials = [denial for denial in result.permission_denials or () if denial.tool_use_id not in earlier]
    names = [denial.tool_name for denial in denials if denial.tool_name]
    if not names:
        return ""
    actions = "1 action was" if len(names) == 1 else f"{len(names):,} actions were"
    tools = ", ".join(dict.fromkeys(names))
    return f"{actions} denied: {tools}; approval_mode and sandbox_mode say what is allowed"


def tokens(counts: ModelUsage | TokenCounts) -> Usage:
    """Return the usage in clinvk's form, in which cached tokens are part of the input."""
    cached = counts.cache_read_input_tokens or 0
    return Usage(
        input_tokens=(counts.input_tokens or 0) + cached + (counts.cache_creation_input_tokens or 0),
        output_tokens=counts.output_tokens or 0,
        cached_tokens=cached,
        reasoning_tokens=counts.thinking_tokens if isinstance(counts, ModelUsage) else 0,
    )
