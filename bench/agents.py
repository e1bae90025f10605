"""A machine of the real agent CLIs and the stand-in model API, as the tests have it."""

import os
import shutil
import sys
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from msgspec.structs import replace

from bench.workplace import BenchBroken, Workplace

_PROJECT = Path(__file__).parent.parent
CLIS = ("claude", "codex", "gemini")


@contextmanager
def agents(place: Workplace) -> Generator[Workplace]:
    """Yield the workplace with a home in which the CLIs are set up; its root is their project.

    Raises:
        BenchBroken: they are not installed.
    """
    sys.path.insert(0, str(_PROJECT / "tests"))
    from agents.machine import Machine
    from standin.process import running

    programs = Path(os.environ.get("CLINVK_TEST_AGENTS", _PROJECT / ".agents")).absolute() / "node_modules" / ".bin"
    node = shutil.which("node")
    if node is None or any(not (programs / name).exists() for name in CLIS):
        raise BenchBroken(f"the agent CLIs are not in {programs}: make test installs them")
    path = os.pathsep.join((str(programs), str(Path(node).parent), os.defpath))
    with running() as standin, tempfile.TemporaryDirectory(prefix="clinvk-bench-", dir="/var/tmp") as folder:
        machine = Machine.install(Path(folder), path, standin)
        yield replace(place, root=machine.project, env={**machine.env, "CLINVK_HOME": str(machine.home / ".clinvk")})
