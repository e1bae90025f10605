"""The OpenAPI document allows exactly the bodies that the REST API accepts; its examples work on any machine."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownParameterType=false, reportMissingTypeArgument=false
# (schemathesis leaves its types open.)

import asyncio
import json
from pathlib import Path

import httpx
import pytest
from schemathesis.checks import CheckFunction
from schemathesis.generation import GenerationMode

from answers import Answering
from clinvk.api.openapi.document import document
from clinvk.backends.registry import BACKENDS
from integration.test_vendor_document import CHECKS, EXAMPLES, RIGHT, WRONG, check_acceptance, check_refusal, send
from scripted import Scripted
from serving import serving

pytestmark = pytest.mark.slow

BODIES = [
    ("POST", "/api/v1/prompt"),
    ("POST", "/api/v1/parallel"),
    ("POST", "/api/v1/chain"),
    ("POST", "/api/v1/compare"),
    ("PATCH", "/api/v1/sessions/{id}"),
]
LISTS = ["/api/v1/sessions", "/api/v1/runs", "/api/v1/runs/{id}/events", "/api/v1/usage"]


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("method", "path", "mode", "check"),
    [
        *((*operation, RIGHT, check_acceptance) for operation in (*BODIES, *(("GET", path) for path in LISTS))),
        *((*operation, WRONG, check_refusal) for operation in BODIES),
    ],
)
async def test_server_accepts_what_the_document_allows_and_refuses_the_rest(
    tmp_path: Path, method: str, path: str, mode: GenerationMode, check: CheckFunction
) -> None:
    agents = Answering(tmp_path)
    async with serving(agents.env, agents.registry) as server:
        url = f"http://127.0.0.1:{server.port}"
        assert await asyncio.to_thread(send, method, path, mode, url, [*CHECKS, check]) == EXAMPLES


async def test_all_examples_work_outside_a_repository(tmp_path: Path) -> None:
    agents = Answering(tmp_path)
    answers: dict[str, int] = {}
    async with serving(agents.env, agents.registry, default_workdir=str(tmp_path)) as server:
        session = (await server.prompt()).json()["session_id"]
        for path, operations in json.loads(document(BACKENDS))["paths"].items():
            for method, operation in operations.items():
                if "interactions" in path or "worktrees" in path:  # nothing waits for an answer, or has a worktree
                    continue
                content = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
                for name, example in content.get("examples", {}).items():
                    url = path.replace("{id}", session)
                    answer = await server.client.request(method, url, json=example["value"])
                    answers[f"{method} {path} {name}"] = answer.status_code
    assert len(answers) > 10
    assert {name for name, status in answers.items() if status != 200} == set()


@pytest.mark.parametrize(
    ("path", "wrong"),
    [
        ("/api/v1/sessions", "backend=qwn"),
        ("/api/v1/runs", "backend=qwn"),
        ("/api/v1/usage", "backend=qwn"),
        ("/api/v1/usage", "since=20261125"),
        ("/api/v1/usage", "until=2026-02-30"),
        ("/api/v1/usage", "group_by=day,hour"),
        ("/api/v1/runs", "limit=0"),
    ],
)
async def test_invalid_query_is_refused(scripted: Scripted, path: str, wrong: str) -> None:
    async with serving(scripted.env) as server:
        answer: httpx.Response = await server.client.get(f"{path}?{wrong}")
    assert (answer.status_code, answer.json()["field"]) == (400, wrong.partition("=")[0])


async def test_tag_with_a_newline_is_refused(scripted: Scripted) -> None:
    async with serving(scripted.env) as server:
        answer = await server.prompt(tags=["a\nb"])
    assert (answer.status_code, answer.json()["field"]) == (400, "tags")
