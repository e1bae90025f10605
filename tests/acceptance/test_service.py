"""`clinvk service print` with a separate home."""

import subprocess
from pathlib import Path

import pytest

from acceptance.command import Clinvk
from scripted import Scripted


class Machine:
    """A home, and the files of a service in it."""

    def __init__(self, clinvk: Clinvk) -> None:
        home = clinvk.agent.folder
        self.unit = home / ".config" / "systemd" / "user" / "clinvk.service"
        self.plist = home / "Library" / "LaunchAgents" / "com.clinvk.server.plist"
        self._clinvk = clinvk

    def service(self, *words: str, code: int = 0, **env: str) -> str:
        """Run a command of `service`; return its stdout, or its stderr if it failed."""
        done = self._clinvk.run("service", *words, "--user", env=env)
        assert done.returncode == code, done.stderr
        return done.stderr if code else done.stdout


@pytest.fixture
def machine(clinvk: Clinvk) -> Machine:
    return Machine(clinvk)


def test_print_writes_the_unit_to_stdout_alone(machine: Machine, scripted: Scripted) -> None:
    text = machine.service("print", "systemd", "--port", "3000")
    assert text.startswith(f"# {machine.unit}\n[Unit]\n")
    assert f"ExecStart={Clinvk.command} serve --port 3000\n" in text
    assert f"PATH={scripted.folder}:" in text
    assert not machine.unit.parent.exists()


def test_documented_command_writes_a_socket_beside_the_unit(machine: Machine, tmp_path: Path) -> None:
    text = machine.service("print", "systemd", "--host", "127.0.0.2", "--socket")
    text = text.replace(str(machine.unit.parent), str(tmp_path))
    subprocess.run(["awk", "/^# \\// {file = substr($0, 3)} {print > file}"], input=text, text=True, check=True)
    socket = (tmp_path / "clinvk.socket").read_text()
    assert "Requires=clinvk.socket\n" in (tmp_path / "clinvk.service").read_text()
    assert "ListenStream=127.0.0.2:8080\n" in socket
    assert "[Service]" not in socket


def test_property_list_begins_with_its_own_first_line(machine: Machine) -> None:
    assert machine.service("print", "launchd").startswith("<?xml")
    assert not machine.plist.exists()


def test_invalid_settings_exit_with_3(machine: Machine) -> None:
    assert "portt" in machine.service("print", "systemd", code=3, CLINVK_SERVER__PORTT="1")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["print", "runit"], "unknown service manager 'runit' (available: systemd, launchd)"),
        (["print", "systemd", "--system"], "--system and --user exclude each other"),
        (["print", "systemd", "--run-as", "root"], "--run-as requires --system"),
        (["print", "launchd", "--socket"], "--socket requires systemd"),
        (["print", "systemd", "--host", "localhost", "--socket"], "--socket requires an IP address such as "),
    ],
)
def test_wrong_usage_exits_with_1_and_one_line(machine: Machine, words: list[str], message: str) -> None:
    error = machine.service(*words, code=1)
    assert error.startswith(f"clinvk: {message}")
    assert error.count("\n") == 1


def test_system_service_requires_an_existing_user(clinvk: Clinvk) -> None:
    done = clinvk.run("service", "print", "systemd", "--system", "--run-as", "no-such-user")
    assert (done.returncode, done.stderr) == (1, "clinvk: no user 'no-such-user' on this machine (--run-as)\n")
