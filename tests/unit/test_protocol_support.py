"""Which programs count as unable to speak their long-lived protocol."""

import os
from pathlib import Path

import pytest

from clinvk.runtime.pool.agent_programs import ProtocolSupport


@pytest.fixture
def program(tmp_path: Path) -> str:
    path = tmp_path / "agent"
    path.write_text("one")
    return str(path)


def test_program_that_never_spoke_falls_back_after_one_failure(program: str) -> None:
    fallbacks = ProtocolSupport()
    assert fallbacks.is_supported(program)
    fallbacks.note_failure(program, "it did not answer")
    assert not fallbacks.is_supported(program)


def test_program_that_spoke_falls_back_after_three_consecutive_failures(program: str) -> None:
    fallbacks = ProtocolSupport()
    fallbacks.note_success(program)
    for _ in range(2):
        fallbacks.note_failure(program, "it did not answer")
        assert fallbacks.is_supported(program)
    fallbacks.note_success(program)
    for spoken in (True, True, False):
        fallbacks.note_failure(program, "it did not answer")
        assert fallbacks.is_supported(program) is spoken


def test_replaced_program_falls_back_after_one_failure(program: str, tmp_path: Path) -> None:
    fallbacks = ProtocolSupport()
    fallbacks.note_success(program)
    other = tmp_path / "other"
    other.write_text("another")
    os.replace(other, program)
    fallbacks.note_failure(program, "it did not answer")
    assert not fallbacks.is_supported(program)


def test_replaced_program_that_spoke_falls_back_after_three_failures(program: str, tmp_path: Path) -> None:
    fallbacks = ProtocolSupport()
    fallbacks.note_success(program)
    other = tmp_path / "other"
    other.write_text("another")
    os.replace(other, program)
    fallbacks.note_success(program)
    for spoken in (True, True, False):
        fallbacks.note_failure(program, "it did not answer")
        assert fallbacks.is_supported(program) is spoken
