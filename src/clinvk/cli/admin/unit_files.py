"""The files of a service: systemd.service(5), systemd.socket(5), systemd.exec(5), launchd.plist(5)."""

from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import NamedTuple

from clinvk.config.model import Settings
from clinvk.types.errors import InvalidRequest

_SERVICE, _SOCKET, _LABEL = "clinvk.service", "clinvk.socket", "com.clinvk.server"
_STOP_BEYOND_GRACE_S = 20
_INVALID_SETTINGS = 3

_HARDENED = ("NoNewPrivileges=yes", "RestrictRealtime=yes", "LockPersonality=yes")
"""Restrictions that agents, their tools and their sandboxes do not notice."""

_HARDENED_FOR_MACHINE = ("ProtectSystem=full", "ProtectKernelModules=yes")
"""More restrictions. In a user's own service they would create a user namespace, where ssh refuses its own settings.

Left out are ProtectKernelTunables, ProtectKernelLogs, RestrictNamespaces and RestrictSUIDSGID: with each of them
bubblewrap, and so the sandboxes of Claude Code and Codex, does not start (tried with systemd 257 and bubblewrap 0.12).
Also left out are PrivateTmp, since agents work in /tmp; MemoryDenyWriteExecute, which Node.js does not survive;
ProtectHome and ProtectSystem=strict, since agents write where the projects are; ProtectControlGroups, which
`agents.cgroup` needs.
"""


class Account(NamedTuple):
    """The user of the service. `for_machine`: the service starts with the machine, not with the user's first login."""

    name: str
    uid: int
    gid: int
    home: Path
    for_machine: bool

    @property
    def systemctl(self) -> tuple[str, ...]:
        """The command that controls the units of the account."""
        return ("systemctl",) if self.for_machine else ("systemctl", "--user")

    @property
    def launchd_domain(self) -> str:
        """The domain of the service in launchctl."""
        return "system" if self.for_machine else f"gui/{self.uid}"

    def files_of(self, manager: str) -> list[Path]:
        """Return the paths of every file that a service of clinvk may have; the first one always exists."""
        if manager == "launchd":
            root = Path("/Library/LaunchDaemons") if self.for_machine else self.home / "Library" / "LaunchAgents"
            return [root / f"{_LABEL}.plist"]
        root = Path("/etc/systemd/system") if self.for_machine else self.home / ".config" / "systemd" / "user"
        return [root / _SERVICE, root / _SOCKET]


class ServicePlan(NamedTuple):
    """What the service runs.

    Attributes:
        account: the user.
        argv: the command line.
        home: the clinvk home.
        workdir: the directory of `--workdir`, if any.
        env: the environment.
        settings: the settings of the server.
        has_socket: whether systemd listens, and hands the socket to the server.
    """

    account: Account
    argv: tuple[str, ...]
    home: Path
    workdir: Path | None
    env: dict[str, str]
    settings: Settings
    has_socket: bool

    @property
    def folder(self) -> Path:
        """The directory in which the server starts."""
        return self.workdir or self.home / "workspace"

    @property
    def secrets(self) -> Path:
        """The optional file of variables that only the service may read."""
        return self.home / "service.env"

    @property
    def stop_timeout_s(self) -> int:
        """The time limit of a stop: runs may finish within the grace period, then the server ends them."""
        return self.settings.server.shutdown_grace_secs + _STOP_BEYOND_GRACE_S


def service_files(manager: str, plan: ServicePlan) -> dict[Path, str]:
    """Return the files of the service, by path.

    Raises:
        InvalidRequest: the service manager cannot listen on the address, or cannot listen at all.
    """
    service, *more = plan.account.files_of(manager)
    if manager == "launchd":
        return {service: _property_list(plan)}
    files = {service: "\n".join(_unit(plan)) + "\n"}
    if plan.has_socket:
        files[more[0]] = "\n".join(_socket_unit(plan)) + "\n"
    return files


def _unit(plan: ServicePlan) -> Iterator[str]:
    for_machine = plan.account.for_machine
    yield from ("[Unit]", "Description=clinvk, a gateway to coding agents")
    if for_machine:
        yield "After=network.target"
    if plan.has_socket:
        yield from (f"Requires={_SOCKET}", f"After={_SOCKET}")
    yield from ("", "[Service]", "Type=simple")
    if for_machine:
        yield f"User={plan.account.name}"
    yield f"ExecStart={' '.join(map(_word, plan.argv))}"
    yield "ExecReload=kill -HUP $MAINPID"
    # Where the folder is missing, the minus sign lets clinvk start in /, and clinvk makes the folder.
    yield f"WorkingDirectory=-{_escaped(str(plan.folder))}"
    yield from (f"Environment={_quoted(f'{name}={value}')}" for name, value in plan.env.items())
    yield f"EnvironmentFile=-{_escaped(str(plan.secrets))}"
    yield from ("Restart=always", "RestartSec=5", f"RestartPreventExitStatus={_INVALID_SETTINGS}")
    # SIGTERM is for the server alone, which lets agents finish; SIGKILL ends the rest.
    yield from ("KillMode=mixed", f"TimeoutStopSec={plan.stop_timeout_s}")
    yield from ("NotifyAccess=main", "OOMPolicy=continue", "LimitNOFILE=1024:65536")
    if plan.settings.agents.cgroup:
        yield "Delegate=yes"
    yield from (*_HARDENED, *(_HARDENED_FOR_MACHINE if for_machine else ()))
    yield from ("", "[Install]", f"WantedBy={'multi-user.target' if for_machine else 'default.target'}")


def _socket_unit(plan: ServicePlan) -> Iterator[str]:
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


def _property_list(plan: ServicePlan) -> str:
    import plistlib  # an import of 15 ms that only macOS needs

    if plan.has_socket:
        raise InvalidRequest("--socket is for systemd: clinvk takes no sockets of launchd")
    log = str(plan.account.home / "Library" / "Logs" / "clinvk.log")
    content: dict[str, object] = {
        "Label": _LABEL,
        "ProgramArguments": list(plan.argv),
        "RunAtLoad": True,
        "KeepAlive": True,
        "ThrottleInterval": 5,
        "ExitTimeOut": plan.stop_timeout_s,
        "EnvironmentVariables": plan.env,
        "SoftResourceLimits": {"NumberOfFiles": 8192},
        "StandardOutPath": log,
        "StandardErrorPath": log,
        # launchd starts nothing in a missing directory. Without one, clinvk starts in / and makes its workspace.
        **({"WorkingDirectory": str(plan.workdir)} if plan.workdir else {}),
        **({"UserName": plan.account.name} if plan.account.for_machine else {}),
    }
    return plistlib.dumps(content, sort_keys=False).decode()


def _word(text: str) -> str:
    """Return a word of a command line of a unit."""
    return _quoted(text.replace("$", "$$"))


def _quoted(text: str) -> str:
    """Return a word of a unit, in quotes if it needs them."""
    escaped = _escaped(text).replace("\\", "\\\\").replace('"', '\\"')
    plain = all(char.isalnum() or char in "-_./:=%$@,+~" for char in escaped)
    return escaped if plain and escaped else f'"{escaped}"'


def _escaped(text: str) -> str:
    """Return a text without specifiers, which begin with a percent sign."""
    return text.replace("%", "%%")
