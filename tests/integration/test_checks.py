"""Checks: a shell command over what an agent did."""

import os
from pathlib import Path

import pytest

from clinvk.runtime.process.process_tags import RlimitTags
from clinvk.runtime.process.spawn import Spawner
from clinvk.runtime.worktrees.worktrees import CHECK_OUTPUT_BYTES, run_check
from clinvk.types.errors import InvalidRequest
from clinvk.types.orchestration import Check
from polling import is_alive

ENV = {"PATH": os.environ["PATH"]}


async def check(command: str, folder: Path, timeout_s: float = 15, **env: str) -> Check:
    marks = RlimitTags(10**8 + int.from_bytes(os.urandom(4)) % 10**8)
    return await run_check(Spawner(marks), command, str(folder), {**ENV, **env}, timeout_s)


async def test_check_with_exit_code_0_passes(tmp_path: Path) -> None:
    (tmp_path / "name").write_text("here")
    assert await check("cat name", tmp_path) == Check(passed=True, exit_code=0, output="here")


async def test_failed_check_reports_its_exit_code_and_interleaved_output(tmp_path: Path) -> None:
    done = await check("echo one; echo two >&2; echo; echo three; exit 9", tmp_path)
    assert done == Check(passed=False, exit_code=9, output="one\ntwo\n\nthree\n")


async def test_check_with_a_syntax_error_fails_and_reports_it(tmp_path: Path) -> None:
    done = await check("if then", tmp_path)
    assert not done.passed
    assert "yntax error" in done.output


async def test_check_killed_by_a_signal_has_exit_code_128_plus_the_signal(tmp_path: Path) -> None:
    assert (await check("kill -9 $$", tmp_path)).exit_code == 137


async def test_long_output_is_truncated_to_its_end(tmp_path: Path) -> None:
    done = await check("head -c 1000000 /dev/zero | tr '\\0' x; echo the end", tmp_path)
    assert done.passed
    assert done.output.startswith(f"({1000000 + 8 - CHECK_OUTPUT_BYTES} bytes before this left out)\nxxx")
    assert done.output.endswith("xthe end\n")
    assert len(done.output) < CHECK_OUTPUT_BYTES + 100


async def test_invalid_utf8_becomes_replacement_characters(tmp_path: Path) -> None:
    assert (await check("printf 'a\\377b'", tmp_path)).output == "a\N{REPLACEMENT CHARACTER}b"


async def test_check_that_times_out_is_ended_with_its_children(tmp_path: Path) -> None:
    done = await check("setsid sleep 60 & echo $! >pid; echo begun; sleep 60", tmp_path, timeout_s=2)
    assert done == Check(passed=False, exit_code=None, output="begun\n")
    assert not is_alive(int((tmp_path / "pid").read_text()))


async def test_background_processes_of_a_check_do_not_block_it_and_are_ended(tmp_path: Path) -> None:
    done = await check("setsid sleep 60 & echo $! >pid; echo done", tmp_path)
    assert done == Check(passed=True, exit_code=0, output="done\n")
    assert not is_alive(int((tmp_path / "pid").read_text()))


async def test_check_gets_no_stdin_server_keys_or_git_dir(tmp_path: Path) -> None:
    done = await check('cat; echo "[$CLINVK_API_KEYS$GIT_DIR]"', tmp_path, CLINVK_API_KEYS="secret", GIT_DIR="/else")
    assert done.output == "[]\n"


async def test_check_in_a_missing_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="cannot work in"):
        await check("true", tmp_path / "gone")
