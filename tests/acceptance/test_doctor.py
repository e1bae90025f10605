"""`clinvk doctor` with agent CLIs that are faulty shell scripts."""

import json
import os
import re
import shlex
import socket
import sqlite3
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from acceptance.command import Clinvk, read_until, until
from acceptance.server import Server
from polling import is_alive
from standin.document import Record

VERSION = 'case "$*" in *--version) echo "9.8.7 (any)"; exit;; esac\n'
CLAUDE = 'case "$*" in "auth status") echo \'{"loggedIn": true, "authMethod": "api_key"}\';; *) %s;; esac\n'
TAKES_ALL = "echo 'Error: Input must be provided either through stdin or as a prompt argument'; exit 1"


@pytest.fixture(autouse=True)
def only_claude(clinvk: Clinvk) -> None:
    """A machine with one agent, which is fine."""
    for name in ("codex", "gemini"):
        (clinvk.agent.folder / name).unlink()
    install(clinvk, "claude", VERSION + CLAUDE % TAKES_ALL)


def install(clinvk: Clinvk, name: str, script: str) -> None:
    path = clinvk.agent.folder / name
    path.write_text(f"#!/bin/sh\n{script}")
    path.chmod(0o755)


def doctor(clinvk: Clinvk, *arguments: str) -> tuple[int, Record]:
    done = clinvk.run("doctor", "--json", *arguments)
    assert done.stderr == ""
    return done.returncode, json.loads(done.stdout)


def said(report: Record, name: str) -> list[tuple[str, str]]:
    checks = report["checks"]
    assert isinstance(checks, list)
    found = [check for check in checks if isinstance(check, dict) and check["name"] == name]
    return [(str(check["status"]), str(check["message"])) for check in found]


def test_one_usable_agent_is_enough(clinvk: Clinvk) -> None:
    code, report = doctor(clinvk)
    path = clinvk.agent.folder / "claude"
    assert (code, report["usable"], report["agents"]) == (0, True, ["claude"])
    assert said(report, "claude")[0] == ("ok", f"9.8.7 {path}, logged in (api key)")
    assert said(report, "codex") == [("warning", "not installed")]
    assert said(report, "git")[0][0] == "ok"


def test_text_report_has_status_marks_and_no_color_in_a_pipe(clinvk: Clinvk) -> None:
    done = clinvk.run("doctor")
    lines = done.stdout.splitlines()
    assert done.returncode == 0
    assert lines[0] == "agents"
    assert lines[1].startswith("  ok       claude     9.8.7 /")
    at = lines.index("  warning  gemini     not installed")
    assert lines[at + 1].strip() == "npm install -g @google/gemini-cli"
    assert lines[-1] == "usable: claude"
    assert "\x1b" not in done.stdout


def test_each_check_is_printed_as_soon_as_it_has_finished(clinvk: Clinvk) -> None:
    go_on = clinvk.folder / "go-on"
    install(clinvk, "codex", f'while [ ! -e "{go_on}" ]; do sleep 0.05; done\n{VERSION}')
    with clinvk.started("doctor") as process:
        assert process.stdout
        before = read_until(process.stdout.fileno(), b"claude     9.8.7").decode()
        assert before.startswith("agents\n  ok       claude")
        assert "codex" not in before
        go_on.touch()
        assert "usable: " in read_until(process.stdout.fileno(), b"usable: ").decode()


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("exit 1", "reports no version; is it the right program?"),
        (
            VERSION + CLAUDE % "echo \"error: unknown option '--max-turns'\" >&2; exit 1",
            "does not accept --max-turns, which clinvk needs; another version may",
        ),
        (VERSION + (CLAUDE % TAKES_ALL).replace("true", "false"), "not logged in; ANTHROPIC_API_KEY is not set"),
    ],
    ids=["no version", "a flag is missing", "no login"],
)
def test_unusable_agent_is_a_problem_and_exits_with_1(clinvk: Clinvk, script: str, message: str) -> None:
    install(clinvk, "claude", script)
    code, report = doctor(clinvk)
    assert (code, report["usable"], report["agents"]) == (1, False, [])
    status, about = said(report, "claude")[0]
    assert status == "problem"
    assert about.endswith(message)
    assert clinvk.run("doctor").stdout.endswith("not usable: no agent can be used\n")


def test_cli_that_reports_no_flags_or_login_is_usable_with_a_warning(clinvk: Clinvk) -> None:
    install(clinvk, "claude", VERSION + "echo what; exit 3")
    code, report = doctor(clinvk)
    assert code == 0
    about = said(report, "claude")
    assert about[0][1].endswith("claude auth status reports no login")
    assert ("warning", "its help lists no flags") in about


def test_checked_cli_gets_no_prompt_no_stdin_and_a_temporary_home(clinvk: Clinvk) -> None:
    log = clinvk.folder / "log"
    install(clinvk, "claude", f'echo "$PWD $CLAUDE_CONFIG_DIR [$(cat)]" >> {log}\n{VERSION}{CLAUDE % TAKES_ALL}')
    temporary = clinvk.folder / "tmp"
    temporary.mkdir()
    assert clinvk.run("doctor", env={"TMPDIR": str(temporary)}).returncode == 0
    lines = log.read_text().splitlines()
    assert len(lines) == 3
    own = re.compile(rf"{temporary}/clinvk-\d+-doctor-")
    assert all(own.search(line) and line.endswith("[]") for line in lines)
    assert not list(temporary.iterdir())


def test_killed_doctor_leaves_no_folders_or_processes(clinvk: Clinvk) -> None:
    log, temporary = clinvk.folder / "log", clinvk.folder / "tmp"
    temporary.mkdir()
    install(clinvk, "claude", f'touch "$CLAUDE_CONFIG_DIR/written"; echo $$ >> {log}; exec sleep 600')
    with clinvk.started("doctor", env={"TMPDIR": str(temporary)}) as process:
        until(lambda: log.exists() and list(temporary.rglob("written")) != [])
        process.kill()
    until(lambda: not list(temporary.iterdir()))
    assert not any(is_alive(int(pid)) for pid in log.read_text().split())


def test_checked_programs_do_not_inherit_variables_of_clinvk(clinvk: Clinvk) -> None:
    log = clinvk.folder / "log"
    for name in ("claude", "git"):
        install(clinvk, name, f'{{ echo "{name} $EDITOR"; env; }} >> {log}\n{VERSION}{CLAUDE % TAKES_ALL}')
    alone = ("CLINVK_API_KEYS", "CLINVK_API_KEYS_GOPASS_PATH", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")
    clinvk.run("doctor", env={**dict.fromkeys(alone, "alone"), "EDITOR": "ed"})
    told = log.read_text().splitlines()
    assert (told.count("claude ed"), told.count("git ed")) == (3, 1)
    assert [line for line in told if line.endswith("=alone")] == []


def test_invalid_settings_are_all_reported_and_exit_with_3(clinvk: Clinvk) -> None:
    clinvk.settings("server:\n  prot: 1\n  port: abc\noutput:\n  color: false\n  color: true\n")
    done = clinvk.run("doctor", env={"CLINVK_OUTPUT__FORMAT": "xml"})
    assert done.returncode == 3
    assert (
        f"  problem  invalid    {clinvk.config}:2: unknown key 'server.prot' (= '1'); did you mean 'port'?"
        in done.stdout
    )
    assert f"{clinvk.config}:3: server.port = 'abc': must be a whole number" in done.stdout
    assert f"{clinvk.config}:6: 'output.color' is duplicated; first on line 5" in done.stdout
    assert "CLINVK_OUTPUT__FORMAT: output.format = 'xml'" in done.stdout
    assert done.stdout.endswith("not usable: the settings are invalid (agents: claude)\n")


def test_disabled_agent_is_skipped(clinvk: Clinvk) -> None:
    clinvk.settings("backends: {claude: {enabled: false}}")
    code, report = doctor(clinvk)
    assert code == 1
    assert said(report, "claude") == [("skipped", "disabled (backends.claude.enabled: false)")]


def test_agent_that_clinvk_knows_can_be_enabled_by_the_command_that_is_reported(clinvk: Clinvk) -> None:
    greeting = {"jsonrpc": "2.0", "id": 0, "result": {"protocolVersion": 1}}
    install(clinvk, "opencode", f"{VERSION}read line; echo '{json.dumps(greeting)}'; cat >/dev/null")
    install(clinvk, "bwrap", "")
    assert said(doctor(clinvk)[1], "opencode")[0][0] == "skipped"
    [line] = [line for line in clinvk.run("backends").stderr.splitlines() if "opencode" in line]
    command = shlex.split(line.partition("to enable it: clinvk ")[2])
    assert clinvk.run(*command).returncode == 0
    assert "opencode" not in clinvk.run("backends").stderr
    path = clinvk.agent.folder / "opencode"
    assert said(doctor(clinvk)[1], "opencode") == [("ok", f"9.8.7 {path}, login not known (opencode auth login)")]


@pytest.mark.parametrize(
    ("manager", "command"), [("apt-get", "sudo apt-get install"), ("dnf", "sudo dnf install"), ("", "")]
)
def test_missing_programs_of_a_sandbox_come_with_the_command_that_installs_them(
    clinvk: Clinvk, manager: str, command: str
) -> None:
    if manager:
        install(clinvk, manager, "")
    done = clinvk.run("doctor", "--json", env={"PATH": str(clinvk.agent.folder)})
    [check] = [check for check in json.loads(done.stdout)["checks"] if "no shell" in check["message"]]
    assert check.get("fix", "") == (f"{command} bubblewrap socat" if command else "")
    assert "install" not in check["message"]


def test_missing_configured_executable_is_a_problem(clinvk: Clinvk) -> None:
    clinvk.settings("backends: {claude: {executable: /no/where}}")
    status, message = said(doctor(clinvk)[1], "claude")[0]
    assert status == "problem"
    assert "no '/no/where' (backends.claude.executable) found" in message


def test_backend_flag_limits_the_check_to_that_backend(clinvk: Clinvk) -> None:
    code, report = doctor(clinvk, "--backend", "codex")
    assert (code, report["agents"]) == (1, [])
    assert said(report, "claude") == []
    assert clinvk.run("doctor", "-b", "qwen").returncode == 2


def test_unusable_default_backend_is_a_warning(clinvk: Clinvk) -> None:
    clinvk.settings("default_backend: codex")
    code, report = doctor(clinvk)
    assert code == 0
    assert said(report, "default") == [("warning", "default_backend = codex cannot be used: prompts need --backend")]


def test_files_readable_by_others_are_reported(clinvk: Clinvk) -> None:
    clinvk.settings("{}")
    clinvk.config.chmod(0o644)
    clinvk.config.parent.chmod(0o755)
    report = doctor(clinvk)[1]
    assert said(report, "home")[0][0] == "warning"
    assert said(report, "settings")[0] == ("warning", f"{clinvk.config} is open to others (-rw-r--r--)")
    clinvk.config.chmod(0o600)
    clinvk.config.parent.chmod(0o700)
    report = doctor(clinvk)[1]
    assert (said(report, "home")[0][0], said(report, "settings")[0][0]) == ("ok", "ok")


def test_invalid_database_is_a_problem(clinvk: Clinvk) -> None:
    clinvk.settings("{}")
    store = clinvk.config.with_name("clinvk.db")
    assert said(doctor(clinvk)[1], "sessions") == [("ok", "none yet")]
    assert not store.exists()
    store.write_text("not a database, but long enough to be taken for one" * 100)
    code, report = doctor(clinvk)
    status, message = said(report, "sessions")[0]
    assert status == "problem"
    assert message.startswith(f"{store}: ")
    assert (code, report["usable"], report["agents"]) == (1, False, ["claude"])
    told = clinvk.run("doctor").stdout.splitlines()[-1]
    assert told == "not usable: sessions cannot be stored (agents: claude)"
    store.unlink()
    with sqlite3.connect(store) as connection:
        connection.execute("PRAGMA user_version = 999")
    connection.close()
    assert "newer clinvk" in said(doctor(clinvk)[1], "sessions")[0][1]


KEPT = {"CLINVK_WARM__ENABLED": "true"}
STAYS = 'case "$*" in *--input-format=stream-json*) if read -r asked; then %s; fi;; esac\n'
ANSWERS = 'echo "$asked" >> %s; echo \'{"type":"control_response"}\'; exec sleep 77'


def test_warm_agent_receives_only_the_initialize_request(clinvk: Clinvk) -> None:
    log = clinvk.folder / "log"
    install(clinvk, "claude", STAYS % (ANSWERS % log) + VERSION + CLAUDE % TAKES_ALL)
    report = json.loads(clinvk.run("doctor", "--json", env=KEPT).stdout)
    assert report["agents"] == ["claude"]
    assert not any("cannot stay warm" in message for _, message in said(report, "claude"))
    (greeting,) = log.read_text().splitlines()
    assert json.loads(greeting)["request"] == {"subtype": "initialize", "systemPromptSnapshot": False}


def test_agent_that_cannot_stay_warm_is_usable_with_a_warning(clinvk: Clinvk) -> None:
    install(clinvk, "claude", STAYS % "echo older >&2; exit 2" + VERSION + CLAUDE % TAKES_ALL)
    report = json.loads(clinvk.run("doctor", "--json", env=KEPT).stdout)
    assert report["agents"] == ["claude"]
    said_of_it = "cannot stay warm (the agent's process exited with code 2: older); each prompt starts a new process"
    assert ("warning", said_of_it) in said(report, "claude")


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (
            "warm: {max_processes: 6, prestart: [codex]}",
            (
                "ok",
                "clinvk serve keeps up to 6 processes of claude, codex, 2048 MB in total; "
                "none of gemini (warm.kept_backends)",
            ),
        ),
        ("warm: {enabled: false}", ("skipped", "each prompt starts a new process: warm.enabled: false")),
        (
            "agents: {max_open_files: 500}",
            ("skipped", "each prompt starts a new process: limits such as agents.max_memory_mb apply to each run"),
        ),
    ],
)
def test_warm_processes_and_their_agents_are_reported(clinvk: Clinvk, settings: str, told: tuple[str, str]) -> None:
    clinvk.settings(settings)
    env = {} if "enabled" in settings else KEPT
    assert said(json.loads(clinvk.run("doctor", "--json", env=env).stdout), "warm") == [told]


def test_directory_that_the_server_would_refuse_is_reported(clinvk: Clinvk) -> None:
    here = os.path.realpath(clinvk.folder)
    clinvk.settings("server: {allowed_workdir_prefixes: [/srv]}")
    code, report = doctor(clinvk)
    assert code == 0
    assert said(report, "serve") == [
        (
            "warning",
            f"clinvk serve, started here, refuses requests that name no workdir: the server's own directory {here!r} "
            "is in none of '/srv' (server.allowed_workdir_prefixes); server.default_workdir names another",
        )
    ]
    clinvk.settings("server: {allowed_workdir_prefixes: [/srv], default_workdir: /var/tmp}")
    (status, message) = said(doctor(clinvk)[1], "serve")[0]
    assert status == "warning"
    assert message.startswith("clinvk serve does not start: server.default_workdir '/var/tmp' is in none of '/srv'")
    clinvk.settings(f"server: {{allowed_workdir_prefixes: [{here}]}}")
    assert said(doctor(clinvk)[1], "serve") == []


def test_all_settings_that_prevent_server_start_are_reported(clinvk: Clinvk) -> None:
    clinvk.settings("server: {allowed_hosts: [a b], trusted_proxies: [foo], default_workdir: /no/where}")
    told = said(doctor(clinvk)[1], "serve")
    assert [message.split()[5] for _, message in told] == [
        "server.allowed_hosts[0]",
        "server.trusted_proxies[0]",
        "server.default_workdir",
    ]


def test_api_keys_that_prevent_server_start_are_reported(clinvk: Clinvk) -> None:
    assert clinvk.run("keys", "create", "ana").returncode == 0
    assert said(doctor(clinvk)[1], "serve") == []
    assert clinvk.run("keys", "revoke", "ana").returncode == 0
    (status, message) = said(doctor(clinvk)[1], "serve")[0]
    assert status == "warning"
    assert message.startswith("clinvk serve does not start: ")
    assert "keys.json contains no key" in message
    empty = clinvk.run("doctor", "--json", env={"CLINVK_API_KEYS": ""})
    assert "CLINVK_API_KEYS is set, but has no key in it" in said(json.loads(empty.stdout), "serve")[0][1]


def test_doctor_does_not_read_keys_from_gopass(clinvk: Clinvk) -> None:
    clinvk.settings("server: {api_keys_gopass_path: of/clinvk}")
    assert said(doctor(clinvk)[1], "serve") == []


@pytest.mark.slow
def test_program_on_the_server_port_is_reported(clinvk: Clinvk) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        clinvk.settings(f"server: {{port: {port}}}")
        assert said(doctor(clinvk)[1], "port") == [("warning", f"127.0.0.1:{port} is in use by another program")]
    assert said(doctor(clinvk)[1], "port") == [("ok", f"127.0.0.1:{port} is free")]
    with clinvk.started("serve") as server:
        assert server.stdout
        assert b"listens" in server.stdout.readline()
        status, message = said(doctor(clinvk)[1], "port")[0]
        assert status == "ok"
        assert message.startswith(f"127.0.0.1:{port}: clinvk 0.")
        assert message.endswith("is running there, ok")


def test_use_of_a_running_server_is_reported_with_the_reason(clinvk: Clinvk) -> None:
    assert said(doctor(clinvk)[1], "server") == [("skipped", "no server of this home is running")]
    with Server(clinvk.agent) as server:
        server.ready()
        through = "prompts of the command line go through the server of this home"
        assert said(doctor(clinvk)[1], "server") == [("ok", through)]
        for status, before, why in (
            ("skipped", "export CLINVK_WARM__COMMAND_LINE=false", "warm.command_line: false"),
            ("warning", "umask 027", "umask differs"),
        ):
            checks = said(json.loads(clinvk.run("doctor", "--json", before=before).stdout), "server")
            assert checks == [(status, f"prompts do not go through the server of this home: {why}")]
    assert clinvk.agent.calls() == []


def test_configured_cgroup_is_checked(clinvk: Clinvk) -> None:
    """The machine decides whether there can be one: then a prompt runs, and else neither does."""
    clinvk.settings("agents: {cgroup: true}\n")
    code, report = doctor(clinvk)
    is_refused = clinvk.run("--no-stdin", "hello").returncode == 3
    assert (code, report["usable"]) == ((3, False) if is_refused else (0, True))
    assert any("agents.cgroup: " in message for _, message in said(report, "invalid")) == is_refused


HEALTH = {"status": "ok", "version": "0.9", "uptime": "1s"}


def test_health_of_a_running_server_is_read_from_split_responses(clinvk: Clinvk) -> None:
    body = json.dumps(HEALTH).encode()
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor() as threads:
        clinvk.settings(f"server: {{port: {server.getsockname()[1]}}}")
        threads.submit(_answer, server, (b"HTTP/1.1 200 OK\r\n\r\n", body[:9], body[9:]))
        message = said(doctor(clinvk)[1], "port")[0][1]
    assert message.endswith("clinvk 0.9 is running there, ok")


def _answer(server: socket.socket, pieces: Sequence[bytes]) -> None:
    """Answer one client in several pieces."""
    connection, _ = server.accept()
    with connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.recv(65536)
        for piece in pieces:
            connection.sendall(piece)
            time.sleep(0.05)
