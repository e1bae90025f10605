"""Keys and lines of a terminal, on a pty."""

import os
import select
import termios
from collections.abc import Generator

import pytest

from clinvk.cli.terminal.keys import Interrupted, Keyboard


@pytest.fixture
def pty() -> Generator[tuple[int, int]]:
    leader, follower = os.openpty()
    yield leader, follower
    os.close(follower)
    os.close(leader)


async def test_single_key_needs_no_confirmation_and_pasted_text_is_no_key(pty: tuple[int, int]) -> None:
    leader, follower = pty
    with Keyboard(follower) as keyboard:
        for typed, key in (
            (b"y", "y"),
            (b"yes please", ""),
            (b"\x1b[A", "up"),
            (b"\x1b[C", ""),
            (b"\n", "enter"),
            (b"n\n", "n"),
            ("é".encode(), "é"),
        ):
            os.write(leader, typed)
            assert await keyboard.key() == key


async def test_terminal_is_restored_and_keys_typed_before_are_dropped(pty: tuple[int, int]) -> None:
    leader, follower = pty
    before = termios.tcgetattr(follower)
    os.write(leader, b"y\n")
    assert select.select([follower], [], [], 30)[0]
    with Keyboard(follower) as keyboard:
        assert not termios.tcgetattr(follower)[3] & (termios.ECHO | termios.ICANON)
        os.write(leader, b"n")
        assert await keyboard.key() == "n"
    assert termios.tcgetattr(follower) == before


async def test_line_is_typed_with_echo_and_ended_by_enter(pty: tuple[int, int]) -> None:
    leader, follower = pty
    with Keyboard(follower) as keyboard:
        os.write(leader, b"first line\n")
        assert await keyboard.line("") == "first line"
        os.write(leader, b"n")
        assert await keyboard.key() == "n"


async def test_interrupt_ends_the_next_wait(pty: tuple[int, int]) -> None:
    with Keyboard(pty[1]) as keyboard:
        keyboard.interrupt()
        with pytest.raises(Interrupted):
            await keyboard.key()
        with pytest.raises(Interrupted):
            await keyboard.lend(lambda fd: fd)
