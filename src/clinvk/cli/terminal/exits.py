"""The exit codes of clinvk.

0  success                                5  the server could not serve
1  anything else, wrong usage included    6  timed out
2  the backend is not available           7  cancelled
3  the settings are invalid            >= 8  the agent's own exit code; 128 + n: signal n ended it
4  no such session, or it cannot be used

2 is also a file of tasks or steps that cannot be read or is invalid.
"""

from clinvk.types import errors

FAILED = 1
INVALID_FILE_CODE = "invalid_file"
"""The error code of a file of tasks or steps."""

CANCELLED = 7
_LOWEST_OF_AGENTS = 8

_BY_CODE = {
    **dict.fromkeys((errors.BackendUnavailable.code, INVALID_FILE_CODE), 2),
    errors.ConfigError.code: 3,
    **{each.code: 4 for each in (errors.SessionError, errors.SessionNotFound, errors.SessionBusy)},
    **{each.code: 4 for each in (errors.NotResumable, errors.AmbiguousId)},
    errors.TimedOut.code: 6,
    errors.Cancelled.code: CANCELLED,
}


def exit_code_of_error(code: str, own: int | None = None) -> int:
    """Return the exit code of a `ClinvkError.code`.

    `own` is the exit code of the agent, if it has exited. The codes 1 to 7 of an agent become 1: they have a meaning in
    clinvk.
    """
    return own if code not in _BY_CODE and own and own >= _LOWEST_OF_AGENTS else _BY_CODE.get(code, FAILED)
