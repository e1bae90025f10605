"""What a service manager can do for clinvk, and the commands by which it is asked."""

import asyncio
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import msgspec

from clinvk.cli.admin.service.service_plan import Account, Plan
from clinvk.runtime.process import process_tags
from clinvk.runtime.process.executables import Exited, run_tool
from clinvk.runtime.process.spawn import Spawner
from clinvk.types.errors import BackendUnavailable, ClinvkError

_WITHIN_S = 120.0


class Step(NamedTuple):
    """A command; where it `may_fail` its failure means that there was nothing to do.

    `absent` is said where it is not there, or what it says begins with `says_absent`; `on_failure` always.
    """

    argv: tuple[str, ...]
    may_fail: bool = False
    on_failure: str = ""
    absent: str = ""
    says_absent: str = ""


class State(msgspec.Struct, frozen=True):
    """How the service is."""

    installed: bool
    enabled: bool
    active: bool
    files: list[str]


class Manager(Protocol):
    """A service manager, for the whole machine or for one user. `reads_secrets`: it reads `Plan.secrets`."""

    account: Account
    title: str
    reads_secrets: bool

    def files(self, plan: Plan) -> dict[Path, str]:
        """Give the files of the service."""
        ...

    def known(self) -> list[Path]:
        """Give every file that a service of clinvk can have here; the first is one that each has."""
        ...

    def reaching(self) -> Iterable[Step]:
        """Give what fails where the service manager is not there."""
        ...

    def starting(self, plan: Plan, anew: bool) -> Iterable[Step]:
        """Give what enables and starts the service; anew where what runs is of other files than there are."""
        ...

    def leaving(self, files: Sequence[Path]) -> Iterable[Step]:
        """Give what stops and disables what files stand for, before they are removed."""
        ...

    def left(self) -> Iterable[Step]:
        """Give what is to do after files were removed."""
        ...

    def state(self, steps: "Steps") -> State:
        """Ask how the service is."""
        ...

    def hints(self) -> Iterator[str]:
        """Give what the user should know once it is installed."""
        ...


class Steps:
    """Runs commands, one after the other."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ

    def run(self, steps: Iterable[Step]) -> None:
        """Run them to the first that fails.

        Raises:
            ClinvkError: that one, with what it said.
        """
        for step in steps:
            done = self.ask(step)
            if done.exit_code and not step.may_fail:
                said = " ".join((done.stderr or done.stdout).decode(errors="replace").split())
                is_absent = step.says_absent and said.startswith(step.says_absent)
                why = step.absent if is_absent else f"{shlex.join(step.argv)} failed: {said or done.exit_code}"
                raise ClinvkError(f"{why}{step.on_failure}")

    def ask(self, step: Step) -> Exited:
        """Run one.

        Raises:
            ClinvkError: it cannot be started, or takes too long.
        """
        try:
            return asyncio.run(run_tool(Spawner(process_tags.choose()), step.argv, self._environ, _WITHIN_S))
        except BackendUnavailable as exc:
            is_absent = step.absent and isinstance(exc.__cause__, FileNotFoundError)
            why = f"{step.argv[0]} cannot be started: {step.absent}" if is_absent else exc.message
            raise ClinvkError(f"{why}{step.on_failure}") from exc
        except TimeoutError:
            raise ClinvkError(f"{shlex.join(step.argv)} took more than {_WITHIN_S:g} s") from None

    def shown(self, steps: Iterable[Step]) -> list[str]:
        """Show them as a shell takes them."""
        return [shlex.join(step.argv) for step in steps]
