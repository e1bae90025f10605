"""`clinvk service print`: the files of a service, with what it needs to find the agents of this machine.

The files: systemd.service(5), systemd.socket(5), systemd.exec(5), launchd.plist(5).
"""

import os
import pwd
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import NamedTuple

from clinvk.backends.registry import Backends
from clinvk.cli.admin.completion import MANAGERS
from clinvk.cli.parse.flags import ServiceFlags
from clinvk.cli.parse.settings import CommandContext, directory
from clinvk.cli.terminal.output import print_text
from clinvk.config.load import settings_file
from clinvk.config.model import Settings
from clinvk.types.errors import InvalidRequest
from clinvk.types.text import unknown_name

_HELPERS = ("node", "git", "rg", "bwrap", "socat", "gopass")
_USUAL_FOLDERS = (
    *(".local/bin", ".npm-global/bin", ".bun/bin", ".volta/bin", ".claude/local"),
    ".nvm/versions/node/*/bin",
)
"""Where agents are often installed, below the home: the PATH of `sudo` does not have these folders."""
_STANDARD_FOLDERS = ("/usr/local/bin", "/usr/bin", "/bin")
_HOMEBREW = "/opt/homebrew/bin"
_INHERITED = ("CLINVK_HOME", "CLINVK_CONFIG")
_KEYS = "CLINVK_API_KEYS"

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


def show(flags: ServiceFlags, context: CommandContext) -> int:
    """Print the files of the service on stdout, and warnings on stderr.

    Raises:
        ConfigError: the settings are invalid, so the server would not start.
        InvalidRequest: the user does not exist, or a value cannot be written to a unit.
    """
    manager, account = _manager(flags), _account_of(flags, context.environ)
    plan = plan_service(flags, context, account)
    files = service_files(manager, plan)
    # XML must begin with its own first line; above a unit stands its path, as in `systemctl cat`.
    units = (text if text.startswith("<?xml") else f"# {path}\n{text}" for path, text in files.items())
    print_text("\n".join(units).rstrip("\n"))
    for text in warnings_of(plan, context.environ, context.backends):
        context.notes.info(f"warning: {text}")
    context.notes.info("clinvk help service has the commands that install it")
    return 0


def _manager(flags: ServiceFlags) -> str:
    name = flags.words[0] if flags.words else MANAGERS[sys.platform == "darwin"]
    if name not in MANAGERS:
        raise InvalidRequest(unknown_name("service manager", name, MANAGERS))
    return name


def _account_of(flags: ServiceFlags, environ: Mapping[str, str]) -> Account:
    """Return the user of the service. Without flags, root's service is for the machine, any other one for its user.

    Raises:
        InvalidRequest: the flags contradict each other, or the user does not exist.
    """
    if flags.system and flags.user:
        raise InvalidRequest("--system and --user exclude each other")
    for_machine = flags.system or (os.geteuid() == 0 and not flags.user)
    if flags.run_as is not None and not for_machine:
        raise InvalidRequest("--run-as requires --system")
    own = pwd.getpwuid(os.geteuid())
    if not for_machine:
        return Account(own.pw_name, own.pw_uid, Path(environ.get("HOME") or own.pw_dir), False)
    name = flags.run_as or environ.get("SUDO_USER") or own.pw_name
    try:
        user = pwd.getpwnam(name)
    except KeyError:
        raise InvalidRequest(f"no user {name!r} on this machine (--run-as)") from None
    return Account(user.pw_name, user.pw_uid, Path(user.pw_dir), True)


def plan_service(flags: ServiceFlags, context: CommandContext, account: Account) -> ServicePlan:
    """Return what the service runs. The settings of the account are loaded, so that the server will start.

    Raises:
        ConfigError: the settings are invalid.
        InvalidRequest: a flag is wrong, or a value has a character that a unit cannot hold.
    """
    environ = {**context.environ, "HOME": str(account.home)}
    own = CommandContext(flags, environ, context.notes, context.backends)
    settings = own.overriding({"server.host": flags.host, "server.port": flags.port}).trace().settings
    inherited = {name: environ[name] for name in _INHERITED if environ.get(name)}
    script = os.path.abspath(sys.argv[0])
    command = (script,) if os.path.basename(script) == "clinvk" else (sys.executable, "-m", "clinvk")
    executables = [backend.executable for backend in context.backends.values()]
    plan = ServicePlan(
        account=account,
        argv=(*command, "serve", *_arguments(flags, environ)),
        home=own.home,
        workdir=None if flags.workdir is None else Path(directory(flags.workdir, "--workdir")),
        env={"PATH": _search_path(environ, account, executables), **inherited},
        settings=settings,
        has_socket=flags.socket,
    )
    for text in (*plan.argv, str(plan.home), str(plan.folder), *plan.env.values()):
        if not text.isprintable():
            raise InvalidRequest(f"{text!r} has characters that cannot be written to the files of a service")
    return plan


def _arguments(flags: ServiceFlags, environ: Mapping[str, str]) -> Iterator[str]:
    """Yield the flags of `serve`. What no flag says is left to the settings, which can be changed later."""
    if flags.host is not None:
        yield from ("--host", flags.host)
    if flags.port is not None:
        yield from ("--port", str(flags.port))
    if flags.config is not None:
        yield from ("--config", str(settings_file(flags.config, environ)[0]))


def _search_path(environ: Mapping[str, str], account: Account, executables: Sequence[str]) -> str:
    """Return a PATH with the folders of the agents and of the programs that they call."""
    usual = [str(folder) for pattern in _USUAL_FOLDERS for folder in sorted(account.home.glob(pattern), reverse=True)]
    folders = [*environ.get("PATH", os.defpath).split(os.pathsep), *usual, _HOMEBREW]
    wanted = (*executables, *_HELPERS)
    useful = [path for path in folders if os.path.isabs(path) and any(shutil.which(name, path=path) for name in wanted)]
    return os.pathsep.join(dict.fromkeys([*useful, *_STANDARD_FOLDERS]))


def warnings_of(plan: ServicePlan, environ: Mapping[str, str], backends: Backends) -> Iterator[str]:
    """Yield what would keep the service from working, or make it unsafe."""
    account = plan.account
    if not any(shutil.which(backend.executable, path=plan.env["PATH"]) for backend in backends.values()):
        yield f"no agent is on PATH, nor in the usual folders of {account.name}; install one, then print again"
    if account.uid == 0:
        hint = "; --run-as NAME runs the service as another user" if account.for_machine else ""
        yield f"agents will run as root{hint}"
    if _KEYS in environ:
        yield f"{_KEYS} is not written to the service's files; create keys with clinvk keys create NAME"


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
