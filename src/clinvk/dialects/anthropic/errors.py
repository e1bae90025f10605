"""Errors as the Messages API tells them: https://docs.claude.com/en/api/errors."""

import msgspec

from clinvk import errors
from clinvk.dialects import base
from clinvk.errors import ClinvkError, InvalidRequest
from clinvk.events import RunFailed
from clinvk.redaction import redacted

KINDS: dict[type[ClinvkError], tuple[int, str]] = {
    errors.ClinvkError: (500, "api_error"),
    errors.InvalidRequest: (400, "invalid_request_error"),
    errors.BackendUnavailable: (404, "not_found_error"),
    errors.SessionError: (400, "invalid_request_error"),
    errors.SessionNotFound: (404, "not_found_error"),
    errors.SessionBusy: (409, "conflict_error"),
    errors.RunNotFound: (404, "not_found_error"),
    errors.AmbiguousId: (400, "invalid_request_error"),
    errors.QueueFull: (529, "overloaded_error"),
    errors.ShuttingDown: (503, "overloaded_error"),
    errors.TimedOut: (504, "timeout_error"),
    errors.AgentUnauthenticated: (401, "authentication_error"),
    errors.AgentRateLimited: (429, "rate_limit_error"),
    errors.AgentUnpaid: (402, "billing_error"),
    errors.AgentOverloaded: (529, "overloaded_error"),
    errors.AgentRejected: (400, "invalid_request_error"),
    base.KeyRefused: (401, "authentication_error"),
    base.ForeignOrigin: (403, "permission_error"),
    base.HostRefused: (403, "permission_error"),
    base.DirectoryNotAllowed: (403, "permission_error"),
    base.BackendNotAllowed: (403, "permission_error"),
    base.BeyondPolicy: (403, "permission_error"),
    base.RateLimited: (429, "rate_limit_error"),
    base.NoSuchPath: (404, "not_found_error"),
    base.MethodNotAllowed: (405, "invalid_request_error"),
    base.BodyTooSlow: (408, "timeout_error"),
    base.BodyTooLarge: (413, "request_too_large"),
    base.WrongMediaType: (415, "invalid_request_error"),
}
"""Status and type of each kind of error; a class that is not listed is what its nearest ancestor is."""

_encoder = msgspec.json.Encoder()


class Details(msgspec.Struct, frozen=True):
    """The cause, for programs: clinvk's own word, more exact than the type."""

    error_code: str


class ErrorObject(msgspec.Struct, frozen=True):
    """What went wrong."""

    type: str
    message: str
    details: Details


class ErrorAnswer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="type", tag="error"):
    """The body of an error, and the data of the event `error`."""

    error: ErrorObject
    request_id: str | None = None


def refusal(error: ClinvkError, request_id: str) -> tuple[int, bytes]:
    """Give status and body of an error."""
    status, told = _told(error)
    return status, _encoder.encode(ErrorAnswer(error=told, request_id=request_id))


def broken_off(event: RunFailed) -> bytes:
    """Give the data of the event that ends the stream of a run that failed after its answer had begun."""
    _, told = _told(errors.failure(event.code, event.message))
    return _encoder.encode(ErrorAnswer(error=told))


def _told(error: ClinvkError) -> tuple[int, ErrorObject]:
    status, type_ = next(KINDS[kind] for kind in type(error).__mro__ if kind in KINDS)
    return status, ErrorObject(type_, _message(error), Details(error.code))


def _message(error: ClinvkError) -> str:
    """Give the message, which has to name the field: the API has no other place for it."""
    message = redacted(error.message)
    if not isinstance(error, InvalidRequest) or error.field is None:
        return message
    return message if error.field in message else f"{error.field}: {message}"
