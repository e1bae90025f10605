"""The OpenAPI document is true of requests and answers: schemathesis derives requests from it, deterministically.

The checks of schemathesis judge the answers: no failure of the server, and status, media type, headers and body as the
document has them.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownParameterType=false, reportMissingTypeArgument=false
# (schemathesis leaves its types open.)

import asyncio
import json
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
import schemathesis.openapi
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import Case
from schemathesis.checks import (
    CheckContext,
    CheckFunction,
    content_type_conformance,
    not_a_server_error,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from schemathesis.core.transport import Response
from schemathesis.generation import GenerationMode

from answers import Answering
from clinvk.api.openapi.document import document
from clinvk.backends.registry import BACKENDS
from serving import serving

pytestmark = pytest.mark.slow

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    response_headers_conformance,
]
DOCUMENT = schemathesis.openapi.from_dict(json.loads(document(BACKENDS)))
RUNS = (
    "/openai/v1/chat/completions",
    "/openai/v1/completions",
    "/openai/v1/responses",
    "/anthropic/v1/messages",
    "/anthropic/v1/messages/count_tokens",
    "/api/v1/prompt",
)
GOOGLE = "/gemini/v1beta/models"
GENERATE = f"{GOOGLE}/{{id}}:generateContent"
RIGHT, WRONG = GenerationMode.POSITIVE, GenerationMode.NEGATIVE
TAKES_NOTHING = ("/openai/v1/models", "/anthropic/v1/models", GOOGLE)
EXAMPLES = 40
TIMEOUT_S = 30


CONTENT = re.compile(
    r"images\[\d+\] |does not exist|is not a directory|is that of|isolation must be|is after until"
    r"|nothing is asked|in the background must be stored|base64|say the same|not found|but no call"
    r"|(file_data|image_url|fileUri) is empty|threads are not supported"
    r"|two tools have the name|id must be a text of 1 to"
    r"|notification target|does not report its cost|cannot be reached here|that this machine lacks"
)
"""Refusals of what no schema can express."""


def check_acceptance(_: CheckContext, response: Response, case: Case) -> None:
    """Fail if a request is refused for its shape."""
    if response.status_code in (400, 405, 415, 422):
        assert CONTENT.search(response.text), (case.body, case.query, response.text)


def check_refusal(_: CheckContext, response: Response, case: Case) -> None:
    """Fail if a request is not refused."""
    assert 400 <= response.status_code < 500, (case.body, response.text)


def send(method: str, path: str, mode: GenerationMode, url: str, checks: Sequence[CheckFunction] = CHECKS) -> int:
    """Send the examples of an operation, and check the responses. Return the number of examples."""
    sent = 0

    def check(case: Case) -> None:
        nonlocal sent
        sent += 1
        case.call_and_validate(base_url=url, checks=[*checks], timeout=TIMEOUT_S)

    examples = DOCUMENT[path][method].as_strategy(generation_mode=mode)
    always = settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
    )
    always(given(examples)(check))()
    return sent


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("method", "path", "mode", "checks"),
    [
        *(("POST", path, RIGHT, [check_acceptance]) for path in RUNS),
        pytest.param("POST", GENERATE, RIGHT, [check_acceptance], marks=pytest.mark.slow),
        pytest.param(
            "POST", f"{GOOGLE}/{{id}}:streamGenerateContent", RIGHT, [check_acceptance], marks=pytest.mark.slow
        ),
        ("POST", f"{GOOGLE}/{{id}}:countTokens", RIGHT, [check_acceptance]),
        *(("POST", path, WRONG, [check_refusal]) for path in RUNS),
        ("GET", "/openai/v1/models", RIGHT, []),
        ("GET", "/openai/v1/models/{id}", RIGHT, []),
        ("GET", "/openai/v1/responses/{id}", RIGHT, []),
        ("POST", "/openai/v1/responses/{id}/cancel", RIGHT, []),
        ("GET", "/anthropic/v1/models", RIGHT, []),
        ("GET", "/anthropic/v1/models/{id}", RIGHT, []),
        ("GET", GOOGLE, RIGHT, []),
        ("GET", f"{GOOGLE}/{{id}}", RIGHT, []),
    ],
)
async def test_requests_and_answers_match_the_document(
    tmp_path: Path, method: str, path: str, mode: GenerationMode, checks: list[CheckFunction]
) -> None:
    agents = Answering(tmp_path)
    async with serving(agents.env, agents.registry) as server:
        url = f"http://127.0.0.1:{server.port}"
        sent = await asyncio.to_thread(send, method, path, mode, url, [*CHECKS, *checks])
    assert sent == (1 if path in TAKES_NOTHING else EXAMPLES)
