"""Errors in the form of OpenAI's API: https://platform.openai.com/docs/guides/error-codes.

`code` is OpenAI's code, which clients check; if OpenAI has no code, `code` is clinvk's.
"""

from collections.abc import Mapping

import msgspec

from clinvk.dialects import dialect, sse, vendor
from clinvk.types import errors
from clinvk.types.errors import ClinvkError, InvalidRequest
from clinvk.types.events import RunFailed
from clinvk.types.redaction import redacted

STATUSES: Mapping[type[ClinvkError], int] = {
    **vendor.STATUSES,
    errors.AgentUnpaid: 429,
    errors.AgentOverloaded: 503,
}

_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
"""The API's error types by status; any other status has the general type of a client error or a server error."""

_OF_CLIENT = "invalid_request_error"
_QUOTA = "insufficient_quota"

_CODES: dict[type[ClinvkError], str | None] = {
    errors.InvalidRequest: None,
    errors.BackendUnavailable: "model_not_found",
    errors.AgentRateLimited: "rate_limit_exceeded",
    errors.AgentUnpaid: _QUOTA,
    dialect.KeyRefused: "invalid_api_key",
    dialect.RateLimited: "rate_limit_exceeded",
    dialect.BudgetSpent: _QUOTA,
    dialect.NoSuchPath: "unknown_url",
    dialect.MethodNotAllowed: "method_not_supported",
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
    """Return the status and the error object for an error."""
    status = dialect.nearest(type(error), STATUSES)
    code = _CODES.get(type(error), error.code)
    kind = _QUOTA if code == _QUOTA else _TYPES.get(status, "server_error" if status >= 500 else _OF_CLIENT)
    return status, ErrorObject(redacted(error.message), kind, _param(error), code)


class OpenAIApi(vendor.ModelApi):
    """The attributes and errors that the dialects of OpenAI's APIs share."""

    def error(self, error: ClinvkError, request_id: str) -> tuple[int, bytes]:
        """Return status and body for a request that could not be run."""
        status, what = told(error)
        return status, _encoder.encode(ErrorAnswer(what))


def broken_off(event: RunFailed) -> bytes:
    """Return the last event for a run that failed after the start of the answer."""
    _, what = told(errors.failure(event.code, event.message))
    return sse.frame(_encoder.encode(ErrorAnswer(what)))


def _param(error: ClinvkError) -> str | None:
    match error:
        case InvalidRequest(field="backend") | errors.BackendUnavailable():
            return "model"
        case InvalidRequest(field=str(field)):
            return field
        case errors.SessionError() | errors.AmbiguousId():
            return vendor.SESSION
        case _:
            return None
