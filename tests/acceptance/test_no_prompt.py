"""Commands without a prompt."""

import pytest

from acceptance.command import Clinvk


@pytest.mark.parametrize("arguments", [[], ["-o", "text"], ["--no-stdin"]])
def test_missing_prompt_is_an_error_that_explains_how_to_pass_one(clinvk: Clinvk, arguments: list[str]) -> None:
    done = clinvk.run(*arguments)
    told = "clinvk: no prompt: give one as an argument or on stdin; see clinvk help\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", told)
    assert clinvk.agent.calls() == []


def test_empty_prompt_is_reported_as_empty(clinvk: Clinvk) -> None:
    for arguments in ([""], ["-"]):
        assert clinvk.run(*arguments).stderr == "clinvk: the prompt is empty\n"
    assert clinvk.run(stdin=b"").stderr == "clinvk: the prompt is empty\n"
