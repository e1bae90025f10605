"""Directories whose names are not UTF-8, also behind a link, are refused."""

import os

import pytest

from acceptance.command import Clinvk


@pytest.fixture
def link(clinvk: Clinvk) -> str:
    folder = clinvk.folder / os.fsdecode(b"\xff")
    folder.mkdir()
    os.symlink(folder, clinvk.folder / "link")
    return "link"


@pytest.mark.parametrize(
    ("backend", "argument"), [("claude", "--new"), ("codex", "--ephemeral"), ("claude", "--dry-run")]
)
def test_prompt_in_a_non_utf_8_directory_is_an_error(clinvk: Clinvk, link: str, backend: str, argument: str) -> None:
    done = clinvk.run("-b", backend, "-w", link, argument, "hello")
    assert (done.returncode, clinvk.agent.calls()) == (1, [])
    assert done.stderr.endswith("is not UTF-8\n")


def test_task_in_a_non_utf_8_directory_is_an_error(clinvk: Clinvk, link: str) -> None:
    tasks = f'{{"tasks":[{{"backend":"claude","prompt":"hi","workdir":"{link}"}}]}}'
    done = clinvk.run("parallel", stdin=tasks.encode())
    assert (done.stdout, clinvk.agent.calls()) == ("", [])
    assert done.stderr.endswith("is not UTF-8\n")
