"""The messages for missing or refused logins are alike for all agents."""

import msgspec
import pytest

from clinvk.backends.codex import failures
from clinvk.backends.gemini.acp import refused
from clinvk.backends.gemini.decoder import GeminiDecoder
from clinvk.backends.jsonrpc import Failure
from clinvk.types.events import RunFailed

OF_CODEX = "codex is not logged in, or not allowed (run codex login, or set CODEX_API_KEY): "
OF_GEMINI = "gemini is not logged in, or not allowed (run gemini once in a terminal, or set GEMINI_API_KEY): "


@pytest.mark.parametrize("message", ["unexpected status 401 No: key", "Not logged in", "Please sign in again."])
def test_codex_rejected_login_explains_what_to_do(message: str) -> None:
    assert failures.failed(message) == RunFailed("agent_unauthenticated", OF_CODEX + message)
    assert failures.exited(1, message.encode(), "") == RunFailed("agent_unauthenticated", OF_CODEX + message, 1)


def test_codex_missing_key_of_a_custom_provider_gets_no_login_advice() -> None:
    message = "Missing environment variable: `KEY`."
    assert failures.failed(message) == RunFailed("agent_unauthenticated", message)


@pytest.mark.parametrize(("message", "exit_code"), [("no", 145), ('{"error":{"code":401,"message":"no"}}', 1)])
def test_gemini_rejected_login_explains_what_to_do(message: str, exit_code: int) -> None:
    decoder = GeminiDecoder()
    told = {"type": "result", "status": "error", "error": {"message": f"[API Error: {message}]"}}
    assert not [*decoder.feed(msgspec.json.encode(told))]
    assert decoder.closed(exit_code, b"") == RunFailed("agent_unauthenticated", f"{OF_GEMINI}no", 1)


@pytest.mark.parametrize(("code", "exit_code"), [(401, 1), (403, 1)])
def test_gemini_rejected_login_over_the_protocol_explains_what_to_do(code: int, exit_code: int) -> None:
    told = refused(Failure(code=code, message="no"))
    assert told == RunFailed("agent_unauthenticated", f"{OF_GEMINI}no", exit_code)
