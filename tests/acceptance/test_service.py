"""`clinvk service` over a `systemctl` and a `launchctl` that note what they are asked, for a user of their own home."""

import json

import pytest

from acceptance.command import Clinvk
from scripted import Scripted

SYSTEMCTL = """\
#!/bin/sh
echo "$*" >>"$HOME/asked"
case "$*" in
*$(cat "$HOME/fails" 2>/dev/null || echo none)*) echo "Connection timed out" >&2; exit 1 ;;
*show*) [ ! -e "$HOME/no-bus" ] || { echo "Failed to connect to bus" >&2; exit 1; } ;;
*" start "*) touch "$HOME/active" ;;
*" stop "*|*disable*) rm -f "$HOME/active" ;;
*is-enabled*|*is-active*) test -e "$HOME/active" ;;
esac
"""
LAUNCHCTL = """\
#!/bin/sh
echo "$*" >>"$HOME/asked"
[ "$1" != "$(cat "$HOME/fails" 2>/dev/null)" ] || exit 5
case "$1" in
print) [ -e "$HOME/active" ] && echo "state = running" ;;
bootstrap) [ ! -e "$HOME/active" ] && touch "$HOME/active" ;;
bootout) [ -e "$HOME/active" ] && rm "$HOME/active" ;;
esac
"""


class Machine:
    """A home, and the service managers in it."""

    def __init__(self, clinvk: Clinvk) -> None:
        self.home = clinvk.agent.folder
        self.unit = self.home / ".config" / "systemd" / "user" / "clinvk.service"
        self.socket = self.unit.with_name("clinvk.socket")
        self.plist = self.home / "Library" / "LaunchAgents" / "com.clinvk.server.plist"
        self._clinvk = clinvk
        for name, text in (("systemctl", SYSTEMCTL), ("launchctl", LAUNCHCTL)):
            (self.home / name).write_text(text)
            (self.home / name).chmod(0o755)

    def service(self, *words: str, code: int = 0, **env: str) -> str:
        """Run a command of `service`; give what it printed on stdout, and where it failed on stderr."""
        done = self._clinvk.run("service", *words, "--user", env=env)
        assert done.returncode == code, done.stderr
        return done.stderr if code and not done.stdout else done.stdout

    def failed(self, *words: str) -> str:
        """Run one that fails with 1; give what it printed on stderr."""
        done = self._clinvk.run("service", *words, "--user")
        assert done.returncode == 1, done.stdout
        return done.stderr

    def asked(self) -> list[str]:
        """Give what the service manager was asked since last time."""
        file = self.home / "asked"
        lines = file.read_text().splitlines() if file.exists() else []
        file.unlink(missing_ok=True)
        return [line.removeprefix("--user ") for line in lines if "show --property" not in line]


@pytest.fixture
def machine(clinvk: Clinvk) -> Machine:
    return Machine(clinvk)


def test_install_writes_enables_and_starts(machine: Machine, scripted: Scripted) -> None:
    told = machine.service("install", "systemd", "--port", "3000")
    assert told.startswith(f"{machine.unit}: written\nclinvk.service (systemd, user ")
    assert machine.asked() == [
        "daemon-reload",
        "enable clinvk.service",
        "stop clinvk.service",
        "start clinvk.service",
    ]
    text = machine.unit.read_text()
    assert f"ExecStart={Clinvk.command} serve --port 3000\n" in text
    assert f"PATH={scripted.folder}:" in text
    assert machine.unit.stat().st_mode & 0o777 == 0o644
    assert (machine.home / ".clinvk" / "workspace").stat().st_mode & 0o777 == 0o700


def test_install_once_more_changes_nothing_and_restarts_nothing(machine: Machine) -> None:
    machine.service("install", "systemd")
    machine.asked()
    before = machine.unit.stat().st_ino
    assert ": unchanged\n" in machine.service("install", "systemd")
    assert machine.unit.stat().st_ino == before
    assert machine.asked() == ["enable clinvk.service", "start clinvk.service"]


def test_install_with_other_flags_starts_it_anew(machine: Machine) -> None:
    machine.service("install", "systemd")
    machine.asked()
    machine.service("install", "systemd", "--host", "127.0.0.2", "--socket")
    units = "clinvk.socket clinvk.service"
    assert machine.asked() == ["daemon-reload", f"enable {units}", f"stop {units}", f"start {units}"]
    assert "ListenStream=127.0.0.2:8080\n" in machine.socket.read_text()
    machine.service("install", "systemd")
    assert machine.asked()[0] == "disable --now clinvk.socket"
    assert not machine.socket.exists()


@pytest.mark.parametrize("step", ["daemon-reload", "enable", "start"])
def test_install_after_one_that_failed_midway_starts_it_anew(machine: Machine, step: str) -> None:
    """The units are as they should be by then; what runs is still of those before."""
    machine.service("install", "systemd")
    (machine.home / "fails").write_text(step)
    assert "Connection timed out" in machine.failed("install", "systemd", "--port", "3000")
    (machine.home / "fails").unlink()
    machine.asked()
    told = machine.service("install", "systemd", "--port", "3000")
    assert f"{machine.unit}: unchanged\n" in told
    assert ": started, and " in told
    assert machine.asked() == ["daemon-reload", "enable clinvk.service", "stop clinvk.service", "start clinvk.service"]
    assert ": runs, and " in machine.service("install", "systemd", "--port", "3000")
    assert machine.asked() == ["enable clinvk.service", "start clinvk.service"]
    assert [path.name for path in machine.unit.parent.iterdir()] == ["clinvk.service"]


def test_uninstall_after_an_install_that_failed_midway_leaves_nothing(machine: Machine) -> None:
    (machine.home / "fails").write_text("daemon-reload")
    machine.failed("install", "systemd")
    (machine.home / "fails").unlink()
    machine.service("uninstall", "systemd")
    assert list(machine.unit.parent.iterdir()) == []


def test_uninstall_stops_and_removes_and_is_content_with_nothing(machine: Machine) -> None:
    machine.service("install", "systemd", "--socket")
    machine.asked()
    assert machine.service("uninstall", "systemd") == f"{machine.unit}: removed\n{machine.socket}: removed\n"
    assert machine.asked()[:2] == ["disable --now clinvk.socket clinvk.service", "daemon-reload"]
    assert not machine.unit.exists()
    assert not machine.socket.exists()
    assert machine.service("uninstall", "systemd").endswith(": not installed\n")
    assert machine.asked() == []


def test_status_tells_and_its_code_says_whether_it_runs(machine: Machine) -> None:
    assert machine.service("status", "systemd", "--json", code=1).strip() == (
        '{"installed":false,"enabled":false,"active":false,"files":[]}'
    )
    machine.service("install", "systemd")
    told = machine.service("status", "systemd")
    assert [line.split()[-1] for line in told.splitlines()[1:]] == ["yes", "yes", "yes"]
    assert json.loads(machine.service("status", "systemd", "--json"))["files"] == [str(machine.unit)]


@pytest.mark.parametrize("manager", ["systemd", "launchd"])
def test_a_dry_run_shows_all_and_does_nothing(machine: Machine, manager: str) -> None:
    shown = machine.service("print", manager)
    told = machine.service("install", manager, "--dry-run")
    assert told.startswith(shown)
    assert ("systemctl --user enable clinvk.service" in told) == (manager == "systemd")
    assert ("launchctl bootstrap gui/" in told) == (manager == "launchd")
    assert machine.asked() == []
    assert not machine.unit.exists()
    assert not machine.plist.exists()
    machine.service("install", manager)
    machine.asked()
    machine.service("uninstall", manager, "--dry-run")
    assert machine.asked() == []
    assert (machine.unit if manager == "systemd" else machine.plist).exists()


def test_where_the_service_manager_cannot_be_reached_nothing_is_written(machine: Machine) -> None:
    (machine.home / "no-bus").touch()
    told = machine.service("install", "systemd", code=1)
    assert told == (
        "clinvk: systemctl --user show --property=Version failed: Failed to connect to bus; "
        "`clinvk service print systemd` shows the unit\n"
    )
    assert not machine.unit.exists()
    assert not (machine.home / ".clinvk" / "workspace").exists()


def test_without_the_program_of_the_service_manager_it_says_so(machine: Machine) -> None:
    (machine.home / "launchctl").unlink()
    told = machine.service("install", "launchd", code=1)
    assert told.startswith("clinvk: launchctl cannot be started: ")
    assert told.endswith("; `clinvk service print launchd` shows the property list\n")


NOT_BOOTED = """\
#!/bin/sh
echo "System has not been booted with systemd as init system (PID 1). Can't operate." >&2
echo "Failed to connect to user scope bus via local transport: Host is down" >&2
exit 1
"""


@pytest.mark.parametrize("words", [("status",), ("install",), ("status", "--json")], ids=" ".join)
def test_where_there_is_no_service_manager_it_says_so_in_one_line(machine: Machine, words: tuple[str, ...]) -> None:
    command, *flags = words
    (machine.home / "systemctl").write_text(NOT_BOOTED)
    here = "systemd does not run on this machine; `clinvk service print systemd` shows the unit\n"
    assert machine.service(command, "systemd", *flags, code=1) == f"clinvk: {here}"
    (machine.home / "systemctl").unlink()
    empty = {"PATH": str(machine.home)}
    assert (
        machine.service(command, "systemd", *flags, code=1, **empty) == f"clinvk: systemctl cannot be started: {here}"
    )
    (machine.home / "launchctl").unlink()
    told = machine.service(command, "launchd", *flags, code=1, **empty)
    assert told.startswith("clinvk: launchctl cannot be started: launchd does not run on this machine; ")


def test_a_program_that_is_there_and_cannot_be_started_is_told_as_that(machine: Machine) -> None:
    (machine.home / "systemctl").chmod(0o600)
    told = machine.service("status", "systemd", code=1, PATH=str(machine.home))
    assert told == (
        "clinvk: cannot start 'systemctl': Permission denied; `clinvk service print systemd` shows the unit\n"
    )


def test_wrong_settings_are_3_and_nothing_is_installed(machine: Machine) -> None:
    told = machine.service("install", "systemd", code=3, CLINVK_SERVER__PORTT="1")
    assert "portt" in told
    assert machine.asked() == []


def test_launchd_loads_it_once_and_anew_when_it_has_changed(machine: Machine) -> None:
    machine.service("install", "launchd")
    first = machine.asked()
    assert [line.split()[0] for line in first] == ["print-disabled", "bootout", "enable", "bootstrap"]
    machine.service("install", "launchd")
    assert "bootout" not in " ".join(machine.asked())
    machine.service("install", "launchd", "--port", "3000")
    assert [line.split()[0] for line in machine.asked()] == ["print-disabled", "bootout", "enable", "bootstrap"]
    assert machine.service("status", "launchd").count("yes") == 3
    machine.service("uninstall", "launchd")
    assert not machine.plist.exists()


def test_launchd_is_given_no_file_of_variables(machine: Machine, clinvk: Clinvk) -> None:
    (machine.home / ".clinvk").mkdir()
    (machine.home / ".clinvk" / "service.env").write_text("CLINVK_API_KEYS=sk-x")
    done = clinvk.run("service", "print", "launchd", "--user", "--host", "0.0.0.0", env={"CLINVK_API_KEYS": "sk-x"})
    assert "service.env" not in done.stderr
    assert "0.0.0.0 is open to other machines and there is no API key" in done.stderr


def test_launchd_loads_it_anew_after_an_install_that_failed_midway(machine: Machine) -> None:
    machine.service("install", "launchd")
    (machine.home / "fails").write_text("enable")
    machine.failed("install", "launchd", "--port", "3000")
    (machine.home / "fails").unlink()
    machine.asked()
    machine.service("install", "launchd", "--port", "3000")
    assert [line.split()[0] for line in machine.asked()] == ["print-disabled", "bootout", "enable", "bootstrap"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["print", "runit"], "no service manager 'runit'; have systemd, launchd"),
        (["print", "systemd", "--system"], "--system and --user exclude each other"),
        (["print", "systemd", "--run-as", "root"], "--run-as is for a service of the machine: --system"),
        (["print", "launchd", "--socket"], "--socket is for systemd: clinvk takes no sockets of launchd"),
        (["print", "systemd", "--host", "localhost", "--socket"], "--socket needs an address to listen on, such as "),
        (["status", "--port", "1"], "service status has no flag '--port'; see clinvk help service status"),
    ],
)
def test_a_mistake_is_1_with_one_line(machine: Machine, words: list[str], message: str) -> None:
    told = machine.service(*words, code=1)
    assert told.startswith(f"clinvk: {message}")
    assert machine.asked() == []


def test_a_service_of_the_machine_needs_a_user_that_is_there(clinvk: Clinvk) -> None:
    done = clinvk.run("service", "print", "systemd", "--system", "--run-as", "no-such-user")
    assert (done.returncode, done.stderr) == (1, "clinvk: no user 'no-such-user' on this machine (--run-as)\n")
