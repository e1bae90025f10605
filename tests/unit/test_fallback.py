"""Which programs are taken not to speak their long-lived protocol."""

import os
from pathlib import Path

import pytest

from clinvk.runtime.pool.agent_programs import Fallbacks


@pytest.fixture
def program(tmp_path: Path) -> str:
    path = tmp_path / "agent"
    path.write_text("one")
    return str(path)


def test_one_that_has_never_spoken_is_known_at_once(program: str) -> None:
    fallbacks = Fallbacks()
    assert fallbacks.is_spoken(program)
    fallbacks.note(program, "it did not answer")
    assert not fallbacks.is_spoken(program)


def test_one_that_has_spoken_may_fail_twice_in_a_row(program: str) -> None:
    fallbacks = Fallbacks()
    fallbacks.note_spoken(program)
    for _ in range(2):
        fallbacks.note(program, "it did not answer")
        assert fallbacks.is_spoken(program)
    fallbacks.note_spoken(program)
    for spoken in (True, True, False):
        fallbacks.note(program, "it did not answer")
        assert fallbacks.is_spoken(program) is spoken


def test_one_that_was_replaced_since_it_spoke_is_another(program: str, tmp_path: Path) -> None:
    fallbacks = Fallbacks()
    fallbacks.note_spoken(program)
    other = tmp_path / "other"
    other.write_text("another")
    os.replace(other, program)
    fallbacks.note(program, "it did not answer")
    assert not fallbacks.is_spoken(program)


def test_one_that_was_replaced_and_has_spoken_since_may_fail_twice_in_a_row_as_well(
    program: str, tmp_path: Path
) -> None:
    fallbacks = Fallbacks()
    fallbacks.note_spoken(program)
    other = tmp_path / "other"
    other.write_text("another")
    os.replace(other, program)
    fallbacks.note_spoken(program)
    for spoken in (True, True, False):
        fallbacks.note(program, "it did not answer")
        assert fallbacks.is_spoken(program) is spoken
