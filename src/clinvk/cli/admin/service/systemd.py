"""Units of systemd: systemd.service(5), systemd.socket(5), systemd.exec(5)."""

from collections.abc import Iterable, Iterator, Sequence
from ipaddress import ip_address
from pathlib import Path

from clinvk.cli.admin.service.manager import State, Step, Steps
from clinvk.cli.admin.service.service_plan import Account, Plan
from clinvk.types.errors import InvalidRequest

_SERVICE, _SOCKET = "clinvk.service", "clinvk.socket"
_OF_MACHINE = Path("/etc/systemd/system")
_OF_USER = Path(".config/systemd/user")
_INVALID_SETTINGS = 3

_NOT_BOOTED = "System has not been booted with systemd"
"""What systemctl says in containers, and wherever another init runs."""

_HARDENED = ("NoNewPrivileges=yes", "RestrictRealtime=yes", "LockPersonality=yes")
"""What agents, their tools and their sandboxes do not notice."""

_HARDENED_FOR_MACHINE = ("ProtectSystem=full", "ProtectKernelModules=yes")
"""More of it. In a user's own service it would put agents into a user namespace, where ssh refuses its own settings.

Left out are ProtectKernelTunables, ProtectKernelLogs, RestrictNamespaces and RestrictSUIDSGID, with each of which
bubblewrap, and so the sandboxes of Claude Code and Codex, does not start (tried with systemd 257 and bubblewrap 0.12);
PrivateTmp, since /tmp is a place to work in; MemoryDenyWriteExecute, which Node.js does not survive; ProtectHome and
ProtectSystem=strict, since agents write where the projects are; and ProtectControlGroups, which `agents.cgroup` needs.
"""


class Systemd:
    """The service manager of most Linux machines."""

    reads_secrets = True

    def __init__(self, account: Account) -> None:
        self.account = account
        self._folder = _OF_MACHINE if account.for_machine else account.home / _OF_USER
        self._systemctl = ("systemctl",) if account.for_machine else ("systemctl", "--user")
        self.title = f"{_SERVICE} (systemd, {'this machine' if account.for_machine else f'user {account.name}'})"

    def files(self, plan: Plan) -> dict[Path, str]:
        """Give the units."""
        found = {self._folder / _SERVICE: "\n".join(self._service(plan)) + "\n"}
        if plan.is_activated:
            found[self._folder / _SOCKET] = "\n".join(_socket(plan)) + "\n"
        return found

    def known(self) -> list[Path]:
        """Give every unit that there can be."""
        return [self._folder / _SERVICE, self._folder / _SOCKET]

    def reaching(self) -> Iterable[Step]:
        """Ask for nothing but an answer."""
        instead = "; `clinvk service print systemd` shows the unit"
        absent = "systemd does not run on this machine"
        argv = (*self._systemctl, "show", "--property=Version")
        yield Step(argv, on_failure=instead, absent=absent, says_absent=_NOT_BOOTED)

    def starting(self, plan: Plan, anew: bool) -> Iterable[Step]:
        """Enable and start; a socket before its service."""
        units = (_SOCKET, _SERVICE) if plan.is_activated else (_SERVICE,)
        if anew:
            yield Step((*self._systemctl, "daemon-reload"))
        yield Step((*self._systemctl, "enable", *units))
        if anew:
            yield Step((*self._systemctl, "stop", *units), may_fail=True)
        yield Step((*self._systemctl, "start", *units))

    def leaving(self, files: Sequence[Path]) -> Iterable[Step]:
        """Stop and disable."""
        if files:
            yield Step((*self._systemctl, "disable", "--now", *sorted((file.name for file in files), reverse=True)))

    def left(self) -> Iterable[Step]:
        """Let systemd forget."""
        yield Step((*self._systemctl, "daemon-reload"))
        yield Step((*self._systemctl, "reset-failed", _SERVICE), may_fail=True)

    def state(self, steps: Steps) -> State:
        """Ask systemd."""
        files = [str(path) for path in self.known() if path.exists()]
        answers = [
            steps.ask(Step((*self._systemctl, word, "--quiet", _SERVICE))) for word in ("is-enabled", "is-active")
        ]
        enabled, active = (answer.exit_code == 0 for answer in answers)
        return State(bool(files), enabled, active, files)

    def hints(self) -> Iterator[str]:
        """Say how to look at it, and what a user's service does without the user."""
        user = "" if self.account.for_machine else "--user "
        yield f"its log: journalctl {user}-u clinvk -f"
        if not self.account.for_machine:
            yield f"it ends when you log out, unless: loginctl enable-linger {self.account.name}"

    def _service(self, plan: Plan) -> Iterator[str]:
        for_machine = self.account.for_machine
        yield from ("[Unit]", "Description=clinvk, a gateway to coding agents")
        if for_machine:
            yield from ("After=network.target",)
        if plan.is_activated:
            yield from (f"Requires={_SOCKET}", f"After={_SOCKET}")
        yield from ("", "[Service]", "Type=simple")
        if for_machine:
            yield f"User={self.account.name}"
        yield f"ExecStart={' '.join(map(_word, plan.argv))}"
        yield "ExecReload=kill -HUP $MAINPID"
        # Without its folder clinvk would start in /, and make one; the minus sign lets it.
        yield f"WorkingDirectory=-{_escaped(str(plan.folder))}"
        yield from (f"Environment={_quoted(f'{name}={value}')}" for name, value in plan.env.items())
        yield f"EnvironmentFile=-{_escaped(str(plan.secrets))}"
        yield from ("Restart=always", "RestartSec=5", f"RestartPreventExitStatus={_INVALID_SETTINGS}")
        # SIGTERM is for the server alone, which lets agents finish; what is left after it is killed.
        yield from ("KillMode=mixed", f"TimeoutStopSec={plan.stop_within_s}")
        yield from ("NotifyAccess=main", "OOMPolicy=continue", "LimitNOFILE=1024:65536")
        if plan.settings.agents.cgroup:
            yield "Delegate=yes"
        yield from (*_HARDENED, *(_HARDENED_FOR_MACHINE if for_machine else ()))
        yield from ("", "[Install]", f"WantedBy={'multi-user.target' if for_machine else 'default.target'}")


def _socket(plan: Plan) -> Iterator[str]:
    server = plan.settings.server
    try:
        address = ip_address(server.host)
    except ValueError:
        raise InvalidRequest(
            f"--socket needs an address to listen on, such as 127.0.0.1, not {server.host!r}"
        ) from None
    host = f"[{address}]" if address.version == 6 else str(address)
    yield from ("[Unit]", "Description=The socket of clinvk, which stays open while clinvk restarts")
    yield from ("", "[Socket]", f"ListenStream={host}:{server.port}", "Backlog=2048", "NoDelay=yes")
    yield from ("", "[Install]", "WantedBy=sockets.target")


def _word(text: str) -> str:
    """Write a word of a command line."""
    return _quoted(text.replace("$", "$$"))


def _quoted(text: str) -> str:
    """Write a word, in quotes where it needs them."""
    escaped = _escaped(text).replace("\\", "\\\\").replace('"', '\\"')
    plain = all(char.isalnum() or char in "-_./:=%$@,+~" for char in escaped)
    return escaped if plain and escaped else f'"{escaped}"'


def _escaped(text: str) -> str:
    """Write a text without specifiers, which begin with a percent sign."""
    return text.replace("%", "%%")
