"""What the tests of the command share."""

from pathlib import Path

import pytest

from acceptance.command import Clinvk
from scripted import Scripted


@pytest.fixture
def clinvk(scripted: Scripted, tmp_path: Path) -> Clinvk:
    """The installed command, with a home of its own."""
    return Clinvk(scripted, tmp_path)
