"""What the tests of the command share."""

import tempfile
from collections.abc import Generator
from pathlib import Path

import pytest

from acceptance.command import Clinvk
from echo import Echo
from scripted import Scripted


@pytest.fixture
def clinvk(scripted: Scripted, tmp_path: Path) -> Clinvk:
    """The installed command, with a home of its own."""
    return Clinvk(scripted, tmp_path)


@pytest.fixture
def echo() -> Generator[Echo]:
    """An agent that answers with the prompt it got, in a folder of its own."""
    with tempfile.TemporaryDirectory(prefix="clinvk-echo-") as folder:
        agent = Echo(Path(folder))
        yield agent
        agent.end()
