"""`clinvk doctor` with the real agent CLIs finds faults, calls no model and changes nothing."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from agents.machine import Machine
from standin.document import Record


def doctor(machine: Machine, *arguments: str, env: dict[str, str] | None = None) -> tuple[int, Record, str]:
    clinvk = str(Path(sys.executable).with_name("clinvk"))
    command = [clinvk, "doctor", "--json", *arguments]
    done = subprocess.run(
        command, cwd=machine.project, env=env or machine.env, capture_output=True, text=True, check=False
    )
    return done.returncode, json.loads(done.stdout), done.stderr


def said(report: Record, name: str) -> list[tuple[str, str]]:
    checks = report["checks"]
    assert isinstance(checks, list)
    found = [check for check in checks if isinstance(check, dict) and check["name"] == name]
    return [(str(check["status"]), str(check["message"])) for check in found]


def contents(machine: Machine) -> dict[str, tuple[int, bytes]]:
    files = [path for path in machine.home.parent.rglob("*") if path.is_file()]
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


def test_doctor_finds_all_agents_usable_without_model_requests_or_changes(machine: Machine) -> None:
    before = contents(machine)
    code, report, stderr = doctor(machine)
    assert (code, report["usable"], stderr) == (0, True, "")
    assert report["agents"] == ["claude", "codex", "gemini"]
    assert said(report, "claude")[0][1].endswith(", logged in (api key)")
    assert said(report, "codex")[0][1].endswith("asks standin, the provider of its config.toml, its key in STANDIN_KEY")
    assert said(report, "gemini")[0][1].endswith(", API key in GEMINI_API_KEY")
    assert [said(report, name)[0][0] for name in ("claude", "codex", "gemini")] == ["ok"] * 3
    told = [message for name in ("claude", "codex", "gemini") for _, message in said(report, name)]
    assert not any("does not tell" in message or "does not speak" in message for message in told)
    assert said(report, "warm")[0][0] == "ok"
    assert contents(machine) == before
    assert machine.exchanges() == []


def test_doctor_finds_no_usable_agent_without_login(machine: Machine) -> None:
    (machine.home / ".codex" / "config.toml").unlink()
    (machine.home / ".gemini" / "settings.json").unlink()
    env = {name: machine.env[name] for name in ("PATH", "HOME", "LANG", "TERM")}
    code, report, _ = doctor(machine, env=env)
    assert (code, report["agents"]) == (1, [])
    for name in ("claude", "codex", "gemini"):
        status, message = said(report, name)[0]
        assert status == "problem"
        assert ": not logged in; " in message


OLDER = """
import sys
from msgspec.structs import replace
from clinvk.backends.registry import BACKENDS
from clinvk.cli.entry import enter

kind = type(BACKENDS[{name!r}])
launch_today = kind.launch

def launch(self, request, resume, host):
    launch = launch_today(self, request, resume, host)
    return replace(launch, argv=(*launch.argv, "--of-tomorrow=1"))

kind.launch = launch
sys.exit(enter(["doctor", "--json", "-b", {name!r}]))
"""


@pytest.mark.parametrize("name", ["claude", "codex", "gemini"])
def test_doctor_reports_flag_unsupported_by_the_installed_cli(machine: Machine, name: str) -> None:
    """A backend that would give one flag more than the CLI takes is as good as an older CLI."""
    command = [sys.executable, "-c", OLDER.format(name=name)]
    done = subprocess.run(command, env=machine.env, cwd=machine.project, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    status, message = said(json.loads(done.stdout), name)[0]
    assert status == "problem"
    assert "does not accept --of-tomorrow, which clinvk needs; another version may" in message
