"""Fixtures of all tests: the stand-in model API, the scripted agent, and two checks that hold for each test."""

import os
import signal
import tempfile
from collections import Counter
from collections.abc import Generator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest
from blockbuster import blockbuster_ctx

import serving
from broker import NatsServer
from scripted import Scripted
from standin.process import Address, running

if TYPE_CHECKING:
    from postgres_server import PostgresServer

MAY_BLOCK = (
    ("clinvk/runtime/process/spawn.py", {"_popen", "_opened_directories"}),
    ("clinvk/runtime/process/resource_limits.py", {"wrap", "open", "capacity"}),
    ("clinvk/runtime/process/waiting.py", {"run"}),
    ("clinvk/runtime/process/orphans.py", {"_begin"}),
    ("clinvk/runtime/process/process_scan.py", {"is_tagged"}),
    ("clinvk/runtime/process/guardian_process.py", {"start", "stop", "_on_exit"}),
    ("clinvk/runtime/process/executables.py", {"find", "host", "file_part", "read", "resolve"}),
    ("clinvk/runtime/agent_environment.py", {"path"}),
    ("clinvk/cli/terminal/keys.py", {"_read", "line"}),
    ("clinvk/api/endpoints/inventory.py", {"_locate"}),
    (
        "clinvk/api/access/workdirs.py",
        {
            *("_current_directory", "check_workdir", "_server_directory", "_resolved", "_resolve_fast", "original"),
            *("_built_in", "_with_targets", "_directories", "_check_same"),
        },
    ),
    ("<frozen importlib._bootstrap>", {"_find_and_load"}),
    ("coverage/collector.py", {"lock_data", "unlock_data"}),
    ("coverage/control.py", {"_should_trace", "_check_include_omit_etc"}),
)
"""Where clinvk may block the loop: for less time than going to a thread takes, or once at the start.

The last entries are coverage.py, which may take a lock anywhere.
"""


def _ignored(_number: int, _frame: object) -> None:
    """Do nothing."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that sends the requests of integration tests through a cluster."""
    parser.addoption("--through-cluster", action="store_true", help="serve through a gateway with two workers")


@pytest.fixture(scope="session", autouse=True)
def broker_of_tests(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Generator[None]:
    """Run a broker for all tests with `--through-cluster`."""
    if not request.config.getoption("--through-cluster"):
        yield
        return
    with NatsServer(tmp_path_factory.mktemp("nats")) as broker:
        serving.broker_url = broker.url
        yield


def pytest_configure() -> None:
    """Handle SIGINT and SIGHUP if they are ignored, as under `nohup`.

    An ignored signal stays ignored in child processes; a handled signal is reset to its default.
    """
    for number in (signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, _ignored)


@pytest.hookimpl(tryfirst=True)  # before `-m` selects
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark the cases after the first n of a test with `first(n)` as slow.

    With `--through-cluster`, leave out the tests of what only one machine has.
    """
    if config.getoption("--through-cluster"):
        items[:] = [item for item in items if not item.get_closest_marker("one_machine")]
    cases = Counter[str]()
    for item in items:
        if mark := item.get_closest_marker("first"):
            test = item.nodeid.partition("[")[0]
            cases[test] += 1
            if cases[test] > mark.args[0]:
                item.add_marker(pytest.mark.slow)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Count a skipped test as failed in continuous integration, where every tool is installed."""
    report = yield
    if report.skipped and os.environ.get("CI") == "true":
        report.outcome = "failed"
        report.longrepr = f"skipped, though CI=true: {report.longrepr}"
    return report


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Async tests run on asyncio: the runtime is written for it."""
    return "asyncio"


@pytest.fixture(autouse=True)
def nothing_blocks_the_loop() -> Generator[None]:
    """Fail a test in which clinvk blocks the event loop."""
    with blockbuster_ctx("clinvk") as detector:
        for function in detector.functions.values():
            for file, names in MAY_BLOCK:
                function.can_block_in(file, names)
        yield


@pytest.fixture(autouse=True)
def no_child_is_left() -> Generator[None]:
    """Fail a test that leaves a child process; an exiting process has ten seconds."""
    before = _children()
    yield
    left: list[psutil.Process] = []
    for pid in _children() - before:
        with suppress(psutil.NoSuchProcess):
            left.append(psutil.Process(pid))
    _, left = psutil.wait_procs(left, timeout=10)
    for child in left:
        child.kill()
    assert not left, f"processes left behind: {left}"


def _children() -> set[int]:
    """Return the ids of the child processes. psutil reads all processes for that: 3 ms twice for each test."""
    files = [*Path("/proc/self/task").glob("*/children")]
    if not files:
        return {child.pid for child in psutil.Process().children()}
    found = set[int]()
    for file in files:
        with suppress(FileNotFoundError, ProcessLookupError):  # a thread that has ended
            found |= {*map(int, file.read_text().split())}
    return found


@pytest.fixture(scope="session")
def standin() -> Generator[Address]:
    """The stand-in model API, shared by all tests of this process."""
    with running() as address:
        yield address


@pytest.fixture(scope="session")
def postgres() -> "Generator[PostgresServer]":
    """A PostgreSQL server, shared by all tests of this process; each test has a schema of its own."""
    from postgres_server import running_postgres  # a slow import

    with running_postgres() as server:
        yield server


@pytest.fixture
def scripted() -> Generator[Scripted]:
    """An agent that plays a script; installed as `claude`, `codex` and `gemini` in a folder of its own."""
    with tempfile.TemporaryDirectory(prefix="clinvk-scripted-") as folder:
        agent = Scripted(Path(folder))
        yield agent
        agent.end()
