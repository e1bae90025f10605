"""The unit files for systemd and launchd, read by the rules of each."""

import plistlib
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from clinvk.backends.registry import BACKENDS
from clinvk.cli.admin.service import Account, ServicePlan, plan_service, service_files, warnings_of
from clinvk.cli.parse.flags import ServiceFlags
from clinvk.cli.parse.settings import CommandContext
from clinvk.cli.terminal.output import Notes
from clinvk.config.model import AgentSettings, ServerSettings, Settings
from clinvk.types.errors import ConfigError, InvalidRequest

ANA = Account("ana", 1000, Path("/home/ana"), for_machine=True)
OWN = ANA._replace(for_machine=False)


def plan(account: Account = ANA, **changes: Any) -> ServicePlan:
    """Return a service; tests change single fields."""
    return ServicePlan(
        account=account,
        argv=("/usr/bin/true", "serve", "--port", "8080"),
        home=Path("/home/ana/.clinvk"),
        workdir=None,
        env={"PATH": "/opt/agents/bin:/usr/bin"},
        settings=Settings(server=ServerSettings(shutdown_grace_secs=40)),
        has_socket=False,
    )._replace(**changes)


def systemd_unit(account: Account = ANA, **changes: Any) -> dict[str, list[str]]:
    """Return the unit of the service, as `unit` reads it."""
    return unit(next(iter(service_files("systemd", plan(account, **changes)).values())))


def unit(text: str) -> dict[str, list[str]]:
    """Read a unit: the values of each `Section.Key`."""
    found: dict[str, list[str]] = {}
    section = ""
    for line in text.splitlines():
        if line.startswith("["):
            section = line.strip("[]")
        elif line:
            key, separator, value = line.partition("=")
            assert separator, line
            found.setdefault(f"{section}.{key}", []).append(value)
    return found


def words(line: str) -> list[str]:
    """Read a command line as systemd does: quotes, then specifiers and variables."""
    found, word, quoted, started = list[str](), "", False, False
    chars = iter(line)
    for char in chars:
        if char == '"':
            quoted, started = not quoted, True
        elif char == "\\":
            word += next(chars)
        elif char == " " and not quoted:
            found.append(word)
            word, started = "", False
        else:
            word += char
    return [text.replace("%%", "%").replace("$$", "$") for text in [*found, *([word] if word or started else [])]]


def test_system_unit_has_the_expected_name_and_keys() -> None:
    files = service_files("systemd", plan())
    assert list(files) == [Path("/etc/systemd/system/clinvk.service")]
    read = unit(files[Path("/etc/systemd/system/clinvk.service")])
    known = {
        "Unit.After": "network.target",
        "Service.Type": "simple",
        "Service.User": "ana",
        "Service.ExecStart": "/usr/bin/true serve --port 8080",
        "Service.Restart": "always",
        "Service.RestartSec": "5",
        "Service.RestartPreventExitStatus": "3",
        "Service.WorkingDirectory": "-/home/ana/.clinvk/workspace",
        "Service.Environment": "PATH=/opt/agents/bin:/usr/bin",
        "Service.NoNewPrivileges": "yes",
        "Service.ProtectSystem": "full",
        "Install.WantedBy": "multi-user.target",
    }
    assert {key: read[key] for key in known} == {key: [value] for key, value in known.items()}


def test_systemd_unit_lets_the_server_stop_its_own_agents() -> None:
    """SIGTERM for all would end the agents at once, and a shorter time than the grace the server."""
    read = systemd_unit()
    assert read["Service.KillMode"] == ["mixed"]
    assert int(read["Service.TimeoutStopSec"][0]) >= 40 + 5
    assert read["Service.OOMPolicy"] == ["continue"]


def test_user_unit_is_in_the_home_and_creates_no_user_namespace() -> None:
    files = service_files("systemd", plan(OWN))
    read = unit(files[Path("/home/ana/.config/systemd/user/clinvk.service")])
    assert read["Install.WantedBy"] == ["default.target"]
    assert "Service.User" not in read
    assert not [key for key in read if key.startswith(("Service.Protect", "Service.Private"))]


@pytest.mark.parametrize("account", [ANA, OWN], ids=["machine", "user"])
def test_systemd_unit_does_not_block_agent_sandboxes(account: Account) -> None:
    """Each of these settings was found to block them."""
    read = systemd_unit(account)
    refused = ("ProtectKernelTunables", "ProtectKernelLogs", "RestrictNamespaces", "RestrictSUIDSGID", "PrivateTmp")
    assert not set(read).intersection(f"Service.{key}" for key in refused)


@pytest.mark.parametrize(("host", "listen"), [("0.0.0.0", "0.0.0.0:8080"), ("::1", "[::1]:8080")])
def test_socket_unit_listens_on_the_configured_address(host: str, listen: str) -> None:
    settings = Settings(server=ServerSettings(host=host))
    service, socket = (
        unit(text) for text in service_files("systemd", plan(OWN, has_socket=True, settings=settings)).values()
    )
    assert socket["Socket.ListenStream"] == [listen]
    assert "Socket.Accept" not in socket
    assert service["Unit.Requires"] == ["clinvk.socket"]


def test_socket_unit_requires_an_ip_address_and_systemd() -> None:
    named = plan(OWN, has_socket=True, settings=Settings(server=ServerSettings(host="localhost")))
    with pytest.raises(InvalidRequest, match="'localhost'"):
        service_files("systemd", named)
    with pytest.raises(InvalidRequest, match="--socket requires systemd"):
        service_files("launchd", named)


ODD = ("/opt/a b/clinvk", "serve", "--config", '/home/ana/100% "mine"/$HOME\\x.yaml')


def test_special_characters_in_paths_are_escaped() -> None:
    read = systemd_unit(argv=ODD, env={"PATH": "/opt/a b:/50%"}, workdir=Path("/srv/50% of it"))
    assert words(read["Service.ExecStart"][0]) == list(ODD)
    assert read["Service.Environment"] == ['"PATH=/opt/a b:/50%%"']
    assert read["Service.WorkingDirectory"] == ["-/srv/50%% of it"]


@pytest.mark.parametrize("account", [ANA, OWN], ids=["machine", "user"])
@pytest.mark.parametrize("has_socket", [False, True], ids=["alone", "with a socket"])
def test_every_line_is_valid_for_systemd(tmp_path: Path, account: Account, has_socket: bool) -> None:
    """Where systemd is installed it is asked; its manual is the list for the rest."""
    files = service_files("systemd", plan(account._replace(name="root"), has_socket=has_socket))
    for path, text in files.items():
        (tmp_path / path.name).write_text(text)
        assert set(unit(text)) <= KNOWN
    if verify := shutil.which("systemd-analyze"):
        command = [verify, *([] if account.for_machine else ["--user"]), "verify", "--man=no", "--recursive-errors=no"]
        env = {"SYSTEMD_UNIT_PATH": f"{tmp_path}:/usr/lib/systemd/system", "XDG_RUNTIME_DIR": str(tmp_path)}
        found = [str(tmp_path / path.name) for path in files]
        done = subprocess.run([*command, *found], env=env, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")


KNOWN = {
    *(f"Unit.{key}" for key in ("Description", "After", "Requires")),
    *(f"Socket.{key}" for key in ("ListenStream", "Backlog", "NoDelay")),
    "Install.WantedBy",
    *(f"Service.{key}" for key in ("Type", "User", "ExecStart", "ExecReload", "WorkingDirectory", "Environment")),
    *(f"Service.{key}" for key in ("EnvironmentFile", "Restart", "RestartSec", "RestartPreventExitStatus")),
    *(f"Service.{key}" for key in ("KillMode", "TimeoutStopSec", "NotifyAccess", "OOMPolicy", "LimitNOFILE")),
    *(f"Service.{key}" for key in ("NoNewPrivileges", "RestrictRealtime", "LockPersonality", "Delegate")),
    *(f"Service.{key}" for key in ("ProtectSystem", "ProtectKernelModules")),
}


def test_launch_agent_has_the_expected_name_and_keys() -> None:
    files = service_files("launchd", plan(OWN, env={"PATH": "/opt/<a> & b"}))
    assert list(files) == [Path("/home/ana/Library/LaunchAgents/com.clinvk.server.plist")]
    read = plistlib.loads(next(iter(files.values())).encode())
    assert (read["Label"], read["RunAtLoad"], read["KeepAlive"]) == ("com.clinvk.server", True, True)
    assert read["ProgramArguments"] == ["/usr/bin/true", "serve", "--port", "8080"]
    assert read["EnvironmentVariables"] == {"PATH": "/opt/<a> & b"}
    assert "WorkingDirectory" not in read, "launchd starts nothing in a directory that is not there"
    assert read["ExitTimeOut"] > 40
    assert "UserName" not in read


def test_launch_daemon_names_its_user() -> None:
    ((path, text),) = service_files("launchd", plan(workdir=Path("/srv"))).items()
    assert path == Path("/Library/LaunchDaemons/com.clinvk.server.plist")
    read = plistlib.loads(text.encode())
    assert (read["UserName"], read["WorkingDirectory"]) == ("ana", "/srv")


@pytest.fixture
def account(tmp_path: Path) -> Account:
    for folder in ("bin", ".local/bin", "else"):
        (tmp_path / folder).mkdir(parents=True)
    for name in ("bin/claude", ".local/bin/codex", "else/cat"):
        (tmp_path / name).touch(mode=0o755)
    return ANA._replace(home=tmp_path)


def planned(flags: ServiceFlags, environ: dict[str, str], account: Account) -> ServicePlan:
    """Return what `clinvk service print` would print."""
    return plan_service(flags, CommandContext(flags, environ, Notes({}), BACKENDS), account)


def warnings(account: Account, environ: dict[str, str], **flags: Any) -> str:
    """Return the warnings of `clinvk service print`."""
    found = planned(ServiceFlags(**flags), environ, account)
    return "\n".join(warnings_of(found, environ, BACKENDS))


def test_path_contains_only_agent_and_system_folders(account: Account) -> None:
    environ = {"PATH": f"{account.home}/else:{account.home}/bin:relative"}
    folders = planned(ServiceFlags(), environ, account).env["PATH"].split(":")
    assert folders[:2] == [f"{account.home}/bin", f"{account.home}/.local/bin"]
    assert not {f"{account.home}/else", "relative"}.intersection(folders)
    assert {"/usr/local/bin", "/usr/bin", "/bin"} <= set(folders)
    assert "no agent" not in warnings(account, environ)


def test_command_line_reflects_flags_and_account(account: Account, tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text("server: {shutdown_grace_secs: 7}")
    flags = ServiceFlags(host="0.0.0.0", port=3000, config=str(tmp_path / "own.yaml"), workdir=str(tmp_path))
    found = planned(flags, {"CLINVK_HOME": "/srv/clinvk"}, account)
    arguments = ["serve", "--host", "0.0.0.0", "--port", "3000", "--config", str(tmp_path / "own.yaml")]
    assert list(found.argv)[-7:] == arguments
    assert (found.folder, found.secrets) == (tmp_path, Path("/srv/clinvk/service.env"))
    assert found.env["CLINVK_HOME"] == "/srv/clinvk"
    assert found.settings.server.shutdown_grace_secs == 7


def test_agents_with_cgroups_enable_delegation_in_systemd() -> None:
    settings = Settings(agents=AgentSettings(cgroup=True))
    assert systemd_unit(settings=settings)["Service.Delegate"] == ["yes"]
    assert "Service.Delegate" not in systemd_unit()


def test_api_keys_in_the_environment_are_reported_but_not_written(account: Account) -> None:
    environ = {"CLINVK_API_KEYS": "very-secret"}
    assert "CLINVK_API_KEYS is not written" in warnings(account, environ)
    assert "clinvk keys create NAME" in warnings(account, environ)
    assert "very-secret" not in warnings(account, environ)
    files = service_files("systemd", planned(ServiceFlags(), environ, account))
    assert "very-secret" not in "".join(files.values())


@pytest.mark.parametrize("for_machine", [True, False])
def test_agents_that_would_run_as_root_are_reported(account: Account, for_machine: bool) -> None:
    found = warnings(account._replace(uid=0, for_machine=for_machine), {})
    assert "agents will run as root" in found
    assert ("--run-as" in found) == for_machine
    assert "as root" not in warnings(account, {})


def test_invalid_settings_are_rejected(account: Account) -> None:
    with pytest.raises(ConfigError, match="portt"):
        planned(ServiceFlags(), {"CLINVK_SERVER__PORTT": "1"}, account)


def test_newline_in_a_path_cannot_inject_a_unit_line(account: Account) -> None:
    with pytest.raises(InvalidRequest, match="cannot be written"):
        planned(ServiceFlags(), {"CLINVK_HOME": "/srv/x\nExecStartPre=evil"}, account)
