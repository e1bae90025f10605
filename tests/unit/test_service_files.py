"""The files of a service in docs/deploy.md and `clinvk help service`."""

import plistlib
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from clinvk.cli.parse import arguments
from clinvk.config.model import ServerSettings
from clinvk.types.errors import InvalidRequest

PAGE = (Path(__file__).parents[2] / "docs" / "deploy.md").read_text()
FILES = [
    text for text in re.findall(r"^```(?:ini|xml)\n(.+?)^```$", PAGE, re.MULTILINE | re.DOTALL) if text.count("\n") > 5
]
SYSTEM, SOCKET, USER, LAUNCHD = FILES
LONGEST_GRACE_S = ServerSettings().shutdown_grace_secs + 10


@pytest.mark.parametrize("text", FILES)
def test_help_prints_the_files_of_the_documents(text: str) -> None:
    assert text.rstrip() in arguments.help_page(["service"])


@pytest.mark.parametrize("words", [[], ["print"], ["print", "systemd", "--user"], ["--help"]])
def test_former_service_command_names_the_help(words: list[str]) -> None:
    with pytest.raises(InvalidRequest, match="clinvk help service prints the units"):
        arguments.read(["service", *words])


@pytest.mark.parametrize("text", [SYSTEM, USER], ids=["machine", "user"])
def test_systemd_unit_lets_the_server_stop_its_own_agents(text: str) -> None:
    """SIGTERM for all would end the agents at once, and a shorter time than the grace the server."""
    assert "\nKillMode=mixed\n" in text
    assert int(re.findall(r"^TimeoutStopSec=(\d+)$", text, re.MULTILINE)[0]) >= LONGEST_GRACE_S


@pytest.mark.parametrize("text", [SYSTEM, USER], ids=["machine", "user"])
def test_systemd_unit_does_not_block_agent_sandboxes(text: str) -> None:
    """Each of these settings was found to block the sandboxes (systemd 257, bubblewrap 0.12)."""
    refused = ("ProtectKernelTunables", "ProtectKernelLogs", "RestrictNamespaces", "RestrictSUIDSGID", "PrivateTmp")
    assert not [key for key in refused if key in text]


def test_user_unit_creates_no_user_namespace() -> None:
    """In a user namespace ssh refuses its own settings."""
    assert not re.findall(r"^(?:User|Protect|Private)", USER, re.MULTILINE)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
@pytest.mark.parametrize("scope", ["--system", "--user"])
def test_systemd_accepts_the_units(tmp_path: Path, scope: str) -> None:
    files = {"clinvk.service": USER} if scope == "--user" else {"clinvk.service": SYSTEM, "clinvk.socket": SOCKET}
    for name, text in files.items():
        text = re.sub(r"^ExecStart=\S+", "ExecStart=/usr/bin/true", text, flags=re.MULTILINE)
        (tmp_path / name).write_text(text.replace("User=clinvk", "User=root"))
    command = ["systemd-analyze", scope, "verify", "--man=no", "--recursive-errors=no"]
    env = {"SYSTEMD_UNIT_PATH": f"{tmp_path}:/usr/lib/systemd/system", "XDG_RUNTIME_DIR": str(tmp_path)}
    found = [str(tmp_path / name) for name in files]
    done = subprocess.run([*command, *found], env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_property_list_runs_the_server() -> None:
    read = plistlib.loads(LAUNCHD.encode())
    assert (read["Label"], read["RunAtLoad"], read["KeepAlive"]) == ("com.clinvk.server", True, True)
    assert read["ProgramArguments"][1:] == ["serve"]
    assert "WorkingDirectory" not in read, "launchd starts nothing in a directory that is not there"
    assert read["ExitTimeOut"] >= LONGEST_GRACE_S
