"""Going on with the newest conversation where the directories of newer ones are gone."""

import json
import shutil
from pathlib import Path

import pytest

from acceptance.command import Clinvk
from acceptance.sessions import FIRST, SECOND, begun
from repositories import Repository
from scripted.steps import claude_says, touch

WAYS = [["-c"], ["resume", "--last"]]


def begun_in(clinvk: Clinvk, directory: str, handle: str = SECOND) -> str:
    """Begin a session in a directory; give its id."""
    (clinvk.folder / directory).mkdir(exist_ok=True)
    return begun(clinvk, handle, folder=directory)


@pytest.mark.parametrize("way", WAYS)
def test_session_of_a_deleted_directory_is_skipped_and_reported(clinvk: Clinvk, way: list[str]) -> None:
    kept = begun_in(clinvk, ".", FIRST)
    gone = begun_in(clinvk, "gone")
    shutil.rmtree(clinvk.folder / "gone")
    done = clinvk.run(*way, "go on")
    assert (done.returncode, json.loads(done.stdout)["session_id"]) == (0, kept)
    passed_over, continuing = done.stderr.splitlines()
    directory = str(clinvk.folder / "gone")
    assert passed_over == f"clinvk: skipping session {gone[:8]}: its directory {directory!r} is gone"
    assert continuing.startswith(f"clinvk: continuing session {kept[:8]} ")
    assert f"--resume={FIRST}" in clinvk.agent.calls()[-1].argv


@pytest.mark.slow
def test_many_skipped_sessions_are_reported_in_one_line(clinvk: Clinvk) -> None:
    kept = begun_in(clinvk, ".", FIRST)
    for number in range(20):
        begun_in(clinvk, f"gone-{number}")
    for number in range(20):
        shutil.rmtree(clinvk.folder / f"gone-{number}")
    done = clinvk.run("-c", "--dry-run", "go on")
    assert done.stderr.splitlines()[0] == "clinvk: 20 sessions skipped: their directories are gone"
    assert f"continuing session {kept[:8]} " in done.stderr


@pytest.mark.parametrize("way", WAYS)
def test_no_remaining_session_exits_with_4(clinvk: Clinvk, way: list[str]) -> None:
    begun_in(clinvk, "gone")
    shutil.rmtree(clinvk.folder / "gone")
    done = clinvk.run(*way, "go on")
    assert (done.returncode, done.stdout) == (4, "")
    assert done.stderr.splitlines()[1:] == ["clinvk: no session to resume"]
    assert len(clinvk.agent.calls()) == 1


def test_resume_by_id_in_a_deleted_directory_exits_with_4_and_a_hint(clinvk: Clinvk) -> None:
    gone = begun_in(clinvk, "gone")
    shutil.rmtree(clinvk.folder / "gone")
    done = clinvk.run("resume", gone[:8], "go on")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (4, "", 1)
    assert f"{str(clinvk.folder / 'gone')!r}, which no longer exists" in done.stderr
    assert f"clinvk sessions export {gone[:8]}" in done.stderr
    (clinvk.folder / "gone").mkdir()
    assert clinvk.run("resume", gone[:8], "go on").returncode == 0


def test_session_of_an_applied_worktree_continues_in_it(clinvk: Clinvk) -> None:
    Repository(clinvk.folder, Path(clinvk.agent.env["HOME"])).commit(a="one\n")
    begun_in(clinvk, ".", FIRST)
    clinvk.agent.play([touch(Path("made")), *claude_says("x", session=SECOND)])
    tasks = b'[{"backend": "claude", "prompt": "ask"}]'
    told = clinvk.run("parallel", "--isolation", "worktree", "--json", stdin=tasks)
    result = json.loads(told.stdout)["results"][0]
    assert result["worktree"], told.stderr
    assert clinvk.run("worktrees", "apply", result["branch"]).returncode == 0
    done = clinvk.run("-c", "--dry-run", "go on")
    assert f"continuing session {result['session_id'][:8]} " in done.stderr
    assert f"in worktree {result['branch'].removeprefix('clinvk/')}" in done.stderr
