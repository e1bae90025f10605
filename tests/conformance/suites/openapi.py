"""Linters, generators of clients, and generated requests, from the OpenAPI document of the live server."""

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import httpx

from answers import Answering
from clients import finished
from conformance.pytest_suite import pytest_suite, results
from conformance.site import Site, at_server
from conformance.suite import STANDARDS, Outcome, Suite, Unavailable, locked
from serving import serving

_NODE, _PYTHON = "conformance/package.json", "conformance/requirements.txt"
_TSC = (
    *("tsc", "--noEmit", "--strict", "--skipLibCheck", "false", "--target", "es2022", "--module", "esnext"),
    *("--moduleResolution", "bundler", "--lib", "es2022,dom,dom.iterable"),
)
_IMPORT_ALL = """
import importlib, pkgutil, generated
for module in pkgutil.walk_packages(generated.__path__, "generated."):
    importlib.import_module(module.name)
"""


def _suite(name: str, checks: str, package: str, lock: str, *commands: Sequence[str], needs: str = "") -> Suite:
    """Return a suite that passes if all commands succeed in a folder with `openapi.json`."""

    @at_server
    async def run(site: Site) -> Outcome:
        if needs and not shutil.which(needs, path=site.env["PATH"]):
            raise Unavailable(f"no {needs} on PATH: apt-get install default-jre-headless")
        async with httpx.AsyncClient(trust_env=False) as client:
            document = await client.get(f"{site.url}/openapi.json")
        (site.folder / "openapi.json").write_bytes(document.content)
        (site.folder / ".spectral.yaml").write_text('extends: ["spectral:oas"]\n')
        for number, command in enumerate(commands):
            done = await site.finished(*command)
            if done.returncode:
                return Outcome(number, (" ".join(command[:2]),), (), done.stdout + done.stderr)
        return Outcome(len(commands))

    return Suite(f"openapi/{name}", checks, f"{package} {locked(lock, package)}", run)


_SCHEMATHESIS = (
    *(str(Path(sys.executable).with_name("schemathesis")), "run", "--max-examples", "8", "--seed", "1", "--no-shrink"),
    *("--exclude-path", "/api/v1/events", "--exclude-checks", "positive_data_acceptance"),
    *("--request-timeout", "30", "--report", "junit", "--report-junit-path", "report.xml"),
)
"""The endpoint without an end is left out. What no schema can express, such as an unknown directory, is refused."""

_STATUSES = """
[checks]
negative_data_rejection.expected-statuses = [400, 401, 403, 404, 405, 406, 409, 413, 415, 422, 428, 429, "5xx"]
"""
"""A wrong request may also have another mistake, which is found first."""


_EXPECTED = {
    f"POST /gemini/v1beta/models/{{id}}:{name}": "an object stands for a list of one, as in Google's API"
    for name in ("generateContent", "streamGenerateContent")
}


async def _all_phases(folder: Path) -> Outcome:
    """Run schemathesis against a server with scripted agents, which answer fast enough for thousands of prompts."""
    agents = Answering(folder)
    (folder / "schemathesis.toml").write_text(_STATUSES)
    async with serving(agents.env, agents.registry, default_workdir=str(folder), metrics_enabled=True) as server:
        done = await finished(
            *(*_SCHEMATHESIS, f"http://127.0.0.1:{server.port}/openapi.json"),
            cwd=folder,
            env={"PATH": os.environ["PATH"], "HOME": str(folder), "LANG": "C.UTF-8", "NO_COLOR": "1"},
            within_s=3600,
        )
    passed, failed = results(folder / "report.xml")
    return Outcome.of(passed, failed, _EXPECTED, done.stdout + done.stderr)


SUITES = [
    Suite(
        "openapi/schemathesis",
        "each operation in all phases: examples, coverage, fuzzing, and sequences of requests",
        f"schemathesis {locked('requirements.txt', 'schemathesis')}",
        _all_phases,
        _EXPECTED,
    ),
    _suite(
        "spectral",
        "the rules `spectral:oas` find no error",
        *("@stoplight/spectral-cli", _NODE),
        ("spectral", "lint", "openapi.json", "--fail-severity", "error"),
    ),
    pytest_suite(
        "openapi/python_client",
        "a generated Python client sends a prompt and lists the session; the linter `redocly` finds nothing",
        f"openapi-python-client {locked('requirements.txt', 'openapi-python-client')}, "
        f"@redocly/cli {locked('agents/clients/package.json', '@redocly/cli')}",
        "integration/test_generated_client.py",
        group=STANDARDS,
    ),
    _suite(
        "openapi_typescript",
        "the types compile in strict mode",
        *("openapi-typescript", _NODE),
        ("openapi-typescript", "openapi.json", "--output", "types.ts"),
        (*_TSC, "types.ts"),
    ),
    _suite(
        "hey_api",
        "the TypeScript client compiles in strict mode",
        *("@hey-api/openapi-ts", _NODE),
        ("openapi-ts", "--input", "openapi.json", "--output", "client"),
        (*_TSC, "client/index.ts"),
    ),
    _suite(
        "openapi_generator",
        "each module of the Python client can be imported",
        *("openapi-generator-cli", _PYTHON),
        (
            *("openapi-generator-cli", "generate", "--input-spec", "openapi.json", "--generator-name", "python"),
            *("--package-name", "generated", "--output", "."),
        ),
        ("python", "-c", _IMPORT_ALL),
        needs="java",
    ),
]
