"""The site of a suite: a live `clinvk serve` with the real agent CLIs, which use the stand-in model API."""

import subprocess
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from agents.machine import Machine, agent_path, served
from clients import finished
from standin.process import running

REPOSITORY = Path(__file__).parents[2]
INSTALLED = REPOSITORY / ".conformance"


@dataclass(frozen=True)
class Site:
    """What a suite gets: a server of a user's machine, all on loopback.

    Attributes:
        url: the base URL of the server. The server requires no key.
        folder: a scratch folder of the suite.
        tools: where the Makefile has installed the suites: `node_modules/`, and `bin/` of a virtual environment.
    """

    machine: Machine
    url: str
    folder: Path
    key: str = "not-needed"
    tools: Path = INSTALLED

    @property
    def env(self) -> dict[str, str]:
        """The environment of the suite's programs: the installed tools on PATH, and nothing of the user's."""
        path = f"{self.tools / 'node_modules' / '.bin'}:{self.tools / 'bin'}:{self.machine.env['PATH']}"
        return {"PATH": path, "HOME": str(self.folder), "LANG": "C.UTF-8"}

    async def finished(self, *command: str, within_s: float = 600, **env: str) -> "subprocess.CompletedProcess[str]":
        """Run a program of the suite in the scratch folder, and return its output."""
        return await finished(*command, cwd=self.folder, env={**self.env, **env}, within_s=within_s)


@contextmanager
def opened() -> Generator[Site]:
    """Start the stand-in and a server on a scratch machine, and yield the site."""
    with (
        running() as standin,
        tempfile.TemporaryDirectory(prefix="clinvk-conformance-", dir="/var/tmp", ignore_cleanup_errors=True) as name,
    ):
        root = Path(name).resolve()
        machine = Machine.install(root, agent_path(), standin)
        machine.env["CLINVK_SERVER__DEFAULT_WORKDIR"] = str(machine.project)
        folder = root / "suite"
        folder.mkdir()
        with served(machine) as url:
            yield Site(machine, url, folder)
