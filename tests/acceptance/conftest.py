"""Fixtures of the command's tests. Tests of prompts run without a server and through a running server."""

import tempfile
from collections.abc import Generator
from pathlib import Path

import pytest

from acceptance.cluster import Cluster
from acceptance.command import Clinvk
from acceptance.server import Server
from echo import Echo
from scripted import Scripted

IN_BOTH_WAYS = ("test_mcp", "test_prompt", "test_stopping", "test_terminal_questions")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test of a prompt without a server and through one, unless the test itself says which."""
    has_choice = any("served" in mark.args[0] for mark in metafunc.definition.iter_markers("parametrize"))
    if metafunc.definition.path.stem in IN_BOTH_WAYS and "served" in metafunc.fixturenames and not has_choice:
        metafunc.parametrize("served", [False, True], ids=["here", "served"], indirect=True)


@pytest.fixture
def served(request: pytest.FixtureRequest) -> bool:
    """Whether a server of the same home is running."""
    return getattr(request, "param", False)


@pytest.fixture
def clinvk(scripted: Scripted, tmp_path: Path, served: bool) -> Generator[Clinvk]:
    """The installed command, with a home of its own."""
    command = Clinvk(scripted, tmp_path)
    if not served:
        yield command
        return
    with Server(scripted) as server:
        server.ready()
        yield command


@pytest.fixture
def echo() -> Generator[Echo]:
    """An agent that answers with its prompt, in a separate folder."""
    with tempfile.TemporaryDirectory(prefix="clinvk-echo-") as folder:
        agent = Echo(Path(folder))
        yield agent
        agent.end()


@pytest.fixture
def cluster(scripted: Scripted, tmp_path: Path) -> Generator[Cluster]:
    """A NATS server, and what a test starts."""
    with Cluster(scripted, tmp_path) as running:
        yield running
