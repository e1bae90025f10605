"""What the tests of the command share."""

import os
import tempfile
from collections.abc import Generator
from pathlib import Path

import pytest

from acceptance.command import Clinvk
from acceptance.server import Server
from echo import Echo
from scripted import Scripted


@pytest.fixture
def clinvk(scripted: Scripted, tmp_path: Path) -> Generator[Clinvk]:
    """The installed command, with a home of its own; with `CLINVK_TEST_SERVED` a server of that home is up."""
    command = Clinvk(scripted, tmp_path)
    if not os.environ.get("CLINVK_TEST_SERVED"):
        yield command
        return
    with Server(scripted) as server:
        server.up()
        yield command


@pytest.fixture
def echo() -> Generator[Echo]:
    """An agent that answers with the prompt it got, in a folder of its own."""
    with tempfile.TemporaryDirectory(prefix="clinvk-echo-") as folder:
        agent = Echo(Path(folder))
        yield agent
        agent.end()
