"""`clinvk service` with a `systemctl` and a `launchctl` that record their arguments, and with a separate home."""

import shlex
import subprocess
from pathlib import Path

import pytest

from acceptance.command import Clinvk
from scripted import Scripted

RECORDER = """\
#!/bin/sh
echo "$*" >>"$HOME/asked"
case "$*" in
*$(cat "$HOME/fails" 2>/dev/null || echo none)*) echo "Connection timed out" >&2; exit 1 ;;
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
        for name in ("systemctl", "launchctl"):
            (self.home / name).write_text(RECORDER)
            (self.home / name).chmod(0o755)

    def service(self, *words: str, code: int = 0, **env: str) -> str:
        """Run a command of `service`; return its stdout, or its stderr if it failed."""
        done = self._clinvk.run("service", *words, "--user", env=env)
        assert done.returncode == code, done.stderr
        return done.stderr if code else done.stdout

    def install(self, *words: str) -> None:
        """Run the two commands from the output of `service print`."""
        done = self._clinvk.run("service", "print", *words, "--user")
        lines = [line.partition(": ") for line in done.stderr.removeprefix("clinvk: ").split("\nclinvk: ")]
        commands = [text.strip() for title, _, text in lines if title in ("to install the service", "then start it")]
        assert len(commands) == 2
        path = f"{Path(Clinvk.command).parent}:{self._clinvk.agent.env['PATH']}"
        for command in commands:
            subprocess.run(["sh", "-ec", command], env={**self._clinvk.agent.env, "PATH": path}, check=True)

    def asked(self) -> list[str]:
        """Return the arguments of the service managers since the last call."""
        file = self.home / "asked"
        lines = file.read_text().splitlines() if file.exists() else []
        file.unlink(missing_ok=True)
        return [line.removeprefix("--user ") for line in lines]


@pytest.fixture
def machine(clinvk: Clinvk) -> Machine:
    return Machine(clinvk)


def test_printed_commands_install_and_start_the_service(machine: Machine, scripted: Scripted) -> None:
    machine.install("systemd", "--port", "3000")
    assert machine.asked() == ["enable --now clinvk.service"]
    text = machine.unit.read_text()
    assert f"ExecStart={Clinvk.command} serve --port 3000\n" in text
    assert f"PATH={scripted.folder}:" in text
    assert not machine.socket.exists()


def test_printed_commands_install_a_socket_with_the_service(machine: Machine) -> None:
    machine.install("systemd", "--host", "127.0.0.2", "--socket")
    assert machine.asked() == ["enable --now clinvk.socket clinvk.service"]
    assert "Requires=clinvk.socket\n" in machine.unit.read_text()
    assert "ListenStream=127.0.0.2:8080\n" in machine.socket.read_text()
    assert "[Service]" not in machine.socket.read_text()


def test_printed_commands_install_a_launch_agent(machine: Machine) -> None:
    machine.install("launchd")
    assert machine.plist.read_text().startswith("<?xml")
    assert [shlex.split(line)[0] for line in machine.asked()] == ["bootstrap"]


def test_print_changes_nothing(machine: Machine) -> None:
    assert machine.service("print", "systemd").startswith(f"# {machine.unit}\n[Unit]\n")
    assert machine.asked() == []
    assert not machine.unit.parent.exists()


def test_uninstall_stops_and_removes_installed_units(machine: Machine) -> None:
    machine.install("systemd", "--socket")
    machine.asked()
    assert machine.service("uninstall", "systemd") == f"{machine.unit}: removed\n{machine.socket}: removed\n"
    assert machine.asked() == ["disable --now clinvk.socket clinvk.service", "daemon-reload"]
    assert list(machine.unit.parent.iterdir()) == []
    assert machine.service("uninstall", "systemd").endswith(": not installed\n")
    assert machine.asked() == []


def test_uninstall_removes_a_launch_agent_that_is_not_loaded(machine: Machine) -> None:
    machine.install("launchd")
    machine.asked()
    (machine.home / "fails").write_text("bootout")
    machine.service("uninstall", "launchd")
    assert [line.split()[0] for line in machine.asked()] == ["bootout"]
    assert not machine.plist.exists()


@pytest.mark.parametrize("manager", ["systemd", "launchd"])
def test_uninstall_dry_run_prints_the_commands_and_changes_nothing(machine: Machine, manager: str) -> None:
    machine.install(manager)
    machine.asked()
    shown = machine.service("uninstall", manager, "--dry-run")
    file = machine.unit if manager == "systemd" else machine.plist
    assert f"rm {file}\n" in shown
    assert machine.asked() == []
    assert file.exists()


def test_failed_uninstall_removes_nothing_and_reports_the_reason(machine: Machine) -> None:
    machine.install("systemd")
    (machine.home / "fails").write_text("disable")
    error = machine.service("uninstall", "systemd", code=1)
    assert error == "clinvk: systemctl --user disable --now clinvk.service failed: Connection timed out\n"
    assert machine.unit.exists()


def test_invalid_settings_exit_with_3(machine: Machine) -> None:
    assert "portt" in machine.service("print", "systemd", code=3, CLINVK_SERVER__PORTT="1")


def test_launchd_reads_no_environment_file(machine: Machine, clinvk: Clinvk) -> None:
    (machine.home / ".clinvk").mkdir()
    (machine.home / ".clinvk" / "service.env").write_text("CLINVK_API_KEYS=sk-x")
    done = clinvk.run("service", "print", "launchd", "--user", "--host", "0.0.0.0", env={"CLINVK_API_KEYS": "sk-x"})
    assert "service.env" not in done.stderr
    assert "0.0.0.0 is open to other machines and there is no API key" in done.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["print", "runit"], "unknown service manager 'runit' (available: systemd, launchd)"),
        (["print", "systemd", "--system"], "--system and --user exclude each other"),
        (["print", "systemd", "--run-as", "root"], "--run-as requires --system"),
        (["print", "launchd", "--socket"], "--socket requires systemd"),
        (["print", "systemd", "--host", "localhost", "--socket"], "--socket requires an IP address such as "),
        (["uninstall", "--port", "1"], "service uninstall has no flag '--port'; see clinvk help service uninstall"),
        (["install", "--port", "1"], "clinvk service install was removed: clinvk service print prints the files and "),
        (["status", "--json"], "clinvk service status was removed: "),
    ],
)
def test_wrong_usage_exits_with_1_and_one_line(machine: Machine, words: list[str], message: str) -> None:
    error = machine.service(*words, code=1)
    assert error.startswith(f"clinvk: {message}")
    assert error.count("\n") == 1
    assert machine.asked() == []


def test_system_service_requires_an_existing_user(clinvk: Clinvk) -> None:
    done = clinvk.run("service", "print", "systemd", "--system", "--run-as", "no-such-user")
    assert (done.returncode, done.stderr) == (1, "clinvk: no user 'no-such-user' on this machine (--run-as)\n")
