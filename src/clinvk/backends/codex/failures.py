"""Map the error messages of Codex to endings.

The messages come from 0.163.0, 0.169.0 and 0.171.0. Some messages contain an HTTP status, a 400 is the response body of
the model API, and the text identifies every other message.
"""

import re
from collections.abc import Callable, Mapping

import msgspec

from clinvk.backends.shared import conversation_lost, crash_ending, decode_line, not_logged_in
from clinvk.types import errors
from clinvk.types.events import RunFailed, StopReason
from clinvk.types.text import last_line

RETRYING = "Reconnecting..."
"""The start of a message after which the CLI retries."""

LOG_IN = "run codex login, or set CODEX_API_KEY"
"""The remedy for a missing login."""

_MISSING_PROVIDER_KEY = "Missing environment variable"
"""The start of the message about the missing key of a user-defined provider."""

_INCOMPLETE = "Incomplete response returned, reason: "
_REASONS: dict[str, StopReason] = {"max_output_tokens": "max_tokens", "content_filter": "refusal"}
"""The model API's reasons for an incomplete response."""

_STATUS = re.compile(r"\bstatus:? (\d{3})\b")
_PHRASES = {
    errors.AgentUnauthenticated.code: (_MISSING_PROVIDER_KEY, "Not logged in", "sign in again", "codex login"),
    errors.AgentRateLimited.code: ("usage limit", "Quota exceeded"),
    errors.AgentOverloaded.code: ("high demand", "at capacity", "Connection failed", "stream disconnected"),
    errors.AgentRejected.code: ("context window",),
    errors.SessionBusy.code: ("already has an active writer",),
}
"""Parts of messages by the code of the ending; the first that a message has counts."""

_KINDS = {
    errors.AgentUnauthenticated.code: ("unauthorized",),
    errors.AgentRateLimited.code: ("usageLimitExceeded", "rateLimitExceeded"),
    errors.AgentOverloaded.code: (
        *("serverOverloaded", "internalServerError", "httpConnectionFailed"),
        *("responseStreamConnectionFailed", "responseStreamDisconnected"),
    ),
    errors.AgentRejected.code: ("contextWindowExceeded", "badRequest", "modelNotFound", "cyberPolicy", "bioPolicy"),
}
"""The error kinds of `codex app-server`, for failures with an unknown message."""

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_NOISE = re.compile(
    r"WARNING: proceeding, even though"
    r"|warning: Untrusted project-local configuration"
    r"|.* is marked as untrusted in the effective configuration"
    r"|Could not create otel exporter: OTel headers helper requires"
    r"|\d{4}-\d\d-\d\dT\S+ +(TRACE|DEBUG|INFO|WARN|ERROR) "
)
_ARCHIVED = " is archived. "
_UNKNOWN_THREAD = ("no rollout found for thread id", "missing source rollout")


class _Status(msgspec.Struct, rename="camel"):
    http_status_code: int | None = None


_KIND: msgspec.json.Decoder[str | dict[str, _Status]] = msgspec.json.Decoder(str | dict[str, _Status])


def failed(message: str, exit_code: int | None = None) -> RunFailed:
    """Return the ending for an error message of the CLI."""
    body = _body_message(message)
    if body is not None:
        return RunFailed(errors.AgentRejected.code, body, exit_code)
    if status := _STATUS.search(message):
        return _failed(errors.agent_code(int(status[1])), message, exit_code)
    return _failed(_code(_PHRASES, lambda phrase: phrase in message), message, exit_code)


def _code(table: Mapping[str, tuple[str, ...]], fits: Callable[[str], bool]) -> str:
    """Return the first code with a text that fits."""
    return next((code for code, texts in table.items() if any(map(fits, texts))), errors.AgentFailed.code)


def _failed(code: str, message: str, exit_code: int | None) -> RunFailed:
    if code == errors.AgentUnauthenticated.code and _MISSING_PROVIDER_KEY not in message:
        message = not_logged_in("codex", LOG_IN, message)
    return RunFailed(code, message, exit_code)


def server_failure(message: str, kind: bytes) -> RunFailed:
    """Return the ending for an error of `codex app-server`: by its message, else by its kind, which is JSON."""
    if ending := _unknown_thread(message, 1):
        return ending
    ending = failed(message, 1)
    names = decode_line(_KIND, kind) or ""
    if ending.code != errors.AgentFailed.code or not names:
        return ending
    name, status = (names, None) if isinstance(names, str) else next(iter(names.items()))
    code = errors.agent_code(status.http_status_code) if status and status.http_status_code else None
    return _failed(code or _code(_KINDS, lambda known: known == name), message, 1)


def is_archived(message: str) -> bool:
    """Return whether Codex refused the thread because the thread is archived."""
    return _ARCHIVED in message


def stop_reason(message: str) -> StopReason | None:
    """Return the stop reason if the message reports an incomplete response, which the CLI treats as a failure."""
    return _REASONS.get(message.removeprefix(_INCOMPLETE)) if message.startswith(_INCOMPLETE) else None


def refused_login(message: str) -> RunFailed | None:
    """Return the ending if the login is refused, which no retry changes; None if a retry may succeed."""
    ending = failed(message.removeprefix(RETRYING).partition("(")[2].removesuffix(")"), exit_code=1)
    return ending if ending.code == errors.AgentUnauthenticated.code else None


def _stderr_lines(stderr: bytes) -> list[str]:
    """Return the lines of stderr without the CLI's usual noise."""
    lines = _COLOUR.sub("", stderr.decode(errors="replace")).splitlines()
    return [line.strip() for line in lines if not _NOISE.match(line)]


def stderr_message(stderr: bytes) -> str:
    """Return the last line of stderr that is not noise."""
    return last_line("\n".join(_stderr_lines(stderr)))


def exited(exit_code: int, stderr: bytes, last_error: str) -> RunFailed:
    """Return the ending of a process that exited without reporting an ending.

    Codex reports a bad flag (exit code 2) or bad settings (exit code 1) only on stderr.
    """
    lines = _stderr_lines(stderr)
    reason = " ".join(" ".join(lines).split())
    if ending := _unknown_thread(reason, exit_code):
        return ending
    if exit_code in (1, 2) and last_error:
        return failed(last_error, exit_code)
    if exit_code in (1, 2) and reason:
        return failed(reason.partition(" Usage: ")[0], exit_code)
    return crash_ending("codex", exit_code, "\n".join(lines).encode())


def _unknown_thread(reason: str, exit_code: int) -> RunFailed | None:
    is_unknown = any(phrase in reason for phrase in _UNKNOWN_THREAD)
    return conversation_lost("codex", reason, exit_code) if is_unknown else None


class _ApiError(msgspec.Struct):
    message: str


class _Body(msgspec.Struct):
    error: _ApiError | None = None
    detail: str | None = None


_BODY = msgspec.json.Decoder(_Body)


def _body_message(message: str) -> str | None:
    if not message.startswith("{"):
        return None
    body = decode_line(_BODY, message.encode())
    if body is None:
        return None
    return body.error.message if body.error else body.detail
