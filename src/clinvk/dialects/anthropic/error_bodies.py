"""Errors in the form of the Messages API: https://docs.claude.com/en/api/errors."""

from collections.abc import Mapping

import msgspec

from clinvk.dialects import dialect, vendor
from clinvk.types import errors
from clinvk.types.errors import ClinvkError, InvalidRequest
from clinvk.types.events import RunFailed
from clinvk.types.redaction import redacted

STATUSES: Mapping[type[ClinvkError], int] = {
    **vendor.STATUSES,
    errors.AgentUnpaid: 402,
    errors.AgentOverloaded: 529,
}

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "timeout_error",
    409: "conflict_error",
    413: "request_too_large",
    415: "invalid_request_error",
    429: "rate_limit_error",
    500: "api_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}
"""The API's error types by status."""

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
    """Return status and body for an error."""
    status, told = _told(error)
    return status, _encoder.encode(ErrorAnswer(error=told, request_id=request_id))


def broken_off(event: RunFailed) -> bytes:
    """Return the data of the last event for a run that failed after the start of the answer."""
    _, told = _told(errors.failure(event.code, event.message))
    return _encoder.encode(ErrorAnswer(error=told))


def _told(error: ClinvkError) -> tuple[int, ErrorObject]:
    status = dialect.nearest(type(error), STATUSES)
    return status, ErrorObject(_TYPES[status], _message(error), Details(error.code))


def _message(error: ClinvkError) -> str:
    """Return the message with the name of the field, since the API has no other place for the field."""
    message = redacted(error.message)
    if not isinstance(error, InvalidRequest) or error.field is None:
        return message
    return message if error.field in message else f"{error.field}: {message}"
