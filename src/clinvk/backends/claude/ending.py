"""How a run of Claude Code ended: its `result` line as a `RunFinished` or `RunFailed`."""

from clinvk.backends.claude.wire import ModelCounts, Result, TokenCounts
from clinvk.errors import (
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
from clinvk.events import Ending, RunFailed, RunFinished, StopReason, Usage

NO_CONVERSATION = "No conversation found"
"""How Claude Code begins its answer to a session id that it does not know in this working directory."""

_STOP_REASONS: dict[str | None, StopReason] = {
    "max_tokens": "max_tokens",
    "model_context_window_exceeded": "max_tokens",
    "stop_sequence": "stop_sequence",
    "refusal": "refusal",
}

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


def ending(result: Result, error: str | None, asked: bool) -> Ending:
    """Say how the run ended.

    `error` is the kind of failure that Claude Code named beside its own message; `asked` is false where no model
    was asked, because Claude Code took the prompt for a command of its own or a hook stopped it.
    """
    if result.subtype == "error_max_turns":
        return _finished(result, "max_turns")
    if result.is_error or result.subtype.startswith("error"):
        return _failed(result, _code(result, error), _message(result))
    if not asked:
        said = f"{result.result!r}" if result.result else "nothing"
        why = (
            f"claude took the prompt for a command of its own and answered {said} without asking the model; "
            "with a space before its '/' the prompt is text"
        )
        return _failed(result, InvalidRequest.code, why)
    return _finished(result, _STOP_REASONS.get(result.stop_reason, "end_turn"))


def usage(result: Result) -> Usage:
    """Give the tokens of this process: those of all models, since the conversation's own may lag them or be 0."""
    counts: list[ModelCounts | TokenCounts] = [*(result.model_usage or {}).values()]
    if not counts and result.usage:
        counts.append(result.usage)
    return sum(map(_usage, counts), Usage())


def _usage(counts: ModelCounts | TokenCounts) -> Usage:
    cached = counts.cache_read_input_tokens
    return Usage(
        input_tokens=counts.input_tokens + cached + counts.cache_creation_input_tokens,
        output_tokens=counts.output_tokens,
        cached_tokens=cached,
    )


def _finished(result: Result, stop_reason: StopReason) -> RunFinished:
    return RunFinished(
        stop_reason=stop_reason,
        usage=usage(result),
        cost_usd=result.total_cost_usd,
        structured_output=result.structured_output,
        turns=result.num_turns,
    )


def _failed(result: Result, code: str, message: str) -> RunFailed:
    return RunFailed(code, message, usage=usage(result), cost_usd=result.total_cost_usd)


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


def forgotten(said: str) -> str:
    """Say that Claude Code no longer has the record of a conversation."""
    return f"claude does not know the conversation any more: {said}"


def _is_unknown(result: Result) -> bool:
    return any(text.startswith(NO_CONVERSATION) for text in result.errors or ())
