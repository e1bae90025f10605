"""`clinvk service`: print the files of a service, and uninstall a service that an earlier clinvk installed."""

import os
import pwd
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from ipaddress import ip_address
from pathlib import Path

from clinvk.api.access import key_file
from clinvk.backends.registry import Backends
from clinvk.cli.admin.completion import MANAGERS
from clinvk.cli.admin.unit_files import Account, ServicePlan, service_files
from clinvk.cli.parse.flags import ServiceFlags, ServicePrintFlags
from clinvk.cli.parse.settings import directory, trace_of
from clinvk.cli.terminal.output import Notes, print_text
from clinvk.config.load import home, settings_file
from clinvk.types.errors import ClinvkError, InvalidRequest
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
_UNINSTALL_TIMEOUT_S = 120.0


def show(flags: ServicePrintFlags, environ: Mapping[str, str], notes: Notes, backends: Backends) -> int:
    """Print the files of the service on stdout; the commands that install them, and warnings, on stderr.

    Raises:
        ConfigError: the settings are invalid, so the server would not start.
        InvalidRequest: the user does not exist, or a value cannot be written to a unit.
    """
    manager, account = _manager(flags), _account_of(flags, flags.run_as, environ)
    plan = plan_service(flags, environ, account, backends)
    files = service_files(manager, plan)
    # XML must begin with its own first line; above a unit stands its path, as in `systemctl cat`.
    units = (text if text.startswith("<?xml") else f"# {path}\n{text}" for path, text in files.items())
    print_text("\n".join(units).rstrip("\n"))
    for text in warnings_of(plan, environ, manager == "systemd", backends):
        notes.info(f"warning: {text}")
    for text in _instructions(manager, account, [*files], "SUDO_USER" in environ):
        notes.info(text)
    return 0


def _instructions(manager: str, account: Account, files: list[Path], is_sudo: bool) -> Iterator[str]:
    """Yield two commands to copy: the first writes the files, the second enables and starts the service."""
    first = files[0]
    sudo = "sudo " if account.for_machine else ""
    make_folder = "" if first.parent.exists() else f"{sudo}mkdir -p {shlex.quote(str(first.parent))}; "
    this = f"{'sudo ' if is_sudo else ''}{shlex.join(['clinvk', *sys.argv[1:]])}"
    if manager == "systemd":
        write = "awk '/^# \\// {file = substr($0, 3)} {print > file}'"
        start = f"{' '.join(account.systemctl)} enable --now {' '.join(path.name for path in reversed(files))}"
    else:
        write = f"tee {shlex.quote(str(first))}"
        start = f"launchctl bootstrap {account.launchd_domain} {shlex.quote(str(first))}"
    yield f"to install the service: {make_folder}{this} | {sudo}{write}"
    yield f"then start it: {sudo}{start}"
    if manager == "systemd" and not account.for_machine:
        yield f"the service stops when you log out, unless you run: loginctl enable-linger {account.name}"


def uninstall(flags: ServiceFlags, environ: Mapping[str, str], notes: Notes, backends: Backends) -> int:
    """Stop the service and remove its files.

    Raises:
        ClinvkError: the service manager fails, or a file cannot be removed.
    """
    manager, account = _manager(flags), _account_of(flags, None, environ)
    files = [path for path in account.files_of(manager) if path.exists()]
    if not files:
        print_text(f"{account.files_of(manager)[0]}: not installed")
        return 0
    steps = [("rm", str(path)) for path in files]
    if manager == "systemd":
        stop = (*account.systemctl, "disable", "--now", *(path.name for path in reversed(files)))
        steps = [stop, *steps, (*account.systemctl, "daemon-reload")]
    else:
        steps = [("launchctl", "bootout", f"{account.launchd_domain}/{files[0].stem}"), *steps]
    if flags.dry_run:
        print_text("\n".join(map(shlex.join, steps)))
        return 0
    for step in steps:
        _run(step)
    print_text("\n".join(f"{path}: removed" for path in files))
    notes.info("sessions, settings and API keys were not removed")
    return 0


def _run(argv: tuple[str, ...]) -> None:
    """Run a command. A failure of launchctl is ignored: launchctl fails if the service is not loaded."""
    try:
        done = subprocess.run(argv, capture_output=True, timeout=_UNINSTALL_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise ClinvkError(f"{shlex.join(argv)} failed: {exc}") from exc
    if done.returncode and argv[0] != "launchctl":
        output = " ".join((done.stderr or done.stdout).decode(errors="replace").split())
        raise ClinvkError(f"{shlex.join(argv)} failed: {output or done.returncode}")


def _manager(flags: ServiceFlags) -> str:
    name = flags.words[0] if flags.words else MANAGERS[sys.platform == "darwin"]
    if name not in MANAGERS:
        raise InvalidRequest(unknown_name("service manager", name, MANAGERS))
    return name


def _account_of(flags: ServiceFlags, run_as: str | None, environ: Mapping[str, str]) -> Account:
    """Return the user of the service. Without flags, root's service is for the machine, any other one for its user.

    Raises:
        InvalidRequest: the flags contradict each other, or the user does not exist.
    """
    if flags.system and flags.user:
        raise InvalidRequest("--system and --user exclude each other")
    for_machine = flags.system or (os.geteuid() == 0 and not flags.user)
    if run_as is not None and not for_machine:
        raise InvalidRequest("--run-as requires --system")
    own = pwd.getpwuid(os.geteuid())
    if not for_machine:
        return Account(own.pw_name, own.pw_uid, Path(environ.get("HOME") or own.pw_dir), False)
    name = run_as or environ.get("SUDO_USER") or own.pw_name
    try:
        user = pwd.getpwnam(name)
    except KeyError:
        raise InvalidRequest(f"no user {name!r} on this machine (--run-as)") from None
    return Account(user.pw_name, user.pw_uid, Path(user.pw_dir), True)


def plan_service(
    flags: ServicePrintFlags, environ: Mapping[str, str], account: Account, backends: Backends
) -> ServicePlan:
    """Return what the service runs. The settings of the account are loaded, so that the server will start.

    Raises:
        ConfigError: the settings are invalid.
        InvalidRequest: a flag is wrong, or a value has a character that a unit cannot hold.
    """
    environ = {**environ, "HOME": str(account.home)}
    settings = trace_of(flags, environ, {"server.host": flags.host, "server.port": flags.port}, backends).settings
    inherited = {name: environ[name] for name in _INHERITED if environ.get(name)}
    script = os.path.abspath(sys.argv[0])
    command = (script,) if os.path.basename(script) == "clinvk" else (sys.executable, "-m", "clinvk")
    executables = [backend.executable for backend in backends.values()]
    plan = ServicePlan(
        account=account,
        argv=(*command, "serve", *_arguments(flags, environ)),
        home=home(environ),
        workdir=None if flags.workdir is None else Path(directory(flags.workdir, "--workdir")),
        env={
            "PATH": _search_path(environ, account, executables),
            **inherited,
        },
        settings=settings,
        has_socket=flags.socket,
    )
    for text in (*plan.argv, str(plan.home), str(plan.folder), *plan.env.values()):
        if not text.isprintable():
            raise InvalidRequest(f"{text!r} has characters that cannot be written to the files of a service")
    return plan


def _arguments(flags: ServicePrintFlags, environ: Mapping[str, str]) -> Iterator[str]:
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


def warnings_of(plan: ServicePlan, environ: Mapping[str, str], has_secrets: bool, backends: Backends) -> Iterator[str]:
    """Yield what would keep the service from working, or make it unsafe.

    With `has_secrets` the service manager reads `service.env`.
    """
    account, server = plan.account, plan.settings.server
    if not any(shutil.which(backend.executable, path=plan.env["PATH"]) for backend in backends.values()):
        yield f"no agent is on PATH, nor in the usual folders of {account.name}; install one, then print again"
    if account.uid == 0:
        hint = "; --run-as NAME runs the service as another user" if account.for_machine else ""
        yield f"agents will run as root{hint}"
    if _KEYS in environ:
        place = f"put it into {plan.secrets}, or " if has_secrets else ""
        yield f"{_KEYS} is not written to the service's files; {place}create keys with clinvk keys create NAME"
    key_files = [plan.home / key_file.FILE, *([plan.secrets] if has_secrets else [])]
    # os.path, since the home may be closed to us
    has_key = server.api_keys_gopass_path or any(map(os.path.exists, key_files))
    if not has_key and not _is_loopback(server.host):  # as in `clinvk.api.access.auth`
        yield (
            f"{server.host} is open to other machines and there is no API key: each start creates one "
            "and prints it to the log; clinvk keys create NAME creates one that stays"
        )


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
