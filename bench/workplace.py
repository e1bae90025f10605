"""Where a bench works: a scratch folder with the trivial agent, and the environment that leads to it."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import msgspec

_HERE = Path(__file__).parent
_COMPILE_TIMEOUT_S = 60


class BenchBroken(Exception):
    """The measured program does not work."""


class Workplace(msgspec.Struct, frozen=True, kw_only=True):
    """The scratch folder.

    Attributes:
        root: the folder; agents work in it.
        child: the trivial agent, see child.c.
        limit: the compiled limit loop, see limit.c; None where there is no C compiler.
        env: the whole environment of all that is started.
        rounds: how often everything is measured.
        scale: 1.0, or the share of the usual work that a quick look does.
    """

    root: Path
    child: Path
    limit: Path | None
    env: dict[str, str]
    rounds: int
    scale: float

    def some(self, count: int) -> int:
        """Return the usual count, or less for a quick look."""
        return max(20, round(count * self.scale))

    def write(self, name: str, text: str) -> Path:
        """Write a file into the folder."""
        path = self.root / name
        path.write_text(text)
        return path


@contextmanager
def workplace(rounds: int, scale: float) -> Generator[Workplace]:
    """Make the scratch folder; it is removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="clinvk-bench-") as name:
        root = Path(name)
        programs = root / "bin"
        programs.mkdir()
        (root / "home").mkdir()
        env = {
            "PATH": f"{programs}:{os.defpath}",
            "HOME": str(root / "home"),
            "CLINVK_HOME": str(root / "home" / ".clinvk"),
            "LANG": "C.UTF-8",
        }
        child = programs / "claude"
        compiler = shutil.which("cc")
        if compiler:
            _compile(compiler, "child.c", child)
            _compile(compiler, "limit.c", root / "limit")
        else:
            shutil.copy(_HERE / "child.sh", child)
            child.chmod(0o755)
            env |= {"BENCH_PYTHON": sys.executable, "BENCH_CHILD": str(_HERE / "child.py")}
        yield Workplace(
            root=root, child=child, limit=root / "limit" if compiler else None, env=env, rounds=rounds, scale=scale
        )


def _compile(compiler: str, source: str, target: Path) -> None:
    command = [compiler, "-O2", "-o", str(target), str(_HERE / source)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_COMPILE_TIMEOUT_S, check=False)
    if done.returncode:
        raise BenchBroken(f"{' '.join(command)} failed: {done.stderr.strip()}")
