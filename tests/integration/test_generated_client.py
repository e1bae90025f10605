"""The OpenAPI document is fit for generators of clients: a generated client sends a prompt, and a linter finds nothing.

`make conformance SUITES=openapi` runs the generators of other languages.
"""

import json
import sys
from pathlib import Path

import httpx
import pytest

from clients import finished
from conformance.site import REPOSITORY
from scripted import Scripted
from scripted.steps import claude_says
from serving import LiveServer, serving

BINARIES = Path(sys.executable).parent
pytestmark = pytest.mark.timeout(120)

REDOCLY = REPOSITORY / ".clients" / "node_modules" / ".bin" / "redocly"

PROGRAM = """
import importlib, pkgutil, sys
import generated
for module in pkgutil.walk_packages(generated.__path__, "generated."):
    importlib.import_module(module.name)
from generated.api.prompts import prompt
from generated.api.sessions import list_sessions
from generated.models import PromptAnswer, PromptBody, PromptBodyBackendType0, SessionList
with generated.Client(base_url=sys.argv[1], raise_on_unexpected_status=True) as client:
    answer = prompt.sync(client=client, body=PromptBody(prompt="hi", backend=PromptBodyBackendType0.CLAUDE))
    assert isinstance(answer, PromptAnswer), answer
    sessions = list_sessions.sync(client=client, limit=1)
assert isinstance(sessions, SessionList), sessions
print(answer.output, sessions.sessions[0].id == answer.session_id)
"""


async def fetched(server: LiveServer, folder: Path) -> Path:
    """Write the document of a server into a folder."""
    response: httpx.Response = await server.client.get("/openapi.json")
    document = folder / "openapi.json"
    document.write_bytes(response.content)
    return document


async def test_generated_python_client_sends_a_prompt(scripted: Scripted, tmp_path: Path) -> None:
    scripted.play(claude_says("hello ", "world"))
    env = {"PATH": f"{BINARIES}:/usr/bin:/bin", "HOME": str(tmp_path), "LANG": "C.UTF-8"}
    async with serving(scripted.env) as server:
        document = await fetched(server, tmp_path)
        generated = await finished(
            *("openapi-python-client", "generate", "--path", str(document), "--output-path", "generated"),
            *("--meta", "none", "--fail-on-warning"),
            cwd=tmp_path,
            env=env,
            within_s=60,
        )
        assert (generated.returncode, generated.stdout.split()) == (0, ["Generating", "generated"]), generated.stdout
        url = f"http://127.0.0.1:{server.port}"
        done = await finished("python", "-W", "error", "-c", PROGRAM, url, cwd=tmp_path, env=env, within_s=60)
    assert (done.stdout, done.stderr) == ("hello world True\n", "")


async def test_linter_of_documents_finds_nothing(scripted: Scripted, tmp_path: Path) -> None:
    assert REDOCLY.exists(), "no redocly: run `make clients`"
    env = {**scripted.env, "HOME": str(tmp_path), "REDOCLY_TELEMETRY": "off", "REDOCLY_SUPPRESS_UPDATE_NOTICE": "true"}
    async with serving(scripted.env) as server:
        document = await fetched(server, tmp_path)
    done = await finished(
        *(str(REDOCLY), "lint", str(document), "--format", "json"),
        cwd=tmp_path,
        env=env,
        within_s=60,
    )
    assert json.loads(done.stdout)["problems"] == []
