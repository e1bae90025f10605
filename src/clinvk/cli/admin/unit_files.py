"""The files of a service: systemd.service(5), systemd.socket(5), systemd.exec(5), launchd.plist(5)."""

from ipaddress import ip_address
from pathlib import Path
from typing import NamedTuple

from clinvk.config.model import Settings
from clinvk.types.errors import InvalidRequest

_TEMPLATE = Path(__file__).with_name("service.template")
"""The unit. The minus sign before a missing folder lets clinvk start in /, and clinvk creates the folder.

SIGTERM is for the server alone, which lets agents finish; SIGKILL ends the rest. Agents, their tools and their
sandboxes do not notice the restrictions. Left out are ProtectKernelTunables, ProtectKernelLogs, RestrictNamespaces and
RestrictSUIDSGID: with each of them bubblewrap, and so the sandboxes of Claude Code and Codex, does not start (tried
with systemd 257 and bubblewrap 0.12). Also left out are PrivateTmp, since agents work in /tmp; MemoryDenyWriteExecute,
which Node.js does not survive; ProtectHome and ProtectSystem=strict, since agents write where the projects are;
ProtectControlGroups, which `agents.cgroup` needs.
"""

_HARDENED_FOR_MACHINE = "ProtectSystem=full\nProtectKernelModules=yes\n"
"""More restrictions. In a user service they would create a user namespace, where ssh refuses its own settings."""

_SOCKET_UNIT = """\
[Unit]
Description=The socket of clinvk, which stays open while clinvk restarts

[Socket]
ListenStream={address}
Backlog=2048
NoDelay=yes

[Install]
WantedBy=sockets.target
"""
_STOP_BEYOND_GRACE_S = 20


class Account(NamedTuple):
    """The user of the service. `for_machine`: the service starts with the machine, not with the user's first login."""

    name: str
    uid: int
    home: Path
    for_machine: bool

    def files_of(self, manager: str) -> list[Path]:
        """Return the paths of every file that a service of clinvk may have; the first one always exists."""
        if manager == "launchd":
            root = Path("/Library/LaunchDaemons") if self.for_machine else self.home / "Library" / "LaunchAgents"
            return [root / "com.clinvk.server.plist"]
        root = Path("/etc/systemd/system") if self.for_machine else self.home / ".config" / "systemd" / "user"
        return [root / "clinvk.service", root / "clinvk.socket"]


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
    files = {service: _unit(plan)}
    return files | {more[0]: _SOCKET_UNIT.format(address=_socket_address(plan))} if plan.has_socket else files


def _unit(plan: ServicePlan) -> str:
    for_machine = plan.account.for_machine
    after = "After=network.target\n" if for_machine else ""
    return _TEMPLATE.read_text().format(
        unit=after + ("Requires=clinvk.socket\nAfter=clinvk.socket\n" if plan.has_socket else ""),
        user=f"User={plan.account.name}\n" if for_machine else "",
        command=" ".join(_quoted(word.replace("$", "$$")) for word in plan.argv),
        folder=_escaped(str(plan.folder)),
        environment="\n".join(f"Environment={_quoted(f'{name}={value}')}" for name, value in plan.env.items()),
        secrets=_escaped(str(plan.secrets)),
        stop_timeout_s=plan.stop_timeout_s,
        delegate="Delegate=yes\n" if plan.settings.agents.cgroup else "",
        hardened=_HARDENED_FOR_MACHINE if for_machine else "",
        target="multi-user.target" if for_machine else "default.target",
    )


def _socket_address(plan: ServicePlan) -> str:
    server = plan.settings.server
    try:
        host = ip_address(server.host)
    except ValueError:
        raise InvalidRequest(f"--socket requires an IP address such as 127.0.0.1, not {server.host!r}") from None
    return f"[{host}]:{server.port}" if host.version == 6 else f"{host}:{server.port}"


def _property_list(plan: ServicePlan) -> str:
    import plistlib  # an import of 15 ms that only macOS needs

    if plan.has_socket:
        raise InvalidRequest("--socket requires systemd")
    log = str(plan.account.home / "Library" / "Logs" / "clinvk.log")
    content: dict[str, object] = {
        "Label": plan.account.files_of("launchd")[0].stem,
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


def _quoted(text: str) -> str:
    """Return a word of a unit, in quotes if it needs them."""
    escaped = _escaped(text).replace("\\", "\\\\").replace('"', '\\"')
    plain = all(char.isalnum() or char in "-_./:=%$@,+~" for char in escaped)
    return escaped if plain and escaped else f'"{escaped}"'


def _escaped(text: str) -> str:
    """Return a text without specifiers, which begin with a percent sign."""
    return text.replace("%", "%%")
