"""The site of a suite: a live `clinvk serve` with the real agent CLIs, which use the stand-in model API."""

import functools
import subprocess
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path

from agents.machine import Machine, agent_path, served
from clients import finished
from conformance.suite import Outcome, Run
from standin.process import running

REPOSITORY = Path(__file__).parents[2]
INSTALLED = REPOSITORY / ".conformance"


@dataclass(frozen=True)
class Site:
    """What a suite for a server gets: a server of a user's machine, all on loopback.

    Attributes:
        url: the base URL of the server. The server requires no key.
        folder: a scratch folder of the suite.
        tools: where the Makefile has installed the suites: `node_modules/`, and `bin/` of a virtual environment.
    """

    machine: Machine
    url: str
    folder: Path
    tools: Path = INSTALLED

    @property
    def env(self) -> dict[str, str]:
        """The environment of the suite's programs: the installed tools on PATH, and nothing of the user's."""
        path = f"{self.tools / 'node_modules' / '.bin'}:{self.tools / 'bin'}:{self.machine.env['PATH']}"
        return {"PATH": path, "HOME": str(self.folder), "LANG": "C.UTF-8"}

    async def finished(self, *command: str, within_s: float = 600, **env: str) -> "subprocess.CompletedProcess[str]":
        """Run a program of the suite in the scratch folder, and return its output."""
        return await finished(*command, cwd=self.folder, env={**self.env, **env}, within_s=within_s)


def at_server(run: Callable[[Site], Coroutine[None, None, Outcome]]) -> Run:
    """Return a run of a suite that starts the stand-in, and a server on a scratch machine, around a run at a site."""

    @functools.wraps(run)
    async def run_in(root: Path) -> Outcome:
        folder = root / "suite"
        folder.mkdir()
        with running() as standin:
            machine = Machine.install(root, agent_path(), standin)
            machine.env["CLINVK_SERVER__DEFAULT_WORKDIR"] = str(machine.project)
            with served(machine) as url:
                return await run(Site(machine, url, folder))

    return run_in
