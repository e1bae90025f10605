"""Checks: a shell command over what an agent did."""

import os
from pathlib import Path

import psutil
import pytest

from clinvk.runtime.process.process_tags import RlimitMarks
from clinvk.runtime.process.spawn import Spawner
from clinvk.runtime.worktrees.checks import OUTPUT_BYTES, run_check
from clinvk.types.errors import InvalidRequest
from clinvk.types.orchestration import Check

ENV = {"PATH": os.environ["PATH"]}


async def check(command: str, folder: Path, timeout_s: float = 15, **env: str) -> Check:
    marks = RlimitMarks(10**8 + int.from_bytes(os.urandom(4)) % 10**8)
    return await run_check(Spawner(marks), command, str(folder), {**ENV, **env}, timeout_s)


def is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def test_a_check_that_ends_with_0_has_passed(tmp_path: Path) -> None:
    (tmp_path / "name").write_text("here")
    assert await check("cat name", tmp_path) == Check(passed=True, exit_code=0, output="here")


async def test_a_check_that_fails_tells_its_code_and_both_its_outputs_in_order(tmp_path: Path) -> None:
    done = await check("echo one; echo two >&2; echo; echo three; exit 9", tmp_path)
    assert done == Check(passed=False, exit_code=9, output="one\ntwo\n\nthree\n")


async def test_a_check_that_is_no_shell_command_has_failed_and_says_why(tmp_path: Path) -> None:
    done = await check("if then", tmp_path)
    assert not done.passed
    assert "yntax error" in done.output


async def test_a_check_that_a_signal_ended_has_128_and_its_number(tmp_path: Path) -> None:
    assert (await check("kill -9 $$", tmp_path)).exit_code == 137


async def test_of_a_long_output_the_end_is_kept(tmp_path: Path) -> None:
    done = await check("head -c 1000000 /dev/zero | tr '\\0' x; echo the end", tmp_path)
    assert done.passed
    assert done.output.startswith(f"({1000000 + 8 - OUTPUT_BYTES} bytes before this left out)\nxxx")
    assert done.output.endswith("xthe end\n")
    assert len(done.output) < OUTPUT_BYTES + 100


async def test_what_is_no_utf8_becomes_a_sign_in_its_place(tmp_path: Path) -> None:
    assert (await check("printf 'a\\377b'", tmp_path)).output == "a\N{REPLACEMENT CHARACTER}b"


async def test_a_check_over_its_time_is_ended_with_all_it_started(tmp_path: Path) -> None:
    done = await check("setsid sleep 60 & echo $! >pid; echo begun; sleep 60", tmp_path, timeout_s=2)
    assert done == Check(passed=False, exit_code=None, output="begun\n")
    assert not is_alive(int((tmp_path / "pid").read_text()))


async def test_what_a_check_leaves_running_does_not_hold_it_and_is_ended(tmp_path: Path) -> None:
    done = await check("setsid sleep 60 & echo $! >pid; echo done", tmp_path)
    assert done == Check(passed=True, exit_code=0, output="done\n")
    assert not is_alive(int((tmp_path / "pid").read_text()))


async def test_a_check_reads_nothing_and_knows_neither_keys_of_the_server_nor_another_repository(
    tmp_path: Path,
) -> None:
    done = await check('cat; echo "[$CLINVK_API_KEYS$GIT_DIR]"', tmp_path, CLINVK_API_KEYS="secret", GIT_DIR="/else")
    assert done.output == "[]\n"


async def test_a_check_in_a_directory_that_is_gone_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="cannot work in"):
        await check("true", tmp_path / "gone")
