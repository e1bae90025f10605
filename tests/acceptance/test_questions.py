"""Questions of a command on the terminal; the output after a question begins on a new line."""

import signal

import pytest

from acceptance.command import Clinvk
from acceptance.sessions import begun
from acceptance.terminal import Terminal, on_terminal

END = b"\x04"
INTERRUPT = b""
"""A signal, since the terminals of these tests are those of no process, and make none of a key."""


def answer(terminal: Terminal, key: bytes) -> None:
    """Press a key, or interrupt the command."""
    if key == INTERRUPT:
        terminal.process.send_signal(signal.SIGINT)
    else:
        terminal.type(key)


@pytest.fixture
def session(clinvk: Clinvk) -> str:
    """A conversation."""
    return begun(clinvk)


@pytest.mark.parametrize(
    ("key", "said", "code"), [(END, "nothing was deleted", 7), (INTERRUPT, "cancelled", 7), (b"n\n", "nothing", 7)]
)
def test_refused_or_interrupted_delete_question_deletes_nothing(
    clinvk: Clinvk, session: str, key: bytes, said: str, code: int
) -> None:
    with on_terminal(clinvk, "sessions", "delete", session) as terminal:
        terminal.until("? [y/N] ")
        answer(terminal, key)
        assert terminal.ended() == code
        assert f"\r\nclinvk: {said}" in terminal.plain().decode()


@pytest.mark.parametrize(("key", "said", "code"), [(END, "no prompt", 1), (INTERRUPT, "cancelled", 7)])
def test_unanswered_resume_question_ends_the_command(
    clinvk: Clinvk, session: str, key: bytes, said: str, code: int
) -> None:
    with on_terminal(clinvk, "resume", session) as terminal:
        terminal.until("opens its own program): ")
        answer(terminal, key)
        assert terminal.ended() == code
        assert f"\r\nclinvk: {said}" in terminal.plain().decode()


def test_typed_prompt_that_is_not_utf_8_is_rejected(clinvk: Clinvk, session: str) -> None:
    with on_terminal(clinvk, "resume", session) as terminal:
        terminal.until("opens its own program): ")
        terminal.type(b"\xe9t\xe9\n")
        assert terminal.ended() == 1
        assert "clinvk: stdin is not UTF-8 text: byte 0xe9 at position 0" in terminal.plain().decode(errors="replace")


@pytest.mark.parametrize("is_colored", [True, False])
def test_color_setting_applies_to_every_message(clinvk: Clinvk, session: str, is_colored: bool) -> None:
    clinvk.settings(f"output: {{color: {str(is_colored).lower()}, format: text}}\n")
    (clinvk.folder / "t.json").write_text("[]")
    for command in (
        ["sessions", "list", "--tag", "none"],
        ["worktrees", "list"],
        ["--timeout", "1", "--add-dir", "none", "--", "hello"],
        ["parallel", "-f", "t.json"],
        ["resume", "ffff", "hello"],
    ):
        with on_terminal(clinvk, *command) as terminal:
            terminal.ended()
            assert terminal.plain().startswith(b"clinvk: ")
            assert (b"\x1b[" in terminal.read) == is_colored, command
