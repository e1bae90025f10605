"""The checks of every test fail when they should."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
BLOCKS = """
from pathlib import Path
from clinvk.config.yaml_file import read

async def test_it(tmp_path: Path):
    (tmp_path / "config.yaml").write_text("server: {}")
    list(read(tmp_path / "config.yaml"))
"""
LEAVES_A_CHILD = """
import subprocess
import warnings

def test_it():
    warnings.simplefilter("ignore")
    subprocess.Popen(["sleep", "60"])
"""
FINE = """
import subprocess

async def test_it():
    subprocess.Popen(["true"]).wait()
"""
SKIPS = """
import pytest

@pytest.mark.skipif(True, reason="no browser")
def test_it():
    pass
"""


@pytest.mark.parametrize(
    ("source", "code", "said"),
    [
        (BLOCKS, 1, "Blocking call to"),
        (LEAVES_A_CHILD, 1, "processes left behind"),
        (FINE, 0, "1 passed"),
        (SKIPS, 1, "no browser"),
    ],
    ids=["blocks the loop", "leaves a child", "fine", "skips"],
)
def test_hygiene_fails_blocking_leaking_and_skipped_tests(tmp_path: Path, source: str, code: int, said: str) -> None:
    (tmp_path / "test_it.py").write_text(source)
    (tmp_path / "pytest.ini").write_text("[pytest]\nanyio_mode = auto\n")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "conftest",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:cov",
        "test_it.py",
    ]
    env = {"PATH": os.environ["PATH"], "CI": "true", "PYTHONPATH": str(TESTS)}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stdout
    assert said in done.stdout
