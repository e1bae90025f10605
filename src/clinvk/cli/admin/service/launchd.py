"""Property lists of launchd, the service manager of macOS: launchd.plist(5), launchctl(1)."""

import plistlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from clinvk.cli.admin.service.manager import State, Step, Steps
from clinvk.cli.admin.service.service_plan import Account, Plan
from clinvk.types.errors import InvalidRequest

_LABEL = "com.clinvk.server"
_OPEN_FILES = 8192


class Launchd:
    """The service manager of macOS."""

    reads_secrets = False

    def __init__(self, account: Account) -> None:
        self.account = account
        root = Path("/Library/LaunchDaemons") if account.for_machine else account.home / "Library" / "LaunchAgents"
        self._file = root / f"{_LABEL}.plist"
        self._domain = "system" if account.for_machine else f"gui/{account.uid}"
        self._log = account.home / "Library" / "Logs" / "clinvk.log"
        self.title = f"{_LABEL} (launchd, {'this machine' if account.for_machine else f'user {account.name}'})"

    def files(self, plan: Plan) -> dict[Path, str]:
        """Give the property list."""
        if plan.is_activated:
            raise InvalidRequest("--socket is for systemd: clinvk takes no sockets of launchd")
        content: dict[str, object] = {
            "Label": _LABEL,
            "ProgramArguments": list(plan.argv),
            "RunAtLoad": True,
            "KeepAlive": True,
            "ThrottleInterval": 5,
            "ExitTimeOut": plan.stop_within_s,
            "WorkingDirectory": str(plan.folder),
            "EnvironmentVariables": plan.env,
            "SoftResourceLimits": {"NumberOfFiles": _OPEN_FILES},
            "StandardOutPath": str(self._log),
            "StandardErrorPath": str(self._log),
            **({"UserName": self.account.name} if self.account.for_machine else {}),
        }
        return {self._file: plistlib.dumps(content, sort_keys=False).decode()}

    def known(self) -> list[Path]:
        """Give the one file that there can be."""
        return [self._file]

    def reaching(self) -> Iterable[Step]:
        """Ask for nothing but an answer."""
        instead = "; `clinvk service print launchd` shows the property list"
        absent = "launchd does not run on this machine"
        yield Step(("launchctl", "print-disabled", self._domain), on_failure=instead, absent=absent)

    def starting(self, plan: Plan, anew: bool) -> Iterable[Step]:
        """Load it anew where it has changed; what is loaded already cannot be loaded again."""
        if anew:
            yield Step(("launchctl", "bootout", f"{self._domain}/{_LABEL}"), may_fail=True)
        yield Step(("launchctl", "enable", f"{self._domain}/{_LABEL}"))
        yield Step(("launchctl", "bootstrap", self._domain, str(self._file)), may_fail=not anew)

    def leaving(self, files: Sequence[Path]) -> Iterable[Step]:
        """Unload."""
        if files:
            yield Step(("launchctl", "bootout", f"{self._domain}/{_LABEL}"), may_fail=True)

    def left(self) -> Iterable[Step]:
        """Nothing is left to do."""
        return ()

    def state(self, steps: Steps) -> State:
        """Ask launchd."""
        told = steps.ask(Step(("launchctl", "print", f"{self._domain}/{_LABEL}")))
        is_loaded = told.exit_code == 0
        is_there = self._file.exists()
        files = [str(self._file)] if is_there else []
        return State(is_there, is_loaded, is_loaded and b"state = running" in told.stdout, files)

    def hints(self) -> Iterator[str]:
        """Say where its log is."""
        yield f"its log: tail -f {self._log}"
