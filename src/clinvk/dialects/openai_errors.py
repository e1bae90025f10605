"""Errors as OpenAI's API tells them: https://platform.openai.com/docs/guides/error-codes.

`code` is OpenAI's own word where it has one, which clients look for, and else clinvk's.
"""

import msgspec

from clinvk import errors
from clinvk.dialects import base, sse, vendor
from clinvk.errors import ClinvkError, InvalidRequest
from clinvk.events import RunFailed
from clinvk.redaction import redacted

KINDS: dict[type[ClinvkError], tuple[int, str]] = {
    errors.ClinvkError: (500, "server_error"),
    errors.InvalidRequest: (400, "invalid_request_error"),
    errors.BackendUnavailable: (404, "invalid_request_error"),
    errors.SessionError: (400, "invalid_request_error"),
    errors.SessionNotFound: (404, "invalid_request_error"),
    errors.SessionBusy: (409, "invalid_request_error"),
    errors.RunNotFound: (404, "invalid_request_error"),
    errors.AmbiguousId: (400, "invalid_request_error"),
    errors.QueueFull: (503, "server_error"),
    errors.ShuttingDown: (503, "server_error"),
    errors.StoreUnavailable: (503, "server_error"),
    errors.TimedOut: (504, "server_error"),
    errors.AgentUnauthenticated: (401, "authentication_error"),
    errors.AgentRateLimited: (429, "rate_limit_error"),
    errors.AgentUnpaid: (429, "insufficient_quota"),
    errors.AgentOverloaded: (503, "server_error"),
    errors.AgentRejected: (400, "invalid_request_error"),
    base.KeyRefused: (401, "authentication_error"),
    base.ForeignOrigin: (403, "permission_error"),
    base.HostRefused: (403, "permission_error"),
    base.DirectoryNotAllowed: (403, "permission_error"),
    base.BackendNotAllowed: (403, "permission_error"),
    base.BeyondPolicy: (403, "permission_error"),
    base.RateLimited: (429, "rate_limit_error"),
    base.BudgetSpent: (429, "insufficient_quota"),
    base.NoSuchPath: (404, "invalid_request_error"),
    base.MethodNotAllowed: (405, "invalid_request_error"),
    base.BodyTooSlow: (408, "invalid_request_error"),
    base.BodyTooLarge: (413, "invalid_request_error"),
    base.WrongMediaType: (415, "invalid_request_error"),
}
"""Status and type of each kind of error; a class that is not listed is what its nearest ancestor is."""

_CODES: dict[type[ClinvkError], str | None] = {
    errors.InvalidRequest: None,
    errors.BackendUnavailable: "model_not_found",
    errors.AgentRateLimited: "rate_limit_exceeded",
    errors.AgentUnpaid: "insufficient_quota",
    base.KeyRefused: "invalid_api_key",
    base.RateLimited: "rate_limit_exceeded",
    base.BudgetSpent: "insufficient_quota",
    base.NoSuchPath: "unknown_url",
    base.MethodNotAllowed: "method_not_supported",
}

_encoder = msgspec.json.Encoder()


class ErrorObject(msgspec.Struct, frozen=True):
    """What went wrong; `param` is the place in the body, or the header."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorAnswer(msgspec.Struct, frozen=True):
    """The body of an error, and the data of the last event of a stream that breaks off."""

    error: ErrorObject


def told(error: ClinvkError) -> tuple[int, ErrorObject]:
    """Give the status of an error, and what is told of it."""
    status, kind = next(KINDS[kind] for kind in type(error).__mro__ if kind in KINDS)
    code = _CODES.get(type(error), error.code)
    return status, ErrorObject(redacted(error.message), kind, _param(error), code)


def refusal(error: ClinvkError) -> tuple[int, bytes]:
    """Give status and body of an error."""
    status, what = told(error)
    return status, _encoder.encode(ErrorAnswer(what))


def broken_off(event: RunFailed) -> bytes:
    """Give the event that ends the stream of a run that failed after its answer had begun."""
    _, what = told(errors.failure(event.code, event.message))
    return sse.frame(_encoder.encode(ErrorAnswer(what)))


def _param(error: ClinvkError) -> str | None:
    match error:
        case InvalidRequest(field=str(field)):
            return field
        case errors.BackendUnavailable():
            return "model"
        case errors.SessionError() | errors.AmbiguousId():
            return vendor.SESSION
        case _:
            return None
