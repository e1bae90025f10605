"""Commands that are given no prompt."""

import pytest

from acceptance.command import Clinvk


@pytest.mark.parametrize("arguments", [[], ["-o", "text"], ["--no-stdin"]])
def test_without_a_prompt_and_stdin_it_says_how_to_give_one_and_where_the_help_is(
    clinvk: Clinvk, arguments: list[str]
) -> None:
    done = clinvk.run(*arguments)
    told = "clinvk: no prompt: give one as an argument or on stdin; see clinvk help\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", told)
    assert clinvk.agent.calls() == []


def test_a_prompt_that_is_there_but_empty_is_called_so(clinvk: Clinvk) -> None:
    for arguments in ([""], ["-"]):
        assert clinvk.run(*arguments).stderr == "clinvk: the prompt is empty\n"
    assert clinvk.run(stdin=b"").stderr == "clinvk: the prompt is empty\n"
