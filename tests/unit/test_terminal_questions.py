"""Questions of agents on a terminal."""

import asyncio
import os

import pytest

from clinvk.cli.prompt import questions
from clinvk.cli.prompt.questions import Question, TerminalQuestions
from clinvk.cli.terminal.output import Notes
from clinvk.types.errors import StoreUnavailable
from clinvk.types.interaction import Interaction, InteractionAnswer
from polling import until

ALLOW = InteractionAnswer(choice="allow")


class _Dialog:
    def __init__(self, *_: object) -> None:
        """Take what a dialog takes."""

    async def run(self) -> InteractionAnswer:
        return ALLOW


async def test_question_is_asked_again_if_the_answer_cannot_be_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    leader, follower = os.openpty()
    monkeypatch.setattr(questions, "keyboard_fd", lambda: follower)
    monkeypatch.setattr(questions, "_Dialog", _Dialog)
    answers: list[InteractionAnswer] = []
    shown: list[str] = []

    async def answer(_: str, given: InteractionAnswer) -> None:
        answers.append(given)
        if len(answers) == 1:
            raise StoreUnavailable("the disk is full")

    notes = Notes({})
    terminal = TerminalQuestions(notes, {})
    terminal.open(Question(Interaction(id="1"), "claude", "/p", answer))
    with notes.redirected_to(shown.append):
        asking = asyncio.create_task(terminal.run())
        await until(lambda: len(answers) == 2)
        asking.cancel()
        await asyncio.wait([asking])
    os.close(leader)
    os.close(follower)
    assert answers == [ALLOW, ALLOW]
    assert "the disk is full" in "".join(shown)
