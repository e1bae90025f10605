"""The checks of every test fail when they should."""

import os
import re
import subprocess
import sys
from pathlib import Path

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


def test_hygiene_fails_blocking_leaking_and_skipped_tests(tmp_path: Path) -> None:
    for name, source in {"blocks": BLOCKS, "fine": FINE, "leaves": LEAVES_A_CHILD, "skips": SKIPS}.items():
        (tmp_path / f"test_{name}.py").write_text(source)
    (tmp_path / "pytest.ini").write_text("[pytest]\nanyio_mode = auto\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "conftest", "-p", "no:cacheprovider", "-p", "no:cov"]
    env = {"PATH": os.environ["PATH"], "CI": "true", "PYTHONPATH": str(TESTS)}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    failed = dict(re.findall(r"^(?:FAILED|ERROR) test_(\w+)\.py::test_it\S* - (.*)", done.stdout, re.MULTILINE))
    expected = {"blocks": "Blocking call to", "leaves": "processes left behind", "skips": "no browser"}
    assert failed.keys() == expected.keys(), done.stdout
    assert all(text in failed[name] for name, text in expected.items()), failed
