"""The fixture `machine`: a machine with the pinned agent CLIs, which `make test` installs; and `codex_rules`.

The tests of the backends run twice: with a process of its own for each run, and with processes that are kept.
"""

import re
import tempfile
import time
from collections.abc import Generator
from pathlib import Path

import pytest

from agents.machine import Machine, agent_path
from standin.process import Address

IN_BOTH_WAYS = (
    *("claude", "claude_permissions", "codex", "codex_instructions", "codex_streaming", "codex_permissions"),
    *("options", "sessions"),
)
"""The modules with tests of the backends. The others are of what asks them: servers, commands, SDKs.

Gemini CLI is left out: what it tells over its other protocol is not the same, and it is kept only where that is asked
for; `test_warm` says what it is like then.
"""

WITH_EACH_AGENT = ("interactions", "killed", "through_server", "vendor_sdks", "warm")
"""The modules whose tests repeat one check for each agent. `make test` runs Codex, the fastest of the agents."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test of a backend in both ways."""
    if not _is_of_backends(metafunc.definition):
        return
    if "codex_rules" in metafunc.fixturenames:
        ways = [("alone", False), ("alone", True), ("kept", True)]
        metafunc.parametrize(("way", "codex_rules"), ways, ids=["alone", "alone-rules", "kept-rules"], indirect=True)
    elif "machine" in metafunc.fixturenames:
        metafunc.parametrize("way", ["alone", "kept"], indirect=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Deselect the cases that repeat others, and mark as slow the repetitions of one test with further agents."""
    items[:] = [item for item in items if not (_is_of_backends(item) and {"gemini", "kept"} <= _words(item.name))]
    for item in items:
        if item.path.stem.removeprefix("test_") in WITH_EACH_AGENT and _words(item.name.partition("[")[2]) & {
            "claude",
            "gemini",
        }:
            item.add_marker(pytest.mark.slow)


def _is_of_backends(item: pytest.Item) -> bool:
    return item.path.stem.removeprefix("test_") in IN_BOTH_WAYS


def _words(name: str) -> set[str]:
    return set(re.split(r"[^a-z]", name))


@pytest.fixture
def way(request: pytest.FixtureRequest) -> str:
    """How runs have their processes: `alone`, or `kept`."""
    return getattr(request, "param", "alone")


@pytest.fixture
def machine(standin: Address, way: str) -> Generator[Machine]:
    """A machine for one test, outside `/tmp` (some sandboxes leave `/tmp` open); leftover processes fail the test."""
    with tempfile.TemporaryDirectory(prefix="clinvk-machine-", dir="/var/tmp", ignore_cleanup_errors=True) as folder:
        machine = Machine.install(Path(folder).resolve(), agent_path(), standin, keeps_warm=way == "kept")
        yield machine
        until = time.monotonic() + 30
        while (left := machine.leftover_processes()) and time.monotonic() < until:
            time.sleep(0.05)
        for process in left:
            process.kill()
        assert not left, f"processes left behind: {left}"


@pytest.fixture
def codex_rules(request: pytest.FixtureRequest) -> bool:
    """Whether the user and the project have rules of Codex that allow commands outside the sandbox."""
    return request.param
