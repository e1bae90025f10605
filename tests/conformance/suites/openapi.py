"""Linters, and generators of clients, on the OpenAPI document of the live server."""

import shutil
from collections.abc import Sequence

import httpx

from conformance.pytest_suite import pytest_suite
from conformance.site import Site, at_server
from conformance.suite import STANDARDS, Outcome, Suite, Unavailable, locked

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


SUITES = [
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
