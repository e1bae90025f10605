"""Every error that clinvk raises or reports.

A failure before the agent starts is raised. A failure that ends a started run travels as `RunFailed`, whose `code` is
the `code` of one of these classes.
"""

import errno
from collections.abc import Generator
from contextlib import contextmanager
from typing import ClassVar

_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS)
_MAX_CAUSES = 10


class ClinvkError(Exception):
    """Something failed inside clinvk; its log says what. This is the root of the tree.

    `message` is one sentence: what failed, the value, what is allowed. `field` is the place in the body, e.g.
    `tasks[2].prompt`. `retry_after_s` is the time until a retry makes sense, 0 if a retry does not help.
    `may_have_acted` says that an agent may have acted, so that a client must not repeat the request automatically.
    """

    code: ClassVar[str] = "internal_error"
    field: str | None = None
    retry_after_s: float = 0
    may_have_acted: bool = False

    def __init__(self, message: str, field: str | None = None, *, retry_after_s: float = 0) -> None:
        super().__init__(message)
        self.message = message
        self.field = field or self.field
        self.retry_after_s = retry_after_s or self.retry_after_s


class InvalidRequest(ClinvkError):
    """The request cannot be run as it was asked."""

    code = "invalid_request"


class NoSuchPath(InvalidRequest):
    """Nothing is served under the path of the request."""

    code = "not_found"


class MethodNotAllowed(InvalidRequest):
    """The path is served, but not with this method."""

    code = "method_not_allowed"


class BodyTooLarge(InvalidRequest):
    """The body has more bytes than `server.max_request_body_bytes`."""

    code = "body_too_large"


class BodyTooSlow(InvalidRequest):
    """The body was not there within `server.read_timeout_secs`."""

    code = "body_too_slow"


class WrongMediaType(InvalidRequest):
    """The body does not say that it is JSON, as a form on a foreign web page would not."""

    code = "unsupported_media_type"


class KeyRefused(InvalidRequest):
    """API keys are asked for, and the request carries none of them."""

    code = "unauthorized"


class ForeignOrigin(InvalidRequest):
    """A web page of another origin made its browser send the request."""

    code = "foreign_origin"


class HostRefused(InvalidRequest):
    """The header `host` names another server: a web page may have given its own name this address."""

    code = "host_refused"


class DirectoryNotAllowed(InvalidRequest):
    """The settings, or the limits of the API key, keep agents out of the directory."""

    code = "directory_not_allowed"


class BackendNotAllowed(InvalidRequest):
    """The policy of the server, or the API key, allows other backends only."""

    code = "backend_not_allowed"


class BeyondPolicy(InvalidRequest):
    """The request asks for more than the policy of the server allows."""

    code = "beyond_policy"


class RateLimited(InvalidRequest):
    """The client has sent too many requests."""

    code = "rate_limited"


class BudgetSpent(RateLimited):
    """The API key has used up its tokens or dollars of the day."""

    code = "budget_spent"


class Unsupported(InvalidRequest):
    """An approval, sandbox, tool or directory rule that the backend's CLI cannot honour."""

    code = "unsupported_option"


class NotCancellable(InvalidRequest):
    """The run has ended, or belongs to another clinvk process."""

    code = "run_not_cancellable"


class PreviousNotFound(InvalidRequest):
    """No run that can be continued has this id."""

    code = "previous_response_not_found"


class AgentCannotAnswer(InvalidRequest):
    """The answer to an interaction comes from a process of an agent."""

    code = "agent_cannot_answer"


class InteractionAnswered(InvalidRequest):
    """The interaction was answered before."""

    code = "interaction_answered"


class InteractionEnded(InvalidRequest):
    """The interaction has expired, or its run no longer waits for the answer."""

    code = "interaction_ended"


class ConfigError(ClinvkError):
    """The settings are invalid, or ask for a protection that cannot be given."""

    code = "invalid_config"


class BackendUnavailable(ClinvkError):
    """The backend is unknown, disabled, or its CLI is not installed."""

    code = "backend_unavailable"
    field = "backend"


class ModelNotFound(BackendUnavailable):
    """The model is one of a backend that does not exist."""

    code = "model_not_found"


class SessionError(ClinvkError):
    """A session cannot be used as it was asked."""

    code = "session_error"
    field = "session_id"


class SessionNotFound(SessionError):
    """No session has this id, or the agent no longer knows the conversation."""

    code = "session_not_found"


class SessionBusy(SessionError):
    """Another run of the session is under way."""

    code = "session_busy"


class NotResumable(SessionError):
    """The session has no conversation that its agent can resume."""

    code = "session_not_resumable"


class RunNotFound(ClinvkError):
    """No run has this id."""

    code = "run_not_found"


class AmbiguousId(ClinvkError):
    """Several ids begin with the prefix that was given; `candidates` are some of them."""

    code = "ambiguous_id"
    candidates: tuple[str, ...] = ()

    def __init__(self, message: str, field: str | None = None, *, candidates: tuple[str, ...] = ()) -> None:
        super().__init__(message, field)
        self.candidates = candidates


class InteractionNotFound(ClinvkError):
    """No interaction has this id."""

    code = "interaction_not_found"


class WorktreeNotFound(ClinvkError):
    """No worktree has this id."""

    code = "worktree_not_found"


class StoreUnavailable(ClinvkError):
    """The store of sessions cannot be used: read-only, full, damaged, or written by a newer clinvk."""

    code = "store_unavailable"
    retry_after_s = 5


class ResourcesExhausted(ClinvkError):
    """The machine has no file descriptor, process or memory left for the request; try again later."""

    code = "resources_exhausted"
    retry_after_s = 5


class QueueFull(ClinvkError):
    """All slots are taken and so are all places in the queue."""

    code = "queue_full"


class ShuttingDown(ClinvkError):
    """The server is stopping and takes no new runs."""

    code = "shutting_down"
    retry_after_s = 5


class NodeUnavailable(ClinvkError):
    """The node of the cluster that has the session or the run is away, or no node can run the request."""

    code = "node_unavailable"
    retry_after_s = 5


class TimedOut(ClinvkError):
    """The run passed its deadline, or made no progress for too long."""

    code = "timed_out"


class Cancelled(ClinvkError):
    """The run was ended by its client or by the user."""

    code = "cancelled"
    DEFAULT_MESSAGE: ClassVar[str] = "the run was cancelled"


class Interrupted(ClinvkError):
    """The clinvk process of the run ended while the run was under way."""

    code = "interrupted"


class AgentFailed(ClinvkError):
    """The agent ran and reported a failure."""

    code = "agent_failed"


class AgentUnauthenticated(AgentFailed):
    """The agent has no valid login for its model API."""

    code = "agent_unauthenticated"


class AgentRateLimited(AgentFailed):
    """The agent's model API refused for too many requests, or its quota is used up."""

    code = "agent_rate_limited"


class AgentUnpaid(AgentRateLimited):
    """The agent's model API wants to be paid first."""

    code = "agent_unpaid"


class AgentOverloaded(AgentFailed):
    """The agent's model API is overloaded or failing."""

    code = "agent_overloaded"


class AgentRejected(AgentFailed):
    """The agent's model API refused the request itself (unknown model, too large, not allowed)."""

    code = "agent_rejected"


class AgentCrashed(AgentFailed):
    """The agent's process ended, or stopped making sense, before it reported how the run ended."""

    code = "agent_crashed"


class CallMissing(AgentFailed):
    """The model answered twice without the tool call that the request requires."""

    code = "tool_call_missing"
    may_have_acted = True


def with_position(error: ClinvkError, at: str) -> ClinvkError:
    """Mark an error as an error of the part `at` a place of the body, and return the error."""
    error.field = f"{at}.{error.field}" if error.field else at
    error.message = f"{at}: {error.message}"
    return error


def exhausted(error: BaseException) -> ResourcesExhausted | None:
    """Return the error to report if `error`, or one of its causes, is a lack of resources; else None."""
    cause: BaseException | None = error
    for _ in range(_MAX_CAUSES):  # bounded, since an error raised from itself is its own cause
        match cause:
            case ResourcesExhausted() | None:
                return cause
            case OSError(errno=number, strerror=lack) if number in _EXHAUSTED:
                return ResourcesExhausted(f"no resources left: {lack}")
            case MemoryError() | RuntimeError(args=("can't start new thread",)):
                return ResourcesExhausted("no memory left, or too many threads")
            case _:
                cause = cause.__cause__
    return None


@contextmanager
def extra_required(extra: str, feature: str) -> Generator[None]:
    """Translate the error of an import that needs `clinvk[extra]` to `ConfigError`."""
    try:
        yield
    except ImportError as exc:
        raise ConfigError(f"{feature} needs a package ({exc}): pip install 'clinvk[{extra}]'") from exc


def error_from_code(code: str, message: str, field: str | None = None) -> ClinvkError:
    """Return the error that a `RunFailed` or another process reports; a `ClinvkError` if no class has the code."""
    return _CLASSES.get(code, ClinvkError)(message, field)


def agent_code(status: int | None) -> str:
    """Return the code of an agent's failure for an HTTP status of the agent's model API."""
    match status:
        case 401 | 403:
            return AgentUnauthenticated.code
        case 402:
            return AgentUnpaid.code
        case 429:
            return AgentRateLimited.code
        case int() if 400 <= status < 500:
            return AgentRejected.code
        case int() if status >= 500:
            return AgentOverloaded.code
        case _:
            return AgentFailed.code


SENT_AGAIN = (QueueFull, ResourcesExhausted, ShuttingDown, StoreUnavailable, BackendUnavailable)
"""Refusals of a run after which clients and gateways send the request again, perhaps to another node."""

_CLASSES = {kind.code: kind for kind in globals().values() if isinstance(kind, type) and issubclass(kind, ClinvkError)}
"""The class of each code."""
