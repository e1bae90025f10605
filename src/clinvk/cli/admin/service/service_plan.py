"""What the service is to be: its command line, user, directory and environment."""

import os
import pwd
import shutil
import sys
from collections.abc import Iterator, Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import NamedTuple

from clinvk.api.access import key_file
from clinvk.backends.registry import BACKENDS
from clinvk.cli.parse.flags import InstallFlags, ServiceFlags
from clinvk.cli.parse.settings import directory, trace_of
from clinvk.config.load import home, settings_file
from clinvk.config.model import ServerSettings, Settings
from clinvk.types.errors import InvalidRequest

_HELPERS = ("node", "git", "rg", "bwrap", "socat", "gopass")
_USUAL = (".local/bin", ".npm-global/bin", ".bun/bin", ".volta/bin", ".claude/local", ".nvm/versions/node/*/bin")
"""Where agents are often installed, below the home: `sudo` does not look there."""
_STANDARD = ("/usr/local/bin", "/usr/bin", "/bin")
_HOMEBREW = "/opt/homebrew/bin"
_PASSED_ON = ("CLINVK_HOME", "CLINVK_CONFIG")
_KEYS = "CLINVK_API_KEYS"
_STOP_BEYOND_GRACE_S = 20


class Account(NamedTuple):
    """Whose service it is. `for_machine`: it starts with the machine, not with the user's first login."""

    name: str
    uid: int
    gid: int
    home: Path
    for_machine: bool


class Plan(NamedTuple):
    """The service. `secrets` is a file of variables that may be there, for what nobody else shall read."""

    argv: tuple[str, ...]
    folder: Path
    env: dict[str, str]
    secrets: Path
    settings: Settings
    is_activated: bool
    warnings: tuple[str, ...]

    @property
    def stop_within_s(self) -> int:
        """How long a stop may take: what runs finishes within the grace, what is left then is ended."""
        return self.settings.server.shutdown_grace_secs + _STOP_BEYOND_GRACE_S


def account_of(flags: ServiceFlags, run_as: str | None, environ: Mapping[str, str]) -> Account:
    """Say whose service is meant: root's is for the machine, any other user's for that user, unless flags say so.

    Raises:
        InvalidRequest: flags exclude each other, or there is no such user.
    """
    if flags.system and flags.user:
        raise InvalidRequest("--system and --user exclude each other")
    for_machine = flags.system or (os.geteuid() == 0 and not flags.user)
    if run_as is not None and not for_machine:
        raise InvalidRequest("--run-as is for a service of the machine: --system")
    if not for_machine:
        own = pwd.getpwuid(os.geteuid())
        return Account(own.pw_name, own.pw_uid, own.pw_gid, Path(environ.get("HOME") or own.pw_dir), False)
    name = run_as or environ.get("SUDO_USER") or pwd.getpwuid(os.geteuid()).pw_name
    try:
        found = pwd.getpwnam(name)
    except KeyError:
        raise InvalidRequest(f"no user {name!r} on this machine (--run-as)") from None
    return Account(found.pw_name, found.pw_uid, found.pw_gid, Path(found.pw_dir), True)


def planned(flags: InstallFlags, environ: Mapping[str, str], account: Account, reads_secrets: bool = True) -> Plan:
    """Say what the service is to be. The settings that it would start with are read, so that it will start.

    `reads_secrets`: the service manager gives the server the variables of `Plan.secrets`.

    Raises:
        ConfigError: they are wrong.
        InvalidRequest: a flag is, or the way to clinvk has a character that no unit can hold.
    """
    environ = {**environ, "HOME": str(account.home)}
    more: dict[str, object] = {"server.host": flags.host, "server.port": flags.port}
    settings = trace_of(flags, environ, more).settings
    own = home(environ)
    folder = own / "workspace" if flags.workdir is None else Path(directory(flags.workdir, "--workdir"))
    path, found = _search_path(environ, account)
    env = {"PATH": path, **{name: environ[name] for name in _PASSED_ON if environ.get(name)}}
    secrets = own / "service.env"
    read = secrets if reads_secrets else None
    plan = Plan(
        argv=(*_clinvk(), "serve", *_arguments(flags, environ)),
        folder=folder,
        env=env,
        secrets=secrets,
        settings=settings,
        is_activated=flags.socket,
        warnings=(*_warnings(account, environ, found, read), *_unlocked(settings.server, own / key_file.FILE, read)),
    )
    for text in (*plan.argv, str(plan.folder), str(plan.secrets), *plan.env.values()):
        if not text.isprintable():
            raise InvalidRequest(f"{text!r} has characters that cannot be written into the files of a service")
    return plan


def _clinvk() -> tuple[str, ...]:
    """Give the command by which this clinvk was started."""
    script = os.path.abspath(sys.argv[0])
    return (script,) if os.path.basename(script) == "clinvk" else (sys.executable, "-m", "clinvk")


def _arguments(flags: InstallFlags, environ: Mapping[str, str]) -> Iterator[str]:
    """Give the flags of `serve`; what no flag says is left to the settings, which can be changed later."""
    if flags.host is not None:
        yield from ("--host", flags.host)
    if flags.port is not None:
        yield from ("--port", str(flags.port))
    if flags.config is not None:
        yield from ("--config", str(settings_file(flags.config, environ)[0]))


def _search_path(environ: Mapping[str, str], account: Account) -> tuple[str, list[str]]:
    """Give a PATH with the folders of the agents and of what they call, and the agents that are found there."""
    agents = [backend.executable for backend in BACKENDS.values()]
    usual = [str(folder) for pattern in _USUAL for folder in sorted(account.home.glob(pattern), reverse=True)]
    folders = [*environ.get("PATH", os.defpath).split(os.pathsep), *usual, _HOMEBREW]
    wanted = (*agents, *_HELPERS)
    useful = [folder for folder in folders if os.path.isabs(folder) and _has_any(folder, wanted)]
    path = os.pathsep.join(dict.fromkeys([*useful, *_STANDARD]))
    return path, [agent for agent in agents if shutil.which(agent, path=path)]


def _has_any(folder: str, names: tuple[str, ...]) -> bool:
    return any(shutil.which(name, path=folder) for name in names)


def _warnings(account: Account, environ: Mapping[str, str], found: list[str], secrets: Path | None) -> Iterator[str]:
    if not found:
        yield f"no agent is on PATH, nor where {account.name} would have one; install one, then do this again"
    programs = (_clinvk()[0], sys.executable, os.path.realpath(sys.executable))
    if closed := next(((path, folder) for path in programs if (folder := _closed_to(account, path))), None):
        yield f"{account.name} may not enter {closed[1]}, where {closed[0]} is: install clinvk elsewhere, as in /opt"
    if account.uid == 0:
        other = "; --run-as NAME gives the service a user of its own" if account.for_machine else ""
        yield f"agents will run as root{other}"
    if _KEYS in environ:
        place = f"put it into {secrets}, or " if secrets else ""
        yield f"{_KEYS} is not written into the service's files; {place}make keys with clinvk keys create NAME"


def _unlocked(server: ServerSettings, keys: Path, secrets: Path | None) -> Iterator[str]:
    """Warn of a server that other machines reach, where it has no key that stays: see `clinvk.api.access.auth`."""
    files = filter(None, (keys, secrets))  # os.path, since a home may be closed to who only prints
    if not (server.api_keys_gopass_path or any(map(os.path.exists, files))) and _is_open(server.host):
        yield (
            f"{server.host} is open to other machines and there is no API key: each start makes one, and prints it "
            "into the log; clinvk keys create NAME makes one that stays"
        )


def _is_open(host: str) -> bool:
    try:
        return not ip_address(host).is_loopback
    except ValueError:
        return host != "localhost"


def _closed_to(account: Account, path: str) -> Path | None:
    """Give the folder on the way to a file that the account may not enter, as far as modes tell."""
    for folder in reversed(Path(path).parents):
        found = folder.stat()
        bit = 0o100 if found.st_uid == account.uid else 0o010 if found.st_gid == account.gid else 0o001
        if account.uid and not found.st_mode & bit:
            return folder
    return None
